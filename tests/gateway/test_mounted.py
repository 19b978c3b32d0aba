"""The gateway inside somebody else's app: the README's example, under a prefix, without and with a lifespan."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from uuid import UUID

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from streamworker.gateway import app as gateway_app
from tests.gateway.asgi import Socket, ask
from tests.gateway.conftest import HOST, OPERATOR_TOKEN, ORIGIN, TOKENS, settings_for, submit
from tests.servers import RedisServer, wait_for

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
ANN = ("x-user", "ann")


def example(name: str) -> ModuleType:
    """A Python file of the README."""
    (text,) = re.findall(rf"^```python\n# {re.escape(name)}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    module = ModuleType(name.removesuffix(".py"))
    exec(compile(text, name, "exec"), module.__dict__)
    return module


@pytest.fixture
def site(redis_server: RedisServer, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example, on this test's servers."""
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.setenv("DATABASE_URL", database_url)
    return example("site.py")


def headers(*more: tuple[str, str]) -> list[tuple[str, str]]:
    return [("host", HOST), ("origin", ORIGIN), ("content-type", "application/json"), *more]


async def test_the_example(site: ModuleType, database: asyncpg.Connection) -> None:
    app: FastAPI = site.app
    mine, other = await submit(database), await submit(database)
    site.OWNERS[mine] = "ann"
    page = await ask(app, "GET", "/progress/", headers())
    assert (page.status, b"<html" in page.body) == (200, True)
    assert (await ask(app, "GET", "/progress/static/app.js", headers())).status == 200
    listed = await ask(app, "GET", "/progress/api/batches", headers(ANN))
    assert [UUID(batch["id"]) for batch in listed.json["batches"]] == [mine]
    assert (await ask(app, "GET", "/progress/api/batches", headers())).status == 403
    for batch_id, user, expected in [(mine, ANN, 200), (other, ANN, 403), (mine, ("x-user", "bob"), 403), (mine, ("x", ""), 403)]:
        assert (await ask(app, "GET", f"/progress/api/batches/{batch_id}", headers(user))).status == expected
        assert (await ask(app, "GET", f"/progress/events?batch_id={batch_id}", headers(user))).status in (expected, 404)
        assert (await ask(app, "POST", f"/progress/api/batches/{batch_id}/cancel", headers(user))).status == expected
        async with Socket(app, f"/progress/ws?batch_id={batch_id}", headers(user)) as socket:
            seen = [await socket.next() for _ in range(3)]
            assert ('"type":"snapshot"' in str(seen)) is (expected == 200)
    assert await database.fetchval("SELECT status FROM streamworker.batches WHERE id = $1", other) == "pending"
    own = await ask(app, "GET", "/", headers())
    assert (own.status, "content-security-policy" in own.headers) == (404, False)


async def test_the_prefix_is_kept_to(site: ModuleType) -> None:
    app: FastAPI = site.app
    for path in ("/progress//evil.com/", "/progress/api/batches/", "/progress//api/batches", "/progress/progress/api/batches"):
        answer = await ask(app, "GET", path, headers(ANN))
        assert (answer.status, answer.headers.get("location")) == (404, None), path
    for other in ("evil.com", "evil.com:8080"):
        answer = await ask(app, "GET", "/progress/api/batches", [("host", other), ANN])
        assert answer.status == 421


async def test_a_session_belongs_to_the_prefix(redis_server: RedisServer, database_url: str) -> None:
    settings = settings_for(redis_server.url, database_url, **TOKENS)
    app = Starlette(routes=[Mount("/a/progress", gateway_app(settings=settings))])
    answer = await ask(app, "POST", "/a/progress/api/session", headers(), f'{{"token": "{OPERATOR_TOKEN}"}}'.encode())
    assert "Path=/a/progress/" in answer.headers["set-cookie"].split("; ")
    session = ("cookie", answer.headers["set-cookie"].partition(";")[0])
    assert (await ask(app, "GET", "/a/progress/api/batches", headers(session))).status == 200
    for path in ("/a/progress/api/batches", "/a/progress//api/batches", "/a/progress/healthz/../api/batches", "/a/progress"):
        assert (await ask(app, "GET", path, headers())).status in (401, 404, 307), path
    behind = await ask(app, "GET", "/x/a/progress/api/batches", headers(session), root_path="/x")
    assert behind.status == 200


async def test_the_end_of_no_session_ends_nobody(site: ModuleType, database: asyncpg.Connection) -> None:
    mine = await submit(database)
    site.OWNERS[mine] = "ann"
    async with Socket(site.app, f"/progress/ws?batch_id={mine}", headers(ANN)) as socket:
        assert (await socket.next())["type"] == "websocket.accept"
        assert (await ask(site.app, "DELETE", "/progress/api/session", headers())).status == 200
        await socket.say({"type": "ping"})
        while '"type":"ping"' not in str(message := await socket.next()):
            assert message["type"] != "websocket.close"


async def test_it_may_be_started_and_ended_with_the_app(redis_server: RedisServer, database_url: str, database: asyncpg.Connection) -> None:
    progress = gateway_app(redis_server.url, database_url)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with progress.router.lifespan_context(progress):
            yield

    app = FastAPI(lifespan=lifespan)
    app.mount("/progress", progress)
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'streamworker gateway' AND datname = current_database()"
    async with app.router.lifespan_context(app):
        assert await database.fetchval(count) > 0
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as client:
            assert (await client.get("/progress/api/batches")).json() == {"batches": [], "next": None}
            assert (await client.get("/progress/healthz")).text == "ok"
    assert await database.fetchval(count) == 0


def test_without_a_lifespan_the_end_of_the_loop_closes_it(site: ModuleType, database_url: str) -> None:
    async def session() -> None:
        assert (await ask(site.app, "GET", "/progress/api/batches", headers(ANN))).status == 200

    for _ in range(2):  # a second loop starts it anew
        asyncio.run(session())

    async def sessions() -> int:
        connection = await asyncpg.connect(database_url, timeout=20)
        try:
            found: int = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'streamworker%' AND datname = current_database()"
            )
            return found
        finally:
            await connection.close()

    wait_for(lambda: asyncio.run(sessions()) == 0, about="the sessions to be closed")
