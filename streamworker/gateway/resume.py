"""Tokens, and what a client that comes back with one has missed: exactly the events after it, or nothing that can be proven."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from streamworker.gateway.frames import Frame

MOST_ENTRIES = 10_000
MOST_BYTES = 8 * 1024 * 1024
MAX_TOKEN = 200  # characters
MAX_REVISION = 2**63 - 1
LAST_SEQUENCE = 2**64 - 1

Position = tuple[int, int]
START: Position = (0, 0)

_TOKEN = re.compile(r"([0-9a-f]{8})\.([0-9]{1,20})-([0-9]{1,20})\.([0-9a-f]{8})(?:\.([0-9]{1,19}))?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Token(NamedTuple):
    """Of what was asked for (`scope`) everything up to a position of a stream is told.

    With `ended` the batch is told up to its end, which had this revision.
    """

    tag: str
    position: Position
    scope: str
    ended: int | None = None

    def __str__(self) -> str:
        return _text(*self)


def _text(tag: str, position: Position, scope: str, ended: int | None) -> str:
    text = f"{tag}.{position[0]}-{position[1]}.{scope}"
    return text if ended is None else f"{text}.{ended}"


class Since(NamedTuple):
    """Where a client wants to go on: after a token, or from a revision; neither where its text means nothing to us."""

    token: Token | None = None
    revision: int | None = None


def tag_of(run_id: str, stream: str) -> str:
    """What tells one stream of one server's life from all others."""
    return hashlib.sha256(f"{run_id} {stream}".encode()).hexdigest()[:8]


def _ahead(salt: str) -> str:
    return salt + hashlib.sha256(f"ahead {salt}".encode()).hexdigest()[:4]


def is_ahead(tag: str) -> bool:
    """Whether a gateway, this or another, has given that tag to what the stream had not told."""
    return tag == _ahead(tag[:4])


def scope_of(ids: Iterable[str]) -> str:
    """What tells one choice of batches from all others: a token is good only for what was asked for with it."""
    return hashlib.sha256(",".join(sorted(set(ids))).encode()).hexdigest()[:8]


def read_position(entry_id: bytes) -> Position:
    """The id of a stream entry as numbers that can be compared."""
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence or 0)


def before(position: Position) -> Position:
    """The position just before another."""
    milliseconds, sequence = position
    return (milliseconds, sequence - 1) if sequence else (milliseconds - 1, LAST_SEQUENCE)


def read_since(text: str | int | None) -> Since | None:
    """Read `since` or `Last-Event-ID`; None where nothing was given. ValueError for what no token can look like."""
    if text is None or text == "":
        return None
    text = str(text)
    if len(text) > MAX_TOKEN or _CONTROL.search(text):
        raise ValueError(f"since: expected a token as it came in `id`, at most {MAX_TOKEN} characters of plain text")
    if text.isdecimal() and text.isascii():
        number = int(text)
        return Since(revision=number if number <= MAX_REVISION else None)
    if found := _TOKEN.fullmatch(text):
        tag, milliseconds, sequence, scope, ended = found.groups()
        return Since(Token(tag, (int(milliseconds), int(sequence)), scope, int(ended) if ended else None))
    return Since()


class Record(msgspec.Struct, eq=False, gc=False):
    """An event as it stood in the stream. `highest` is the greatest revision of its batch up to here."""

    position: Position
    batch_id: str
    highest: int
    raw: bytes
    frame: Frame | None = None  # once it was made for several


class History:
    """The last events of the stream, in memory: at most 10,000, and at most 8 MiB."""

    def __init__(self, tag: str = "", newest: Position = START) -> None:
        self.tag = tag
        self.newest = newest
        self.began_at = time.monotonic()
        self.ahead = _ahead(secrets.token_hex(2))  # the tag of tokens of ours that stand for more than the stream had told
        self.in_step: set[str] = set()  # batches of which everybody here was told what the stream had told by then, no more and no less
        self._complete_after = newest  # all that came after it is here
        self._records: deque[Record] = deque()
        self._by_batch: dict[str, deque[Record]] = {}
        self._bytes = 0

    def token(self, scope: str, position: Position | None = None, *, in_step: bool = True, ended: int | None = None) -> str:
        """The token of everything up to a position, up to here if none is given; nobody can go on from it where the client is not in step.

        Every gateway must understand it, and all that they have in common is the stream.
        """
        return _text(self.tag if in_step else self.ahead, self.newest if position is None else position, scope, ended)

    def reset(self, tag: str, newest: Position, complete_after: Position | None = None) -> None:
        """Begin anew: all entries after `complete_after` (if not given, after the newest) are going to be appended."""
        self.tag, self.newest = tag, newest
        self._complete_after = newest if complete_after is None else complete_after
        self.began_at = time.monotonic()
        self.in_step.clear()
        self._records.clear()
        self._by_batch.clear()
        self._bytes = 0

    def append(self, position: Position, batch_id: str, revision: int, raw: bytes) -> Record | None:
        """Keep an event; None for one that is older than what its batch has told already, or the same again."""
        self.newest = max(self.newest, position)
        own = self._by_batch.get(batch_id)
        if own is None:
            own = self._by_batch[batch_id] = deque()
        if own and (revision < own[-1].highest or raw == own[-1].raw):
            return None
        record = Record(position, batch_id, revision, raw)
        own.append(record)
        self._records.append(record)
        self._bytes += len(raw)
        while len(self._records) > MOST_ENTRIES or self._bytes > MOST_BYTES:
            self._drop_oldest()
        return record

    def confirm(self, batch_id: str, revision: int, asked_at: Position) -> None:
        """Forget what was told of a batch if Postgres, asked when the stream was here, knows less: it was not so, or is so no more."""
        known = self.known_at(batch_id, asked_at)
        if known is not None and known > revision:
            del self._by_batch[batch_id]

    def knows(self, batch_id: str) -> bool:
        """Whether any event of this batch is kept."""
        return batch_id in self._by_batch

    def covers(self, token: Token) -> bool:
        """Whether all that came after the token is here."""
        return token.tag == self.tag and self._complete_after <= token.position <= self.newest

    def known_at(self, batch_id: str, position: Position) -> int | None:
        """The revision that a batch had told at a position, if an event up to there is kept."""
        last = self.last_at(batch_id, position)
        return None if last is None else last.highest

    def last_at(self, batch_id: str, position: Position) -> Record | None:
        """The last event of a batch up to a position, if it is kept."""
        own = self._by_batch.get(batch_id, ())
        place = bisect_right(own, position, key=_position)
        return own[place - 1] if place else None

    def newest_at(self, batch_id: str, position: Position) -> list[Record]:
        """All that is kept of what a batch had told of its newest revision at a position."""
        own = self._by_batch.get(batch_id, ())
        place = last = bisect_right(own, position, key=_position)
        while place and own[place - 1].highest == own[last - 1].highest:
            place -= 1
        return [own[number] for number in range(place, last)]

    def after(self, batch_id: str, position: Position) -> list[Record]:
        """The events of a batch after a position."""
        found: list[Record] = []
        for record in reversed(self._by_batch.get(batch_id, ())):
            if record.position <= position:
                break
            found.append(record)
        return found[::-1]

    def changed_after(self, position: Position) -> set[str]:
        """The batches that have told anything after a position."""
        found = set()
        for record in reversed(self._records):
            if record.position <= position:
                break
            found.add(record.batch_id)
        return found

    def last_of(self, batch_id: str, count: int) -> list[Record]:
        """The newest events of a batch, the oldest of them first."""
        own = self._by_batch.get(batch_id, ())
        return [own[place] for place in range(max(0, len(own) - count), len(own))]

    def _drop_oldest(self) -> None:
        record = self._records.popleft()
        own = self._by_batch.get(record.batch_id)
        if own and own[0] is record:  # else it was forgotten
            own.popleft()
            if not own:
                del self._by_batch[record.batch_id]
        self._bytes -= len(record.raw)
        self._complete_after = record.position


def _position(record: Record) -> Position:
    return record.position


def chain(records: Iterable[Record], revision: int) -> list[Record] | None:
    """The records that go on from a revision without a gap; None where one is missing."""
    kept = []
    for record in records:
        if record.highest > revision + 1:
            return None
        if record.highest >= revision:
            revision = record.highest
            kept.append(record)
    return kept
