"""arq: it polls, so the pause between two looks is set as short as makes sense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from arq import create_pool
from arq.connections import RedisSettings

from tests.bench.peers import work

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
SERVER = RedisSettings.from_dsn(work.REDIS_URL)


async def nothing(context: dict[str, Any], run: str, total: int) -> None:
    work.done(run, total)


async def durable(context: dict[str, Any], run: str, total: int, batch_id: str) -> None:
    await work.store(batch_id)
    work.done(run, total)


class WorkerSettings:
    """Read by arq's command line."""

    functions = (nothing, durable)
    redis_settings = SERVER
    max_jobs = work.CONCURRENCY
    poll_delay = 0.01
    keep_result = 0
    log_results = False


@asynccontextmanager
async def sender() -> AsyncIterator[Any]:
    pool = await create_pool(SERVER)
    yield pool.enqueue_job
    await pool.aclose()
