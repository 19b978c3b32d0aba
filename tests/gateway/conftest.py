"""A gateway in this process on the session's servers, and clients for it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from starlette.applications import Starlette

from streamworker.gateway.application import build
from streamworker.gateway.limits import Limits
from streamworker.gateway.rights import Authorise
from streamworker.settings import Settings
from tests.servers import PostgresServer, RedisServer

HOST = "127.0.0.1:8080"
ORIGIN = f"http://{HOST}"
OPERATOR_TOKEN, READ_TOKEN = "operator-token-0123456789", "read-token-0123456789"
TOKENS = {"gateway_token": OPERATOR_TOKEN, "gateway_read_token": READ_TOKEN}
MakeApp = Callable[..., Any]


def settings_for(redis_url: str, database_url: str, **more: str) -> Settings:
    """Settings of a gateway on these servers; `more` goes by field name."""
    return Settings.load({"redis_url": redis_url, "database_url": database_url, **more}, {})


@asynccontextmanager
async def making(redis_url: str, database_url: str) -> AsyncIterator[MakeApp]:
    """Builds running gateways on these servers, and ends them."""
    async with AsyncExitStack() as stack:

        async def make(
            *,
            authorise: Authorise | None = None,
            limits: Limits | None = None,
            clock: Callable[[], float] = time.time,
            **settings: str,
        ) -> Starlette:
            app = build(settings_for(redis_url, database_url, **settings), authorise, limits, clock)
            await stack.enter_async_context(app.router.lifespan_context(app))
            return app

        yield make


@pytest.fixture
async def make_app(redis_server: RedisServer, database_url: str) -> AsyncIterator[MakeApp]:
    """Builds running gateways on this test's servers."""
    async with making(redis_server.url, database_url) as make:
        yield make


@pytest.fixture(scope="session")
def shared_database_url(postgres: PostgresServer, database_copies: Callable[[], str]) -> str:
    """A database for all tests that do not write."""
    return postgres.database(database_copies())


@pytest.fixture
async def looked_at(redis_server: RedisServer, shared_database_url: str) -> AsyncIterator[MakeApp]:
    """Builds running gateways whose database is the same for many tests."""
    async with making(redis_server.url, shared_database_url) as make:
        yield make


def client_for(app: Starlette, client: tuple[str, int] = ("127.0.0.1", 40000), **headers: str) -> httpx.AsyncClient:
    """A client that speaks to the app without a socket; errors of the app do not become its own."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=client)
    return httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers, timeout=30)


@pytest.fixture
async def api(make_app: MakeApp) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway without tokens, whose requests come from its own page."""
    async with client_for(await make_app(), origin=ORIGIN) as client:
        yield client


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own."""
    connection = await asyncpg.connect(database_url, timeout=20)
    yield connection
    await connection.close(timeout=5)


async def submit(database: asyncpg.Connection, items: str = '["a", "b", "c"]', **more: Any) -> UUID:
    """Submit a batch; `more` are arguments of streamworker.submit."""
    named = "".join(f", {name} => ${number}" for number, name in enumerate(more, 2))
    return UUID(str(await database.fetchval(f"SELECT streamworker.submit($1{named})", items, *more.values())))


async def end(database: asyncpg.Connection, batch_id: UUID, *statuses: str, error: str = "it broke") -> None:
    """End a batch as a worker would have: each item with its status, the batch completed (or cancelled, where nothing failed or ended)."""
    for position, status in enumerate(statuses):
        await database.execute(
            "UPDATE streamworker.items SET status = $3, attempts = 1, error = CASE WHEN $3 = 'failed' THEN $4 END,"
            " result = CASE WHEN $3 = 'completed' THEN '{\"ok\": true}'::jsonb END, finished_at = clock_timestamp()"
            " WHERE batch_id = $1 AND position = $2",
            batch_id, position, status, error,
        )  # fmt: skip
    await database.execute(
        "UPDATE streamworker.batches AS b SET status = 'completed', finished_at = clock_timestamp(), announced_at = clock_timestamp(),"
        " revision = b.revision + 1, succeeded = c.succeeded, failed = c.failed, processed = c.succeeded + c.failed"
        " FROM (SELECT (count(*) FILTER (WHERE status = 'completed'))::int AS succeeded,"
        "              (count(*) FILTER (WHERE status = 'failed'))::int AS failed"
        "       FROM streamworker.items WHERE batch_id = $1) AS c WHERE b.id = $1",
        batch_id,
    )
