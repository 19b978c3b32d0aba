"""All batches at once: the newest state of each, told a few times a second, without the items."""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec

from streamworker.gateway.connection import Connection
from streamworker.gateway.frames import Event, Frame, Live, Snapshot, frame
from streamworker.gateway.resume import History, Position, Record, Since
from streamworker.messages import TERMINAL, ProgressEvent, decode_event

log = logging.getLogger("streamworker.gateway")

NEWEST, MOST_OPEN, MOST_KNOWN = 100, 1_000, 2_200
PAUSE = 0.2  # seconds between two frames of one batch
LIVE = "live"


class _Known:
    """The newest state of one batch, and when it was told."""

    __slots__ = ("event", "frame", "position", "silent_since", "told_at")

    def __init__(self, event: ProgressEvent, position: Position) -> None:
        self.event = event
        self.position = position
        self.silent_since: Position | None = None  # where Postgres told it and not the stream
        self.told_at = 0.0
        self.frame: Frame | None = None


class Overview:
    """What those see who watch all batches. Counters are cumulative, so the newest state of a batch is all that matters."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.watchers: set[Connection] = set()
        self.interest = 0  # clients that are about to watch
        self.read_at = 0.0
        self._known: dict[str, _Known] = {}
        self._due: set[str] = set()
        self._asking: set[asyncio.Future[None]] = set()

    @property
    def active(self) -> bool:
        """Whether anybody wants to know."""
        return bool(self.watchers or self.interest)

    def hear(self, record: Record, event: ProgressEvent) -> None:
        """Take an event from the stream: tell it now, or with the next ones of its batch."""
        known = self._known.get(event.batch_id)
        if known is not None and not _is_news(event, known.event):
            return
        known = self._note(event, record.position)
        if event.status in TERMINAL or time.monotonic() - known.told_at >= PAUSE:
            self._tell(event.batch_id, known)
        else:
            self._due.add(event.batch_id)

    def compare(self, read: list[ProgressEvent]) -> None:
        """Take what Postgres says; tell what the stream has not told."""
        self.read_at = time.monotonic()
        for event in reversed(read):
            known = self._known.get(event.batch_id)
            if known is None or event.revision > known.event.revision:
                known = self._note(event, self.history.newest)
                known.silent_since = self.history.newest
                self._tell(event.batch_id, known)

    def open_batches(self) -> dict[str, int]:
        """The batches that have not ended as far as is known here, with their revision."""
        return {id: known.event.revision for id, known in self._known.items() if known.event.status not in TERMINAL}

    def drop(self, batch_id: str) -> None:
        """The batch is no more."""
        self._known.pop(batch_id, None)
        self._due.discard(batch_id)

    def tell_due(self) -> float | None:
        """Tell what has waited long enough; returns when to come again (seconds), None when nothing waits."""
        now, wait = time.monotonic(), None
        for batch_id in list(self._due):
            known = self._known.get(batch_id)
            left = 0.0 if known is None else known.told_at + PAUSE - now
            if left > 0:
                wait = left if wait is None else min(wait, left)
            elif known is not None:
                self._tell(batch_id, known)
        return wait

    def join(self, connection: Connection, since: Since | None) -> None:
        """Tell a client all there is, or what has changed since its token; and all that comes from now on."""
        self.watchers.add(connection)
        connection.everything = True
        token = None if since is None else since.token
        if token is not None and self.history.covers(token):
            self._replay(connection, token.position)
        else:
            for batch_id, known in self._known.items():
                event = msgspec.structs.replace(known.event, items=[])
                self._offer(connection, batch_id, frame(Snapshot(batch_id, self.history.token, since is not None, event)))
        connection.offer_state(LIVE, frame(Live(self.history.token)))

    def leave(self, connection: Connection) -> None:
        """Tell this client no more of what it did not ask for by id."""
        self.watchers.discard(connection)
        connection.everything = False
        if not self.active:
            self._known.clear()
            self._due.clear()
            self.read_at = 0.0

    def _replay(self, connection: Connection, position: Position) -> None:
        for batch_id in self.history.changed_after(position):
            known = self._known.get(batch_id)
            if known is None:
                record = self.history.last_of(batch_id, 1)[0]
                known = _Known(decode_event(record.raw), record.position)
            self._offer(connection, batch_id, self._frame(batch_id, known))
        for batch_id, known in self._known.items():
            if known.silent_since is not None and known.silent_since >= position:
                self._offer(connection, batch_id, self._frame(batch_id, known))

    def _note(self, event: ProgressEvent, position: Position) -> _Known:
        before = self._known.pop(event.batch_id, None)  # and to the end: the first is the one that was quiet longest
        known = self._known[event.batch_id] = _Known(event, position)
        known.told_at = 0.0 if before is None else before.told_at
        if len(self._known) > MOST_KNOWN:
            oldest = next((id for id, one in self._known.items() if one.event.status in TERMINAL), next(iter(self._known)))
            self.drop(oldest)
        return known

    def _tell(self, batch_id: str, known: _Known) -> None:
        self._due.discard(batch_id)
        known.told_at = time.monotonic()
        told = self._frame(batch_id, known)
        for connection in self.watchers:
            self._offer(connection, batch_id, told)

    def _frame(self, batch_id: str, known: _Known) -> Frame:
        if known.frame is None:
            event = msgspec.structs.replace(known.event, items=[])
            if known.silent_since is not None:
                known.frame = frame(Snapshot(batch_id, self.history.token_at(known.position), False, event))
            else:
                known.frame = frame(Event(batch_id, self.history.token_at(known.position), event))
        return known.frame

    def _offer(self, connection: Connection, batch_id: str, told: Frame) -> None:
        if batch_id in connection.wanted:
            return
        if connection.ask is None or connection.visible.get(batch_id):
            connection.offer_state(batch_id, told)
        elif batch_id not in connection.visible:
            connection.visible[batch_id] = False
            asking = asyncio.ensure_future(self._ask(connection, batch_id))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)

    async def _ask(self, connection: Connection, batch_id: str) -> None:
        assert connection.ask is not None
        try:
            connection.visible[batch_id] = await connection.ask(batch_id)
        except Exception:
            log.exception("batch %s: whether a client may see it could not be answered", batch_id)
        known = self._known.get(batch_id)
        if known is not None and connection in self.watchers and connection.visible[batch_id]:
            connection.offer_state(batch_id, self._frame(batch_id, known))


def _is_news(event: ProgressEvent, known: ProgressEvent) -> bool:
    """Without its items an event of a known revision tells nothing, unless the status is another one."""
    return event.revision > known.revision or (event.revision == known.revision and event.status != known.status)
