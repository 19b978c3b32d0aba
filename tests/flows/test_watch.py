"""Watching a batch: rows changed by SQL and events published by hand, seen through the client."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import redis
import redis.asyncio

from streamworker.client import Client
from streamworker.errors import BatchNotFound
from streamworker.messages import ItemEvent, ProgressEvent, encode_event
from tests.flows.hand_made import HandMade
from tests.servers import PostgresServer, RedisServer, run_sql


class Scene(HandMade):
    """A batch of ten items, and a client that watches it."""

    def __init__(self, client: Client, connection: asyncpg.Connection, broker: redis.asyncio.Redis, batch_id: UUID) -> None:
        super().__init__(connection, broker, batch_id)
        self.client = client

    def watch(self, **options: Any) -> Watching:
        return Watching(self.client.watch(self.batch_id, **options))


class Watching:
    """A running `watch` whose events the test takes one by one."""

    def __init__(self, events: AsyncIterator[ProgressEvent]) -> None:
        self._seen: asyncio.Queue[ProgressEvent | BaseException | None] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read(events))

    async def _read(self, events: AsyncIterator[ProgressEvent]) -> None:
        try:
            async for event in events:
                self._seen.put_nowait(event)
            self._seen.put_nowait(None)
        except Exception as error:
            self._seen.put_nowait(error)

    async def next(self) -> ProgressEvent:
        """The next event; AssertionError when the watching has ended."""
        event = await asyncio.wait_for(self._seen.get(), 30)
        assert isinstance(event, ProgressEvent), event
        return event

    async def live(self) -> ProgressEvent:
        """The next event that is no snapshot."""
        while (event := await self.next()).items == []:
            pass
        return event

    async def snapshot(self) -> int:
        """The revision of the next event, which must be a snapshot."""
        event = await self.next()
        assert event.items == []
        return event.revision

    def has_some(self) -> bool:
        """Whether there is an event to take."""
        return not self._seen.empty()

    async def rest(self) -> list[ProgressEvent]:
        """All events up to the end."""
        found = []
        while (event := await asyncio.wait_for(self._seen.get(), 30)) is not None:
            assert isinstance(event, ProgressEvent), event
            found.append(event)
        return found

    async def ended(self) -> BaseException | None:
        """Wait until the watching ends; what was not taken before is an AssertionError. Returns its error."""
        end = await asyncio.wait_for(self._seen.get(), 30)
        assert not isinstance(end, ProgressEvent), end
        return end

    async def stop(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


async def until(happened: Callable[[], Awaitable[bool]], about: str) -> None:
    """Poll until `happened()` is true; AssertionError when the time is over."""
    deadline = time.monotonic() + 30
    while not await happened():
        assert time.monotonic() < deadline, f"waited for {about}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def scene_on(redis_url: str, database_url: str) -> AsyncIterator[Scene]:
    connection = await asyncpg.connect(database_url)
    broker = redis.asyncio.Redis.from_url(redis_url)
    async with Client.connect(redis_url, database_url) as client:
        yield Scene(client, connection, broker, await client.submit(map(str, range(10))))
    await broker.aclose()
    await connection.close()


@pytest.fixture
async def scene(redis_url: str, database_url: str) -> AsyncIterator[Scene]:
    async with scene_on(redis_url, database_url) as scene:
        yield scene


class TestLiveEvents:
    async def test_a_snapshot_then_each_event_then_the_end(self, scene: Scene) -> None:
        await scene.record(2)
        watching = scene.watch()
        assert await watching.snapshot() == 2
        published = [await scene.step(3), await scene.step(4), await scene.step(5, "completed")]
        assert [await watching.next() for _ in published] == published
        assert await watching.ended() is None

    async def test_the_snapshot_says_what_postgres_says(self, scene: Scene) -> None:
        await scene.record(4, worker="host-1", epoch=3, error="on fire")
        event = await anext(scene.client.watch(scene.batch_id))
        told = (event.total, event.processed, event.succeeded, event.failed, event.percent, event.worker, event.epoch, event.error)
        assert told == (10, 4, 4, 0, 40.0, "host-1", 3, "on fire")
        assert event.eta_seconds is not None

    async def test_a_batch_that_has_ended_is_told_once(self, scene: Scene) -> None:
        await scene.record(10, "completed")
        assert [event.status async for event in scene.client.watch(scene.batch_id)] == ["completed"]

    async def test_live_updates_of_the_present_revision_pass(self, scene: Scene) -> None:
        await scene.record(1)
        watching = scene.watch()
        await watching.snapshot()
        for percent in (10.0, 20.0, 20.0, 30.0):
            await scene.publish(scene.event(1, items=[ItemEvent(1, "1", "processing", 1, percent)]))
        assert [(await watching.next()).items[0].percent for _ in range(3)] == [10.0, 20.0, 30.0]
        await scene.step(2, "completed")
        assert (await watching.next()).revision == 2
        assert await watching.ended() is None

    async def test_all_chunks_of_one_flush_pass(self, scene: Scene) -> None:
        await scene.record(1)
        watching = scene.watch()
        await watching.snapshot()
        chunks = [await scene.publish(scene.event(1, items=[ItemEvent(position, "k", "completed", 1)])) for position in range(3)]
        assert [await watching.next() for _ in chunks] == chunks
        await watching.stop()

    async def test_what_is_older_or_told_already_is_dropped(self, scene: Scene) -> None:
        watching = scene.watch()
        await watching.snapshot()
        published = [await scene.step(1), await scene.step(2)]
        for repeated in (*published, published[0], scene.event(2, items=[]), scene.event(0, items=[])):
            await scene.publish(repeated)
        published.append(await scene.step(3, "completed"))
        assert [await watching.next() for _ in published] == published
        assert await watching.ended() is None

    async def test_a_gap_is_filled_by_a_snapshot(self, scene: Scene) -> None:
        watching = scene.watch()
        await watching.snapshot()
        await scene.step(1)
        assert (await watching.next()).revision == 1
        await scene.record(5)
        missed = await scene.publish(scene.event(3))
        current = await scene.publish(scene.event(5))
        assert await watching.snapshot() == 5
        assert await watching.next() == current != missed
        await watching.stop()

    async def test_the_snapshot_after_a_gap_may_be_the_end(self, scene: Scene) -> None:
        watching = scene.watch()
        await watching.snapshot()
        await scene.record(9, "failed", error="too many failures")
        await scene.publish(scene.event(5))
        event = await watching.next()
        assert (event.status, event.revision, event.error, event.items) == ("failed", 9, "too many failures", [])
        assert await watching.ended() is None

    async def test_other_batches_and_strange_entries_are_passed_over(self, scene: Scene) -> None:
        watching = scene.watch()
        await watching.snapshot()
        mine, event = str(scene.batch_id), encode_event(scene.event(1))
        for fields in ({"x": "y"}, {"batch_id": mine}, {"batch_id": mine, "event": b"\xff"}, {"batch_id": mine, "event": b'{"v": 9}'}):
            await scene.broker.xadd("progress", fields)
        await scene.broker.xadd("progress", {"batch_id": str(uuid4()), "event": event})
        published = await scene.step(1, "cancelled")
        assert await watching.next() == published
        assert await watching.ended() is None

    async def test_two_watch_the_same_batch(self, scene: Scene) -> None:
        first, second = scene.watch(), scene.watch()
        assert (await first.snapshot(), await second.snapshot()) == (0, 0)
        published = await scene.step(1, "completed")
        assert (await first.next(), await second.next()) == (published, published)


class TestResuming:
    async def test_what_was_seen_is_not_told_again(self, scene: Scene) -> None:
        await scene.record(3)
        watching = scene.watch(from_revision=3)
        percents = itertools.count()

        async def heard() -> bool:
            await scene.publish(scene.event(3, items=[ItemEvent(3, "3", "processing", 1, float(next(percents)))]))
            return watching.has_some()

        await until(heard, "a live update")
        await scene.step(4)
        await scene.step(5, "completed")
        told = await watching.rest()
        assert all(event.items for event in told)
        assert sorted({event.revision for event in told}) == [3, 4, 5]

    async def test_what_was_missed_comes_as_a_snapshot(self, scene: Scene) -> None:
        await scene.record(7)
        watching = scene.watch(from_revision=3)
        assert await watching.snapshot() == 7
        await watching.stop()

    async def test_the_end_is_always_told(self, scene: Scene) -> None:
        await scene.record(10, "completed")
        assert [event.revision async for event in scene.client.watch(scene.batch_id, from_revision=10)] == [10]


class TestTroubleWithRedis:
    async def test_a_flushed_redis_does_not_hide_the_end(self, scene: Scene) -> None:
        watching = scene.watch()
        await watching.snapshot()
        await scene.step(1)
        await watching.next()
        await scene.record(10, "completed")
        await scene.broker.flushall()
        event = await watching.next()
        assert (event.revision, event.status, event.items) == (10, "completed", [])
        assert await watching.ended() is None

    async def test_live_events_go_on_after_a_flush(self, scene: Scene) -> None:
        watching = scene.watch()
        await watching.snapshot()
        await scene.step(1)
        await watching.next()
        await scene.broker.flushall()
        await scene.step(2)
        assert (await watching.next()).revision == 2  # a snapshot where the new entry got the very id of the lost one
        published = await scene.step(3)
        assert await watching.live() == published
        await watching.stop()

    async def test_live_events_go_on_when_the_stream_counts_anew_from_below(self, scene: Scene) -> None:
        await scene.broker.xadd("progress", {"x": "y"}, id="99999999999999-0")
        watching = scene.watch()
        await watching.snapshot()
        await scene.broker.delete("progress")
        await scene.step(1)
        assert (await watching.next()).revision == 1
        published = await scene.step(2)
        assert await watching.live() == published
        await watching.stop()

    async def test_without_redis_postgres_is_polled_and_one_line_logged(
        self, own_redis: RedisServer, database_url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "streamworker")
        async with scene_on(own_redis.url, database_url) as scene:
            watching = scene.watch()
            await watching.snapshot()
            own_redis.kill()
            for revision in (1, 2, 3):
                await scene.record(revision)
                assert await watching.snapshot() == revision
            own_redis.start()
            await until(lambda: asyncio.sleep(0, "can be read again" in caplog.text), "the return of Redis")
            published = await scene.step(4)
            assert await watching.live() == published
            own_redis.kill()
            await scene.record(10, "completed")
            assert await watching.snapshot() == 10
            assert await watching.ended() is None
        assert caplog.text.count("progress comes from Postgres meanwhile") == 2

    async def test_a_watch_can_begin_while_redis_is_away(self, own_redis: RedisServer, database_url: str) -> None:
        async with scene_on(own_redis.url, database_url) as scene:
            own_redis.kill()
            watching = scene.watch()
            assert await watching.snapshot() == 0
            await scene.record(5)
            assert await watching.snapshot() == 5
            await watching.stop()

    async def test_postgres_alone_is_polled(self, scene: Scene, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("REDIS_URL", raising=False)
        async with Client.connect(database_url=database_url) as client:
            watching = Watching(client.watch(scene.batch_id))
            assert await watching.snapshot() == 0
            await scene.record(10, "completed")
            assert await watching.snapshot() == 10
            assert await watching.ended() is None


class TestTroubleWithPostgres:
    async def test_a_watch_outlives_an_outage(self, redis_url: str, own_postgres: PostgresServer) -> None:
        async with Client.connect(redis_url, own_postgres.url) as client:
            batch_id = await client.submit(["a"])
            watching = Watching(client.watch(batch_id))
            assert await watching.snapshot() == 0
            own_postgres.kill()
            with redis.Redis.from_url(redis_url) as broker:  # a gap: only Postgres can fill it
                scene = Scene(client, None, None, batch_id)
                broker.xadd("progress", {"batch_id": str(batch_id), "event": encode_event(scene.event(7))})
            own_postgres.start()
            run_sql(own_postgres.url, f"SELECT streamworker.cancel('{batch_id}')")
            event = await watching.next()
            assert event.status == "cancelled"
            assert await watching.ended() is None

    async def test_a_watch_ends_with_its_client(self, redis_url: str, database_url: str) -> None:
        async with Client.connect(redis_url, database_url) as client:
            watching = Watching(client.watch(await client.submit(["a"])))
            await watching.snapshot()
        assert isinstance(await watching.ended(), asyncpg.InterfaceError)

    async def test_a_batch_that_is_deleted_meanwhile_is_not_found(self, scene: Scene) -> None:
        watching = scene.watch()
        await watching.snapshot()
        await scene.connection.execute("DELETE FROM streamworker.batches")
        assert isinstance(await watching.ended(), BatchNotFound)
