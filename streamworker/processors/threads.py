"""Threads that run user code: plain functions one after another, or coroutines on a loop that is not the worker's."""

from __future__ import annotations

import asyncio
import ctypes
import os
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from streamworker.processors.outcomes import Interrupted, Outcome, failure_of, outcome_of


class Interruption(BaseException):
    """Thrown into a thread whose result is no longer wanted. Not an Exception, so that user code seldom catches it."""


def only_in(process: int) -> None:
    """A process that user code has forked, and that came back from it, ends here: the worker is another one, and goes on."""
    if os.getpid() != process:
        os._exit(0)


class CallThread:
    """One thread that runs plain functions, one after another; what it runs can be interrupted."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Outcome], None]] | None] = queue.SimpleQueue()
        self._running = False
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], Any], done: Callable[[Outcome], None]) -> None:
        """Run `call`; `done` gets the outcome, in this thread."""
        self._calls.put((call, done))

    def interrupt(self) -> None:
        """Throw Interruption into the running call: it arrives at the next Python instruction, not inside native code."""
        if self._running and self._thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread.ident), ctypes.py_object(Interruption))

    def stop(self) -> None:
        """End the thread once it is idle; one that hangs dies with the process."""
        self._calls.put(None)

    def _serve(self) -> None:
        while True:
            try:
                entry = self._calls.get()
                if entry is None:
                    return
                self._run(*entry)
            except Interruption:
                continue  # it arrived late, after the call had ended

    def _run(self, call: Callable[[], Any], done: Callable[[Outcome], None]) -> None:
        outcome: Outcome = Interrupted()
        try:
            try:
                self._running = True
                outcome = outcome_of(call())
            except Interruption:
                outcome = Interrupted()
            except BaseException as error:
                outcome = failure_of(error)
            finally:
                self._running = False
        except Interruption:
            pass
        only_in(self._process)
        while True:
            try:
                return done(outcome)
            except Interruption:
                continue  # it must be told, however late the interruption arrives


class LoopThread:
    """A thread with an event loop of its own, for async processors that must not block the worker's."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._loop.run_forever, name="processor-loop", daemon=True)
        self._thread.start()

    async def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Await the coroutine over there; what it raises is raised here."""
        raised: list[BaseException] = []

        async def serve() -> Any:
            try:
                return await coroutine
            except BaseException as error:  # a SystemExit or the like would end that loop, and nobody would be told
                raised.append(error)

        answer = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(serve(), self._loop))
        if raised:
            raise raised[0]
        return answer

    def submit(self, coroutine: Coroutine[Any, Any, Any], done: Callable[[Outcome], None]) -> Callable[[], None]:
        """Start the coroutine over there; `done` gets its outcome, over there. Returns what interrupts it."""

        async def serve() -> None:
            try:
                outcome = outcome_of(await coroutine)
            except BaseException as error:
                running = asyncio.current_task()
                outcome = Interrupted() if running is not None and running.cancelling() else failure_of(error)
            only_in(self._process)
            done(outcome)

        started = asyncio.run_coroutine_threadsafe(serve(), self._loop)

        def interrupt() -> None:
            started.cancel()

        return interrupt

    def stop(self) -> None:
        """End the loop; one that is blocked dies with the process."""
        self._loop.call_soon_threadsafe(self._loop.stop)
