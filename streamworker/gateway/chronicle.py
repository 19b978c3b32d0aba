"""What this gateway has seen of each batch: how its counters grew, and what is being worked on right now."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from streamworker.messages import TERMINAL, ItemEvent, ProgressEvent, timestamp

MOST_BATCHES = 2_000
MOST_SAMPLES = 240
MOST_IN_FLIGHT = 32
FIRST_STEP = 1.0  # seconds between samples
LATEST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


class Sample(msgspec.Struct, frozen=True):
    """The counters at a moment."""

    at: str
    processed: int
    failed: int


class _Past:
    """One batch; samples are plain numbers, since there may be hundreds of thousands."""

    __slots__ = ("_at", "_failed", "_processed", "_step", "epoch", "in_flight", "newest", "revision")

    def __init__(self) -> None:
        self._at, self._processed, self._failed = array("d"), array("q"), array("q")
        self._step = FIRST_STEP
        self.newest: Sample | None = None
        self.in_flight: dict[int, ItemEvent] = {}
        self.revision = self.epoch = -1

    def note(self, event: ProgressEvent) -> None:
        """Take an event that tells nothing older than the last."""
        if event.revision > self.revision or self.newest is None:
            self._sample(event)
        if event.epoch != self.epoch or event.status in TERMINAL:
            self.in_flight.clear()  # another worker begins anew
        self.revision, self.epoch = event.revision, event.epoch
        for item in event.items:
            if item.status != "processing":
                self.in_flight.pop(item.position, None)
            elif item.position in self.in_flight or len(self.in_flight) < MOST_IN_FLIGHT:
                self.in_flight[item.position] = item

    def samples(self) -> list[Sample]:
        """The oldest first; the last one is the newest that was heard."""
        rows = zip(self._at, self._processed, self._failed, strict=True)
        found = [Sample(timestamp(datetime.fromtimestamp(at, UTC)), processed, failed) for at, processed, failed in rows]
        return found if self.newest is None or found[-1:] == [self.newest] else [*found, self.newest]

    def _sample(self, event: ProgressEvent) -> None:
        at = seconds_of(event.at)
        if at is None or not (0 <= event.failed <= event.processed < 2**31):
            return  # no worker of ours wrote that
        self.newest = Sample(event.at, event.processed, event.failed)
        if self._at and event.processed < self._processed[-1]:
            self._keep(slice(0))  # retried: the counters began anew
        elif self._at and at - self._at[-1] < self._step and event.status not in TERMINAL:
            return
        self._at.append(at)
        self._processed.append(event.processed)
        self._failed.append(event.failed)
        if len(self._at) >= MOST_SAMPLES:
            # Half as dense, and so for as long again: a batch of a week has as many samples as one of a minute.
            self._keep(slice(None, None, 2))
            self._step *= 2

    def _keep(self, which: slice) -> None:
        self._at, self._processed, self._failed = self._at[which], self._processed[which], self._failed[which]


@lru_cache(maxsize=16)  # it is asked twice of each event
def seconds_of(at: str) -> float | None:
    """When it was, in seconds since 1970; None for what no event of ours has there."""
    try:
        found = datetime.fromisoformat(at).timestamp() if at.endswith("Z") else -1.0
    except (ValueError, OverflowError):
        return None
    return found if 0 <= found < LATEST else None


class Chronicle:
    """The batches that were heard of last, at most 2,000."""

    def __init__(self) -> None:
        self._batches: OrderedDict[str, _Past] = OrderedDict()

    def hear(self, event: ProgressEvent) -> None:
        """Take an event from the progress stream."""
        past = self._batches.get(event.batch_id)
        if past is None:
            past = self._batches[event.batch_id] = _Past()
            if len(self._batches) > MOST_BATCHES:
                self._batches.popitem(last=False)
        else:
            self._batches.move_to_end(event.batch_id)
        if event.revision >= past.revision:
            past.note(event)

    def samples(self, batch_id: str) -> list[Sample]:
        """How the counters grew, the oldest sample first; the last one is the newest that was heard."""
        past = self._batches.get(batch_id)
        return [] if past is None else past.samples()

    def in_flight(self, batch_id: str) -> list[ItemEvent]:
        """The items that are being worked on, as far as was told."""
        past = self._batches.get(batch_id)
        return [] if past is None else list(past.in_flight.values())
