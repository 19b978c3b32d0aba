"""The work of a batch done without us: the straightforward loop, and the most that this Postgres can do."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

import asyncpg
import uvloop
from redis.asyncio import Redis

from tests.bench.world import World

ROWS = 2_000  # of one transaction of the limit

START = (
    "UPDATE streamworker.items SET status = 'processing', attempts = attempts + 1, started_at = now() WHERE batch_id = $1 AND position = $2"
)
END = "UPDATE streamworker.items SET status = 'completed', result = $3, finished_at = now() WHERE batch_id = $1 AND position = $2"
COUNT = (
    "UPDATE streamworker.batches SET processed = processed + 1, succeeded = succeeded + 1, revision = revision + 1, updated_at = now() "
    "WHERE id = $1 RETURNING processed"
)

# What any recorder has to write for an item, and nothing else; the bounds keep the plan from going through the whole batch.
END_MANY = (
    "UPDATE streamworker.items AS i SET status = 'completed', attempts = done.attempts, result = done.result::jsonb, "
    "started_at = clock_timestamp() - make_interval(secs => done.seconds), finished_at = clock_timestamp() "
    "FROM unnest($2::int[], $3::int[], $4::text[], $5::float8[]) AS done (position, attempts, result, seconds) "
    "WHERE i.batch_id = $1 AND i.position = done.position AND i.position BETWEEN $6 AND $7 AND i.status = 'pending'"
)
COUNT_MANY = (
    "UPDATE streamworker.batches SET processed = processed + $2, succeeded = succeeded + $2, revision = revision + 1, "
    "updated_at = clock_timestamp() WHERE id = $1 AND epoch = 0"
)
FINISH = "UPDATE streamworker.batches SET status = 'completed', finished_at = now() WHERE id = $1"


async def _nothing(payload: str) -> str | None:
    """The work on an item: none, and no result."""
    return None


async def _loop(world: World, batch_id: UUID) -> float:
    connection = await asyncpg.connect(world.database_url)
    redis = Redis.from_url(world.redis_url)
    try:
        started = time.monotonic()
        for row in await connection.fetch(
            "SELECT position, payload::text FROM streamworker.items WHERE batch_id = $1 ORDER BY position", batch_id
        ):
            await connection.execute(START, batch_id, row["position"])
            result = await _nothing(row["payload"])
            await connection.execute(END, batch_id, row["position"], result)
            processed = await connection.fetchval(COUNT, batch_id)
            await redis.xadd("progress", {"batch_id": str(batch_id), "event": str(processed)})
        await connection.execute(FINISH, batch_id)
        return time.monotonic() - started
    finally:
        await redis.aclose()
        await connection.close()


async def _limit(world: World, batch_id: UUID, items: int) -> float:
    connection = await asyncpg.connect(world.database_url)
    try:
        started = time.monotonic()
        for first in range(0, items, ROWS):
            positions = range(first, min(first + ROWS, items))
            ones, nothing, seconds = [1] * len(positions), [None] * len(positions), [0.0] * len(positions)
            async with connection.transaction():
                await connection.execute(COUNT_MANY, batch_id, len(positions))
                await connection.execute(END_MANY, batch_id, positions, ones, nothing, seconds, positions[0], positions[-1])
        await connection.execute(FINISH, batch_id)
        return time.monotonic() - started
    finally:
        await connection.close()


def straightforward_loop(world: World, items: int) -> float:
    """One item after another, a round trip for each change of status, counters and progress for each item; seconds."""
    batch_id = world.insert_analyzed(items)
    return _run(_loop(world, batch_id))


def bulk_limit(world: World, items: int) -> float:
    """The same rows, 2,000 a transaction, over one connection, nothing but the writing; seconds."""
    batch_id = world.insert_analyzed(items)
    return _run(_limit(world, batch_id, items))


def _run(work: object) -> float:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return float(runner.run(work))  # type: ignore[arg-type]
