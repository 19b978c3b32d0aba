"""dramatiq: threads; also the jobs of 500 items written by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from tests.bench.peers import work

broker = RedisBroker(url=work.REDIS_URL)
dramatiq.set_broker(broker)


@dramatiq.actor
def nothing(run: str, total: int) -> None:
    work.done(run, total)


@dramatiq.actor
def durable(run: str, total: int, batch_id: str) -> None:
    work.store_in_thread(batch_id)
    work.done(run, total)


@dramatiq.actor
def chunk(run: str, total: int, batch_id: str, first: int, payloads: list[str]) -> None:
    work.store_chunk(batch_id, first, payloads)
    work.done(run, total)


@asynccontextmanager
async def sender() -> AsyncIterator[Any]:
    actors = {"nothing": nothing, "durable": durable, "chunk": chunk}

    async def send(job: str, *arguments: Any) -> None:
        actors[job].send(*arguments)

    yield send
