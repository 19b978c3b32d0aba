"""Calling user code: on the worker's own loop, on a loop in a thread, or as a plain function in a thread.

The one place that catches what a processor raises; whatever it does becomes an Outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import CoroutineType
from typing import Any

import msgspec

from streamworker.errors import ConfigurationError
from streamworker.messages import clean_text, to_json
from streamworker.processors.api import Context, Item, Permanent, Result, RetryAfter, Unavailable
from streamworker.processors.importing import Plugin, call_of, is_async

# How long (seconds) an interrupted call in a thread may take to end.
THREAD_GRACE = 0.5


class Succeeded(msgspec.Struct, frozen=True):
    """The processor returned: `value` is JSON text."""

    value: str | None
    write: Callable[[Any], Awaitable[Any]] | None = None


class Failed(msgspec.Struct, frozen=True):
    """The attempt failed; `delay` (seconds) asks for a later retry, `permanent` for none. `exhausted`: there was no memory left.

    `away`: it was no attempt, since what the processor needs was not there.
    """

    error: str
    permanent: bool = False
    delay: float | None = None
    exhausted: bool = False
    away: bool = False


class Interrupted(msgspec.Struct, frozen=True):
    """We ended it ourselves: the batch was cancelled, handed over or lost. It counts for nothing."""


Outcome = Succeeded | Failed | Interrupted


class Interruption(BaseException):
    """Thrown into a thread whose result is no longer wanted. Not an Exception, so that user code seldom catches it."""


def outcome_of(returned: Any) -> Outcome:
    """What a processor's return value means."""
    result = returned if isinstance(returned, Result) else Result(returned)
    if result.value is None:
        return Succeeded(None, result.write)
    try:
        return Succeeded(to_json(result.value), result.write)
    except ValueError as error:
        return Failed(clean_text(f"result cannot be stored: {error}"), permanent=False)


def failure_of(error: BaseException) -> Failed:
    """What an exception of a processor means; of a group whose members all say the same: what they say."""
    error = _unwrapped(error)
    try:
        text = str(error)
    except BaseException:
        text = "(its text cannot be shown)"
    text = clean_text(text or type(error).__name__)
    if not isinstance(error, Exception):
        text = clean_text(f"{type(error).__name__}: {text}" if text != type(error).__name__ else text)
    match error:
        case Permanent():
            return Failed(text, permanent=True)
        case RetryAfter():
            return Failed(text, delay=sane_delay(error.seconds))
        case Unavailable():
            return Failed(text, away=True)
    return Failed(text, exhausted=isinstance(error, MemoryError))


def _unwrapped(error: BaseException) -> BaseException:
    """Task groups raise groups: of one whose leaves are all of one kind that we know, the first, or that with the longest delay."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves: list[BaseException] = []
    groups: list[BaseExceptionGroup[BaseException]] = [error]
    while groups:
        for member in groups.pop().exceptions:
            if isinstance(member, BaseExceptionGroup):
                groups.append(member)
            else:
                leaves.append(member)
    if all(isinstance(leaf, RetryAfter) for leaf in leaves):
        return max((leaf for leaf in leaves if isinstance(leaf, RetryAfter)), key=lambda leaf: sane_delay(leaf.seconds))
    alike = any(all(isinstance(leaf, kind) for leaf in leaves) for kind in (Permanent, Unavailable))
    return leaves[0] if alike else error


def sane_delay(seconds: float) -> float:
    """The delay of a retry: NaN and negative ones mean "now"; a year is longer than any batch may run."""
    return min(seconds, 31_536_000.0) if seconds > 0 else 0.0


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
    if isinstance(error, asyncio.CancelledError):
        asking = asyncio.current_task()
        if asking is not None and asking.cancelling():
            return Interrupted()
    return failure_of(error)  # a CancelledError of the processor's own is a failed attempt like any other


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
        """Await the coroutine over there."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

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
        except (Exception, SystemExit) as error:
            if thread:
                thread.stop()
            if isinstance(error, Unavailable):
                raise
            text = str(error) if isinstance(error, ConfigurationError) else f"{type(error).__name__}: {error}"
            raise ConfigurationError(f"processor {plugin.name!r} could not start: {clean_text(text)}") from error
        call = call_of(target)
        if call is None:
            raise ConfigurationError(
                f"processor {plugin.name!r} could not start: __aenter__ returned {type(target).__name__}, not a processor"
            )
        return cls(plugin.name, target, call, thread)

    async def close(self) -> None:
        """Leave the processor's context and end its threads. Errors of user code are raised."""
        try:
            if hasattr(self._target, "__aexit__"):
                leaving = _leave(self._target)
                await (self._thread.run(leaving) if self._thread else leaving)
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
