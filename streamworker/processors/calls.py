"""Calling user code: on the worker's own loop, on a loop in a thread, or as a plain function in a thread.

Here and in `threads.py` is caught what a processor raises; whatever it does becomes an Outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import CoroutineType
from typing import Any

from streamworker.errors import ConfigurationError
from streamworker.messages import clean_text
from streamworker.processors.api import Context, Item, Unavailable
from streamworker.processors.importing import Plugin, call_of, is_async
from streamworker.processors.outcomes import Interrupted, Outcome, failure_of, named, outcome_of
from streamworker.processors.threads import CallThread, LoopThread, only_in

# How long (seconds) an interrupted call in a thread may take to end.
THREAD_GRACE = 0.5


class Started:
    """A coroutine that has run up to its first wait; awaiting this goes on from there, in whatever then awaits it."""

    __slots__ = ("_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, waits_for = self._coroutine, self._waits_for
        while True:
            thrown: BaseException | None = None
            try:
                answer = yield waits_for
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:
                thrown = error
            try:
                waits_for = coroutine.send(answer) if thrown is None else coroutine.throw(thrown)
            except StopIteration as ended:
                return ended.value


def begin(call: Callable[[Item, Context], Any], item: Item, context: Context) -> Outcome | Awaitable[Any]:
    """Call an async processor up to its first wait: its outcome where it ends before that, else the rest, for `finish`."""
    try:
        coroutine = call(item, context)
    except BaseException as error:
        return _ended_by(error)
    if type(coroutine) is not CoroutineType:
        return coroutine  # type: ignore[no-any-return]  # something else that can be awaited
    try:
        waits_for = coroutine.send(None)
    except StopIteration as ended:
        returned = ended.value
    except BaseException as error:
        return _ended_by(error)
    else:
        return Started(coroutine, waits_for)
    try:
        return outcome_of(returned)
    except BaseException as error:  # what was returned is user code too
        return _ended_by(error)


def _ended_by(error: BaseException) -> Outcome:
    # A CancelledError of the processor's own is a failed attempt like any other.
    return Interrupted() if _is_cancelled(error) else failure_of(error)


def _is_cancelled(error: BaseException) -> bool:
    """Whether the error comes of cancelling this very task."""
    running = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and running is not None and running.cancelling() > 0


class OpenProcessor:
    """A processor that is loaded and entered: call it item by item, close it once."""

    is_ready = True  # here a call can always begin at once

    def __init__(self, name: str, target: Any, call: Callable[[Item, Context], Any], thread: LoopThread | None) -> None:
        self.name = name
        self._target = target
        self._call = call
        self._async = is_async(call)
        self._thread = thread
        self._process = os.getpid()
        self._idle: list[CallThread] = []
        self.abandoned = False

    @classmethod
    async def open(cls, plugin: Plugin, isolation: str) -> OpenProcessor:
        """Make the instance of a class, enter it. What goes wrong is a ConfigurationError that says so; Unavailable is passed on."""
        thread = LoopThread() if isolation == "thread" else None
        try:
            target = plugin.target() if isinstance(plugin.target, type) else plugin.target
            if hasattr(target, "__aenter__"):
                entering = _enter(target)
                entered = await (thread.run(entering) if thread else entering)
                target = target if entered is None else entered
        except BaseException as error:  # user code may raise anything, a CancelledError of its own among it
            if thread:
                thread.stop()
            if isinstance(error, Unavailable) or _is_cancelled(error):
                raise
            text = str(error) if isinstance(error, ConfigurationError) else named(error)
            raise ConfigurationError(f"processor {plugin.name!r} could not start: {clean_text(text)}") from error
        call = call_of(target)
        if call is None:
            raise ConfigurationError(
                f"processor {plugin.name!r} could not start: __aenter__ returned {type(target).__name__}, not a processor"
            )
        return cls(plugin.name, target, call, thread)

    async def close(self) -> None:
        """Leave the processor's context and end its threads. RuntimeError says what user code raised meanwhile."""
        try:
            if hasattr(self._target, "__aexit__"):
                leaving = _leave(self._target)
                await (self._thread.run(leaving) if self._thread else leaving)
        except BaseException as error:
            if _is_cancelled(error):
                raise
            raise RuntimeError(named(error)) from error
        finally:
            for call_thread in self._idle:
                call_thread.stop()
            if self._thread:
                self._thread.stop()

    async def ready(self) -> None:
        """Return when a call can begin."""

    async def __call__(self, item: Item, context: Context) -> Outcome:
        """Run the processor on one item. Cancelling this task interrupts it: the outcome is then Interrupted.

        A call in a thread that does not end when it is interrupted is left behind, and `abandoned` is set:
        nothing more may be started in this process then.
        """
        if not self._async:
            return await self._call_in_thread(item, context)
        if self._thread:
            return await self._call_on_thread(self._thread, item, context)
        ended = self.begin(item, context)
        return ended if isinstance(ended, Outcome) else await self.finish(ended)

    @property
    def is_direct(self) -> bool:
        """Whether it runs on the loop of whoever calls it: then it can be begun without being awaited."""
        return self._async and self._thread is None

    def begin(self, item: Item, context: Context) -> Outcome | Awaitable[Any]:
        """Where it `is_direct`: call it up to its first wait; the rest, if any, is for `finish`."""
        try:
            return begin(self._call, item, context)
        finally:
            only_in(self._process)

    async def finish(self, rest: Awaitable[Any]) -> Outcome:
        """Await the rest of what was begun; the outcome is Interrupted where the awaiting task was cancelled."""
        try:
            return outcome_of(await rest)
        except BaseException as error:
            return _ended_by(error)
        finally:
            only_in(self._process)

    async def _call_in_thread(self, item: Item, context: Context) -> Outcome:
        ended, done = _ending()
        call_thread = self._idle.pop() if self._idle else CallThread(f"processor-{time.monotonic_ns()}")
        call_thread.submit(lambda: self._call(item, context), done)
        outcome = await self._await_ending(ended, call_thread.interrupt)
        if isinstance(outcome, Interrupted):
            call_thread.stop()  # the interruption may arrive late: it must not meet another call
        elif ended.done():
            self._idle.append(call_thread)
        return outcome

    async def _call_on_thread(self, thread: LoopThread, item: Item, context: Context) -> Outcome:
        ended, done = _ending()
        interrupt = thread.submit(self._call(item, context), done)
        return await self._await_ending(ended, interrupt)

    async def _await_ending(self, ended: asyncio.Future[Outcome], interrupt: Callable[[], None]) -> Outcome:
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            interrupt()
        deadline = time.monotonic() + THREAD_GRACE
        while not ended.done() and time.monotonic() < deadline:
            with contextlib.suppress(asyncio.CancelledError):  # interrupted already: asking twice changes nothing
                await asyncio.wait([ended], timeout=deadline - time.monotonic())
        self.abandoned = self.abandoned or not ended.done()
        return Interrupted()


def _ending() -> tuple[asyncio.Future[Outcome], Callable[[Outcome], None]]:
    """A future, and the function by which another thread settles it."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Outcome] = loop.create_future()

    def settle(outcome: Outcome) -> None:
        if not ended.done():
            ended.set_result(outcome)

    def done(outcome: Outcome) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, outcome)

    return ended, done


async def _enter(target: Any) -> Any:
    return await target.__aenter__()


async def _leave(target: Any) -> Any:
    return await target.__aexit__(None, None, None)
