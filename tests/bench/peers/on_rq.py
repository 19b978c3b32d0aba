"""RQ: its SimpleWorker, which does not fork for each job."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis import Redis
from rq import Queue

from tests.bench.peers import work


def nothing(run: str, total: int) -> None:
    work.done(run, total)


def durable(run: str, total: int, batch_id: str) -> None:
    work.store_in_thread(batch_id)
    work.done(run, total)


@asynccontextmanager
async def sender() -> AsyncIterator[Any]:
    queue = Queue(connection=Redis.from_url(work.REDIS_URL))
    jobs = {"nothing": nothing, "durable": durable}

    async def send(job: str, *arguments: Any) -> None:
        queue.enqueue(jobs[job], *arguments, result_ttl=0)

    yield send
