"""One for each process: the progress stream, read once, and all who want to know of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from streamworker import errors
from streamworker.gateway.connection import Connection
from streamworker.gateway.feed import FRESH, Feed
from streamworker.gateway.feeds import QUIET, Feeds
from streamworker.gateway.frames import ALL, HEARTBEAT, PING, Complaint, Frame, Live, State, frame
from streamworker.gateway.overview import MOST_OPEN, NEWEST, Overview
from streamworker.gateway.reader import Reader
from streamworker.gateway.resume import Record, Since
from streamworker.gateway.stream import Stream
from streamworker.messages import ProgressEvent
from streamworker.settings import Settings
from streamworker.store import progress
from streamworker.store.pool import Pool, explain

log = logging.getLogger("streamworker.gateway")

PATIENCE = 10.0  # seconds that a client may take for one frame
MOST_CONNECTIONS = 20_000
SLICE = 100  # events between two moments for everybody else


class Hub:
    """Follows the progress stream and tells the connections; everything that reaches a client goes through here.

    `async with Hub(settings, pool)`; `admit` and `leave` surround each connection, `subscribe` and `unsubscribe` may come at any time.
    """

    def __init__(self, settings: Settings, pool: Pool, observe: Callable[[ProgressEvent], None] | None = None) -> None:
        assert settings.redis_url is not None
        assert settings.database_url is not None
        self._pool = pool
        self._database_url = settings.database_url
        self._stream = Stream(settings.redis_url, settings.progress_stream, observe)
        self._overview = Overview(self._stream.history)
        self._reader = Reader(pool, self._note_postgres)
        self._feeds = Feeds(self._stream.history, pool, self._reader, self._begin)
        self._connections: set[Connection] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._of_connection: dict[Connection, set[asyncio.Task[None]]] = {}
        self._redis = False
        self._postgres = True
        self._closing = False
        self._deserted = asyncio.Event()
        self._flush: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Hub:
        await self._stream.start()
        self._redis = self._stream.healthy
        self._begin(self._follow())
        self._begin(self._compare())
        self._begin(self._look_after())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.dismiss()
        if self._flush is not None:
            self._flush.cancel()
        for running in list(self._running):
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._reader.close()
        await self._stream.close()

    # --- what the endpoints call ------------------------------------------------------------------------------------------------

    @property
    def redis(self) -> bool:
        """Whether the progress stream can be read."""
        return self._redis

    async def dismiss(self, patience: float = 0.0) -> None:
        """Show all clients out and let no more in, since the process is about to end; waits a little for them to go."""
        self._closing = True
        self._deserted.clear()
        for connection in list(self._connections):
            connection.close(4503, "the gateway is shutting down")
        if self._connections:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._deserted.wait()

    def admit(self, role: str = "read", ask: Callable[[str], Awaitable[bool]] | None = None) -> Connection | None:
        """A place for one more client; None when there is none. `ask`: may it see a batch of the list of all?"""
        if self._closing or len(self._connections) >= MOST_CONNECTIONS:
            return None
        connection = Connection(self._resync, role, ask)
        self._connections.add(connection)
        return connection

    def leave(self, connection: Connection) -> None:
        """The client has gone."""
        self._connections.discard(connection)
        if not self._connections:
            self._deserted.set()
        for running in self._of_connection.pop(connection, ()):
            running.cancel()
        for batch_id in list(connection.wanted):
            self.unsubscribe(connection, batch_id)
        self._overview.leave(connection)

    def subscribe(self, connection: Connection, ids: Sequence[str], since: Since | None = None) -> asyncio.Task[None]:
        """Tell this client of these batches (`*`: of all), soon: what there is or what it has missed, `live`, and what comes.

        The ids are lower-case UUIDs. An unknown one is answered with an error frame.
        """
        connection.wanted.update(id for id in ids if id != ALL)
        opening = asyncio.create_task(self._open(connection, ids, since), name="gateway subscription")
        own = self._of_connection.setdefault(connection, set())
        own.add(opening)
        opening.add_done_callback(own.discard)
        return opening

    def unsubscribe(self, connection: Connection, batch_id: str) -> None:
        """Tell this client of this batch no more."""
        if batch_id == ALL:
            self._overview.leave(connection)
            return
        connection.wanted.discard(batch_id)
        self._feeds.leave(connection, batch_id)
        connection.forget(batch_id)

    async def ended(self, batch_id: str, revision: int) -> bool:
        """Whether the batch has ended, with this revision: then who knows that has nothing to come back for. BatchNotFound."""
        feed = self._feeds.take(batch_id)
        try:
            snapshot = await self._feeds.open(feed)
            known = max(feed.revision, -1 if snapshot is None else snapshot.revision)
            return feed.ended and feed.revision == known == revision
        finally:
            feed.interest -= 1

    async def exists(self, batch_id: str) -> bool:
        """Whether there is such a batch; waits while Postgres is away."""
        feed = self._feeds.take(batch_id)
        try:
            await self._feeds.open(feed)
        except errors.BatchNotFound:
            return False
        finally:
            feed.interest -= 1
        return True

    # --- subscriptions ----------------------------------------------------------------------------------------------------------

    async def _open(self, connection: Connection, ids: Sequence[str], since: Since | None) -> None:
        feeds = [self._feeds.take(id) for id in ids if id != ALL]
        try:
            opening = [self._feeds.open(feed) for feed in feeds]
            found = await asyncio.gather(*opening, return_exceptions=True) if len(opening) > 1 else [await _caught(one) for one in opening]
            if ALL in ids:
                await self._open_overview(connection)
            # From here on nothing is awaited: what a client is told first and what it is told next belong together.
            if connection in self._connections:
                self._join(connection, dict(zip(feeds, found, strict=True)), since, bare=len(ids) > 1)
                if ALL in ids:
                    # A token of several kinds of frames says nothing of the list of all, which is told beside the rest.
                    self._overview.join(connection, since if len(ids) == 1 or since is None else Since())
        finally:
            for feed in feeds:
                feed.interest -= 1

    def _join(
        self, connection: Connection, found: Mapping[Feed, ProgressEvent | BaseException | None], since: Since | None, *, bare: bool
    ) -> None:
        missed: list[tuple[Feed, Record]] = []
        resumed: list[Feed] = []
        for feed, snapshot in found.items():
            if isinstance(snapshot, BaseException):
                self._complain(connection, feed.batch_id, snapshot)
            elif feed.batch_id in connection.wanted:
                records = feed.join(connection, snapshot, since, bare=bare)
                if records is not None:
                    resumed.append(feed)
                    missed += [(feed, record) for record in records]
        for feed, record in sorted(missed, key=lambda one: one[1].position):  # of several batches, in the order in which it happened
            connection.offer(feed.event_frame(record))
        for feed in resumed:
            if feed.ended and feed.state is not None:
                connection.offer(feed.end_frame(feed.state))
        if any(not isinstance(snapshot, BaseException) for snapshot in found.values()):
            token = self._stream.history.token
            connection.offer(frame(Live(token) if bare else Live(token, next(iter(found)).batch_id)))

    def _complain(self, connection: Connection, batch_id: str, error: BaseException) -> None:
        connection.wanted.discard(batch_id)
        if isinstance(error, errors.BatchNotFound):
            connection.offer(frame(Complaint(4404, str(error), batch_id)))
        elif not isinstance(error, asyncio.CancelledError):
            log.error("batch %s cannot be told", batch_id, exc_info=error)
            connection.close(4500, "an error of the gateway")

    async def _open_overview(self, connection: Connection) -> None:
        self._overview.interest += 1
        try:
            while time.monotonic() - self._overview.read_at > FRESH:
                try:
                    await self._read_overview()
                except Exception as error:
                    self._note_postgres(False, error)
                    await asyncio.sleep(QUIET)
            await self._overview.ask_about_all(connection)
        finally:
            self._overview.interest -= 1

    def _resync(self, connection: Connection, ids: set[str]) -> None:
        """Frames of these batches were dropped: show the state of each instead."""
        for batch_id in ids:
            feed = self._feeds.find(batch_id)
            if feed is None or feed.state is None or connection not in feed.watchers:
                continue
            if feed.watchers[connection] > feed.revision:  # it knows more than the stream has told: ask again rather than go back
                self.subscribe(connection, [batch_id], Since())
            else:
                feed.show(connection, reset=True, bare=True)
        connection.offer(frame(Live(self._stream.history.token)))

    # --- the stream -------------------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            for number, told in enumerate(await self._stream.read(QUIET)):
                if number % SLICE == SLICE - 1:
                    await asyncio.sleep(0)
                self._feeds.hear(told)
                if self._overview.active:
                    self._overview.hear(told.record, told.event)
            self._tell_due()
            if self._stream.healthy is not self._redis:
                self._redis = self._stream.healthy
                self._tell_state()

    def _tell_due(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        wait = self._overview.tell_due()
        if wait is not None:
            self._flush = asyncio.get_running_loop().call_later(wait, self._tell_due)

    # --- beside the stream ------------------------------------------------------------------------------------------------------

    async def _compare(self) -> None:
        """Ask Postgres, once a second, for what the stream has not told."""
        while True:
            await asyncio.sleep(QUIET)
            try:
                if await self._feeds.compare(self._redis):
                    self._note_postgres(True, None)
                if self._overview.active:
                    await self._read_overview()
                else:
                    self._overview.forget()
            except Exception as error:
                self._note_postgres(False, error)

    async def _read_overview(self) -> None:
        read = await progress.read_overview(self._pool, NEWEST, MOST_OPEN)
        listed = {event.batch_id for event in read}
        hidden = {id: revision for id, revision in self._overview.open_batches().items() if id not in listed}
        moved = await progress.read_moved(self._pool, hidden) if hidden else {}
        self._note_postgres(True, None)
        for batch_id, event in moved.items():
            if event is None:
                self._overview.drop(batch_id)
            else:
                read.append(event)
        self._overview.compare(read)

    # --- the connections --------------------------------------------------------------------------------------------------------

    async def _look_after(self) -> None:
        """Heartbeats, clients that read nothing, batches that nobody watches."""
        while True:
            await asyncio.sleep(QUIET)
            now = time.monotonic()
            for connection in list(self._connections):
                since = connection.sending_since
                if since is not None and now - since > PATIENCE:
                    connection.close(4508, "nothing was read for 10 seconds")
                    if connection.cut is not None:
                        connection.cut()
                elif since is None and now - connection.last_sent >= HEARTBEAT - QUIET:
                    connection.offer(PING)
            self._feeds.forget_quiet()

    def _note_postgres(self, answers: bool, error: BaseException | None) -> None:
        if answers is self._postgres:
            return
        self._postgres = answers
        if error is None:
            log.info("Postgres answers again")
        else:
            log.warning("%s; clients are told nothing new meanwhile", explain(error, self._database_url))
        self._tell_state()

    def _tell_state(self) -> None:
        told: Frame = frame(State(self._redis, self._postgres))
        for connection in self._connections:
            connection.offer(told)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        running = asyncio.create_task(work, name="gateway hub")
        self._running.add(running)
        running.add_done_callback(self._done)

    def _done(self, running: asyncio.Task[None]) -> None:
        self._running.discard(running)
        if not running.cancelled() and (error := running.exception()) is not None:
            log.error("a part of the hub has ended", exc_info=error)


async def _caught(work: Coroutine[Any, Any, ProgressEvent | None]) -> ProgressEvent | BaseException | None:
    try:
        return await work
    except Exception as error:
        return error
