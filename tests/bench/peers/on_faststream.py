"""FastStream: a stream with a group; run as a program it is the worker."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub

from tests.bench.peers import work

broker = RedisBroker(work.REDIS_URL, log_level=logging.DEBUG, logger=None)


def _stream(name: str) -> StreamSub:
    return StreamSub(name, group="bench", consumer="one", last_id=">", max_records=work.CONCURRENCY, polling_interval=1000)


@broker.subscriber(stream=_stream("nothing"), max_workers=work.CONCURRENCY)
async def nothing(message: list[Any]) -> None:
    run, total = message
    work.done(run, total)


@broker.subscriber(stream=_stream("durable"), max_workers=work.CONCURRENCY)
async def durable(message: list[Any]) -> None:
    run, total, batch_id = message
    await work.store(batch_id)
    work.done(run, total)


@asynccontextmanager
async def sender() -> AsyncIterator[Any]:
    async with broker:

        async def send(job: str, *arguments: Any) -> None:
            await broker.publish(list(arguments), stream=job)

        yield send


if __name__ == "__main__":
    uvloop.run(FastStream(broker, logger=None).run())
