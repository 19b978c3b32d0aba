"""Quick items one after another, in one go: none of them costs a step through the event loop."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec

from streamworker.engine.attempts import Policy
from streamworker.engine.context import ItemContext, Voice
from streamworker.engine.holds import Hold
from streamworker.engine.lanes import FAIR_SHARE, Lane, Lanes
from streamworker.engine.recorder import Recorder
from streamworker.engine.source import ItemSource, Work, item_of
from streamworker.processors.calls import OpenProcessor
from streamworker.processors.outcomes import Failed, Outcome, Succeeded
from streamworker.store.items import ItemRecord, OpenItem


class Parts(msgspec.Struct, frozen=True):
    """What a run gives to whoever starts its quick items. `may_go_on` says whether a next item may follow at once."""

    batch_id: UUID
    hold: Hold
    source: ItemSource
    recorder: Recorder
    voice: Voice
    lanes: Lanes
    policy: Policy
    may_go_on: Callable[[], bool]
    is_last: Callable[[ItemRecord], bool]

    def may_start(self, work: Work) -> bool:
        """Whether this start is a first attempt below the durable mark, among quick items, under a lease that holds."""
        recorder, hold = self.recorder, self.hold
        marked = work.attempt == 1 and work.item.away_after is None and work.item.position < recorder.frontier and not recorder.slow
        return marked and not self.source.closed and hold.lost is None and time.monotonic() < hold.deadline


class Last(msgspec.Struct):
    """The item that ended a series of quick ones, of which no row has been made."""

    item: OpenItem
    context: ItemContext
    began: float
    outcome: Outcome


class Underway(msgspec.Struct):
    """An item that a sprint has begun, and what came of that: an outcome that needs more than a row, or the rest, to be awaited."""

    item: OpenItem
    context: ItemContext
    began: float
    came: Outcome | Awaitable[Any]


class Sprint:
    """The sprints of one run. They are for a processor that is called on this loop, and for items without a time limit."""

    def __init__(self, processor: OpenProcessor, parts: Parts) -> None:
        self._processor = processor
        self._parts = parts

    def may_start(self, work: Work) -> bool:
        """Whether a sprint may begin with this start."""
        return self._parts.may_start(work)

    async def run(self, lane: Lane, item: OpenItem) -> Last | None:
        """Start this item and those that follow, as far as the mark goes and fairness allows; returns the one that is not done with."""
        underway = self._start(lane, item)
        if underway is None:
            return None
        came = underway.came
        if not isinstance(came, Outcome):
            lane.began = underway.began
            came = await self._parts.lanes.call(lane, self._parts.policy, underway.context, self._processor.finish(came))
        return Last(underway.item, underway.context, underway.began, came)

    def _start(self, lane: Lane, item: OpenItem) -> Underway | None:
        lane.call.running, lane.call.timed_out, lane.call.told = True, False, False
        recorder = self._parts.recorder
        rows: list[ItemRecord] = []
        underway: Underway | None = None
        try:
            underway = self._run(lane, item, rows)
        finally:
            lane.call.running, lane.began = False, float("inf")
            if underway is not None:
                recorder.may_start(underway.item.position)
                underway.context.stopped = isinstance(underway.came, Outcome)
            if rows:
                recorder.add_quick(rows, underway is None and self._parts.is_last(rows[-1]))
        return underway

    def _run(self, lane: Lane, item: OpenItem, rows: list[ItemRecord]) -> Underway | None:
        hold, source, voice, frontier = self._parts.hold, self._parts.source, self._parts.voice, self._parts.recorder.frontier
        batch_id, until = self._parts.batch_id, min(lane.since + FAIR_SHARE, hold.deadline)
        following: OpenItem | None = item
        now = time.monotonic()
        while following is not None:
            item, lane.began = following, now
            context = ItemContext(voice, item.position, item.key, 1)
            given = item_of(batch_id, item, 1)
            came = given if isinstance(given, Failed) else self._processor.begin(given, context)
            if type(came) is not Succeeded or came.write is not None or context.has_told:
                return Underway(item, context, now, came)
            context.stopped = True
            ended = time.monotonic()
            rows.append(ItemRecord(item.position, item.key, "completed", 1, came.value, None, None, ended - now))
            now = ended
            following = source.take_quick(frontier) if now < until and hold.lost is None else None
        return None
