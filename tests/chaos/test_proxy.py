"""The proxy against real servers: what it forwards, breaks, and writes down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis.exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.chaos.loading import pair_commands, read_lines
from tests.chaos.proxy import Address, Proxy, Tap
from tests.servers import PostgresServer, RedisServer

BROKEN = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)


def loopback(address: Address) -> tuple[str, int]:
    assert isinstance(address, tuple)
    return address


class Scene:
    """A proxy before each server, with one tap."""

    def __init__(self, redis_upstream: Address, postgres_upstream: Address, folder: Path) -> None:
        self.folder = folder
        self.tap = Tap(folder / "tap.jsonl")
        self.records: list[dict[str, Any]] = []
        self.tap.listen(self.records.append)
        self.redis_proxy = Proxy("redis", redis_upstream, self.tap)
        self.postgres_proxy = Proxy("postgres", postgres_upstream, self.tap)
        self.database = ""
        self._clients: list[Redis] = []
        self._connections: list[asyncpg.Connection[asyncpg.Record]] = []

    async def redis(self, label: str = "a", timeout: float = 5.0) -> Redis:
        host, port = loopback(await self.redis_proxy.open(label))
        client = Redis(host=host, port=port, socket_timeout=timeout, retry=Retry(NoBackoff(), 0), protocol=2)
        self._clients.append(client)
        return client

    async def postgres(self, label: str = "a") -> asyncpg.Connection[asyncpg.Record]:
        host, port = loopback(await self.postgres_proxy.open(label))
        connection = await asyncpg.connect(host=host, port=port, user="postgres", database=self.database, timeout=5)
        self._connections.append(connection)
        return connection

    async def direct(self) -> asyncpg.Connection[asyncpg.Record]:
        host = str(self.postgres_proxy.upstream).rpartition("/")[0]
        connection = await asyncpg.connect(host=host, user="postgres", database=self.database)
        self._connections.append(connection)
        return connection

    async def close(self) -> None:
        for connection in self._connections:
            connection.terminate()
        for client in self._clients:
            await client.aclose()
        await self.redis_proxy.stop()
        await self.postgres_proxy.stop()
        self.tap.close()


def socket_of(server: RedisServer | PostgresServer) -> str:
    return str(server.server._socket)


@pytest.fixture
async def scene(redis_server: RedisServer, postgres: PostgresServer, database_url: str, tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(socket_of(redis_server), socket_of(postgres), tmp_path)
    scene.database = database_url.partition("?")[0].rpartition("/")[2]
    yield scene
    await scene.close()
    left = [coroutine for one in asyncio.all_tasks() if "_Link" in str(coroutine := one.get_coro())]
    assert not left
    assert not scene.redis_proxy.labels()


def told(scene: Scene, **wanted: Any) -> list[dict[str, Any]]:
    return [record for record in scene.records if all(record.get(key) == value for key, value in wanted.items())]


async def test_redis_commands_and_replies_are_forwarded_and_told(scene: Scene) -> None:
    client = await scene.redis()
    await client.set("greeting", "hello")
    assert await client.get("greeting") == b"hello"
    entry = await client.xadd("stream", {"field": "x" * 1000})
    scene.tap.close()
    commands = {command.args[0]: command for command in pair_commands(read_lines(scene.folder / "tap.jsonl"))}
    assert commands["SET"].reply == "OK"
    assert commands["GET"].reply == "hello"
    assert commands["XADD"].args[-1] == "x" * 1000
    assert commands["XADD"].reply.encode() == entry


async def test_members_of_a_transaction_get_the_replies_of_exec(scene: Scene) -> None:
    client = await scene.redis()
    async with client.pipeline(transaction=True) as pipeline:
        pipeline.xadd("stream", {"a": "1"}, id="1-1")
        pipeline.xdel("stream", "1-1", "9-9")
        await pipeline.execute()
    commands = {command.args[0]: command for command in pair_commands(scene.records)}
    assert commands["XADD"].reply == "1-1"
    assert commands["XDEL"].reply == 1
    assert commands["XADD"].asked == commands["XDEL"].asked


async def test_a_large_value_passes_unchanged(scene: Scene) -> None:
    client = await scene.redis()
    value = bytes(range(256)) * 20_000
    await client.set("large", value)
    assert await client.get("large") == value


async def test_postgres_statements_tags_and_the_backend_are_told(scene: Scene) -> None:
    connection = await scene.postgres()
    async with connection.transaction():
        await connection.execute("CREATE TEMP TABLE t (x int)")
        await connection.executemany("INSERT INTO t VALUES ($1)", [(1,), (2,)])
    assert [row[0] for row in await connection.fetch("SELECT sum(x) FROM t WHERE x > $1", 0)] == [3]
    tags = [record["tag"] for record in scene.records if "tag" in record]
    assert tags[-5:] == ["CREATE TABLE", "INSERT 0 1", "INSERT 0 1", "COMMIT", "SELECT 1"]
    sql = {record["n"]: record["sql"] for record in scene.records if "sql" in record}
    assert [sql[record["n"]] for record in scene.records if record.get("tag") == "SELECT 1"][-1] == "SELECT sum(x) FROM t WHERE x > $1"
    assert told(scene, pid=connection.get_server_pid())


async def test_an_error_is_told_and_what_follows_is_paired_right(scene: Scene) -> None:
    connection = await scene.postgres()
    with pytest.raises(asyncpg.DivisionByZeroError):
        await connection.fetchval("SELECT 1 / $1::int", 0)
    await connection.execute("CREATE TEMP TABLE t (x int)")
    assert [record["error"] for record in scene.records if "error" in record] == ["22012"]
    created = next(record for record in scene.records if record.get("tag") == "CREATE TABLE")
    assert told(scene, n=created["n"])[0]["sql"] == "CREATE TEMP TABLE t (x int)"


async def test_a_commit_whose_reply_is_lost_has_happened(scene: Scene) -> None:
    connection = await scene.postgres()
    await connection.execute("CREATE TABLE public.t (x int)")
    trap = scene.postgres_proxy.lose_reply("^COMMIT")
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError)):
        async with connection.transaction():
            await connection.execute("INSERT INTO public.t VALUES (1)")
    assert trap.fired.is_set()
    assert await (await scene.direct()).fetchval("SELECT count(*) FROM public.t") == 1
    assert told(scene, tag="COMMIT", lost=True)


async def test_a_commit_that_is_cut_off_before_it_has_not_happened(scene: Scene) -> None:
    connection = await scene.postgres()
    await connection.execute("CREATE TABLE public.t (x int)")
    scene.postgres_proxy.cut_before("^COMMIT")
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError)):
        async with connection.transaction():
            await connection.execute("INSERT INTO public.t VALUES (1)")
    assert await (await scene.direct()).fetchval("SELECT count(*) FROM public.t") == 0


async def test_a_redis_reply_is_lost_once(scene: Scene) -> None:
    client = await scene.redis()
    scene.redis_proxy.lose_reply("^XADD stream ")
    with pytest.raises(BROKEN):
        await client.xadd("stream", {"a": "1"})
    assert await client.xlen("stream") == 1
    await client.xadd("stream", {"a": "2"})
    assert await client.xlen("stream") == 2


async def test_a_trap_strikes_its_label_only(scene: Scene) -> None:
    left, right = await scene.redis("left"), await scene.redis("right")
    scene.redis_proxy.cut_before("^SET", label="left")
    await right.set("a", 1)
    with pytest.raises(BROKEN):
        await left.set("a", 1)


async def test_cut_and_refuse(scene: Scene) -> None:
    client = await scene.redis()
    await client.ping()
    scene.redis_proxy.refuse("a")
    assert await scene.redis_proxy.cut("a") == 1
    with pytest.raises(BROKEN):
        await client.ping()
    scene.redis_proxy.heal()
    assert await client.ping()


async def test_the_connection_is_cut_at_the_given_byte(scene: Scene) -> None:
    client = await scene.redis()
    await client.set("a", "0123456789" * 100)
    scene.redis_proxy.cut_after(500, "replies")
    with pytest.raises(BROKEN):
        await client.get("a")
    assert await client.strlen("a") == 1000


async def test_a_half_open_connection_hangs_and_goes_on_when_healed(scene: Scene) -> None:
    client = await scene.redis(timeout=10)
    await client.ping()
    scene.redis_proxy.black_hole("a")
    waiting = asyncio.ensure_future(client.incr("a"))
    done, _ = await asyncio.wait([waiting], timeout=0.3)
    assert not done
    scene.redis_proxy.heal()
    assert await waiting == 1


async def test_a_statement_is_held_in_the_middle_of_a_transaction(scene: Scene) -> None:
    connection, other = await scene.postgres(), await scene.direct()
    await connection.execute("CREATE TABLE public.t (x int)")
    trap = scene.postgres_proxy.hold("^INSERT")
    async with connection.transaction():
        waiting = asyncio.ensure_future(connection.execute("INSERT INTO public.t VALUES (1)"))
        await asyncio.wait_for(trap.fired.wait(), 5)
        state = "SELECT state FROM pg_stat_activity WHERE pid = $1"
        assert await other.fetchval(state, connection.get_server_pid()) == "idle in transaction"
        scene.postgres_proxy.heal()
        await waiting
    assert await other.fetchval("SELECT count(*) FROM public.t") == 1


async def test_what_is_held_can_be_cut(scene: Scene) -> None:
    client = await scene.redis(timeout=10)
    scene.redis_proxy.black_hole("a")
    waiting = asyncio.ensure_future(client.ping())
    await asyncio.sleep(0.05)
    await scene.redis_proxy.cut()
    with pytest.raises(BROKEN):
        await waiting


async def test_delay(scene: Scene) -> None:
    client = await scene.redis()
    await client.ping()
    scene.redis_proxy.slow(0.1)
    began = time.monotonic()
    await client.ping()
    assert time.monotonic() - began >= 0.2


async def test_switching_leads_to_another_server(scene: Scene, redis_servers: Callable[[str], RedisServer]) -> None:
    client = await scene.redis()
    await client.set("where", "here")
    other = redis_servers("redis62")
    other.flush()
    await scene.redis_proxy.switch(socket_of(other))
    with pytest.raises(BROKEN):
        await client.get("where")
    assert await client.get("where") is None


async def test_a_server_that_is_away_looks_like_a_closed_connection(scene: Scene, tmp_path: Path) -> None:
    client = await scene.redis()
    await scene.redis_proxy.switch(str(tmp_path / "nobody"))
    with pytest.raises(BROKEN):
        await client.ping()


async def test_it_listens_on_a_unix_socket_too(scene: Scene, tmp_short: Path) -> None:
    path = await scene.redis_proxy.open("unix", tmp_short / "proxy.sock")
    client = Redis(unix_socket_path=str(path), protocol=2)
    assert await client.ping()
    await client.aclose()


async def test_a_client_that_dies_takes_its_backend_along(scene: Scene) -> None:
    connection = await scene.postgres()
    pid = connection.get_server_pid()
    await connection.execute("SELECT pg_advisory_lock(4711)")
    connection._transport.abort()  # type: ignore[attr-defined]
    watcher = await scene.direct()
    async with asyncio.timeout(5):
        while await watcher.fetchval("SELECT pg_sleep(0.01) IS NOT NULL FROM pg_stat_activity WHERE pid = $1", pid):
            pass
