"""What a reader of progress events lets through: nothing older, nothing twice, and no gap unnoticed."""

from __future__ import annotations

from enum import Enum

from streamworker.messages import ItemEvent, ProgressEvent


class Verdict(Enum):
    """What an event is to a reader."""

    NEW = "new"
    KNOWN = "known"  # older than the last, or a repeat that tells nothing more
    GAP = "gap"  # events before it are missing: read the snapshot


class Revisions:
    """The newest state of one batch that a reader has seen.

    Events of the present revision pass as long as they tell something: live updates, and the chunks of one large flush.
    """

    def __init__(self) -> None:
        self._last: ProgressEvent | None = None
        self._seen: dict[int, ItemEvent] = {}

    @property
    def last(self) -> int:
        """The newest revision seen; -1 before the first."""
        return -1 if self._last is None else self._last.revision

    def judge(self, event: ProgressEvent) -> Verdict:
        """Say what the event is, before it is `accept`ed."""
        if self._last is None or event.revision > self.last + 1:
            return Verdict.GAP
        if event.revision == self.last + 1:
            return Verdict.NEW
        if event.revision < self.last:
            return Verdict.KNOWN
        tells = any(self._seen.get(item.position) != item for item in event.items)
        return Verdict.NEW if tells or event.status != self._last.status else Verdict.KNOWN

    def accept(self, event: ProgressEvent) -> None:
        """Take the event, or a snapshot, as seen."""
        if event.revision != self.last:
            self._seen.clear()
        self._last = event
        self._seen.update((item.position, item) for item in event.items)
