"""taskiq: a Redis list, or a stream with acknowledgements."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from taskiq_redis import ListQueueBroker, RedisStreamBroker

from tests.bench.peers import work

broker: Any = (RedisStreamBroker if os.environ.get("BENCH_VARIANT") == "stream" else ListQueueBroker)(work.REDIS_URL)


@broker.task
async def nothing(run: str, total: int) -> None:
    work.done(run, total)


@broker.task
async def durable(run: str, total: int, batch_id: str) -> None:
    await work.store(batch_id)
    work.done(run, total)


@asynccontextmanager
async def sender() -> AsyncIterator[Any]:
    await broker.startup()
    jobs = {"nothing": nothing, "durable": durable}
    yield lambda job, *arguments: jobs[job].kiq(*arguments)
    await broker.shutdown()
