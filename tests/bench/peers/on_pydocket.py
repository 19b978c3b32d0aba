"""pydocket; run as a program it is the worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import uvloop
from docket import Docket, Worker

from tests.bench.peers import work


async def nothing(run: str, total: int) -> None:
    work.done(run, total)


async def durable(run: str, total: int, batch_id: str) -> None:
    await work.store(batch_id)
    work.done(run, total)


tasks = [nothing, durable]


@asynccontextmanager
async def sender() -> AsyncIterator[Any]:
    async with Docket(name="bench", url=work.REDIS_URL, execution_ttl=timedelta(0)) as docket:
        for task in tasks:
            docket.register(task)

        async def send(job: str, *arguments: Any) -> None:
            await docket.add(job)(*arguments)

        yield send


async def _work() -> None:
    async with Docket(name="bench", url=work.REDIS_URL, execution_ttl=timedelta(0)) as docket:
        for task in tasks:
            docket.register(task)
        async with Worker(docket, concurrency=50, minimum_check_interval=timedelta(milliseconds=10)) as worker:
            await worker.run_forever()


if __name__ == "__main__":
    uvloop.run(_work())
