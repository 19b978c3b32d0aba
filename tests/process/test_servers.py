"""The servers that other tests stand on: each kind starts, loses or keeps its data, pauses, and never outlives the tests."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
import redis

from tests.process.embedded_scene import ROOT
from tests.servers import PostgresServer, RedisServer, process_lives, run_async, wait_for

VERSIONS = {"valkey": "7.2.4", "redis62": "6.2.", "redis70": "7.0."}


@pytest.mark.flow
def test_each_kind_is_what_it_says_and_keeps_its_data_when_killed(own_redis: RedisServer, redis_kind: str) -> None:
    with own_redis.client() as client:
        assert client.info("server")["redis_version"].startswith(VERSIONS[redis_kind])
        client.set("kept", "yes")
    own_redis.kill()
    own_redis.start()
    with own_redis.client() as client:
        assert client.get("kept") == b"yes"


@pytest.mark.flow
def test_the_shared_one_is_empty(redis_server: RedisServer, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


@pytest.mark.flow
def test_the_shared_one_is_empty_again(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0


def test_over_tcp_without_persistence_all_is_lost(tmp_short: Path) -> None:
    server = RedisServer("valkey", tmp_short, tcp=True)
    try:
        server.start()
        assert server.url.startswith("redis://127.0.0.1:")
        with server.client() as client:
            client.set("lost", "yes")
        server.stop()
        server.start()
        with server.client() as client:
            assert client.get("lost") is None
    finally:
        server.close()


def test_a_paused_server_takes_connections_and_says_nothing(own_redis: RedisServer) -> None:
    own_redis.pause()
    with redis.Redis.from_url(own_redis.url, socket_timeout=0.2, retry=None) as client, pytest.raises(redis.TimeoutError):
        client.ping()
    own_redis.resume()
    with own_redis.client() as client:
        assert client.ping()


@pytest.mark.parametrize("end", ["smart", "fast", "immediate", "kill"])
def test_postgres_comes_back_with_what_was_committed(own_postgres: PostgresServer, end: str) -> None:
    async def value(statement: str) -> object:
        connection = await asyncpg.connect(own_postgres.url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    run_async(value("CREATE TABLE kept AS SELECT 42 AS n"))
    own_postgres.kill() if end == "kill" else own_postgres.stop(end)
    own_postgres.start()
    assert run_async(value("SELECT n FROM kept")) == 42


async def test_each_test_has_a_migrated_database(database_url: str, worker_environment: dict[str, str]) -> None:
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("SELECT count(*) FROM streamworker.batches") == 0
    await connection.close()
    assert worker_environment["DATABASE_URL"] == database_url
    assert not [name for name in worker_environment if name.startswith("STREAMWORKER_")]


async def test_servers_end_with_the_process_that_started_them_however_it_ends(tmp_short: Path) -> None:
    script = f"""
import sys, time
from pathlib import Path
from tests.servers import PostgresServer, RedisServer
servers = [RedisServer("valkey", Path({str(tmp_short / "redis")!r})), PostgresServer(Path({str(tmp_short / "postgres")!r}))]
for server in servers:
    server.start()
print(*[server.pid for server in servers], flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(word) for word in (await asyncio.to_thread(process.stdout.readline)).split()]
    assert len(pids) == 2
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not any(process_lives(pid) for pid in pids), about="the end of both servers")
    PostgresServer(tmp_short / "postgres").close()
