"""SAQ."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from saq import Queue

from tests.bench.peers import work

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
queue = Queue.from_url(work.REDIS_URL, max_concurrent_ops=work.CONCURRENCY)


async def nothing(context: Any, *, run: str, total: int) -> None:
    work.done(run, total)


async def durable(context: Any, *, run: str, total: int, batch_id: str) -> None:
    await work.store(batch_id)
    work.done(run, total)


settings = {"queue": queue, "functions": [nothing, durable], "concurrency": work.CONCURRENCY}


@asynccontextmanager
async def sender() -> AsyncIterator[Any]:
    await queue.connect()

    def send(job: str, *arguments: Any) -> Any:
        named = dict(zip(("run", "total", "batch_id"), arguments, strict=False))
        return queue.enqueue(job, ttl=-1, **named)  # no result is kept

    yield send
    await queue.disconnect()
