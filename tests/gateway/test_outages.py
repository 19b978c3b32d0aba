"""Postgres or Redis away: a sentence and no hang, and everything as before when they are back."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection

from streamworker.gateway import endpoints, recent
from streamworker.gateway.application import build
from streamworker.observe.logs import JSONLines
from tests.gateway.asgi import Socket, ask
from tests.gateway.conftest import HOST, ORIGIN, MakeApp, client_for, settings_for
from tests.servers import PostgresServer, RedisServer, wait_for

NOBODY = "0b1f6a52-5e1c-4f5e-9a57-0d6f3f1f2a10"
OF_POSTGRES = ["/api/batches", f"/api/batches/{NOBODY}", f"/api/batches/{NOBODY}/items", f"/api/batches/{NOBODY}/items/0", "/api/workers"]
ACTIONS = [f"/api/batches/{NOBODY}/cancel", f"/api/batches/{NOBODY}/retry"]


def signal_sessions(server: PostgresServer, number: signal.Signals) -> None:
    """Stop, or let go on, the processes that serve the connections; the server itself is another one."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == server.pid:
                os.kill(int(status.parent.name), number)


async def back(client: httpx.AsyncClient, path: str, status: int) -> None:
    """Wait until a path answers as it should."""
    async with asyncio.timeout(20):
        while (await client.get(path)).status_code != status:  # noqa: ASYNC110 it is another process that we wait for
            await asyncio.sleep(0.05)


class TestPostgres:
    @pytest.fixture
    async def client(self, own_postgres: PostgresServer, redis_server: RedisServer) -> AsyncIterator[httpx.AsyncClient]:
        app = build(settings_for(redis_server.url, own_postgres.url))
        async with app.router.lifespan_context(app), client_for(app, origin=ORIGIN) as client:
            yield client

    async def test_it_is_killed_and_comes_back(self, client: httpx.AsyncClient, own_postgres: PostgresServer) -> None:
        await back(client, "/api/batches", 200)
        await asyncio.to_thread(own_postgres.kill)
        for path in OF_POSTGRES:
            answer = await client.get(path)
            assert (answer.status_code, "Postgres cannot be reached" in answer.json()["error"]) == (503, True), path
            assert "sock" not in answer.text
        for path in ACTIONS:
            assert (await client.post(path, json={})).status_code == 503
        assert (await client.get("/api/queue")).status_code == 200
        assert (await client.get("/")).status_code == 200
        await asyncio.to_thread(own_postgres.start)
        await back(client, "/api/batches", 200)

    async def test_it_hangs(self, client: httpx.AsyncClient, own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(endpoints, "ANSWER_SECONDS", 0.3)
        await back(client, "/api/batches", 200)
        signal_sessions(own_postgres, signal.SIGSTOP)
        own_postgres.pause()
        try:
            # More at once than there are connections: none waits for another's.
            answers = await asyncio.gather(*(client.get(path) for path in OF_POSTGRES * 4))
            assert {answer.status_code for answer in answers} == {503}
        finally:
            signal_sessions(own_postgres, signal.SIGCONT)
            own_postgres.resume()
        await back(client, "/api/batches", 200)


class TestRedis:
    @pytest.fixture
    async def client(self, weak_redis: RedisServer, database_url: str) -> AsyncIterator[httpx.AsyncClient]:
        app = build(settings_for(weak_redis.url, database_url))
        async with app.router.lifespan_context(app), client_for(app, origin=ORIGIN) as client:
            yield client

    async def test_it_is_killed_and_comes_back(
        self, client: httpx.AsyncClient, weak_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recent, "FRESH", -1.0)
        await back(client, "/api/dead", 200)
        await asyncio.to_thread(weak_redis.kill)
        answer = await client.get("/api/dead")
        assert (answer.status_code, "Redis cannot be reached" in answer.json()["error"]) == (503, True)
        assert (await client.post("/api/dead/1-1/drop", json={})).status_code == 503
        queue = (await client.get("/api/queue")).json()
        assert queue == {"stream": "batches", "redis": False} | dict.fromkeys(("length", "pending", "waiting", "dead", "progress_length"))
        assert (await client.get("/api/workers")).json() == {"workers": [], "redis": False}
        assert (await client.get("/api/batches")).status_code == 200
        await asyncio.to_thread(weak_redis.start)
        await back(client, "/api/dead", 200)

    async def test_a_key_that_is_no_stream(self, client: httpx.AsyncClient, weak_redis: RedisServer) -> None:
        with weak_redis.client() as redis:
            redis.set("batches:dead", "x")
        assert (await client.get("/api/dead")).status_code == 503


class TestStart:
    """Where nobody has started it, the first request does."""

    @staticmethod
    def get(app: Starlette, path: str) -> httpx.Response:
        async def run() -> httpx.Response:
            async with client_for(app, origin=ORIGIN) as client:
                return await client.get(path)

        return asyncio.run(run())  # the loop's end closes what was opened

    def test_a_failed_start_is_tried_again(self, redis_server: RedisServer, own_postgres: PostgresServer) -> None:
        app = build(settings_for(redis_server.url, own_postgres.url))
        own_postgres.kill()
        assert self.get(app, "/api/batches").status_code == 503
        own_postgres.start()
        for _ in range(2):
            assert self.get(app, "/api/batches").status_code == 200
        wait_for(lambda: _sessions(own_postgres) == 0, about="the sessions of the loops that have ended to be closed")

    def test_a_database_without_schema_says_what_to_do(self, redis_server: RedisServer, empty_database_url: str) -> None:
        answer = self.get(build(settings_for(redis_server.url, empty_database_url)), "/api/batches")
        assert (answer.status_code, "run `python -m streamworker migrate`" in answer.json()["error"]) == (503, True)


def _sessions(server: PostgresServer) -> int:
    import asyncpg

    async def count() -> int:
        connection = await asyncpg.connect(server.url, timeout=20)
        try:
            found: int = await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'streamworker gateway'")
            return found
        finally:
            await connection.close()

    return asyncio.run(count())


class TestErrors:
    """What nobody expected: the client gets a number, the log the rest."""

    async def test_the_client_learns_a_number_and_the_log_why(self, make_app: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
        def authorise(connection: HTTPConnection, _batch_id: object) -> bool:
            raise RuntimeError(f"canary-detail {connection.url.path}")

        app = await make_app(authorise=authorise)
        with caplog.at_level(logging.ERROR, "streamworker.gateway"):
            answer = await ask(app, "GET", "/api/batches", [("host", HOST)])
        error = answer.json["error"]
        assert answer.status == 500
        assert error.startswith("internal error ")
        assert "canary" not in answer.body.decode()
        number = error.split()[2].rstrip(":")
        (record,) = caplog.records
        line = JSONLines().format(record)
        assert number in line
        assert "canary-detail" in line
        assert "\n" not in line

    async def test_a_socket_too(self, make_app: MakeApp) -> None:
        def authorise(_connection: HTTPConnection, _batch_id: object) -> bool:
            raise RuntimeError("canary-detail")

        app = await make_app(authorise=authorise)
        async with Socket(app, f"/ws?batch_id={NOBODY}", [("host", HOST), ("origin", ORIGIN)]) as socket:
            assert await socket.closed() == 4500

    async def test_a_refusal_of_the_hook_is_passed_on(self, make_app: MakeApp) -> None:
        from starlette.exceptions import HTTPException

        def authorise(_connection: HTTPConnection, _batch_id: object) -> bool:
            raise HTTPException(402, "pay first")

        app = await make_app(authorise=authorise)
        answer = await ask(app, "GET", "/api/batches", [("host", HOST)])
        assert (answer.status, answer.json) == (402, {"error": "pay first"})
