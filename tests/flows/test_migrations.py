"""Migrations: safe when many start at once, and refused in one sentence when database and code do not fit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from streamworker.errors import SchemaError
from streamworker.store.migrate import check_schema, migrate, migrations
from tests.flows.scene import Scene
from tests.servers import RedisServer, run_sql

NAMES = [name for _, name, _ in migrations()]
APPLIED = "SELECT name FROM streamworker.migrations ORDER BY version"
FUTURE = "INSERT INTO streamworker.migrations (version, name, checksum) VALUES (9999, '9999_future.sql', 'x')"
CHANGED = f"UPDATE streamworker.migrations SET checksum = 'another' WHERE name = '{NAMES[0]}'"
Act = Callable[[asyncpg.Connection], Awaitable[Any]]


@pytest.fixture
def empty(redis_server: RedisServer, empty_database_url: str, tmp_path: Path) -> Iterator[Scene]:
    """Servers without the schema."""
    with Scene(redis_server.url, empty_database_url, tmp_path) as scene:
        yield scene


async def on(url: str, act: Act) -> Any:
    """Do it on a connection of its own."""
    connection = await asyncpg.connect(url, timeout=30)
    try:
        return await act(connection)
    finally:
        await connection.close()


def refusal(scene: Scene, **settings: str) -> str:
    """Start a worker that must not start; returns its only sentence."""
    worker = scene.begin_worker(**settings)
    assert worker.wait_ended() == 2, worker.tail()
    (line,) = worker.text().splitlines()
    return line


async def test_twenty_at_once_migrate_once(empty_database_url: str) -> None:
    applied = await asyncio.gather(*(on(empty_database_url, migrate) for _ in range(20)))
    assert sorted(applied, key=len) == [[]] * 19 + [NAMES]
    await on(empty_database_url, check_schema)
    assert await on(empty_database_url, migrate) == []


async def test_one_that_takes_long_is_not_broken_off(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = [*migrations(), (9999, "9999_slow.sql", "SELECT pg_sleep(2)")]
    monkeypatch.setattr("streamworker.store.migrate.migrations", lambda: slow)

    async def migrate_hastily() -> list[str]:
        connection = await asyncpg.connect(empty_database_url, timeout=30, command_timeout=1)
        try:
            return await migrate(connection)
        finally:
            await connection.close(timeout=30)

    applied = await asyncio.gather(migrate_hastily(), migrate_hastily())  # the second waits as long for the lock
    assert sorted(applied, key=len) == [[], [*NAMES, "9999_slow.sql"]]


def test_workers_that_start_at_once_on_an_empty_database_share_the_work(empty: Scene) -> None:
    workers = [empty.begin_worker(migrate="1") for _ in range(4)]
    for worker in workers:
        worker.wait_started()
    assert empty.database.column(APPLIED) == NAMES
    batches = [empty.job(["a", "b"]) for _ in range(8)]
    for batch_id in batches:
        empty.wait_end(batch_id)
        empty.wait_announced(batch_id)
    assert [worker.errors() for worker in workers] == [[]] * 4
    empty.finish()


def test_without_migrate_an_empty_database_is_refused(empty: Scene) -> None:
    assert refusal(empty, migrate="0") == (
        "streamworker: the database has no schema `streamworker` yet: run `python -m streamworker migrate`"
    )
    assert empty.database.value("SELECT to_regnamespace('streamworker')") is None


async def test_what_is_missing_is_added(database_url: str) -> None:
    functions = ("submit", "cancel", "retry(uuid)")
    undo = (f"DELETE FROM streamworker.migrations WHERE name = '{NAMES[1]}'", *(f"DROP FUNCTION streamworker.{name}" for name in functions))
    run_sql(database_url, *undo)
    with pytest.raises(SchemaError, match=f"the database lacks migration {NAMES[1]}: run `python -m streamworker migrate`"):
        await on(database_url, check_schema)
    assert await on(database_url, migrate) == NAMES[1:2]
    await on(database_url, check_schema)


@pytest.mark.parametrize("act", [migrate, check_schema])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (FUTURE, f"the database is newer than this program: it has migration 9999_future.sql, known is {NAMES[-1]}"),
        (CHANGED, f"migration {NAMES[0]} was applied with another content than this program brings"),
    ],
    ids=["newer", "changed"],
)
async def test_another_schema_is_refused(database_url: str, change: str, words: str, act: Act) -> None:
    run_sql(database_url, change)
    with pytest.raises(SchemaError) as refused:
        await on(database_url, act)
    assert str(refused.value) == words


def test_a_worker_refuses_a_schema_that_was_changed(scene: Scene) -> None:
    scene.database.rows(CHANGED)
    assert refusal(scene, migrate="1") == f"streamworker: migration {NAMES[0]} was applied with another content than this program brings"


async def test_what_fails_half_way_leaves_nothing(empty_database_url: str) -> None:
    run_sql(empty_database_url, "CREATE SCHEMA streamworker", "CREATE TABLE streamworker.items (mine int)")
    with pytest.raises(asyncpg.DuplicateTableError):
        await on(empty_database_url, migrate)

    async def tables(connection: asyncpg.Connection) -> list[str]:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'streamworker'")
        return [row["tablename"] for row in rows]

    assert await on(empty_database_url, tables) == ["items"]
    run_sql(empty_database_url, "DROP TABLE streamworker.items")
    assert await on(empty_database_url, migrate) == NAMES


def test_a_worker_waits_for_a_migration_that_runs(empty: Scene) -> None:
    there = empty.background.run
    other = there(asyncpg.connect(empty.database_url, timeout=10))
    transaction = other.transaction()
    there(transaction.start())
    there(migrate(other))  # inside this transaction, which holds the lock
    worker = empty.begin_worker(migrate="1")
    waiting = "SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database WHERE d.datname = current_database() AND NOT l.granted"
    empty.wait(lambda: empty.database.rows(waiting), 20, "the worker to wait for the lock")
    there(transaction.commit())
    there(other.close())
    worker.wait_started()
    empty.wait_end(empty.job(["a"]))
    empty.finish()
