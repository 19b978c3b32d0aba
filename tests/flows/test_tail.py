"""Reading a stream to its end and beyond, a page at a time, while the next page is asked for already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from streamworker.broker.connection import connect
from streamworker.broker.replies import Entry
from streamworker.broker.tail import START, Tail
from tests.servers import RedisServer

STREAM = "progress"
PAGE = 10
QUIET = 0.05  # seconds


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Tail, Redis]]:
    """A reader from the beginning on, and somebody who writes."""
    tail, broker = Tail(url, STREAM, page=PAGE), connect(url)
    await tail.start(START)
    try:
        yield tail, broker
    finally:
        await tail.close()
        await broker.aclose()


async def append(broker: Redis, *numbers: int) -> None:
    """Write entries that tell their own number."""
    for number in numbers:
        await broker.xadd(STREAM, {"number": str(number)}, id=f"{number}-1")


def numbers_of(found: list[Entry]) -> list[int]:
    """What the entries tell."""
    return [int(dict(entry.fields)[b"number"]) for entry in found]


async def read_up_to(tail: Tail, number: int) -> list[int]:
    """All that is read until a number has come."""
    read: list[int] = []
    async with asyncio.timeout(20):
        while number not in read:
            read += numbers_of(await tail.read(QUIET))
    return read


async def test_full_pages_one_after_another(redis_url: str) -> None:
    async with opened(redis_url) as (tail, broker):
        await append(broker, *range(1, 96))
        assert await read_up_to(tail, 40) == [*range(1, 41)]
        await append(broker, *range(96, 101))
        assert await read_up_to(tail, 100) == [*range(41, 101)]  # the last page is full, and the next one empty
        assert await tail.read(QUIET) == []
        await append(broker, 101)
        assert numbers_of(await tail.read(QUIET)) == [101]


async def test_pages_of_large_entries_are_small(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamworker.broker.tail.PAGE_BYTES", 20_000)
    async with opened(redis_url) as (tail, broker):
        for number in range(1, 41):
            await broker.xadd(STREAM, {"number": str(number), "text": "x" * (5_000 if number <= 30 else 10)}, id=f"{number}-1")
        pages = [numbers_of(await tail.read(QUIET)) for _ in range(10)]
        assert [len(page) for page in pages] == [10, 3, 3, 3, 3, 3, 3, 3, 5, 4]  # and larger again where they are small
        assert [number for page in pages for number in page] == [*range(1, 41)]


async def test_nothing_is_lost_by_a_read_that_is_cancelled_at_any_turn(redis_url: str) -> None:
    async with opened(redis_url) as (tail, broker):
        await append(broker, *range(1, 301))
        read: list[int] = []
        for turns in range(60):
            reading = asyncio.create_task(tail.read(QUIET))
            for _ in range(turns):
                await asyncio.sleep(0)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            if not reading.cancelled():
                read += numbers_of(reading.result())
        read += await read_up_to(tail, 300) if 300 not in read else []
        assert read == [*range(1, 301)]


async def test_a_stream_that_begins_anew_while_the_next_page_is_asked_for(redis_url: str) -> None:
    async with opened(redis_url) as (tail, broker):
        await append(broker, *range(100, 110))
        assert await read_up_to(tail, 109) == [*range(100, 110)]
        await broker.delete(STREAM)
        await append(broker, *range(1, 16))
        assert await read_up_to(tail, 15) == [*range(1, 16)]


async def test_a_server_that_dies_while_the_next_page_is_asked_for(own_redis: RedisServer) -> None:
    async with opened(own_redis.url) as (tail, broker):
        await append(broker, *range(1, 21))
        assert numbers_of(await tail.read(QUIET)) == [*range(1, 11)]
        await asyncio.to_thread(own_redis.kill)
        read = numbers_of(await tail.read(QUIET))  # which may have been on its way
        assert await tail.read(QUIET) == []
        assert not tail.healthy
        await asyncio.to_thread(own_redis.start)
        await append(broker, *range(21, 31))
        assert read + await read_up_to(tail, 30) == [*range(11, 31)]
        assert tail.healthy


async def test_one_that_is_closed_leaves_nothing_behind(redis_url: str) -> None:
    async with opened(redis_url) as (tail, broker):
        await append(broker, *range(1, 11))
        await tail.read(QUIET)
        await tail.close()
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
        await append(broker, 11)
        assert await read_up_to(tail, 11) == [11]
