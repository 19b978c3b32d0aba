"""Statements that are planned once: made when little is open, such a plan must not cost more when much is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from streamworker.messages import Job
from streamworker.store import bursts, items
from streamworker.store.batches import BatchState, Claim, Connection
from streamworker.store.bursts import Wanted
from streamworker.store.items import Fence, ItemRecord
from streamworker.store.pool import open_pool
from streamworker.store.reconciling import mark_announced

CLAIM = Claim("worker-1", 1, None, 15.0, 1e6)
TOGETHER = 8
MUCH = 3_000
ROWS = """INSERT INTO streamworker.batches (id, total, status, succeeded, processed, announced_at, finished_at)
          SELECT id, 1, $2, $3, $3, $4, clock_timestamp() FROM unnest($1::uuid[]) AS id"""
ITEMS = "INSERT INTO streamworker.items (batch_id, position, key, payload) SELECT id, 0, 'x', '1' FROM unnest($1::uuid[]) AS id"
READ = """SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE schemaname = 'streamworker' AND relname = 'batches'"""


class Ledger:
    """How many rows of the batches each step has read."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.read: dict[str, int] = {}

    @asynccontextmanager
    async def step(self, name: str) -> AsyncIterator[None]:
        """A transaction of its own: what is read in it is counted."""
        async with self._connection.transaction():
            before = await self._connection.fetchval(READ)
            yield
            self.read[name] = await self._connection.fetchval(READ) - before


async def pending(connection: Connection, count: int) -> list[UUID]:
    """So many batches that are in Postgres, and nobody has worked on."""
    ids = [uuid4() for _ in range(count)]
    await connection.execute(ROWS.replace("clock_timestamp()", "NULL"), ids, "pending", 0, None)
    await connection.execute(ITEMS, ids)
    return ids


async def work(connection: Connection, ids: list[UUID]) -> dict[str, int]:
    """Claim, record and tell them, as a burst does; give up one, and record one by itself. Returns what each step has read."""
    ledger = Ledger(connection)
    async with ledger.step("claim"):
        claimed = await bursts.claim(connection, [Wanted(Job(id), "1-1", 2) for id in ids], CLAIM, 100, 65_536)
    assert len(claimed) == len(ids)
    *most, released, alone = [grant.state for grant, _ in claimed.values()]
    async with ledger.step("release"):
        await bursts.release(connection, [released], CLAIM.worker)
    async with ledger.step("single out"):
        await bursts.single_out(connection, alone, 1)
    async with ledger.step("record"):
        await items.record(connection, _fence(alone), [_done()], {}, 1, 15.0, CLAIM.worker, False)
    async with ledger.step("record together"):
        ended = await bursts.record(connection, most, [(state.id, _done()) for state in most], 15.0)
    assert [state.status for state in ended.values()] == ["completed"] * len(most)
    async with ledger.step("tell"):
        await mark_announced(connection, list(ended.values()))
    return ledger.read


def _fence(state: BatchState) -> Fence:
    return Fence(state.id, state.epoch, state.revision)


def _done() -> ItemRecord:
    return ItemRecord(0, "x", "completed", 1, result="1", seconds=0.0)


async def test_what_is_open_beside_it_costs_a_burst_nothing(database_url: str) -> None:
    pool = await open_pool(database_url, size=1, application_name="test", plan_once=True)
    try:
        async with pool.acquire() as connection:
            await connection.execute("ALTER TABLE streamworker.batches SET (autovacuum_enabled = false)")
            ended = [uuid4() for _ in range(MUCH)]
            await connection.execute(ROWS, ended, "completed", 1, datetime.now(UTC))
            await connection.execute("ANALYZE streamworker.batches, streamworker.items")
            before = await work(connection, await pending(connection, TOGETHER))
            await pending(connection, MUCH)
            told_later = [uuid4() for _ in range(MUCH)]
            await connection.execute(ROWS, told_later, "completed", 1, None)
            after = await work(connection, await pending(connection, TOGETHER))
    finally:
        await pool.close()
    assert max(before.values()) <= 20 * TOGETHER, "counted"
    assert after == pytest.approx(before, rel=1.0)
