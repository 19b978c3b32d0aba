"""One for each process: the progress stream, read once, and all who want to know of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any
from uuid import UUID

from streamworker import errors
from streamworker.gateway.connection import Connection
from streamworker.gateway.feed import FRESH, Feed
from streamworker.gateway.frames import HEARTBEAT, PING, Complaint, Frame, Live, State, frame
from streamworker.gateway.overview import MOST_OPEN, NEWEST, Overview
from streamworker.gateway.reader import Reader
from streamworker.gateway.resume import Since
from streamworker.gateway.stream import Stream
from streamworker.messages import ProgressEvent
from streamworker.settings import Settings
from streamworker.store import progress
from streamworker.store.pool import Pool, explain

log = logging.getLogger("streamworker.gateway")

QUIET = 1.0  # seconds without a word of a batch, after which Postgres is asked
PATIENCE = 10.0  # seconds that a client may take for one frame
KEPT = 30.0  # seconds that a batch is followed after the last client has left
MOST_CONNECTIONS = 20_000
ALL = "*"
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
        self._feeds: dict[str, Feed] = {}
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
        if (feed := self._feeds.get(batch_id)) is not None:
            feed.leave(connection)
        connection.forget(batch_id)

    async def ended(self, batch_id: str, revision: int) -> bool:
        """Whether the batch has ended, with this revision: then who knows that has nothing to come back for."""
        feed = await self._opened(batch_id)
        return feed.ended and feed.revision == revision

    async def exists(self, batch_id: str) -> bool:
        """Whether there is such a batch; waits while Postgres is away."""
        try:
            await self._opened(batch_id)
        except errors.BatchNotFound:
            return False
        return True

    # --- subscriptions ----------------------------------------------------------------------------------------------------------

    async def _open(self, connection: Connection, ids: Sequence[str], since: Since | None) -> None:
        history = self._stream.history
        for batch_id in ids:
            if batch_id == ALL:
                await self._join_overview(connection, since)
            else:
                await self._join(connection, batch_id, since)
        if list(ids) != [ALL]:
            connection.offer(frame(Live(history.token)))

    async def _join(self, connection: Connection, batch_id: str, since: Since | None) -> None:
        feed = self._feed(batch_id)
        feed.interest += 1
        try:
            snapshot = None if feed.is_fresh(time.monotonic()) else await self._reader.read(batch_id)
            if snapshot is not None and feed.state is None:
                self._open_feed(feed, snapshot)
        except errors.BatchNotFound as error:
            self._drop(feed)
            connection.wanted.discard(batch_id)
            connection.offer(frame(Complaint(4404, str(error), batch_id)))
            return
        finally:
            feed.interest -= 1
        if batch_id in connection.wanted and connection in self._connections:
            feed.join(connection, snapshot, since)

    async def _join_overview(self, connection: Connection, since: Since | None) -> None:
        self._overview.interest += 1
        try:
            if time.monotonic() - self._overview.read_at > FRESH:
                await self._read_overview()
            if connection in self._connections:
                self._overview.join(connection, since)
        finally:
            self._overview.interest -= 1

    async def _opened(self, batch_id: str) -> Feed:
        feed = self._feed(batch_id)
        feed.interest += 1
        try:
            if not feed.is_fresh(time.monotonic()):
                snapshot = await self._reader.read(batch_id)
                if feed.state is None:
                    self._open_feed(feed, snapshot)
        except errors.BatchNotFound:
            self._drop(feed)
            raise
        finally:
            feed.interest -= 1
        return feed

    def _open_feed(self, feed: Feed, snapshot: Any) -> None:
        if not feed.open(snapshot):
            self._mend(feed)

    def _feed(self, batch_id: str) -> Feed:
        feed = self._feeds.get(batch_id)
        if feed is None:
            feed = self._feeds[batch_id] = Feed(batch_id, self._stream.history)
        return feed

    def _drop(self, feed: Feed) -> None:
        """The batch is no more."""
        told = frame(Complaint(4404, str(progress_not_found(feed.batch_id)), feed.batch_id))
        for connection in list(feed.watchers):
            connection.wanted.discard(feed.batch_id)
            connection.offer(told)
        feed.watchers.clear()
        self._feeds.pop(feed.batch_id, None)

    def _resync(self, connection: Connection, batch_id: str) -> None:
        feed = self._feeds.get(batch_id)
        if feed is not None and feed.state is not None and connection in feed.watchers:
            feed.show(connection, reset=True)

    # --- the stream -------------------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            for number, told in enumerate(await self._stream.read(QUIET)):
                if number % SLICE == SLICE - 1:
                    await asyncio.sleep(0)
                feed = self._feeds.get(told.event.batch_id)
                if feed is not None and not feed.hear(told.record, told.event):
                    self._mend(feed)
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

    def _mend(self, feed: Feed) -> None:
        self._begin(self._ask_again(feed))

    async def _ask_again(self, feed: Feed) -> None:
        """Events of this batch are missing: ask Postgres, until none is."""
        while True:
            await asyncio.sleep(max(0.0, feed.read_at + FRESH - time.monotonic()))
            try:
                snapshot = await self._reader.read(feed.batch_id)
            except errors.BatchNotFound:
                self._drop(feed)
                return
            if feed.mend(snapshot):
                return

    # --- beside the stream ------------------------------------------------------------------------------------------------------

    async def _compare(self) -> None:
        """Ask Postgres, once a second, for what the stream has not told."""
        while True:
            await asyncio.sleep(QUIET)
            try:
                await self._compare_feeds()
                if self._overview.active:
                    await self._read_overview()
            except Exception as error:
                self._note_postgres(False, error)

    async def _compare_feeds(self) -> None:
        now = time.monotonic()
        quiet = {
            id: feed.revision
            for id, feed in self._feeds.items()
            if feed.watchers and feed.state is not None and not feed.mending and (now - feed.heard >= QUIET or not self._redis)
        }
        if not quiet:
            return
        moved = await progress.read_moved(self._pool, quiet)
        self._note_postgres(True, None)
        for batch_id, event in moved.items():
            feed = self._feeds.get(batch_id)
            if feed is None or feed.mending:
                continue
            if event is None:
                self._drop(feed)
                continue
            # The stream may be a moment behind Postgres: only what it has not told a second later is lost.
            lost = feed.behind > feed.revision or not self._redis
            feed.behind = event.revision
            if lost and event.revision > feed.revision:
                feed.mending = True
                self._mend(feed)

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
            for feed in list(self._feeds.values()):
                if not feed.watchers and not feed.interest and not feed.mending and now - feed.read_at > KEPT:
                    self._feeds.pop(feed.batch_id, None)

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
        running.add_done_callback(self._running.discard)


def progress_not_found(batch_id: str) -> errors.BatchNotFound:
    """The error for a batch that is no more."""
    return errors.BatchNotFound(f"batch {UUID(batch_id)}: there is no batch with this id")
