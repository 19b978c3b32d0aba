"""Lanes: each runs user code for one item at a time, under the item's time limit and before the watchdog's eyes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from streamworker.engine.attempts import Policy, settle
from streamworker.engine.context import ItemContext
from streamworker.engine.heartbeat import Heartbeat
from streamworker.engine.holds import INTERRUPT_GRACE, Call
from streamworker.processors.outcomes import Failed, Interrupted, Outcome

# How long a lane may keep the loop to itself while its items never wait for anything.
FAIR_SHARE = 0.002
# An item that runs longer than a commit takes is a slow one.
SLOW = 0.010


@dataclass(slots=True, eq=False)
class Lane:
    """One item at a time; `call` is what the watchdog looks at.

    `began` is when the item under way began, `since` when the lane last let others have the loop (monotonic seconds).
    """

    call: Call
    busy: bool = False
    began: float = float("inf")
    since: float = 0.0
    running: asyncio.Task[None] | None = None
    context: ItemContext | None = None
    timeout: asyncio.TimerHandle | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether others have waited for the loop long enough."""
        return time.monotonic() - self.since > FAIR_SHARE

    def interrupt(self) -> None:
        """End what it runs; user code may look for that."""
        if self.context is not None:
            self.context.interrupted = True
        if self.running is not None:
            self.running.cancel()

    def go_on(self, context: ItemContext, now: float) -> None:
        """The item it ran has ended, and the one of `context` has begun."""
        self.leave()
        self.context, self.began = context, now

    def leave(self) -> None:
        """The item it ran has ended."""
        if self.context is not None:
            self.context.stopped = True
            self.context = None

    async def be_fair(self) -> None:
        """Let others have the loop."""
        await asyncio.sleep(0)
        self.since = time.monotonic()


class Lanes:
    """The lanes of one run. After `look_out`, `slow()` is called again and again while an item runs longer than `SLOW`.

    `above` is the task that runs the lanes where they have tasks of their own: they are cancelled with it.
    """

    def __init__(self, lanes: list[Lane], item_timeout: float | None, heartbeat: Heartbeat, slow: Callable[[], None]) -> None:
        self.all = lanes
        self._item_timeout = item_timeout
        self._heartbeat = heartbeat
        self._slow = slow
        self._loop = asyncio.get_running_loop()
        self._ticking: asyncio.TimerHandle | None = None
        self.above: asyncio.Task[Any] | None = None

    def busy(self) -> int:
        """How many have an item in hand."""
        return sum(lane.busy for lane in self.all)

    @contextlib.contextmanager
    def serving(self, lane: Lane) -> Iterator[None]:
        """While a lane runs; whatever cancelled it is over when it leaves."""
        self._heartbeat.watch(lane.call)
        lane.running, lane.since = asyncio.current_task(), time.monotonic()
        try:
            yield
        finally:
            self._heartbeat.unwatch(lane.call)
            lane.busy = False
            while lane.running is not None and lane.running.cancelling():
                lane.running.uncancel()

    async def call(self, lane: Lane, policy: Policy, context: ItemContext, answer: Coroutine[Any, Any, Outcome]) -> Outcome:
        """Await the answer on one item. Cancelling the lane interrupts it, and so does the item's time limit, which is a failure.

        Where the lane has gone on meanwhile, it is the answer on its last item.
        """
        call = lane.call
        call.timed_out = call.told = False
        if self._item_timeout is not None:
            self._limit(lane, policy, context, self._item_timeout)
        lane.context = context
        call.running = True
        try:
            outcome = await answer
            return self._judge(lane) if isinstance(outcome, Interrupted) else outcome
        finally:
            lane.leave()
            call.running = False
            call.overdue_at = lane.began = float("inf")
            if lane.timeout is not None:
                self._unlimit(lane)

    def _judge(self, lane: Lane) -> Outcome:
        """What it means that an item was cancelled."""
        if lane.call.timed_out:
            return self._timed_out()
        wanted = lane.context is not None and not lane.context.interrupted
        if not wanted or lane.running is None or (self.above is not None and self.above.cancelling()):
            return Interrupted()
        while lane.running.cancelling():  # the processor cancelled its own task: that is its own affair, and an attempt
            lane.running.uncancel()
        return Failed("CancelledError")

    def stop(self) -> None:
        """Interrupt what runs."""
        for lane in self.all:
            if lane.call.running:
                lane.call.overdue_at = min(lane.call.overdue_at, time.monotonic() + INTERRUPT_GRACE)
            if lane.running is not None and not lane.running.done():
                lane.interrupt()

    def look_out(self) -> None:
        """Look for slow items from now on."""
        if self._ticking is None:
            self._ticking = self._loop.call_later(SLOW / 2, self._tick)

    def look_away(self) -> None:
        """Look no more."""
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    def _tick(self) -> None:
        self._ticking = self._loop.call_later(SLOW / 2, self._tick)
        if time.monotonic() - min(lane.began for lane in self.all) > SLOW:
            self._slow()

    def _limit(self, lane: Lane, policy: Policy, context: ItemContext, seconds: float) -> None:
        call, now = lane.call, time.monotonic()
        call.if_timed_out = settle(context.position, context.key, context.attempt, self._timed_out(), policy, seconds)
        call.time_is_up_at, call.overdue_at = now + seconds, now + seconds + INTERRUPT_GRACE
        context.limit = now + seconds
        lane.timeout = self._loop.call_later(seconds, self._time_out, lane)

    def _unlimit(self, lane: Lane) -> None:
        assert lane.timeout is not None
        lane.timeout.cancel()
        lane.timeout = None
        if lane.call.timed_out and lane.running is not None:
            lane.running.uncancel()

    def _timed_out(self) -> Failed:
        return Failed(f"timed out after {self._item_timeout:g} s")

    def _time_out(self, lane: Lane) -> None:
        lane.call.timed_out = True
        if lane.running is not None:
            lane.interrupt()
