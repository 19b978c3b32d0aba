"""Connections to Redis by every kind of URL; what a URL may not change; and that a cancelled command is cancelled."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.asyncio import Redis
from redis.exceptions import RedisError

from streamworker.broker.connection import connect, explain
from streamworker.broker.replies import Entry, entries, read_entries
from streamworker.broker.tail import position
from streamworker.errors import ConfigurationError
from tests.servers import RedisServer, free_port, redis_program, wait_for

TWICE = ("a", "1", "a", "2")


async def exchange(client: Redis) -> list[Entry]:
    """Write an entry with one field twice, and read it in every way there is."""
    entry_id = await client.execute_command("XADD", "jobs", "*", *TWICE)
    _, found = read_entries(await client.execute_command("XREAD", "STREAMS", "jobs", "0"))[0]
    assert found == entries(await client.xrange("jobs"))
    assert read_entries(await client.execute_command("XREAD", "BLOCK", 1, "STREAMS", "jobs", entry_id)) == []
    assert await position(client, "jobs") == entry_id
    return found


@pytest.fixture
def own(tmp_short: Path, redis_kind: str) -> Iterator[RedisServer]:
    """A server on a TCP port, not started yet."""
    server = RedisServer(redis_kind, tmp_short / "redis", tcp=True)
    yield server
    server.close()


def port_of(server: RedisServer) -> str:
    return server.server.options["port"]


class TestKindsOfServers:
    async def test_unix_socket(self, redis_url: str) -> None:
        async with connect(redis_url) as client:
            assert [entry.fields for entry in await exchange(client)] == [((b"a", b"1"), (b"a", b"2"))]

    async def test_tcp_with_a_password_of_strange_characters(self, own: RedisServer) -> None:
        own.server.options["requirepass"] = "p@s:s/w%o"
        own.start()
        async with connect(f"redis://:p%40s%3As%2Fw%25o@127.0.0.1:{port_of(own)}/3") as client:
            assert len(await exchange(client)) == 1

    async def test_cluster(self, own: RedisServer) -> None:
        port = next(port for port in iter(free_port, None) if port <= 55535)  # the nodes talk on a port 10,000 above it
        own.server.options |= {"cluster-enabled": "yes", "port": str(port)}
        own.start()
        with redis.Redis(port=port) as plain:
            plain.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
            wait_for(lambda: is_writable(plain), about="the cluster")
        for blocking in (None, 1.0):
            client = connect(f"redis+cluster://127.0.0.1:{port}", blocking=blocking)
            assert [entry.fields for entry in await exchange(client)][-1] == ((b"a", b"1"), (b"a", b"2"))
            await client.aclose()

    async def test_sentinel(self, own: RedisServer, tmp_short: Path, redis_kind: str) -> None:
        own.start()
        port, configuration = free_port(), tmp_short / "sentinel.conf"
        configuration.write_text(f"bind 127.0.0.1\nport {port}\ndir {tmp_short}\nsentinel monitor jobs-master 127.0.0.1 {port_of(own)} 1\n")
        program = [redis_program(redis_kind), configuration, "--sentinel"]
        with subprocess.Popen(program, stdout=subprocess.DEVNULL) as sentinel:
            try:
                client = connect(f"redis+sentinel://127.0.0.1:1,127.0.0.1:{port}/jobs-master/0")
                await until_it_answers(client)
                assert [entry.fields for entry in await exchange(client)] == [((b"a", b"1"), (b"a", b"2"))]
                await client.aclose()
            finally:
                sentinel.kill()


def is_writable(plain: redis.Redis) -> bool:
    try:
        return bool(plain.set("x", "y"))
    except redis.exceptions.ClusterDownError:
        return False


async def until_it_answers(client: Redis) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await client.ping()
            except RedisError:
                await asyncio.sleep(0.05)
            else:
                return


class TestUrls:
    @pytest.mark.parametrize("query", ["protocol=3", "decode_responses=yes", "socket_timeout=0", "retry_on_timeout=yes"])
    async def test_a_url_does_not_change_what_replies_look_like(self, redis_url: str, query: str) -> None:
        async with connect(f"{redis_url}&{query}") as client:
            assert (await exchange(client))[-1].fields == ((b"a", b"1"), (b"a", b"2"))

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("http://:canary@h", "expected redis://"),
            ("redis://:canary@h:port", "Port could not be cast"),
            ("redis://:canary@h?flavour=sweet", "unexpected keyword argument 'flavour'"),
            ("redis://:canary@h?db=x", "Invalid value for 'db'"),
            ("unix://", "the path of the socket is missing"),
            ("redis+sentinel://:canary@h:1", "the name of the service is missing"),
            ("redis+cluster://", "at least one host is needed"),
            ("redis+carrier://:canary@h", "redis+carrier"),
        ],
    )
    def test_a_bad_url_is_one_sentence(self, url: str, expected: str) -> None:
        with pytest.raises(ConfigurationError) as refusal:
            connect(url)
        assert expected in str(refusal.value)
        assert "canary" not in str(refusal.value)


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "user", "expected"),
        [
            ({"requirepass": "right"}, ":canary@", "refuses the login"),
            ({"maxmemory": "1"}, "", "is full (maxmemory)"),
        ],
    )
    async def test_what_a_server_refuses_is_one_sentence(self, own: RedisServer, options: dict[str, str], user: str, expected: str) -> None:
        own.server.options |= options
        own.start()
        await self.explained(f"redis://{user}127.0.0.1:{port_of(own)}", expected)

    async def test_a_forbidden_command_is_named(self, own: RedisServer) -> None:
        own.start()
        with own.client() as plain:
            plain.execute_command("ACL", "SETUSER", "default", "-xadd")
        await self.explained(own.url, "its access list forbids a command that is needed")

    async def test_a_replica_is_named(self, own: RedisServer) -> None:
        own.start()
        with own.client() as plain:
            plain.execute_command("REPLICAOF", "127.0.0.1", "1")
        await self.explained(own.url, "is a replica and takes no writes")

    async def test_a_key_of_another_type_is_named(self, redis_url: str) -> None:
        async with connect(redis_url) as client:
            await client.set("jobs", "x")
        await self.explained(redis_url, "holds something that is not a stream")

    @pytest.mark.parametrize(
        "url", ["redis://:canary@127.0.0.1:1", "redis+cluster://:canary@127.0.0.1:1", "redis+sentinel://:canary@127.0.0.1:1/x"]
    )
    async def test_nobody_there_is_named(self, url: str) -> None:
        await self.explained(url, "no sentinel knows" if "sentinel" in url else "not reachable")

    async def test_tls_with_a_server_that_has_none_is_named(self, own: RedisServer) -> None:
        own.start()
        await self.explained(own.url.replace("redis://", "rediss://:canary@"), "127.0.0.1")

    async def explained(self, url: str, expected: str) -> None:
        client = connect(url)
        with pytest.raises((RedisError, OSError)) as refusal:
            await client.xadd("jobs", {"a": "b"})
        await client.aclose()
        told = explain(refusal.value, url)
        assert expected in told
        assert "canary" not in told
        assert "\n" not in told


async def test_a_cancelled_command_is_cancelled_at_every_moment(redis_url: str) -> None:
    async with connect(redis_url, blocking=1.0) as client:
        await client.ping()
        for turns in [*range(12)] * 20:
            reading = asyncio.create_task(client.execute_command("XREAD", "BLOCK", 1000, "STREAMS", "nothing", "0-0"))
            for _ in range(turns):
                await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        assert await client.ping()
