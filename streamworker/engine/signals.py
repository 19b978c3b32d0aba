"""SIGTERM and SIGINT to a worker process: the first ends it in good order, at whatever point, the second at once."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """The first signal calls `act`, the second ends the process at once, as a death.

    Handlers of the interpreter, not of the loop: they run also while user code blocks the loop, and before there is one.
    """

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.act: Callable[[], object] | None = None

    def listen(self) -> None:
        """Hear them from now on; outside the main thread, where nobody can, whoever runs us says when to end."""
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                signal.signal(number, self._signalled)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # a worker that replaces itself blocks them meanwhile

    @contextmanager
    def cancelling(self) -> Iterator[None]:
        """Until `act` is set anew the first signal, also one that came before, cancels the current task, and the block ends in silence.

        Between two steps of the loop: in the middle of one a cancellation can get lost on Python 3.11 (see `broker/cancellable.py`).
        """
        loop, running = asyncio.get_running_loop(), asyncio.current_task()
        assert running is not None

        def cancel() -> None:
            if not running.cancelling():  # a second cancellation would break off what the first has begun to put in order
                running.cancel()

        self.act = partial(loop.call_soon_threadsafe, cancel)
        if self.first is not None:
            self.act()
        try:
            yield
        except asyncio.CancelledError:
            if self.first is None:
                raise
            running.uncancel()

    def _signalled(self, number: int, _frame: object) -> None:
        if self.first is not None:
            os._exit(128 + number)
        self.first = signal.Signals(number)
        if self.act is not None:
            with suppress(RuntimeError):  # the loop is closed: the process ends anyway
                self.act()
