"""Quick items one after another, in one go: none of them costs a step through the event loop."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec

from streamworker.engine.context import ItemContext, Voice
from streamworker.engine.holds import Hold
from streamworker.engine.lanes import FAIR_SHARE, Lane
from streamworker.engine.recorder import Recorder
from streamworker.engine.source import ItemSource, Work, item_of
from streamworker.processors.calls import OpenProcessor
from streamworker.processors.outcomes import Failed, Outcome, Succeeded
from streamworker.store.items import ItemRecord, OpenItem


class Underway(msgspec.Struct):
    """An item that a sprint has begun, and what came of that: an outcome that needs more than a row, or the rest, to be awaited."""

    item: OpenItem
    context: ItemContext
    began: float
    came: Outcome | Awaitable[Any]


class Sprint:
    """The sprints of one run. They are for a processor that is called on this loop, and for items without a time limit."""

    def __init__(
        self,
        processor: OpenProcessor,
        batch_id: UUID,
        hold: Hold,
        source: ItemSource,
        recorder: Recorder,
        voice: Voice,
        is_last: Callable[[ItemRecord], bool],
    ) -> None:
        self._processor = processor
        self._batch_id = batch_id
        self._hold = hold
        self._source = source
        self._recorder = recorder
        self._voice = voice
        self._is_last = is_last

    async def finish(self, rest: Awaitable[Any]) -> Outcome:
        """The outcome of an item that is under way."""
        return await self._processor.finish(rest)

    def may_start(self, work: Work) -> bool:
        """Whether a sprint may begin with this start: a first attempt below the durable mark, among quick items."""
        recorder, hold = self._recorder, self._hold
        marked = work.attempt == 1 and work.item.away_after is None and work.item.position < recorder.frontier and not recorder.slow
        return marked and not self._source.closed and hold.lost is None and time.monotonic() < hold.deadline

    def run(self, lane: Lane, item: OpenItem) -> Underway | None:
        """Start this item and those that follow, as far as the mark goes and fairness allows; returns the one that is not done with."""
        lane.call.running, lane.call.timed_out, lane.call.told = True, False, False
        rows: list[ItemRecord] = []
        underway: Underway | None = None
        try:
            underway = self._run(lane, item, rows)
        finally:
            lane.call.running, lane.began = False, float("inf")
            if underway is not None:
                self._recorder.may_start(underway.item.position)
                underway.context.stopped = isinstance(underway.came, Outcome)
            if rows:
                self._recorder.add_quick(rows, underway is None and self._is_last(rows[-1]))
        return underway

    def _run(self, lane: Lane, item: OpenItem, rows: list[ItemRecord]) -> Underway | None:
        hold, frontier = self._hold, self._recorder.frontier
        until = min(lane.since + FAIR_SHARE, hold.deadline)
        following: OpenItem | None = item
        now = time.monotonic()
        while following is not None:
            item, lane.began = following, now
            context = ItemContext(self._voice, item.position, item.key, 1)
            given = item_of(self._batch_id, item, 1)
            came = given if isinstance(given, Failed) else self._processor.begin(given, context)
            if type(came) is not Succeeded or came.write is not None or context.has_told:
                return Underway(item, context, now, came)
            context.stopped = True
            ended = time.monotonic()
            rows.append(ItemRecord(item.position, item.key, "completed", 1, came.value, None, None, ended - now))
            now = ended
            following = self._source.take_quick(frontier) if now < until and hold.lost is None else None
        return None
