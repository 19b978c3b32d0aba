"""One for each process: the progress stream, read once, and all who want to know of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from streamworker.gateway.connection import SLOW, Connection
from streamworker.gateway.feeds import QUIET, Feeds
from streamworker.gateway.frames import ALL, HEARTBEAT, PING, Frame, Hello, State, frame
from streamworker.gateway.overview import Overview
from streamworker.gateway.reader import Reader
from streamworker.gateway.resume import Since, Token, scope_of
from streamworker.gateway.stream import Stream
from streamworker.gateway.subscriptions import Subscriptions
from streamworker.messages import ProgressEvent
from streamworker.settings import Settings
from streamworker.store.pool import OUTAGE_ERRORS, Pool, explain

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
        self._reader = Reader(self._stream.history, pool, self._note_postgres)
        self._overview = Overview(self._stream.history, pool, self._reader, self._begin)
        self._feeds = Feeds(self._stream.history, pool, self._reader, self._begin)
        self._subscriptions = Subscriptions(self._stream.history, self._feeds, self._overview, self._note_postgres, self.subscribe)
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
        for step in (self._follow, self._compare, self._compare_all, self._look_after):
            self._begin(_again_and_again(step))
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
        connection = Connection(self._subscriptions.resync, role, ask)
        self._connections.add(connection)
        return connection

    def greet(self, connection: Connection) -> None:
        """Tell a client where it is."""
        connection.offer(frame(Hello(connection.role, self._redis)))
        if not self._postgres:
            connection.offer(frame(State(self._redis, self._postgres)))

    def leave(self, connection: Connection) -> None:
        """The client has gone."""
        connection.gone = True
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
        connection.everything = connection.everything or ALL in ids
        for id in ids:
            connection.together.pop(id, None)
        if len(ids) > 1:
            connection.together.update(dict.fromkeys(ids, scope_of(ids)))
        opening = asyncio.create_task(self._subscriptions.open(connection, ids, since), name="gateway subscription")
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
        scope = connection.together.pop(batch_id, None)
        rest = [id for id, one in connection.together.items() if one == scope]
        connection.together.update(dict.fromkeys(rest, scope_of(rest)))  # from here on their tokens stand for no more than them
        told = self._feeds.leave(connection, batch_id)
        dropped = connection.forget(batch_id)
        self._overview.tell_what_was_kept_back(connection, batch_id, told - dropped)

    async def ended(self, batch_id: str, token: Token) -> bool:
        """Whether the batch has ended, and who has this token knows that: it has nothing to come back for. BatchNotFound."""
        return await self._subscriptions.ended(batch_id, token)

    async def exists(self, batch_id: str) -> bool:
        """Whether there is such a batch; waits while Postgres is away."""
        return await self._subscriptions.exists(batch_id)

    # --- the stream -------------------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        for number, told in enumerate(await self._stream.read(QUIET)):
            try:
                self._feeds.hear(told)
                if self._overview.active:
                    self._overview.hear(told.record, told.event)
            except Exception:
                log.exception("unexpected error, going on with the next event")
            if number % SLICE == SLICE - 1:  # not before: what is in the history has been told
                await asyncio.sleep(0)
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
        await asyncio.sleep(QUIET)
        try:
            asked = await self._feeds.compare(self._redis)
        except OUTAGE_ERRORS as error:
            self._note_postgres(False, error)
        else:
            if asked:
                self._note_postgres(True, None)

    async def _compare_all(self) -> None:
        """The same for the list of all."""
        await asyncio.sleep(QUIET)
        if not self._overview.active:
            self._overview.forget()
            return
        try:
            await self._overview.read()
        except OUTAGE_ERRORS as error:
            self._note_postgres(False, error)
        else:
            self._note_postgres(True, None)

    def look_again(self, batch_id: str) -> None:
        """Somebody has just changed this batch in Postgres, and the stream may never tell."""
        self._feeds.look_again(batch_id)
        if self._overview.active:
            self._begin(self._overview.read())

    # --- the connections --------------------------------------------------------------------------------------------------------

    async def _look_after(self) -> None:
        """Heartbeats, clients that read nothing, batches that nobody watches."""
        await asyncio.sleep(QUIET)
        now = time.monotonic()
        for connection in list(self._connections):
            since = connection.sending_since
            if since is not None and now - since > PATIENCE:
                connection.close(SLOW, f"nothing was read for {PATIENCE:g} seconds")
                if connection.cut is not None:
                    connection.cut()
            elif since is None and now - connection.last_sent >= HEARTBEAT - QUIET:
                connection.offer(PING)
        self._feeds.look_after(self._redis)

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


async def _again_and_again(step: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await step()
        except Exception:
            log.exception("unexpected error, trying again")
            await asyncio.sleep(QUIET)
