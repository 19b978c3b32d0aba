"""What one commit takes along, and what it costs Postgres whatever that believes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from streamworker.engine.attempts import Policy
from streamworker.engine.holds import HeldLease, Hold
from streamworker.engine.outages import Outages
from streamworker.engine.recorder import Recorder
from streamworker.observe.events import Events
from streamworker.store.items import ItemRecord
from streamworker.store.pool import Pool
from streamworker.store.sql import query
from tests.flows.test_fence import acquire, pool_of, submit

# Batches that have ended, and are all that Postgres has statistics of: of a batch that is new it expects a row or two.
ENDED = """
WITH made AS (INSERT INTO streamworker.batches (id, total) SELECT gen_random_uuid(), 5000 FROM generate_series(1, 20) RETURNING id)
INSERT INTO streamworker.items (batch_id, position, key, payload, status, finished_at)
SELECT id, n, n::text, '1', 'completed', now() FROM made, generate_series(0, 4999) AS n"""
NEW = """INSERT INTO streamworker.items (batch_id, position, key, payload)
         SELECT $1, n, n::text, '1' FROM generate_series(3, 99999) AS n"""


def compared(plan: dict[str, Any]) -> Iterator[int]:
    """How many pairs of rows each join has looked at in vain."""
    yield plan.get("Rows Removed by Join Filter", 0) * plan["Actual Loops"]
    for below in plan.get("Plans", []):
        yield from compared(below)


@pytest.mark.parametrize("size", [20, 500, 2000])
async def test_a_flush_costs_what_is_in_it_also_before_the_batch_is_analyzed(database_url: str, size: int) -> None:
    async with pool_of(database_url) as pool, pool.acquire() as connection:
        await connection.execute("ALTER TABLE streamworker.items SET (autovacuum_enabled = false)")
        await connection.execute(ENDED)
        await connection.execute("ANALYZE streamworker.items")
        batch_id = await submit(pool)
        await connection.execute(NEW, batch_id)
        grant = await acquire(pool, batch_id, 1)
        positions = list(range(1000, 1000 + size))
        fence = (batch_id, grant.state.epoch, grant.state.revision)
        written = (positions, None, None, None, None, None, [0.0] * size, positions[0], positions[-1])
        found = await connection.fetchval("EXPLAIN (ANALYZE, FORMAT JSON) " + query("record"), *fence, 99_999, True, 15.0, *written)
        assert await connection.fetchval("SELECT succeeded FROM streamworker.batches WHERE id = $1", batch_id) == size
    assert sum(compared(json.loads(found)[0]["Plan"])) <= size**2 / 10 + 400


@asynccontextmanager
async def writing(pool: Pool, recorded: Callable[[Sequence[ItemRecord]], None], events: Events | None = None) -> AsyncIterator[Recorder]:
    """A recorder of a batch of 100,000 items, not opened yet."""
    batch_id = await submit(pool)
    await pool.execute(NEW, batch_id)
    grant = await acquire(pool, batch_id, 1)
    hold = Hold("1-1", asyncio.get_running_loop())
    hold.begin(HeldLease(grant.state.id, grant.state.epoch), 1e12, 15.0, lambda reason: None)
    events = events or Events()
    yield Recorder(
        pool, pool, grant, hold, Policy(2, 0.0), 1, lambda: 0, 15.0, events, Outages(events), str,
        lambda state, rows: recorded(rows), lambda row: None,
    )  # fmt: skip


def completed(position: int) -> ItemRecord:
    return ItemRecord(position, "x", "completed", 1, result="1", seconds=0.0)


async def test_what_is_far_apart_is_written_apart_and_the_frontier_with_the_last(database_url: str) -> None:
    written: list[list[int]] = []
    frontiers: list[int] = []
    events = Events()
    async with pool_of(database_url) as pool, writing(pool, lambda rows: written.append([row.position for row in rows]), events) as writer:
        events.on_step(lambda step: frontiers.append(writer.frontier) if step.when == "after" else None)
        near, far = list(range(9000, 9100)), list(range(100))
        for pair in zip(near, far, strict=True):  # new items, and retries from far behind
            for position in pair:
                writer.add(completed(position))
        waiting = asyncio.create_task(writer.clear(9100))
        async with writer:
            await writer.drain()
            await waiting
        assert await pool.fetchval("SELECT succeeded FROM streamworker.batches") == 200
    assert written[:2] == [near, far]
    assert frontiers[:2] == [1, 1], "it is that of the claim before the first part, and before the last"
    assert writer.frontier > 9100


async def test_few_that_are_far_apart_are_written_together(database_url: str) -> None:
    written: list[list[int]] = []
    async with pool_of(database_url) as pool, writing(pool, lambda rows: written.append([row.position for row in rows])) as writer:
        scattered = [n * 3000 for n in range(32)]
        for position in scattered:
            writer.add(completed(position))
        async with writer:
            await writer.drain()
        assert await pool.fetchval("SELECT succeeded FROM streamworker.batches") == 32
    assert written == [scattered]


@pytest.mark.parametrize("waits_for", ["a checkpoint", "a retry's mark"])
async def test_who_waits_for_a_commit_does_not_wait_for_those_after_it(database_url: str, waits_for: str) -> None:
    others: list[asyncio.Task[None]] = []
    events = Events()

    def add_another(writer: Recorder) -> None:
        """While a commit is under way, somebody else has a row to write, and waits for that."""
        row = completed(len(others))
        writer.add(row)
        others.append(asyncio.create_task(writer.written(row)))

    async with pool_of(database_url) as pool, writing(pool, lambda rows: None, events) as writer, writer:
        events.on_step(lambda step: add_another(writer) if step.when == "inside" and len(others) < 500 else None)
        if waits_for == "a checkpoint":
            await writer.checkpoint(50_000, "1")
        else:
            await writer.mark_retry(ItemRecord(50_000, "x", "processing", 2, progressed=False))
        assert len(others) < 250
        await writer.drain()
        await asyncio.gather(*others)
