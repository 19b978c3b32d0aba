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
        self.last = -1  # the newest revision seen; -1 before the first
        self._status = ""
        self._seen: dict[int, ItemEvent] = {}

    def judge(self, event: ProgressEvent) -> Verdict:
        """Say what the event is, before it is `accept`ed."""
        if self.last < 0 or event.revision > self.last + 1:
            return Verdict.GAP
        if event.revision == self.last + 1:
            return Verdict.NEW
        if event.revision < self.last:
            return Verdict.KNOWN
        tells = any(self._seen.get(item.position) != item for item in event.items)
        return Verdict.NEW if tells or event.status != self._status else Verdict.KNOWN

    def accept(self, event: ProgressEvent) -> None:
        """Take the event, or a snapshot, as seen."""
        if event.revision != self.last:
            self._seen.clear()
        self.last, self._status = event.revision, event.status
        for item in event.items:
            self._seen[item.position] = item
