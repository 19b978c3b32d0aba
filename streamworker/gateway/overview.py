"""All batches at once: the newest state of each, told a few times a second, without the items."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from streamworker.errors import BatchNotFound
from streamworker.gateway.connection import Connection
from streamworker.gateway.frames import ALL, Event, Frame, Live, Snapshot, frame
from streamworker.gateway.reader import Reader
from streamworker.gateway.resume import History, Position, Record, Since, before, scope_of
from streamworker.gateway.rights import groups
from streamworker.messages import TERMINAL, ProgressEvent, decode_event
from streamworker.store import progress
from streamworker.store.pool import Pool

log = logging.getLogger("streamworker.gateway")

NEWEST, MOST_OPEN, MOST_KNOWN = 100, 1_000, 2_200
PAUSE = 0.2  # seconds between two frames of one batch
ANOTHER_HEARS = 5.0  # seconds
NO_STANDS = 1.5  # seconds that a client is not asked for again: whose a batch is may be noted just after it was submitted
KEPT = 60.0  # seconds that it goes on after the last client has left
SCOPE = scope_of([ALL])


class _Known:
    """The newest state of one batch, and when it was told."""

    __slots__ = ("event", "frame", "noted_at", "reset", "shown", "silent_since", "told_at")

    def __init__(self, event: ProgressEvent, silent_since: Position | None = None, *, reset: bool = False) -> None:
        self.event = event
        self.reset = reset
        self.silent_since = silent_since  # where the stream was when Postgres told what it had not
        self.noted_at = time.monotonic()
        self.told_at = 0.0
        self.frame: Frame | None = None
        self.shown: dict[bool, Frame] = {}  # to those who come, by `reset`

    def snapshot(self, reset: bool) -> Frame:
        """The frame for a client that comes, made once for all who come."""
        if reset not in self.shown:
            event = msgspec.structs.replace(self.event, items=[])
            self.shown[reset] = frame(Snapshot(batch_id=event.batch_id, reset=reset, event=event))
        return self.shown[reset]


class Overview:
    """What those see who watch all batches. Counters are cumulative, so the newest state of a batch is all that matters.

    The id of a frame stands for all that was told before it, also where another batch has changed earlier and waits for its turn.
    """

    def __init__(self, history: History, pool: Pool, reader: Reader, begin: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self.history = history
        self._pool = pool
        self._reader = reader
        self._begin = begin
        self._hints: dict[str, bool] = {}  # batches of which Postgres is asked, and whether it must be asked once more
        self._hinted: dict[str, Position] = {}  # since where the stream knows more of them; the first is the oldest
        self.watchers: set[Connection] = set()
        self.interest = 0  # clients that are about to watch
        self.asked_at = 0.0  # when the newest answer of Postgres was asked for
        self._left_at = 0.0
        self._opening = asyncio.Lock()
        self._known: dict[str, _Known] = {}
        self._due: dict[str, Position] = {}  # batches that have changed, and since where; the first is the oldest
        self._asking: set[asyncio.Future[None]] = set()

    @property
    def active(self) -> bool:
        """Whether anybody wants to know, or did a moment ago and may come back."""
        return bool(self.watchers or self.interest) or time.monotonic() - self._left_at < KEPT

    def hear(self, record: Record, event: ProgressEvent) -> None:
        """Take an event from the stream: tell it now, or with the next ones of its batch.

        One that does not follow what is known is a hint only: Postgres says how it is.
        """
        known = self._known.get(event.batch_id)
        if known is None or event.revision > known.event.revision + 1:
            self._take_hint(event.batch_id, record.position)
            return
        if not _is_news(event, known.event):
            return
        known = self._note(event)
        if event.status in TERMINAL or time.monotonic() - known.told_at >= PAUSE:
            self._tell(event.batch_id, known)
        else:
            self._due.setdefault(event.batch_id, record.position)

    async def catch_up(self, moment: float) -> None:
        """Ask Postgres, unless that was done since: of many who come at the same time one asks for all."""
        async with self._opening:
            if self.asked_at < moment:
                await self.read()

    async def read(self) -> None:
        """Ask Postgres; tell what the stream has not told."""
        began, asked_at, known = time.monotonic(), self.history.newest, dict(self._known)
        read = await progress.read_overview(self._pool, NEWEST, MOST_OPEN)
        listed = {event.batch_id for event in read}
        hidden = {id: one.event.revision for id, one in self._known.items() if id not in listed}
        moved = await progress.read_moved(self._pool, hidden) if hidden else {}
        for batch_id, event in moved.items():
            if event is None:
                self.drop(batch_id)
            else:
                read.append(event)
        self.asked_at = began
        for event in reversed(read):
            self.history.confirm(event.batch_id, event.revision, asked_at)
            self._compare(event, known.get(event.batch_id))

    def _compare(self, event: ProgressEvent, before: _Known | None) -> None:
        """Take what Postgres says; `before` is what was known when it was asked."""
        newest, known = self.history.newest, self._known.get(event.batch_id)
        # It knows less, and nothing was heard since: that was told wrongly, or is another batch of the same id.
        reset = known is not None and known is before and event.revision < known.event.revision
        if known is None or reset or event.revision > known.event.revision:
            in_stream = not reset and self.history.known_at(event.batch_id, newest) == event.revision
            self._tell(event.batch_id, self._note(event, None if in_stream else newest, reset=reset))

    def _take_hint(self, batch_id: str, position: Position) -> None:
        if batch_id in self._hints:
            self._hints[batch_id] = True
            self._hinted.setdefault(batch_id, position)
        elif len(self._hints) < MOST_OPEN:  # else the next comparison will tell
            self._hints[batch_id] = True
            self._hinted[batch_id] = position
            self._begin(self._ask_postgres(batch_id))

    async def _ask_postgres(self, batch_id: str) -> None:
        try:
            while self._hints[batch_id]:
                self._hints[batch_id] = False
                before = self._known.get(batch_id)
                event = await self._reader.read(batch_id)
                if not self._hints[batch_id]:
                    self._hinted.pop(batch_id, None)
                self._compare(event, before)
        except BatchNotFound:
            self.drop(batch_id)
        finally:
            del self._hints[batch_id]
            self._hinted.pop(batch_id, None)

    def forget(self) -> None:
        """Nobody wants to know any more."""
        self._known.clear()
        self._due.clear()
        self.asked_at = 0.0

    def drop(self, batch_id: str) -> None:
        """The batch is no more."""
        self._known.pop(batch_id, None)
        self._due.pop(batch_id, None)

    def tell_due(self) -> float | None:
        """Tell what has waited long enough; returns when to come again (seconds), None when nothing waits."""
        now, wait = time.monotonic(), None
        for batch_id in list(self._due):
            known = self._known[batch_id]
            left = known.told_at + PAUSE - now
            if left <= 0:
                self._tell(batch_id, known)
            elif wait is None or left < wait:
                wait = left
        return wait

    def join(self, connection: Connection, since: Since | None) -> None:
        """Tell a client all there is, or what has changed since its token; and all that comes from now on."""
        for batch_id in list(self._due):  # or it would be told of these once more
            self._tell(batch_id, self._known[batch_id])
        self.watchers.add(connection)
        connection.forget_states()
        token = None if since is None else since.token
        changed = self.history.changed_after(token.position) if token is not None and self.history.covers(token) else None
        if token is not None and changed is not None and len(changed) <= MOST_KNOWN:
            self._replay(connection, changed, token.position)
        else:
            for batch_id, known in self._known.items():
                self._offer(connection, batch_id, known.snapshot(since is not None))
        # Asked for together with single batches, it stands for them, too.
        in_step = ALL not in connection.together or connection.wanted <= self.history.in_step
        id = self.history.token(connection.together.get(ALL, SCOPE), self._told_to(), in_step=in_step)
        connection.offer_state(ALL, frame(Live(id, ALL)))

    def leave(self, connection: Connection) -> None:
        """Tell this client no more of what it did not ask for by id."""
        connection.everything = False
        connection.together.pop(ALL, None)
        if connection in self.watchers:
            self.watchers.remove(connection)
            self._left_at = time.monotonic()

    def tell_what_was_kept_back(self, connection: Connection, batch_id: str, revision: int) -> None:
        """It was asked for by its id, and told up to this revision; from now on it is one of all again, and told what is newer."""
        known = self._known.get(batch_id)
        if known is not None and connection in self.watchers and known.event.revision > revision:
            self._offer(connection, batch_id, self._frame(batch_id, known).bare)

    def _replay(self, connection: Connection, changed: set[str], position: Position) -> None:
        for batch_id in changed:
            known = self._known.get(batch_id)
            if known is None:
                last = self.history.last_of(batch_id, 1)
                if not last:
                    continue  # it was forgotten
                known = _Known(decode_event(last[0].raw))
            told = self.history.last_at(batch_id, position)
            if told is not None and not known.reset and not _is_news(known.event, decode_event(told.raw)):
                continue  # what was said of it since is about its items
            self._offer(connection, batch_id, self._frame(batch_id, known).bare)
        now = time.monotonic()
        for batch_id, known in self._known.items():
            if batch_id in changed:
                continue
            # Another gateway, which asks Postgres as often as this one, may have heard of it a little later.
            if known.silent_since is not None and (known.silent_since >= position or now - known.noted_at < ANOTHER_HEARS):
                self._offer(connection, batch_id, self._frame(batch_id, known).bare)

    def _note(self, event: ProgressEvent, silent_since: Position | None = None, *, reset: bool = False) -> _Known:
        before = self._known.pop(event.batch_id, None)  # and to the end: the first is the one that was quiet longest
        known = self._known[event.batch_id] = _Known(event, silent_since, reset=reset)
        known.told_at = 0.0 if before is None else before.told_at
        if len(self._known) > MOST_KNOWN:
            self.drop(next((id for id, one in self._known.items() if one.event.status in TERMINAL), next(iter(self._known))))
        return known

    def _tell(self, batch_id: str, known: _Known) -> None:
        self._due.pop(batch_id, None)
        known.told_at = time.monotonic()
        if self.watchers:
            told = self._frame(batch_id, known)
            for connection in self.watchers:
                self._offer(connection, batch_id, told)

    def _told_to(self) -> Position | None:
        """Up to where all is told; None: up to here."""
        untold = [next(iter(waiting.values())) for waiting in (self._due, self._hinted) if waiting]
        return before(min(untold)) if untold else None

    def _frame(self, batch_id: str, known: _Known) -> Frame:
        if known.frame is None:
            event = msgspec.structs.replace(known.event, items=[])
            id = self.history.token(SCOPE, self._told_to())
            told: Event | Snapshot
            if known.silent_since is None:
                told = Event(batch_id=batch_id, id=id, event=event)
            else:
                told = Snapshot(batch_id=batch_id, id=id, reset=known.reset, event=event)
            known.frame = frame(told, often_bare=True)
        return known.frame

    def _offer(self, connection: Connection, batch_id: str, told: Frame) -> None:
        if batch_id in connection.wanted:
            return
        if ALL in connection.together:
            told = told.bare
        if connection.ask is None or connection.visible.get(batch_id):
            # While an answer is waited for, no id may stand for what it is about.
            connection.offer_state(batch_id, told.bare if connection.asking else told)
        elif batch_id not in connection.visible:
            connection.visible[batch_id] = False
            asking = asyncio.ensure_future(self._ask(connection, batch_id))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)

    async def ask_about_all(self, connection: Connection) -> None:
        """Find out which of the present batches this client may see, so that it is told of them first."""
        if connection.ask is not None:
            for group in groups([id for id in self._known if id not in connection.visible]):
                await asyncio.gather(*(self._learn(connection, batch_id) for batch_id in group))

    async def _ask(self, connection: Connection, batch_id: str) -> None:
        await self._learn(connection, batch_id)
        known = self._known.get(batch_id)
        if known is not None and connection in self.watchers and connection.visible.get(batch_id):
            connection.offer_state(batch_id, self._frame(batch_id, known).bare)

    async def _learn(self, connection: Connection, batch_id: str) -> None:
        known = self._known.get(batch_id)
        connection.asking += 1
        try:
            connection.visible[batch_id] = await _answer(connection, batch_id)
        finally:
            connection.asking -= 1
        if not connection.visible[batch_id]:
            asyncio.get_running_loop().call_later(NO_STANDS, self._ask_again, connection, batch_id, known)

    def _ask_again(self, connection: Connection, batch_id: str, before: _Known | None) -> None:
        """A no has had its time: ask at the next event, or now if there was one meanwhile."""
        connection.visible.pop(batch_id, None)
        known = self._known.get(batch_id)
        if known is not None and known is not before and connection in self.watchers:
            self._offer(connection, batch_id, self._frame(batch_id, known))


async def _answer(connection: Connection, batch_id: str) -> bool:
    assert connection.ask is not None
    try:
        return await connection.ask(batch_id)
    except Exception:
        log.exception("batch %s: whether a client may see it could not be answered", batch_id)
        return False


def _is_news(event: ProgressEvent, known: ProgressEvent) -> bool:
    """Without its items an event of a known revision tells nothing, unless the status is another one."""
    return event.revision > known.revision or (event.revision == known.revision and event.status != known.status)
