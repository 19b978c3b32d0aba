"""What this gateway has seen of each batch: how its counters grew, and what is being worked on right now."""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime

import msgspec

from streamworker.messages import TERMINAL, ItemEvent, ProgressEvent

MOST_BATCHES = 2_000
MOST_SAMPLES = 240
MOST_IN_FLIGHT = 100
FIRST_STEP = 1.0  # seconds between samples


class Sample(msgspec.Struct, frozen=True):
    """The counters at a moment."""

    at: str
    processed: int
    failed: int


class _Past:
    """One batch."""

    __slots__ = ("epoch", "in_flight", "last_seconds", "newest", "revision", "samples", "step")

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.in_flight: dict[int, ItemEvent] = {}
        self.newest: Sample | None = None
        self.revision = self.epoch = -1
        self.step = FIRST_STEP
        self.last_seconds = float("-inf")

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

    def _sample(self, event: ProgressEvent) -> None:
        self.newest = Sample(event.at, event.processed, event.failed)
        seconds = datetime.fromisoformat(event.at).timestamp()
        if self.samples and event.processed < self.samples[-1].processed:
            self.samples.clear()  # retried: the counters began anew
        elif seconds - self.last_seconds < self.step and event.status not in TERMINAL:
            return
        self.samples.append(self.newest)
        self.last_seconds = seconds
        if len(self.samples) >= MOST_SAMPLES:
            # Half as dense, and so for as long again: a batch of a week has as many samples as one of a minute.
            self.samples = self.samples[::2]
            self.step *= 2


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
        if past is None:
            return []
        newest = past.newest
        return past.samples if newest is None or newest in past.samples[-1:] else [*past.samples, newest]

    def in_flight(self, batch_id: str) -> list[ItemEvent]:
        """The items that are being worked on, as far as was told."""
        past = self._batches.get(batch_id)
        return [] if past is None else list(past.in_flight.values())
