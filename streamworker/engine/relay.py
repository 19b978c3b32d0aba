"""Quick items one after another through a child process: each is handed over in the step that hears of the end of the one before."""

from __future__ import annotations

import time
from functools import partial

from streamworker.engine.attempts import settle
from streamworker.engine.context import ItemContext
from streamworker.engine.lanes import Lane
from streamworker.engine.source import Work, item_of
from streamworker.engine.sprint import Last, Parts
from streamworker.processors.api import Context, Item
from streamworker.processors.isolated import IsolatedProcessor
from streamworker.processors.outcomes import Failed, Interrupted, Succeeded
from streamworker.store.items import OpenItem


class Relay:
    """The relays of one run. They are for a processor in child processes, and for items without a time limit."""

    def __init__(self, processor: IsolatedProcessor, parts: Parts) -> None:
        self._processor = processor
        self._parts = parts

    def may_start(self, work: Work) -> bool:
        """Whether a relay may begin with this start."""
        return self._processor.is_ready and self._parts.may_start(work)

    async def run(self, lane: Lane, item: OpenItem) -> Last:
        """Start this item and those that follow, as long as they are quick and succeed; returns the last, with its outcome."""
        parts = self._parts
        last = Last(item, ItemContext(parts.voice, item.position, item.key, 1), time.monotonic(), Interrupted())
        parts.recorder.may_start(item.position)
        given = item_of(parts.batch_id, item, 1)
        if isinstance(given, Failed):
            last.outcome = given
            return last
        lane.began = last.began
        answer = self._processor(given, last.context, partial(self._follow, lane, last))
        last.outcome = await parts.lanes.call(lane, parts.policy, last.context, answer)
        return last

    def _follow(self, lane: Lane, last: Last, succeeded: Succeeded) -> tuple[Item, Context] | None:
        """The item that follows `last`, of whose success a row is made; None where the lane is to see to that itself."""
        parts, now = self._parts, time.monotonic()
        if last.context.has_told or parts.hold.lost is not None or now > parts.hold.deadline or not parts.may_go_on():
            return None
        following = self._next()
        if following is None:
            return None
        parts.recorder.add(settle(last.item.position, last.item.key, 1, succeeded, parts.policy, now - last.began))
        last.item, given = following
        last.context, last.began = ItemContext(parts.voice, last.item.position, last.item.key, 1), now
        lane.go_on(last.context, now)
        return given, last.context

    def _next(self) -> tuple[OpenItem, Item] | None:
        parts = self._parts
        while (item := parts.source.take_quick(parts.recorder.frontier)) is not None:
            parts.recorder.may_start(item.position)
            given = item_of(parts.batch_id, item, 1)
            if not isinstance(given, Failed):
                return item, given
            parts.recorder.add(settle(item.position, item.key, 1, given, parts.policy, 0.0))
        return None
