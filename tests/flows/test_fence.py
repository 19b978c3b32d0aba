"""The right to write, at its narrowest: stale epochs, races for the row lock, announcing only what is durable."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import asyncpg
import pytest

from streamworker.broker.connection import connect
from streamworker.broker.consumer import Address, Consumer, Delivery
from streamworker.engine.attempts import Policy
from streamworker.engine.fetcher import Fetcher
from streamworker.engine.holds import HeldLease, Hold
from streamworker.engine.outages import Outages
from streamworker.engine.recorder import Recorder
from streamworker.engine.waiting_room import WaitingRoom
from streamworker.errors import LeaseLost
from streamworker.observe.events import Events
from streamworker.store import batches, items
from streamworker.store.batches import Acquired, BatchState, Claim
from streamworker.store.items import Fence, ItemRecord
from streamworker.store.pool import Pool, open_pool
from tests.flows.scene import Scene
from tests.servers import PostgresServer

DONE = ItemRecord(0, "a", "completed", 1, result="1", seconds=0.0)


@asynccontextmanager
async def pool_of(url: str) -> AsyncIterator[Pool]:
    pool = await open_pool(url, size=4, application_name="test")
    try:
        yield pool
    finally:
        await pool.close()


async def submit(pool: Pool, items_json: str = '["a", "b", "c"]') -> UUID:
    async with pool.acquire() as connection:
        batch_id: UUID = await connection.fetchval("SELECT streamworker.submit($1::jsonb)", items_json)
        return batch_id


async def acquire(pool: Pool, batch_id: UUID, number: int, ttl: float = 15.0) -> Acquired:
    async with pool.acquire() as connection, connection.transaction():
        grant = await batches.acquire(connection, batch_id, Claim(f"worker-{number}", -number, "1-1", ttl, 1e6))
    assert isinstance(grant, Acquired)
    return grant


async def record(pool: Pool, state: BatchState, rows: Sequence[ItemRecord]) -> BatchState:
    async with pool.acquire() as connection, connection.transaction():
        fence = Fence(state.id, state.epoch, state.revision)
        return await items.record(connection, fence, rows, {}, 1, 15.0, state.worker or "", False)


async def test_who_was_taken_over_writes_nothing_more(database_url: str) -> None:
    async with pool_of(database_url) as pool:
        batch_id = await submit(pool)
        first = await acquire(pool, batch_id, 1, ttl=0.0)
        second = await acquire(pool, batch_id, 2)
        with pytest.raises(LeaseLost):
            await record(pool, first.state, [DONE])
        state = await record(pool, second.state, [DONE])
    assert (state.succeeded, state.epoch) == (1, 2)


async def test_who_is_taken_over_while_it_waits_for_the_row_writes_nothing(database_url: str) -> None:
    async with pool_of(database_url) as pool:
        batch_id = await submit(pool)
        first = await acquire(pool, batch_id, 1, ttl=0.0)
        async with pool.acquire() as connection:
            taking_over = connection.transaction()
            await taking_over.start()
            await batches.acquire(connection, batch_id, Claim("worker-2", -2, "1-1", 15.0, 1e6))
            late = asyncio.create_task(record(pool, first.state, [DONE]))
            await wait_blocked(pool)
            await taking_over.commit()
        with pytest.raises(LeaseLost):
            await late
        assert await pool.fetchval("SELECT count(*) FROM streamworker.items WHERE status = 'completed'") == 0


async def wait_blocked(pool: Pool) -> None:
    async with asyncio.timeout(20):
        while not await pool.fetchval(  # noqa: ASYNC110 - Postgres does not tell by itself
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.01)


async def test_what_is_announced_is_durable(database_url: str) -> None:
    told: list[tuple[int, asyncio.Task[int]]] = []
    async with pool_of(database_url) as pool:
        grant = await acquire(pool, await submit(pool), 1)
        hold = Hold("1-1", asyncio.get_running_loop())
        hold.begin(HeldLease(grant.state.id, grant.state.epoch), 1e12, 15.0, lambda reason: None)

        def recorded(state: BatchState, rows: Sequence[ItemRecord]) -> None:
            told.append((state.revision, asyncio.create_task(pool.fetchval("SELECT max(revision) FROM streamworker.batches"))))

        events = Events()
        stopped = asyncio.Event()
        events.on_step(lambda step: stopped.set() if step.when == "inside" else None)
        policy = Policy(2, 0.0)
        recorder = Recorder(pool, pool, grant, hold, policy, 1, lambda: 0, 15.0, events, Outages(events), str, recorded, lambda row: None)
        async with recorder:
            for position in range(3):
                recorder.add(ItemRecord(position, "x", "completed", 1, result="1", seconds=0.0))
                await recorder.drain()
        durable = [(revision, await reading) for revision, reading in told]
    assert [revision for revision, _ in durable] == sorted({revision for revision, _ in durable})
    assert all(revision <= found for revision, found in durable)


async def test_a_read_that_waits_is_never_cut_off(redis_url: str) -> None:
    taken: list[str] = []
    redis, reader = connect(redis_url), connect(redis_url, blocking=2.0)

    async def run(deliveries: Sequence[Delivery]) -> None:
        taken.extend(delivery.entry_id for delivery in deliveries)

    async def connections() -> int:
        return int((await redis.info("stats"))["total_connections_received"])

    consumer = Consumer(redis, reader, Address("batches", "workers", "first"))
    room = WaitingRoom(cast(Any, None), cast(Any, None))  # nothing waits
    fetcher = Fetcher(consumer, 1, run, lambda: 1, room, lambda: None)
    await fetcher.step()
    before = await connections()
    for _ in range(3):
        await fetcher.step()  # nothing comes: each waits its time out
    sent = await consumer.enqueue(str(UUID(int=1)))
    while not taken:
        await fetcher.step()
        await asyncio.sleep(0)
    assert (taken, await connections()) == ([sent], before)
    await redis.aclose()
    await reader.aclose()


def test_a_job_delivered_while_postgres_is_away_outlives_its_worker(own_postgres: PostgresServer, redis_url: str, tmp_path: Path) -> None:
    """Its items are nowhere but in the entry: who ends may pass it on, but not drop it."""
    with Scene(redis_url, own_postgres.database("postgres"), tmp_path) as scene:
        first = scene.start_worker(shutdown_timeout="0s", migrate="1")
        own_postgres.kill()
        batch_id = scene.job(["a", "b"])
        scene.wait(lambda: scene.pending(), 20, "the job to be delivered")
        first.signal(signal.SIGTERM)
        first.wait_ended(40)
        assert scene.pending(), "for the next worker to take at once"
        own_postgres.start()
        scene.start_worker()
        scene.wait_end(batch_id)


async def test_a_row_removed_by_hand_is_not_counted(database_url: str) -> None:
    async with pool_of(database_url) as pool:
        grant = await acquire(pool, await submit(pool), 1)
        await pool.execute("DELETE FROM streamworker.items WHERE position = 0")
        state = await record(pool, grant.state, [DONE, ItemRecord(1, "b", "completed", 1, result="1", seconds=0.0)])
    assert state.succeeded == 1


async def test_postgres_itself_refuses_counters_that_do_not_add_up(database_url: str) -> None:
    async with pool_of(database_url) as pool:
        await submit(pool)
        with pytest.raises(asyncpg.CheckViolationError):
            await pool.execute("UPDATE streamworker.batches SET processed = 1")
