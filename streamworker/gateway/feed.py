"""One batch that somebody watches: what is known of it, and who is told."""

from __future__ import annotations

import time
from collections import deque

import msgspec

from streamworker.broker.revisions import Revisions, Verdict
from streamworker.gateway.connection import Connection
from streamworker.gateway.frames import End, Event, Frame, Snapshot, frame
from streamworker.gateway.resume import History, Position, Record, Since, Token, before, chain, scope_of
from streamworker.messages import TERMINAL, ItemEvent, ProgressEvent, decode_event

MOST_RECALLED = 500  # events that are read again for the first who watches a batch
MOST_IN_FLIGHT = 100
MOST_WAITING = 1_000
FRESH = 0.25  # seconds in which what Postgres has said need not be asked again
KEPT_SNAPSHOT = 5.0  # seconds
SETTLED = 10.0  # seconds


class Feed:
    """The newest state of a batch, the events since Postgres was asked, and the clients that watch it.

    All of it happens between two awaits, so no client can miss what comes between its snapshot and its first event.
    """

    def __init__(self, batch_id: str, history: History) -> None:
        self.batch_id = batch_id
        self.history = history
        self.scope = scope_of([batch_id])
        self.state: ProgressEvent | None = None
        self.said: ProgressEvent | None = None  # by Postgres, when it was asked last
        self.watchers: dict[Connection, int] = {}  # and at least which revision each has been told
        self.interest = 0  # clients that are about to watch
        self.behind = -1  # what Postgres said when it was asked last beside the stream
        self.mending = False
        self.heard = self.read_at = time.monotonic()
        self._stirred_at = self.heard  # when something was told last that the stream did not tell
        self._seen = Revisions()
        self._in_flight: dict[int, ItemEvent] = {}
        self._waiting: deque[tuple[Record, ProgressEvent]] = deque(maxlen=MOST_WAITING)
        self._gap: Record | None = None
        self._highest_told = -1
        self._opened: tuple[Position, int] | None = None  # where the stream was when it had told what Postgres said
        self._ahead: ProgressEvent | None = None  # somebody was shown this, which the stream had not told yet
        self._kept: tuple[bool, float, Frame] | None = None

    @property
    def revision(self) -> int:
        """The newest revision known; -1 before the first."""
        return self._seen.last

    @property
    def ended(self) -> bool:
        """Whether the batch has a terminal status."""
        return self.state is not None and self.state.status in TERMINAL

    def may_hear_less(self, since: Since) -> bool:
        """Whether who comes may have heard more than is known here: from another gateway, or before the stream began anew."""
        if since.token is None:
            return since.revision is None or since.revision > self.revision
        if since.token.tag == self.history.ahead:
            return False  # it was heard here
        told_to = before(self._waiting[0][0].position) if self._waiting else self.history.newest
        return since.token.tag != self.history.tag or since.token.position > told_to

    def is_fresh(self, now: float) -> bool:
        """Whether Postgres was asked a moment ago."""
        return self.state is not None and now - self.read_at < FRESH

    def begin_anew(self) -> None:
        """The batch is no more; should there be one of this id, nothing is known of it."""
        self.state = self.said = self._ahead = self._gap = self._opened = self._kept = None
        self.mending, self.read_at, self.behind, self._highest_told = False, float("-inf"), -1, -1
        self._seen = Revisions()
        self._in_flight.clear()
        self._waiting.clear()
        self.history.in_step.discard(self.batch_id)

    # --- what comes in ----------------------------------------------------------------------------------------------------------

    def hear(self, record: Record, event: ProgressEvent) -> bool:
        """Take an event from the stream and tell it; False when events before it are missing and Postgres must be asked."""
        if event.revision >= self._seen.last:
            self.heard = time.monotonic()
        if self.state is None or self.mending:
            self._wait(record, event)
            return True
        verdict = self._seen.judge(event)
        if verdict is Verdict.GAP:
            if record is self._gap:  # Postgres was asked, and knows nothing of it: what it says counts
                return True
            self._gap = record
            self._wait(record, event)
            self.mending = True
            return False
        if verdict is Verdict.NEW:
            self._accept(event)
        if self.batch_id not in self.history.in_step:
            self._find_step()
        if verdict is Verdict.NEW:
            self._tell(record, event)
        return True

    def _wait(self, record: Record, event: ProgressEvent) -> None:
        self._stirred_at = time.monotonic()
        self._waiting.append((record, event))
        self.history.in_step.discard(self.batch_id)

    def open(self, snapshot: ProgressEvent) -> bool:
        """Begin with what Postgres says; False when even so events are missing."""
        self._take(snapshot)
        if self._stream_told() == snapshot.revision:
            self._opened = (self.history.newest, snapshot.revision)
        self._recall(snapshot)
        return self._hear_waiting()

    def mend(self, snapshot: ProgressEvent) -> bool:
        """Go on from what Postgres says, asked after all that is known here was; False when more are missing again."""
        self.mending = False
        if snapshot.revision < self.revision:  # it was told wrongly, or is another batch of the same id
            self._seen, self._ahead, self._highest_told, self._opened = Revisions(), None, -1, None
            self.watchers = dict.fromkeys(self.watchers, -1)
        if snapshot.revision > self.revision:
            self._take(snapshot)
            self._find_step()
            for connection, told in list(self.watchers.items()):
                if told < snapshot.revision:
                    self.show(connection, reset=True)
        self.read_at = time.monotonic()
        return self._hear_waiting()

    def _take(self, snapshot: ProgressEvent) -> None:
        self.read_at = self.heard = self._stirred_at = time.monotonic()
        self._in_flight.clear()
        self._accept(snapshot)

    def _recall(self, snapshot: ProgressEvent) -> None:
        """What was told of the items in flight while nobody watched."""
        if snapshot.status != "processing":
            return
        for record in self.history.last_of(self.batch_id, MOST_RECALLED):
            event = decode_event(record.raw)
            if event.epoch == snapshot.epoch:
                self._follow(event)

    def _hear_waiting(self) -> bool:
        while self._waiting:
            if not self.hear(*self._waiting.popleft()):
                self._waiting.rotate(1)  # it was put at the end, and is the first still
                return False
        self._find_step()
        return True

    def _find_step(self) -> None:
        """Find out whether what was told here is what the stream has told: then a position of the stream says what a client knows."""
        if self._waiting or self._stream_told() != self._told():
            self.history.in_step.discard(self.batch_id)
        elif self.batch_id not in self.history.in_step:
            self._fall_in()

    def _fall_in(self) -> None:
        self.history.in_step.add(self.batch_id)
        self._kept = None  # nobody can go on from its token

    def settle(self, now: float) -> None:
        """What the stream has not told by now it will never tell: it was lost, or is told no more since it is too long ago."""
        if self.state is None or self._waiting or self.batch_id in self.history.in_step:
            return
        if now - max(self._stirred_at, self.history.began_at) > SETTLED and self._stream_told() <= self._told():
            self._fall_in()

    def _told(self) -> int:
        return self.revision if self._ahead is None else max(self.revision, self._ahead.revision)

    def _stream_told(self) -> int:
        known = self.history.known_at(self.batch_id, self.history.newest)
        return 0 if known is None else known

    def _accept(self, event: ProgressEvent) -> None:
        if self.state is not None and (event.epoch != self.state.epoch or event.status in TERMINAL):
            self._in_flight.clear()
        self._seen.accept(event)
        self.state = event
        self._kept = None
        self._follow(event)

    def _follow(self, event: ProgressEvent) -> None:
        for item in event.items:
            if item.status != "processing":
                self._in_flight.pop(item.position, None)
            elif item.position in self._in_flight or len(self._in_flight) < MOST_IN_FLIGHT:
                self._in_flight[item.position] = item

    # --- who is told ------------------------------------------------------------------------------------------------------------

    def join(self, connection: Connection, snapshot: ProgressEvent | None, since: Since | None, *, bare: bool) -> list[Record] | None:
        """Tell a client all that comes from now on, and a snapshot; or return the events that it has missed instead, where that is proven.

        `snapshot` was just read, if it was; `bare`: other batches are to be told beside this one.
        """
        assert self.state is not None
        if self._ahead is not None and (snapshot is None or snapshot.revision < self._ahead.revision):
            snapshot = self._ahead  # nobody is to hear less than somebody has heard
        self.watchers.setdefault(connection, -1)
        newer = snapshot if snapshot is not None and snapshot.revision > self.revision else None
        newest = (newer or self.state).revision
        known = since.revision if since is not None else None
        if known == newest and (newer or self.state).status not in TERMINAL:
            self._go_ahead(newer)
            self._note(connection, newest)
            return None
        missed = None if since is None or since.token is None or newest > self.revision else self.missed(since.token)
        if missed is None:
            self.show(connection, reset=since is not None and (known is None or known > newest), newer=snapshot, bare=bare)
            return None
        self._note(connection, self.revision)
        return missed

    @property
    def newest(self) -> ProgressEvent:
        """The newest of what the stream told and what Postgres said."""
        return max((event for event in (self.state, self.said) if event is not None), key=lambda event: event.revision)

    def leave(self, connection: Connection) -> int:
        """Tell this client no more; returns up to which revision it was told, -1 for not at all."""
        return -1 if self.watchers.pop(connection, None) is None else self.revision

    def missed(self, token: Token) -> list[Record] | None:
        """The events after a token, if it can be proven that they are all; None where only a snapshot will do."""
        if not self.history.covers(token):
            return None
        known = self.history.known_at(self.batch_id, token.position)
        if known is None:  # what was told by then is too long ago, or nothing was
            if self._opened is None or self._opened[0] > token.position:
                return None
            known = self._opened[1]
        found = chain(self.history.after(self.batch_id, token.position), known)
        last = max([known, *(record.highest for record in found or ())])
        return self._news(token.position, found) if found is not None and last == self.revision else None

    def _news(self, position: Position, records: list[Record]) -> list[Record]:
        """Without what tells nothing after what was told by then: an end that was announced once more, a copy that came late."""
        seen = Revisions()
        for record in self.history.newest_at(self.batch_id, position):
            seen.accept(decode_event(record.raw))
        news = []
        for record in records:
            event = decode_event(record.raw)
            if seen.judge(event) is not Verdict.KNOWN:
                seen.accept(event)
                news.append(record)
        return news

    # --- what goes out ----------------------------------------------------------------------------------------------------------

    def _tell(self, record: Record, event: ProgressEvent) -> None:
        if not self.watchers:
            return
        over = event.status in TERMINAL
        if event.revision > self._highest_told:
            listeners = list(self.watchers)
        else:
            # Some were told a later state when they came: to them only more about the items of that very state is news.
            least = event.revision if event.items and not over else event.revision - 1
            listeners = [connection for connection, known in self.watchers.items() if known <= least]
        alone: Frame | None = None
        beside: dict[tuple[str, bool], Frame] = {}
        for connection in listeners:
            if self.batch_id not in connection.together:  # then it is in step with the event that is told
                alone = alone or self.event_frame(record, self.scope, event)
                connection.offer(alone)
                continue
            scope = connection.together[self.batch_id]
            # Of the other batches more may have been told already.
            in_step = record.position == self.history.newest and connection.wanted <= self.history.in_step
            if (scope, in_step) not in beside:
                beside[scope, in_step] = self.event_frame(record, scope, event, in_step=in_step)
            connection.offer(beside[scope, in_step])
        if over:
            end = self.end_frame(event)
            for connection in listeners:
                connection.offer(end)
                self._note(connection, event.revision)

    def show(self, connection: Connection, *, reset: bool, newer: ProgressEvent | None = None, bare: bool = False) -> None:
        """Tell one client the whole state: what is known here, or what Postgres says where that is newer."""
        assert self.state is not None
        bare = bare or self.batch_id in connection.together
        if newer is not None and newer.revision > self.revision:
            self._go_ahead(newer)
            event, shown = newer, self._snapshot(reset, newer)
        else:
            event, shown = self.state, self._snapshot_frame(reset)
        connection.offer(shown.bare if bare else shown)
        if event.status in TERMINAL:
            connection.offer(self.end_frame(event))
        self._note(connection, event.revision)

    def _go_ahead(self, newer: ProgressEvent | None) -> None:
        """Somebody knows this, and the stream has not told it."""
        if newer is not None:
            self._ahead, self._stirred_at = newer, time.monotonic()
            self._find_step()

    def _note(self, connection: Connection, revision: int) -> None:
        if connection in self.watchers:
            self.watchers[connection] = revision
            self._highest_told = max(self._highest_told, revision)

    def scope_for(self, connection: Connection) -> str:
        """What this client has asked for when it asked for this batch."""
        return connection.together.get(self.batch_id, self.scope)

    def event_frame(self, record: Record, scope: str, event: ProgressEvent | None = None, *, in_step: bool = True) -> Frame:
        """The frame of an event, made once for all who asked for this batch alone."""
        if scope == self.scope and record.frame is not None:
            return record.frame
        token = self.history.token(scope, record.position, in_step=in_step)
        made = frame(Event(batch_id=self.batch_id, id=token, event=event or decode_event(record.raw)))
        if scope == self.scope and len(self.watchers) > 1:
            record.frame = made
        return made

    def end_frame(self, event: ProgressEvent) -> Frame:
        """The frame that tells the end."""
        in_step = self.batch_id in self.history.in_step
        return frame(End(self.batch_id, event.status), self.history.token(self.scope, in_step=in_step, ended=event.revision))

    def _snapshot_frame(self, reset: bool) -> Frame:
        assert self.state is not None
        now = time.monotonic()
        if self._kept is None or self._kept[0] is not reset or now - self._kept[1] > KEPT_SNAPSHOT:
            event = msgspec.structs.replace(self.state, items=list(self._in_flight.values()))
            self._kept = (reset, now, self._snapshot(reset, event))
        return self._kept[2]

    def _snapshot(self, reset: bool, event: ProgressEvent) -> Frame:
        token = self.history.token(self.scope, in_step=self.batch_id in self.history.in_step)
        return frame(Snapshot(batch_id=self.batch_id, id=token, reset=reset, event=event), often_bare=True)
