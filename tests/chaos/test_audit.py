"""The audit triggers on the real schema: what submit, cancel, retry and plain SQL leave, told with commits and in order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeAlias
from uuid import uuid4

import asyncpg
import pytest

from tests.chaos import audit
from tests.chaos.checker import CHECKS
from tests.chaos.history import Change, History, Operation
from tests.servers import PostgresServer, run_sql

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture(scope="module")
def with_commit_times(postgres: PostgresServer) -> None:
    """The session's server keeps commit times from here on."""
    run_sql(postgres.url, "ALTER SYSTEM SET track_commit_timestamp = on")
    postgres.stop()
    postgres.start()


@pytest.fixture
async def connection(with_commit_times: None, database_url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(database_url)
    await audit.install(connection)
    yield connection
    await connection.close()


async def history(connection: Connection, *operations: Operation) -> History:
    rows = await audit.read_changes(connection)
    changes = [
        Change(
            row["seq"], row["committed"], row["committed"], row["txid"], "client",
            row["source"], row["batch"], row["position"], row["old"], row["new"],
        )
        for row in rows
    ]  # fmt: skip
    return History(changes=changes, operations=list(operations))


async def submit(connection: Connection, items: str = '["a", "b", "c"]') -> str:
    return str(await connection.fetchval("SELECT streamworker.submit($1)", items))


async def finish(connection: Connection, batch: str, *, failed: int | None = None) -> None:
    """What a worker does, in one transaction."""
    async with connection.transaction():
        await connection.execute(
            """UPDATE streamworker.batches SET status = 'completed', finished_at = now(), revision = revision + 1,
               succeeded = total - $2, failed = $2, processed = total WHERE id = $1""",
            batch, int(failed is not None),
        )  # fmt: skip
        await connection.execute(
            """UPDATE streamworker.items SET finished_at = now(), attempts = 1,
               status = CASE WHEN position = $2 THEN 'failed' ELSE 'completed' END WHERE batch_id = $1 AND finished_at IS NULL""",
            batch, failed,
        )  # fmt: skip


async def violations(told: History, *names: str) -> list[str]:
    return [sentence for name in names for sentence in CHECKS[name](told)]


async def test_a_submission_is_told_with_its_items(connection: Connection) -> None:
    batch = await submit(connection)
    told = await history(connection)
    assert [(change.source, change.position) for change in told.changes] == [("batches", None), ("items", 0), ("items", 1), ("items", 2)]
    assert {change.batch for change in told.changes} == {batch}
    assert len(told.commits[batch]) == 1
    assert not await violations(told, "C4")


async def test_commits_have_their_times_in_their_order(connection: Connection) -> None:
    batch = await submit(connection)
    await finish(connection, batch)
    committed, ended = (commit.committed for commit in (await history(connection)).commits[batch])
    changed = [row["at"] for row in await audit.read_changes(connection)]
    assert changed[0] < committed < changed[-1] < ended


async def test_what_was_rolled_back_is_not_told(connection: Connection) -> None:
    transaction = connection.transaction()
    await transaction.start()
    await submit(connection)
    await transaction.rollback()
    assert not (await history(connection)).changes


async def test_cancel_and_retry_pass_the_checks(connection: Connection) -> None:
    cancelled, failed = await submit(connection), await submit(connection)
    await connection.fetchval("SELECT streamworker.cancel($1)", cancelled)
    await finish(connection, failed, failed=1)
    for batch in (cancelled, failed):
        assert await connection.fetchval("SELECT streamworker.retry($1)", batch) > 0
        await finish(connection, batch)
    retries = [Operation("retry", batch, 0.0, 1.0, "ok") for batch in (cancelled, failed)]
    told = await history(connection, *retries)
    assert [len(told.reopened[batch]) for batch in (cancelled, failed)] == [1, 1]
    assert not await violations(told, "C1", "C2", "C3", "C4", "C16")


async def test_tampering_with_an_ended_batch_is_refused_and_not_told(connection: Connection) -> None:
    batch = await submit(connection)
    await finish(connection, batch)
    before = len((await history(connection)).changes)
    for tampering in ("UPDATE streamworker.batches SET error = 'x'", "UPDATE streamworker.items SET result = '1'"):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await connection.execute(tampering)
    assert len((await history(connection)).changes) == before


async def test_a_counter_changed_by_hand_is_caught(connection: Connection) -> None:
    batch = await submit(connection)
    await connection.execute("UPDATE streamworker.batches SET succeeded = 1, processed = 1, revision = revision + 1 WHERE id = $1", batch)
    assert await violations(await history(connection), "C4")


async def test_installing_twice_tells_everything_once(connection: Connection) -> None:
    await audit.install(connection)
    await submit(connection, '["a"]')
    assert len((await history(connection)).changes) == 2


async def test_effects_are_counted(connection: Connection) -> None:
    batch = str(uuid4())
    for position in (0, 0, 1):
        await connection.execute('INSERT INTO public.effects (batch, "position") VALUES ($1, $2)', batch, position)
    assert await audit.read_effects(connection) == {(batch, 0): 2, (batch, 1): 1}
