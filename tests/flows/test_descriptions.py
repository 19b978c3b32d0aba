"""The table of descriptions: made once by whoever comes first, one row an item, searched by meaning; and the commands for it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from streamworker import Permanent, Unavailable
from streamworker.cli import main
from streamworker.errors import ConfigurationError
from streamworker.processors.ollama.descriptions import prepare, search, write_description
from tests.model_server import BUSY, ModelServer, model_server, vector_of
from tests.servers import RedisServer, run_async, run_sql

BATCH = uuid4()
Connection = Any


def row(position: int, text: str = "a red circle", batch: UUID = BATCH, model: str = "nomic-embed-text", size: int = 64) -> dict[str, Any]:
    return {
        "batch_id": str(batch), "position": position, "key": f"key {position}", "path": f"{position}.png", "description": text, "score": 90,
        "model": "qwen2.5vl", "embed_model": model, "embedding": vector_of(text, size),
    }  # fmt: skip


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    connected = await asyncpg.connect(database_url)
    yield connected
    await connected.close()


async def write(connection: Connection, *rows: dict[str, Any]) -> None:
    async with connection.transaction():
        for one in rows:
            await write_description(connection, one)


async def test_the_first_write_makes_the_table_and_its_index(connection: Connection) -> None:
    await write(connection, row(0), row(1))
    assert await connection.fetchval("SELECT count(*) FROM streamworker.descriptions") == 2
    definition = await connection.fetchval("SELECT indexdef FROM pg_indexes WHERE indexname = 'descriptions_embedding'")
    assert "USING hnsw (embedding" in definition
    assert "vector_cosine_ops" in definition


async def test_the_same_item_once_more_is_the_same_row(connection: Connection) -> None:
    await write(connection, row(0, "a red circle"))
    await write(connection, row(0, "a blue circle"), row(0, "a green circle"), row(0, "a grey one", batch=uuid4()))
    found = await connection.fetch("SELECT description FROM streamworker.descriptions ORDER BY description")
    assert [one["description"] for one in found] == ["a green circle", "a grey one"]


async def test_a_write_that_is_taken_back_takes_the_table_with_it(connection: Connection) -> None:
    taken_back = connection.transaction()
    await taken_back.start()
    await write_description(connection, row(0))
    await taken_back.rollback()
    assert await connection.fetchval("SELECT to_regclass('streamworker.descriptions')") is None


async def test_two_workers_that_come_first_make_one_table(connection: Connection, database_url: str) -> None:
    other = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await write_description(connection, row(0))
            second = asyncio.create_task(write(other, row(1)))
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while not await connection.fetchval(waiting):
                assert not second.done()
        await second
    finally:
        await other.close()
    assert await connection.fetchval("SELECT count(*) FROM streamworker.descriptions") == 2


async def test_vectors_of_another_length_are_refused_in_one_sentence(connection: Connection) -> None:
    await write(connection, row(0))
    told = "gives vectors of 32 numbers, streamworker.descriptions holds vectors of 64: take the model that it was made with"
    with pytest.raises(Permanent, match=told):
        await write(connection, row(1, size=32))
    with pytest.raises(ConfigurationError, match=told):
        await search(connection, vector_of("red", 32), "nomic-embed-text", 5)


@pytest.mark.parametrize(
    ("hindrance", "told"),
    [
        (
            "CREATE ROLE plain; GRANT USAGE ON SCHEMA streamworker TO plain; SET ROLE plain",
            "streamworker.descriptions cannot be made: permission denied to create extension",
        ),
        (
            "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE 'extension \"vector\" is not available' USING ERRCODE = '0A000'; END $$; "
            "CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN tag IN ('CREATE EXTENSION') EXECUTE FUNCTION refuse()",
            "this Postgres has no extension `vector` .pgvector.: extension \"vector\" is not available",
        ),
    ],
)  # fmt: skip
async def test_where_the_table_cannot_be_made_the_item_waits(connection: Connection, hindrance: str, told: str) -> None:
    await connection.execute(hindrance)
    try:
        with pytest.raises(Unavailable, match=told) as raised:
            await write(connection, row(0))
        assert "run `python -m streamworker migrate --with ollama` as a role that may" in str(raised.value)
    finally:
        await connection.execute("RESET ROLE; DROP OWNED BY plain; DROP ROLE plain" if "ROLE" in hindrance else "SELECT")


async def test_a_worker_without_rights_writes_where_the_table_is_made_already(connection: Connection) -> None:
    async with connection.transaction():
        assert await prepare(connection, 64)
        assert not await prepare(connection, 64)
    await connection.execute("CREATE ROLE plain; GRANT USAGE ON SCHEMA streamworker TO plain")
    await connection.execute("GRANT SELECT, INSERT, UPDATE ON streamworker.descriptions TO plain; SET ROLE plain")
    try:
        await write(connection, row(0), row(0))
    finally:
        await connection.execute("RESET ROLE; DROP OWNED BY plain; DROP ROLE plain")


async def test_the_extension_may_be_in_a_schema_of_its_own(connection: Connection) -> None:
    await connection.execute('CREATE SCHEMA "my extensions"; CREATE EXTENSION vector SCHEMA "my extensions"')
    await write(connection, row(0))
    assert len(await search(connection, vector_of("red", 64), "nomic-embed-text", 5)) == 1


async def test_the_nearest_come_first_and_only_those_of_the_same_model(connection: Connection) -> None:
    texts = ["a green circle", "a red circle", "a big red square", "something else entirely"]
    await write(connection, *(row(number, text) for number, text in enumerate(texts)))
    await write(connection, *(row(number, "a red circle", model="another") for number in range(10, 60)))
    found = await search(connection, vector_of("a red circle", 64), "nomic-embed-text", 3)
    assert [one["position"] for one in found] == [1, 0, 2]
    assert found[0]["distance"] == pytest.approx(0, abs=1e-6)
    assert await search(connection, vector_of("a red circle", 64), "a third", 3) == []


async def test_more_than_the_index_gives_by_itself_can_be_asked_for(connection: Connection) -> None:
    await write(connection, *(row(number, f"circle number {number}") for number in range(150)))
    await connection.execute("SET enable_seqscan = off")
    assert len(await search(connection, vector_of("circle", 64), "nomic-embed-text", 120)) == 120


async def test_vectors_too_long_for_an_index_are_searched_without(connection: Connection) -> None:
    await write(connection, row(0, size=2001))
    assert await connection.fetchval("SELECT count(*) FROM pg_indexes WHERE indexname = 'descriptions_embedding'") == 0
    assert len(await search(connection, vector_of("a red circle", 2001), "nomic-embed-text", 5)) == 1


class TestCommands:
    @pytest.fixture
    def models(self) -> Iterator[ModelServer]:
        with model_server() as server:
            yield server

    @pytest.fixture
    def run(
        self, models: ModelServer, redis_server: RedisServer, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> Callable[..., Any]:
        for name in [name for name in os.environ if name.startswith("STREAMWORKER_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("REDIS_URL", redis_server.url)
        monkeypatch.setenv("DATABASE_URL", database_url)
        monkeypatch.setenv("STREAMWORKER_OLLAMA_HOST", models.url)

        def run(*words: str) -> tuple[int, str, str]:
            code = main(list(words))
            return code, *capsys.readouterr()

        return run

    @pytest.fixture
    def described(self, run: Callable[..., Any], database_url: str) -> None:
        async def fill() -> None:
            connection = await asyncpg.connect(database_url)
            texts = ["a green circle", "a red circle", "a blue \x1b[31m circle\nwith a long description" + " and more" * 30]
            await write(connection, *(row(number, text) for number, text in enumerate(texts)))
            await connection.close()

        run_async(fill())

    def test_search_prints_the_nearest_first(self, run: Callable[..., Any], described: None) -> None:
        code, out, err = run("search", "the red one", "--limit", "2")
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert lines[0].split() == ["MATCH", "SCORE", "KEY", "DESCRIPTION"]
        assert lines[1].split()[1:] == ["90", "key", "1", "a", "red", "circle"]
        assert len(lines) == 3

    def test_search_for_machines(self, run: Callable[..., Any], described: None) -> None:
        code, out, _ = run("search", "blue description", "--json")
        found = json.loads(out)
        assert (code, len(found), found[0]["position"], found[0]["batch_id"]) == (0, 3, 2, str(BATCH))
        keys = {"batch_id", "position", "key", "path", "description", "score", "model", "embed_model", "distance"}
        assert set(found[0]) == keys
        assert "\x1b" not in out

    def test_hostile_descriptions_do_not_control_a_terminal(self, run: Callable[..., Any], described: None) -> None:
        _, out, _ = run("search", "blue description")
        assert "\x1b" not in out
        assert len(out.splitlines()) == 4
        assert max(map(len, out.splitlines())) < 160

    def test_nothing_described_is_no_failure(self, run: Callable[..., Any]) -> None:
        code, out, err = run("search", "red", "--json")
        assert (code, out) == (0, "[]\n")
        assert "nothing has been described yet with the embedding model nomic-embed-text" in err

    @pytest.mark.parametrize(
        ("words", "code", "told"),
        [
            (("search", " "), 2, "expected a text to look for, got an empty one"),
            (("search", "x", "--limit", "0"), 2, "expected a whole number from 1 to 1,000, got '0'"),
            (("search", "x", "--limit", "1001"), 2, "expected a whole number from 1 to 1,000, got '1001'"),
            (("search",), 2, "the following arguments are required: TEXT"),
            (("migrate", "--with", "documents"), 2, "invalid choice: 'documents'"),
        ],
    )
    def test_a_mistake_is_one_sentence(self, run: Callable[..., Any], words: tuple[str, ...], code: int, told: str) -> None:
        got, out, err = run(*words)
        assert (got, out, err.count("\n")) == (code, "", 1)
        assert told in err

    def test_a_model_server_that_is_away_or_busy_is_one_sentence(self, run: Callable[..., Any], models: ModelServer) -> None:
        models.then("/api/embed", BUSY)
        assert run("search", "red")[::2] == (
            1,
            f"streamworker: the model server has no time: {models.url}/api/embed answered 503 (server busy, please try again.  "
            "maximum pending requests exceeded)\n",
        )
        models.close()
        code, _, err = run("search", "red")
        assert (code, err.count("\n")) == (1, 1)
        assert "the model server cannot be reached" in err

    def test_migrate_makes_the_table_beforehand(self, run: Callable[..., Any], database_url: str) -> None:
        code, out, _ = run("migrate", "--with", "ollama")
        assert (code, out) == (0, "applied the table streamworker.descriptions, for vectors of 64 numbers\n")
        assert run("migrate", "--with", "ollama")[1] == "the schema is up to date\n"
        run_sql(database_url, "SELECT batch_id, embedding FROM streamworker.descriptions")
