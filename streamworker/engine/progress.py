"""The events of one run: what changed durably, and what its items tell of themselves meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from streamworker.engine.announcer import Announcer
from streamworker.engine.holds import Hold
from streamworker.messages import TERMINAL, ItemEvent, ProgressEvent, timestamp
from streamworker.observe.events import Events, ItemFinished, ItemRetried
from streamworker.store.batches import DIED, BatchState, ChargedItem
from streamworker.store.items import ItemRecord

# Items of one event, at most.
EVENT_ITEMS = 500
# A live event an item, at most, in so many seconds.
LIVE_PAUSE = 0.1


def event_of(state: BatchState, items: list[ItemEvent], eta: float | None = None, at: datetime | None = None) -> ProgressEvent:
    """The progress event that tells `state`."""
    processed = state.succeeded + state.failed
    return ProgressEvent(
        v=1,
        batch_id=str(state.id),
        revision=state.revision,
        at=timestamp(at or state.updated_at),
        status=state.status,
        total=state.total,
        processed=processed,
        succeeded=state.succeeded,
        failed=state.failed,
        percent=round(100 * processed / state.total, 2) if state.total else 0.0,
        eta_seconds=None if state.status in TERMINAL else eta,
        worker=state.worker,
        epoch=state.epoch,
        error=state.error,
        items=items,
    )


@dataclass(slots=True)
class LiveItem:
    """An item under way, and what it told last."""

    position: int
    key: str
    attempt: int
    percent: float | None = None
    stage: str | None = None
    message: str | None = None

    def event(self) -> ItemEvent:
        """The item's part of a live event."""
        return ItemEvent(self.position, self.key, "processing", self.attempt, self.percent, self.stage, self.message)


class Progress:
    """Announces one run's events. `told` may be called from any thread."""

    def __init__(self, announcer: Announcer, state: BatchState, hold: Hold) -> None:
        self._announcer = announcer
        self._hold = hold
        self._loop = asyncio.get_running_loop()
        self._state = state
        self._state_at = time.monotonic()
        self._began = self._state_at
        self._processed_before = state.succeeded + state.failed
        self._changed: dict[int, LiveItem] = {}
        self._scheduled = False
        self._lock = threading.Lock()  # plain functions tell from their threads
        self._closed = False
        announcer.register(str(state.id), self.current)

    def close(self) -> None:
        """The run is over: nothing live any more."""
        self._closed = True
        self._announcer.forget(str(self._state.id))

    def current(self) -> ProgressEvent | None:
        """The last durable state; None once the lease is lost."""
        self._hold.check_deadline()  # a process that was stopped may wake up here
        return None if self._hold.lost is not None else event_of(self._state, [], self._eta())

    def recorded(self, state: BatchState, items: Sequence[ItemEvent]) -> None:
        """A commit has happened. The end is announced by whoever ends the batch."""
        self._state, self._state_at = state, time.monotonic()
        if state.status in TERMINAL:
            return
        for start in range(0, max(1, len(items)), EVENT_ITEMS):
            self._announcer.announce(event_of(state, list(items[start : start + EVENT_ITEMS]), self._eta()))

    def told(self, item: LiveItem) -> None:
        """An item has something new to tell; what comes within a tenth of a second is told together."""
        with self._lock:
            self._changed[item.position] = item
            if self._scheduled:
                return
            self._scheduled = True
        self._loop.call_soon_threadsafe(self._publish_live)

    def ended(self, position: int) -> None:
        """The item is over: what it told last is of no interest any more."""
        with self._lock:
            self._changed.pop(position, None)

    def _publish_live(self) -> None:
        with self._lock:
            changed = list(self._changed.values())[:EVENT_ITEMS]
            for item in changed:
                del self._changed[item.position]
            self._scheduled = bool(changed) and not self._closed
        if not self._scheduled:
            return
        at = self._state.updated_at + timedelta(seconds=time.monotonic() - self._state_at)
        self._announcer.announce_live(event_of(self._state, [item.event() for item in changed], self._eta(), at))
        self._loop.call_later(LIVE_PAUSE, self._publish_live)

    def _eta(self) -> float | None:
        done = self._state.succeeded + self._state.failed
        here = done - self._processed_before
        if here <= 0:
            return None
        return round((self._state.total - done) * (self._state_at - self._began) / here, 1)


def item_event(row: ItemRecord) -> ItemEvent:
    """What an event tells of a recorded attempt."""
    percent = 100.0 if row.status == "completed" else None
    return ItemEvent(row.position, row.key, row.status, row.attempts, percent=percent, error=row.error)


def charged_event(item: ChargedItem) -> ItemEvent:
    """The event of an item that was charged for a death."""
    return item_event(ItemRecord(item.position, item.key, item.status, item.attempts, error=DIED))


def tell_rows(events: Events, state: BatchState, rows: Sequence[ItemRecord]) -> None:
    """Emit what became of these items: failures and retries, and with subscribers to details every end."""
    for row in rows:
        if row.status in TERMINAL:
            if row.status == "failed" or events.detailed:
                events.emit(
                    ItemFinished(
                        batch_id=state.id, epoch=state.epoch, position=row.position, key=row.key, attempt=row.attempts,
                        status=row.status, seconds=row.seconds or 0.0, error=row.error,
                    )
                )  # fmt: skip
        elif row.progressed:
            tried = row.attempts - (row.status == "processing")
            events.emit(
                ItemRetried(
                    batch_id=state.id, epoch=state.epoch, position=row.position, key=row.key, attempt=tried,
                    error=row.error or "", delay=row.delay or 0.0,
                )
            )  # fmt: skip
