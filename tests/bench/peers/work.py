"""What a job of any peer does: nothing, or one durable row. Loaded in the peers' environments, where streamworker is not installed."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from typing import Any
from urllib.parse import urlsplit

import redis

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
REDIS_PORT = urlsplit(REDIS_URL).port or 6379
DATABASE_URL = os.environ.get("DATABASE_URL", "")
CONCURRENCY = 100  # jobs at the same time in an async worker
THREADS = 8  # in one with threads
CONNECTIONS = 16  # to Postgres, of an async worker

# One commit: the row of the item, and the counter of its batch, which is made by the first.
RECORD = """
WITH item AS (INSERT INTO peer_items (batch_id, position, status, result) VALUES ({0}, 0, 'completed', NULL))
INSERT INTO peer_batches (id, total, processed) VALUES ({0}, 1, 1) ON CONFLICT (id) DO UPDATE SET processed = peer_batches.processed + 1
"""

END_CHUNK = """
UPDATE streamworker.items AS i SET status = 'completed', attempts = 1, result = done.result::jsonb, started_at = now(), finished_at = now()
FROM unnest(%s::int[], %s::text[]) AS done (position, result)
WHERE i.batch_id = %s AND i.position = done.position AND i.position BETWEEN %s AND %s AND i.status = 'pending'
"""
COUNT_CHUNK = "UPDATE streamworker.batches SET processed = processed + %s, succeeded = succeeded + %s, updated_at = now() WHERE id = %s"

_counts: dict[str, itertools.count[int]] = {}
_pools: dict[str, Any] = {}


def done(run: str, total: int) -> None:
    """A job of a run is done; the last of all tells when. In Redis, so that the peer's own way of results costs nothing."""
    if next(_counts.setdefault(run, itertools.count(1))) == total:
        with redis.Redis.from_url(REDIS_URL) as connection:
            connection.rpush(f"bench:done:{run}", time.monotonic())


async def store(batch_id: str) -> None:
    """Write the durable row of a one-item batch."""
    if not _pools:
        _pools["pool"] = asyncio.create_task(_open_pool())  # one for all jobs that come at once
    async with (await asyncio.shield(_pools["pool"])).acquire() as connection:
        await connection.execute(RECORD.format("$1::uuid"), batch_id)


async def _open_pool() -> Any:
    import asyncpg  # not in the environments of the peers with threads

    return await asyncpg.create_pool(DATABASE_URL, min_size=CONNECTIONS, max_size=CONNECTIONS)


def store_in_thread(batch_id: str) -> None:
    """The same from a worker with threads."""
    with _thread_pool().connection() as connection:
        connection.execute(RECORD.format("%(id)s"), {"id": batch_id})


def store_chunk(batch_id: str, first: int, payloads: list[str]) -> None:
    """Work on the items of a chunk, then one UPDATE for all of them and one for the counters, in one transaction."""
    results = [None if (result := _work(payload)) is None else json.dumps(result) for payload in payloads]
    positions = list(range(first, first + len(payloads)))
    with _thread_pool().connection() as connection:
        connection.execute(END_CHUNK, (positions, results, batch_id, positions[0], positions[-1]))
        connection.execute(COUNT_CHUNK, (len(payloads), len(payloads), batch_id))


def _work(payload: str) -> object:
    """The work on an item: none."""
    return None


def _thread_pool() -> Any:
    from psycopg_pool import ConnectionPool  # not in the environments of the async peers

    if "pool" not in _pools:
        # Set by one thread: of two that come at once the second's pool is closed again.
        pool = ConnectionPool(DATABASE_URL, min_size=THREADS, max_size=THREADS, open=True)
        if _pools.setdefault("pool", pool) is not pool:
            pool.close()
    return _pools["pool"]
