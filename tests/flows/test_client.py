"""The Python door: submitting, reading, cancelling, retrying; on real servers, without a worker."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import redis.asyncio

from streamworker.broker.replies import entries
from streamworker.client import Client
from streamworker.errors import BatchNotFound, ConfigurationError, InvalidSubmission, SchemaError
from streamworker.store import catalog
from streamworker.store.pool import open_pool
from tests.chaos.proxy import Proxy
from tests.servers import PostgresServer, RedisServer

UNKNOWN = UUID(int=1)


@pytest.fixture
async def client(redis_url: str, database_url: str) -> AsyncIterator[Client]:
    async with Client.connect(redis_url, database_url) as client:
        yield client


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def stream(redis_url: str) -> AsyncIterator[Callable[[], Awaitable[list[dict[bytes, bytes]]]]]:
    """What stands on the stream of jobs."""
    broker = redis.asyncio.Redis.from_url(redis_url)

    async def read() -> list[dict[bytes, bytes]]:
        return [dict(entry.fields) for entry in entries(await broker.xrange("batches"))]

    yield read
    await broker.aclose()


async def count_batches(connection: asyncpg.Connection) -> int:
    return await connection.fetchval("SELECT count(*) FROM streamworker.batches")


class TestSubmit:
    async def test_an_accepted_batch_is_in_postgres_and_on_the_stream(self, client, stream) -> None:
        batch_id = await client.submit(["a.jpg", {"payload": {"n": 1}, "key": "one"}, {"payload": None}], metadata={"by": "me"})
        batch = await client.status(batch_id)
        assert (batch.status, batch.total, batch.processed, batch.percent, batch.metadata) == ("pending", 3, 0, 0.0, {"by": "me"})
        assert [(i.position, i.key, i.payload) async for i in client.items(batch_id)] == [
            (0, "a.jpg", "a.jpg"),
            (1, "one", {"n": 1}),
            (2, "2", None),
        ]
        assert await stream() == [{b"batch_id": str(batch_id).encode()}]

    @pytest.mark.parametrize(
        "text",
        ["tab\tnewline\nreturn\r", "back\\slash \\N \\.", "\\.", "quote\"'", "ümläut 🎉 \u202e\x1b[31m", "", " ", "x" * 512, "%s $1 {}"],
    )
    async def test_any_text_arrives_as_it_was(self, client, text: str) -> None:
        batch_id = await client.submit([text, {"key": text, "payload": [text, {text: text}]}])
        first, second = [item async for item in client.items(batch_id)]
        assert (first.key, first.payload, second.key, second.payload) == (text, text, text, [text, {text: text}])

    async def test_numbers_arrive_as_they_were(self, client, connection) -> None:
        numbers = [0, -1, 2**63, 10**300, 0.1, 1.5e-300, 2**53 + 1]
        batch_id = await client.submit([{"payload": numbers}])
        assert [item.payload async for item in client.items(batch_id)] == [numbers]
        await connection.execute("UPDATE streamworker.items SET payload = ('[1e400, ' || repeat('9', 5000) || ']')::jsonb")
        assert [item.payload async for item in client.items(batch_id)] == [[Decimal("1e400"), Decimal("9" * 5000)]]

    async def test_an_async_iterable_is_read_to_its_end(self, client) -> None:
        async def items() -> AsyncIterator[Any]:
            for number in range(5000):
                yield {"payload": number}

        batch_id = await client.submit(items())
        assert (await client.status(batch_id)).total == 5000
        assert [item.payload async for item in client.items(batch_id)] == list(range(5000))

    async def test_options_stand_on_the_row(self, client) -> None:
        batch_id = uuid4()
        assert await client.submit(["a"], batch_id=str(batch_id), processor="documents", max_attempts=5, max_failures=0) == batch_id
        batch = await client.status(batch_id)
        assert (batch.processor, batch.max_attempts, batch.max_failures) == ("documents", 5, 0)

    async def test_the_first_of_two_submissions_wins(self, client) -> None:
        batch_id = await client.submit(["first"])
        assert await client.submit(["second", "third"], batch_id=batch_id) == batch_id
        assert [item.key async for item in client.items(batch_id)] == ["first"]

    async def test_the_same_batch_submitted_by_many_at_once_is_there_once(self, client) -> None:
        batch_id = uuid4()
        await asyncio.gather(*(client.submit([str(n)] * 10, batch_id=batch_id) for n in range(10)))
        assert len({item.key async for item in client.items(batch_id)}) == 1
        assert (await client.status(batch_id)).total == 10

    @pytest.mark.parametrize(
        ("items", "expected"),
        [
            ([], "items: expected at least one element, got none"),
            ("a.jpg", "items: expected a list or another iterable of items, got a string"),
            ({"payload": 1}, "items: expected a list or another iterable of items, got an object"),
            (None, "items: expected a list or another iterable of items, got null"),
            (["a", 1], "items[1]: expected a string or an object with payload, got a number"),
            (["a", None], "items[1]: expected a string or an object with payload, got null"),
            (["a", ["b"]], "items[1]: expected a string or an object with payload, got an array"),
            ([{}], "items[0]: expected an object with payload, which is missing"),
            ([{"key": "a"}], "items[0]: expected an object with payload, which is missing"),
            ([{"payload": 1, "x": 2}], "items[0]: expected only payload and key, got also x"),
            ([{"payload": 1, "key": 2}], "items[0]: key: expected a string, got a number"),
            ([{"payload": 1, "key": "k" * 513}], "items[0]: key: expected at most 512 characters, got 513"),
            (["k" * 513], "items[0]: expected at most 512 characters, got 513"),
            (["a\0"], "items[0]: expected text that Postgres can store, got NUL or half a surrogate pair"),
            (["\ud800"], "items[0]: expected text that Postgres can store, got NUL or half a surrogate pair"),
            ([{"payload": float("nan")}], "items[0]: payload: "),
            ([{"payload": {"x": "\0"}}], "items[0]: payload: "),
            ([{"payload": {1, 2}}], "items[0]: payload: "),
            ([{"payload": b"x"}], "items[0]: payload: "),
        ],
    )
    async def test_a_bad_item_is_named_and_nothing_is_submitted(self, client, connection, stream, items: Any, expected: str) -> None:
        with pytest.raises(InvalidSubmission) as refusal:
            await client.submit(items)
        assert str(refusal.value).startswith(expected)
        assert await count_batches(connection) == 0
        assert await stream() == []

    async def test_a_bad_item_far_behind_leaves_nothing(self, client, connection) -> None:
        with pytest.raises(InvalidSubmission, match=r"items\[9000\]: expected a string or an object"):
            await client.submit([*map(str, range(9000)), 5])
        assert await count_batches(connection) == 0

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"batch_id": "nonsense"}, "batch_id: expected a UUID, got 'nonsense'"),
            ({"processor": ""}, "processor: expected a name, got an empty string"),
            ({"processor": "p" * 513}, "processor: expected at most 512 characters, got 513"),
            ({"processor": 5}, "processor: expected a name, got a number"),
            ({"metadata": ["a"]}, "metadata: expected a JSON object, got an array"),
            ({"metadata": {"a": float("inf")}}, "metadata: "),
            ({"max_attempts": 0}, "max_attempts: expected a whole number from 1, got 0"),
            ({"max_attempts": True}, "max_attempts: expected a whole number from 1, got True"),
            ({"max_attempts": 2**31}, "max_attempts: expected a whole number from 1, got 2147483648"),
            ({"max_failures": -1}, "max_failures: expected a whole number from 0 or None, got -1"),
            ({"connection": object()}, "connection: expected an asyncpg connection, got a object"),
        ],
    )
    async def test_a_bad_option_is_named(self, client, connection, options: dict[str, Any], expected: str) -> None:
        with pytest.raises(InvalidSubmission) as refusal:
            await client.submit(["a"], **options)
        assert str(refusal.value).startswith(expected)
        assert await count_batches(connection) == 0

    async def test_an_error_of_the_iterable_leaves_nothing(self, client, connection) -> None:
        def items() -> Any:
            yield from map(str, range(5000))
            raise RuntimeError("the source broke")

        with pytest.raises(RuntimeError, match="the source broke"):
            await client.submit(items())
        assert await count_batches(connection) == 0

    async def test_without_redis_a_batch_is_accepted_and_workers_are_woken(self, own_redis: RedisServer, database_url, connection) -> None:
        heard: asyncio.Queue[str] = asyncio.Queue()
        await connection.add_listener("streamworker", lambda *message: heard.put_nowait(message[-1]))
        async with Client.connect(own_redis.url, database_url) as client:
            own_redis.kill()
            batch_id = await client.submit(["a"])
            assert await asyncio.wait_for(heard.get(), 20) == "submit"
            assert (await client.status(batch_id)).total == 1

    @pytest.mark.parametrize("outcome", ["lose_reply", "cut_before"])
    async def test_the_outcome_of_a_broken_commit_is_read_back(self, redis_url, database_url, tmp_short: Path, connection, outcome) -> None:
        socket = database_url.rpartition("host=")[2]
        proxy = Proxy("postgres", f"{socket}/.s.PGSQL.5432")
        await proxy.open("client", tmp_short / ".s.PGSQL.5432")
        try:
            async with Client.connect(redis_url, database_url.replace(socket, str(tmp_short))) as client:
                batch_id = uuid4()
                trap = getattr(proxy, outcome)("^COMMIT")
                if outcome == "lose_reply":
                    assert await client.submit(["a"], batch_id=batch_id) == batch_id
                else:
                    with pytest.raises(ConnectionError, match=f"batch {batch_id} was not submitted"):
                        await client.submit(["a"], batch_id=batch_id)
                assert trap.fired.is_set()
                assert await count_batches(connection) == (outcome == "lose_reply")
        finally:
            await proxy.stop()

    def test_the_memory_does_not_grow_with_the_batch(self, redis_url: str, database_url: str) -> None:
        few, many = (peak_memory(redis_url, database_url, count) for count in (1_000, 200_000))
        assert many - few < 20 * 1024


def peak_memory(redis_url: str, database_url: str, count: int) -> int:
    """The largest memory (KiB) of a process that submits `count` items."""
    program = f"""
import asyncio, resource
from streamworker.client import Client

async def main():
    async with Client.connect({redis_url!r}, {database_url!r}) as client:
        batch_id = await client.submit({{"payload": {{"n": n}}, "key": f"item {{n}}"}} for n in range({count}))
        assert (await client.status(batch_id)).total == {count}
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

asyncio.run(main())
"""
    return int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100).stdout)


class TestSubmitInATransaction:
    async def test_it_is_there_when_the_transaction_is_committed_and_not_before(self, client, connection) -> None:
        async with connection.transaction():
            batch_id = await client.submit(["a"], connection=connection)
            with pytest.raises(BatchNotFound):
                await client.status(batch_id)
        assert (await client.status(batch_id)).total == 1

    async def test_it_is_gone_when_the_transaction_is_rolled_back(self, client, connection, stream) -> None:
        transaction = connection.transaction()
        await transaction.start()
        await client.submit(["a"], connection=connection)
        await transaction.rollback()
        assert await count_batches(connection) == 0
        assert await stream() == []

    async def test_workers_are_woken_by_the_commit(self, client, connection, database_url) -> None:
        heard: asyncio.Queue[str] = asyncio.Queue()
        listener = await asyncpg.connect(database_url)
        await listener.add_listener("streamworker", lambda *message: heard.put_nowait(message[-1]))
        async with connection.transaction():
            await client.submit(["a"], connection=connection)
            assert heard.empty()
        assert await asyncio.wait_for(heard.get(), 20) == "submit"
        await listener.close()

    async def test_a_refused_batch_leaves_nothing_in_the_transaction_and_does_not_break_it(self, client, connection) -> None:
        async with connection.transaction():
            with pytest.raises(InvalidSubmission, match=r"items\[3000\]"):
                await client.submit([*map(str, range(3000)), 5], connection=connection)
            batch_id = await client.submit(["good"], connection=connection)
        assert await count_batches(connection) == 1
        assert (await client.status(batch_id)).total == 1

    async def test_a_connection_with_codecs_of_its_own_will_do(self, client, connection) -> None:
        for name in ("json", "jsonb"):
            await connection.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        async with connection.transaction():
            batch_id = await client.submit([{"payload": {"a": [1, "two"]}}], metadata={"b": 1}, connection=connection)
        assert (await client.status(batch_id)).metadata == {"b": 1}
        assert [item.payload async for item in client.items(batch_id)] == [{"a": [1, "two"]}]


class TestReading:
    async def test_the_newest_batches_come_first(self, client) -> None:
        ids = [await client.submit([str(n)]) for n in range(4)]
        await client.cancel(ids[1])
        assert [batch.id for batch in await client.list()] == ids[::-1]
        assert [batch.id for batch in await client.list(limit=2)] == ids[:1:-1]
        assert [batch.id for batch in await client.list(status="cancelled")] == [ids[1]]

    async def test_items_of_one_status(self, client, connection) -> None:
        batch_id = await client.submit(map(str, range(3000)))
        await connection.execute(
            "UPDATE streamworker.items SET status = 'failed', error = 'no', finished_at = now() WHERE position % 1000 = 7"
        )
        assert [(item.position, item.error) async for item in client.items(batch_id, "failed")] == [(7, "no"), (1007, "no"), (2007, "no")]

    async def test_large_items_come_in_smaller_pages(self, client) -> None:
        batch_id = await client.submit({"payload": "x" * 300_000} for _ in range(150))
        assert [len(item.payload) async for item in client.items(batch_id)] == [300_000] * 150

    @pytest.mark.parametrize("ask", [Client.status, Client.cancel, Client.retry_failed])
    async def test_an_unknown_batch_is_not_found(self, client, ask) -> None:
        with pytest.raises(BatchNotFound, match=f"batch {UNKNOWN}: there is no batch with this id"):
            await ask(client, UNKNOWN)

    @pytest.mark.parametrize("ask", [Client.items, Client.watch])
    async def test_an_unknown_batch_has_no_items_and_no_events(self, client, ask) -> None:
        with pytest.raises(BatchNotFound, match=f"batch {UNKNOWN}"):
            await anext(ask(client, UNKNOWN))

    @pytest.mark.parametrize(
        ("ask", "expected"),
        [
            (lambda client: client.status("x"), "batch_id: expected a UUID, got 'x'"),
            (lambda client: client.status(None), "batch_id: expected a UUID, got None"),
            (lambda client: client.list(status="done"), "status: expected one of pending, .*, got 'done'"),
            (lambda client: client.list(limit=0), "limit: expected a whole number from 1, got 0"),
        ],
    )
    async def test_a_question_that_makes_no_sense_is_refused(self, client, ask, expected: str) -> None:
        with pytest.raises(ValueError, match=expected):
            await ask(client)


class TestCancelAndRetry:
    async def test_a_batch_is_cancelled_once(self, client) -> None:
        batch_id = await client.submit(["a", "b"])
        assert await client.cancel(batch_id) is True
        assert await client.cancel(batch_id) is False
        assert (await client.status(batch_id)).status == "cancelled"
        assert {item.status async for item in client.items(batch_id)} == {"cancelled"}

    async def test_what_was_cancelled_can_be_retried(self, client) -> None:
        batch_id = await client.submit(["a", "b"])
        assert await client.retry_failed(batch_id) == 0
        await client.cancel(batch_id)
        assert await client.retry_failed(str(batch_id)) == 2
        assert (await client.status(batch_id)).status == "pending"

    async def test_one_item_can_be_retried(self, client) -> None:
        batch_id = await client.submit(["a", "b"])
        await client.cancel(batch_id)
        assert await client.retry_failed(batch_id, 1) == 1
        assert [item.status async for item in client.items(batch_id)] == ["cancelled", "pending"]
        with pytest.raises(ValueError, match="position: expected a whole number from 0, got -1"):
            await client.retry_failed(batch_id, -1)


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'in no hurry' AND wait_event_type = 'Lock'"


@pytest.mark.parametrize("action", ["cancel", "retry"])
async def test_what_changes_a_large_batch_takes_its_time(client, connection, database_url: str, action: str) -> None:
    batch_id = await client.submit(["a", "b"])
    if action == "retry":
        await client.cancel(batch_id)
    pool = await open_pool(database_url, size=1, application_name="in no hurry", statement_timeout=0.2, lock_timeout=60)
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM streamworker.items WHERE batch_id = $1 FOR UPDATE", batch_id)
            acting = asyncio.create_task(getattr(catalog, action)(pool, batch_id))
            await connection.execute("SELECT pg_sleep(0.5)")  # longer than any other statement of that pool may take
            while not await client._pool.fetchval(WAITING):
                assert not acting.done(), acting
        assert await acting == (True if action == "cancel" else 2)
    finally:
        await pool.close()


class TestConnect:
    async def test_postgres_alone_is_enough(self, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("REDIS_URL", raising=False)
        async with Client.connect(database_url=database_url) as client:
            batch_id = await client.submit(["a"])
            assert (await client.status(batch_id)).total == 1

    async def test_the_environment_names_the_servers(self, redis_url, database_url, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REDIS_URL", redis_url)
        monkeypatch.setenv("DATABASE_URL", database_url)
        async with Client.connect() as client:
            assert await client.list() == []

    async def test_with_neither_url_the_servers_are_embedded(self, tmp_short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("REDIS_URL", "DATABASE_URL"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("STREAMWORKER_HOME", str(tmp_short / "home"))
        async with Client.connect() as client:
            batch_id = await client.submit(["a"])
        async with Client.connect() as client:
            assert (await client.status(batch_id)).total == 1

    async def test_redis_alone_is_not(self, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DATABASE_URL", raising=False)
        with pytest.raises(ConfigurationError, match="database_url: not given"):
            async with Client.connect(redis_url):
                pass

    async def test_a_database_without_the_schema_is_named(self, empty_database_url: str) -> None:
        with pytest.raises(SchemaError, match="streamworker migrate"):
            async with Client.connect(database_url=empty_database_url):
                pass

    async def test_a_server_that_is_not_there_is_named_without_its_password(self) -> None:
        with pytest.raises(ConnectionError, match="nothing listens") as refusal:
            async with Client.connect("redis://127.0.0.1:1", "postgresql://me:canary@127.0.0.1:1/x"):
                pass
        assert "canary" not in str(refusal.value)

    async def test_a_database_that_does_not_exist_is_named(self, postgres: PostgresServer) -> None:
        with pytest.raises(ConnectionError, match="nowhere"):
            async with Client.connect(database_url=postgres.database("nowhere")):
                pass
