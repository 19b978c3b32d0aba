"""streaq."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from streaq import Worker

from tests.bench.peers import work

worker: Worker[Any] = Worker(redis_url=work.REDIS_URL, concurrency=work.CONCURRENCY, anyio_kwargs={"use_uvloop": True})


@worker.task(ttl=0, silent=True)
async def nothing(run: str, total: int) -> None:
    work.done(run, total)


@worker.task(ttl=0, silent=True)
async def durable(run: str, total: int, batch_id: str) -> None:
    await work.store(batch_id)
    work.done(run, total)


@asynccontextmanager
async def sender() -> AsyncIterator[Any]:
    jobs: dict[str, Any] = {"nothing": nothing, "durable": durable}

    async def send(job: str, *arguments: Any) -> None:
        await jobs[job].enqueue(*arguments)

    async with worker:
        yield send
