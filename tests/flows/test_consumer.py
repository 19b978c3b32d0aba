"""The consumer group on each kind of server: what is kept, passed on, found again, and never lost by our own doing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from streamworker.broker.connection import connect
from streamworker.broker.consumer import Address, Consumer, Delivery, Renewer

IDS = [f"00000000-0000-4000-8000-{n:012d}" for n in range(60)]


@asynccontextmanager
async def consumer(url: str, name: str) -> AsyncIterator[Consumer]:
    redis, reader = connect(url), connect(url, blocking=2.0)
    try:
        member = Consumer(redis, reader, Address("batches", "workers", name))
        await member.create_group()
        yield member
    finally:
        await redis.aclose()
        await reader.aclose()


async def owners(url: str) -> dict[str, str]:
    redis = connect(url)
    try:
        rows = await redis.xpending_range("batches", "workers", "-", "+", 100)
        return {row["message_id"].decode(): row["consumer"].decode() for row in rows}
    finally:
        await redis.aclose()


async def take_over(url: str, name: str, delivery: Delivery) -> None:
    redis = connect(url)
    try:
        await redis.execute_command("XCLAIM", "batches", "workers", name, 0, delivery.entry_id)
    finally:
        await redis.aclose()


async def test_renewing_never_steals_an_entry_back(redis_url: str) -> None:
    async with consumer(redis_url, "first") as first:
        kept, stolen = await first.enqueue(IDS[0]), await first.enqueue(IDS[1])
        deliveries = {delivery.entry_id: delivery for delivery in await first.read(2, 0.1)}
        await take_over(redis_url, "second", deliveries[stolen])
        redis = connect(redis_url)
        renewed = await Renewer(redis, Address("batches", "workers", "first")).renew([kept, stolen])
        await redis.aclose()
    assert renewed == {kept: True, stolen: False}
    assert await owners(redis_url) == {kept: "first", stolen: "second"}


async def test_only_the_owner_passes_an_entry_on(redis_url: str) -> None:
    async with consumer(redis_url, "first") as first, consumer(redis_url, "second") as second:
        entry_id = await first.enqueue(IDS[0])
        await first.read(1, 0.1)
        assert not await second.pass_on(entry_id, "third")
        assert await first.pass_on(entry_id, "third")
    assert await owners(redis_url) == {entry_id: "third"}


async def test_what_is_given_away_is_reclaimed_at_once(redis_url: str) -> None:
    async with consumer(redis_url, "first") as first, consumer(redis_url, "second") as second:
        entry_id = await first.enqueue(IDS[0])
        await first.read(1, 0.1)
        assert (await second.reclaim(1, 60.0)).deliveries == []
        await first.pass_on(entry_id)
        assert [delivery.entry_id for delivery in (await second.reclaim(1, 60.0)).deliveries] == [entry_id]


async def test_renewing_does_not_take_back_what_was_given_away(redis_url: str) -> None:
    async with consumer(redis_url, "first") as first, consumer(redis_url, "second") as second:
        entry_id = await first.enqueue(IDS[0])
        await first.read(1, 0.1)
        await first.pass_on(entry_id)
        redis = connect(redis_url)
        renewed = await Renewer(redis, Address("batches", "workers", "first")).renew([entry_id])  # the heartbeat had it in hand already
        await redis.aclose()
        assert renewed == {entry_id: False}
        assert [delivery.entry_id for delivery in (await second.reclaim(1, 60)).deliveries] == [entry_id]


async def test_reclaiming_goes_through_the_whole_list(redis_url: str) -> None:
    """One call looks at ten entries for each that it may take: from the start each time, the last would starve."""
    async with consumer(redis_url, "first") as first, consumer(redis_url, "second") as second:
        entry_ids = [await first.enqueue(batch_id) for batch_id in IDS]
        await first.read(len(IDS), 0.1)
        await first.pass_on(entry_ids[-1])
        found = [delivery.entry_id for _ in range(12) for delivery in (await second.reclaim(1, 60.0)).deliveries]
    assert found == [entry_ids[-1]]


async def test_the_backlog_is_never_trimmed(redis_url: str) -> None:
    async with consumer(redis_url, "first") as first:
        for batch_id in IDS * 5:
            await first.enqueue(batch_id)
        read: list[Delivery] = []
        while deliveries := await first.read(100, 0.05):
            read += deliveries
    assert [dict(delivery.fields)[b"batch_id"].decode() for delivery in read] == IDS * 5


async def test_entries_deleted_while_pending_are_told_and_leave_nothing(redis_url: str) -> None:
    async with consumer(redis_url, "first") as first, consumer(redis_url, "second") as second:
        gone, there = await first.enqueue(IDS[0]), await first.enqueue(IDS[1])
        await first.read(2, 0.1)
        await first.delete([gone])
        await first.pass_on(there)
        redis = connect(redis_url)
        await redis.execute_command("XCLAIM", "batches", "workers", "first", 0, gone, there, "IDLE", 100_000, "JUSTID")
        await redis.aclose()
        reclaimed = await second.reclaim(10, 60.0)
    assert [delivery.entry_id for delivery in reclaimed.deliveries] == [there]
    assert set(await owners(redis_url)) <= {there, gone}


async def test_what_was_delivered_to_nobody_is_put_on_the_stream_anew(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamworker.broker.consumer.STRANDED_PAGE", 2)
    async with consumer(redis_url, "first") as first, consumer(redis_url, "second") as second:
        redis = connect(redis_url)
        stranded = [await redis.xadd("batches", {"batch_id": batch_id, "items": "[1]"}) for batch_id in (IDS[0], IDS[1])]
        await first.read(2, 0.1)
        kept = await second.enqueue(IDS[2])
        await second.read(1, 0.1)
        stranded.append(await redis.xadd("batches", {"neither": "fish", "nor": "fowl"}))
        await first.read(1, 0.1)
        waiting = await second.enqueue(IDS[0])
        await redis.xgroup_delconsumer("batches", "workers", "first")
        moved = [await first.requeue_stranded() for _ in range(4)]
        again = await first.read(10, 0.1)
        on_stream = {entry_id for entry_id, _ in await redis.xrange("batches")}
        await redis.aclose()
    assert (sum(moved), moved[-1]) == (3, 0)
    assert not on_stream & set(stranded)
    assert again[0].entry_id == waiting, "what waits keeps its place"
    assert [dict(delivery.fields) for delivery in again[1:]] == [
        {b"batch_id": IDS[0].encode(), b"items": b"[1]"},
        {b"batch_id": IDS[1].encode(), b"items": b"[1]"},
        {b"neither": b"fish", b"nor": b"fowl"},
    ]
    assert kept.encode() in on_stream


@pytest.mark.parametrize("loss", ["gone", "delivered to nobody", "group made again", "waiting"])
async def test_entries_that_nobody_will_get_are_found(redis_url: str, loss: str) -> None:
    async with consumer(redis_url, "first") as first:
        entry_id = await first.enqueue(IDS[0])
        redis = connect(redis_url)
        match loss:
            case "gone":
                await first.delete([entry_id])
            case "delivered to nobody":
                await first.read(1, 0.1)
                await redis.xgroup_delconsumer("batches", "workers", "first")
            case "group made again":
                await first.read(1, 0.1)
                await redis.xgroup_destroy("batches", "workers")
                await first.create_group()
        await redis.aclose()
        lost = await first.find_lost([entry_id])
    # From 0 on, a group made again delivers everything once more: nothing is lost then, nor while an entry waits.
    assert lost == ({entry_id} if loss in ("gone", "delivered to nobody") else set())
