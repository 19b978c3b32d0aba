"""Celery: no results, no events, no rate limits; jobs run in the worker's only process, which is faster here than threads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from celery import Celery

from tests.bench.peers import work

app = Celery("bench", broker=work.REDIS_URL)
app.conf.update(
    task_ignore_result=True, worker_disable_rate_limits=True, worker_prefetch_multiplier=64, task_store_errors_even_if_ignored=False
)


@app.task(name="nothing")
def nothing(run: str, total: int) -> None:
    work.done(run, total)


@app.task(name="durable")
def durable(run: str, total: int, batch_id: str) -> None:
    work.store_in_thread(batch_id)
    work.done(run, total)


@asynccontextmanager
async def sender() -> AsyncIterator[Any]:
    tasks: dict[str, Any] = {"nothing": nothing, "durable": durable}

    async def send(job: str, *arguments: Any) -> None:
        tasks[job].delay(*arguments)

    yield send
