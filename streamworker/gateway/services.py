"""What a running gateway holds: Postgres, Redis and its settings; opened at the first need, closed with the event loop at the latest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from streamworker.broker.connection import CONNECTION_ERRORS as REDIS_ERRORS
from streamworker.broker.connection import connect
from streamworker.broker.inspection import Backlog, Reader, backlog, readers
from streamworker.embedded import located
from streamworker.gateway.chronicle import Chronicle
from streamworker.gateway.hub import Hub
from streamworker.gateway.recent import Recent
from streamworker.settings import Settings
from streamworker.store import browsing
from streamworker.store.migrate import check_schema, migrate
from streamworker.store.pool import CONNECTION_ERRORS, Pool, open_pool, refusal

POOL_SIZE = 10
STATEMENT_TIMEOUT = 10.0
# Whoever waits for a lock for so long is told so, and not that Postgres is at work.
LOCK_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Services:
    """One gateway's connections; `settings` has both URLs."""

    settings: Settings
    pool: Pool
    redis: Redis
    chronicle: Chronicle
    hub: Hub
    leases: Recent[list[Any]]
    readers: Recent[list[Reader]]
    backlog: Recent[Backlog]


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Connect; ConfigurationError for a bad URL, ConnectionError or SchemaError when Postgres cannot be used. Redis may be away."""
    # Nobody else prepares a database that we have started ourselves.
    prepare = migrate if settings.embedded and settings.migrate else check_schema
    async with located(settings) as settings:
        assert settings.redis_url is not None
        redis = connect(settings.redis_url)
        try:
            chronicle = Chronicle()
            async with _open_pool(settings, prepare) as pool, Hub(settings, pool, chronicle.hear) as hub:
                yield _services(settings, pool, redis, chronicle, hub)
        finally:
            with suppress(*REDIS_ERRORS):
                await redis.aclose()


def _services(settings: Settings, pool: Pool, redis: Redis, chronicle: Chronicle, hub: Hub) -> Services:
    stream, group = settings.stream, settings.group
    return Services(
        settings,
        pool,
        redis,
        chronicle,
        hub,
        Recent(lambda: browsing.list_leases(pool)),
        Recent(lambda: readers(redis, stream, group)),
        Recent(lambda: backlog(redis, stream, group, settings.dead_stream, settings.progress_stream)),
    )


@asynccontextmanager
async def _open_pool(settings: Settings, prepare: Callable[[Any], Awaitable[object]]) -> AsyncIterator[Pool]:
    url = settings.database_url
    assert url is not None
    try:
        pool = await open_pool(
            url, size=POOL_SIZE, application_name="streamworker gateway", statement_timeout=STATEMENT_TIMEOUT, lock_timeout=LOCK_TIMEOUT
        )
    except CONNECTION_ERRORS as error:
        raise refusal(error, url) from error
    try:
        async with pool.acquire() as connection:
            await prepare(connection)
        yield pool
    finally:
        await pool.close()


class Running:
    """The services of one app, in a task of their own: whoever needs them first starts them, for all."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._life: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[Services] | None = None
        self._end = asyncio.Event()

    async def services(self) -> Services:
        """The open services; starts them if nobody has. A failed start is tried again by the next who asks."""
        loop = asyncio.get_running_loop()
        if self._life is None or self._ready is None or self._life.done() or self._ready.get_loop() is not loop:
            self._ready, self._end = loop.create_future(), asyncio.Event()
            self._life = loop.create_task(self._live(self._ready, self._end), name="streamworker gateway")
        return await asyncio.shield(self._ready)

    async def dismiss(self, patience: float) -> None:
        """Show out who is connected for longer than a request, and wait for them to go; what else is being answered goes on."""
        if self._ready is not None and self._ready.done() and not self._ready.cancelled() and self._ready.exception() is None:
            await self._ready.result().hub.dismiss(patience)

    async def close(self) -> None:
        """Close what is open, and wait for it."""
        self._end.set()
        if self._life is not None:
            await asyncio.wait([self._life])

    async def _live(self, ready: asyncio.Future[Services], end: asyncio.Event) -> None:
        # The loop's end cancels this task, and what is open here is closed in good order, also where nobody runs our lifespan.
        try:
            async with open_services(self.settings) as services:
                ready.set_result(services)
                await end.wait()
        except Exception as error:
            if ready.done():
                raise
            ready.set_exception(error)
        finally:
            ready.cancel()
