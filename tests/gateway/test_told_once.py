"""What is published twice is told once; what was about to be told, or could not be, is told in the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest

from streamworker.messages import ItemEvent
from streamworker.store import progress
from streamworker.store.pool import Pool
from tests.gateway.live_scene import LiveScene, live_scene_on
from tests.gateway.test_in_step import of
from tests.gateway.test_resuming import told
from tests.servers import RedisServer


@pytest.fixture
async def scene(redis_url: str, database_url: str) -> AsyncIterator[LiveScene]:
    async with live_scene_on(redis_url, database_url) as scene:
        yield scene


async def until(happened: Callable[[], bool]) -> None:
    """Wait for it."""
    async with asyncio.timeout(20):
        while not happened():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# --- published twice --------------------------------------------------------------------------------------------------------


async def test_a_copy_that_came_late(scene: LiveScene) -> None:
    first, second = (scene.event(1, items=[ItemEvent(position, "a", "completed", 1)]) for position in (0, 1))
    async with scene.socket(scene.batch_id) as client:
        await client.until("live")
        await scene.record(1)
        await scene.publish(first)
        await scene.publish(second)
        token = [(await client.event())["id"] for _ in range(2)][-1]
        await scene.publish(first)
        await scene.publish(scene.event(1, items=[ItemEvent(2, "a", "completed", 1)]))
        assert (await client.event())["event"]["items"][0]["position"] == 2
        async with scene.socket(scene.batch_id, since=token) as late:
            frames = await late.until("live")
    assert [item["position"] for frame in frames if "event" in frame for item in frame["event"]["items"]] == [2]


async def test_an_end_that_is_announced_once_more(scene: LiveScene) -> None:
    async with scene.socket(scene.batch_id) as client:
        await client.until("live")
        await scene.step(1, "completed")
        token = (await client.event())["id"]
        await client.until("end")
        await scene.publish(scene.event(1, "completed", items=[]))
        await scene.caught_up()
        async with scene.socket(scene.batch_id, since=token) as late:
            assert told(await late.until("live")) == []


async def test_among_all_what_postgres_said_and_then_the_stream(scene: LiveScene) -> None:
    async with scene.socket("*") as keep:
        token = (await keep.until("live"))[-1]["id"]
        await scene.record(3)
        while (await keep.event())["event"]["revision"] < 3:  # Postgres said it, a second later
            pass
        await scene.publish(scene.event(3))
        await scene.caught_up()
        async with scene.socket("*", since=token) as late:
            assert [revision for _, revision in of(await late.until("live"), scene.batch_id)] == [3]


async def test_among_all_what_is_about_items_only(scene: LiveScene) -> None:
    async with scene.socket("*") as client:
        await client.until("live")
        await scene.step(1)
        token = (await client.event())["id"]
        await scene.publish(scene.event(1, items=[ItemEvent(2, "x", "processing", 1, percent=5.0)]))
        await scene.caught_up()
        async with scene.socket("*", since=token) as late:
            assert told(await late.until("live")) == []


# --- told in the end --------------------------------------------------------------------------------------------------------


async def test_among_all_a_batch_that_postgres_is_being_asked_about(scene: LiveScene, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = await scene.submit()
    read, read_all, go_on = scene.hub._reader.read, progress.read_overview, asyncio.Event()

    async def read_late(batch_id: str) -> progress.ProgressEvent:
        found = await read(batch_id)
        await go_on.wait()
        return found

    async def read_all_late(pool: Pool, newest: int, most_open: int) -> list[progress.ProgressEvent]:
        await go_on.wait()
        return await read_all(pool, newest, most_open)

    async with scene.socket("*") as keep:
        await keep.until("live")
        async with scene.socket("*") as client:
            await client.until("live")
            monkeypatch.setattr(scene.hub._reader, "read", read_late)
            monkeypatch.setattr("streamworker.gateway.overview.progress.read_overview", read_all_late)
            await scene.record(3, "completed")
            await scene.publish(scene.event(3, "completed"))  # after a gap: Postgres is asked
            await scene.caught_up()
            await beside.step(1)
            token = (await client.event())["id"]
        go_on.set()
        while not of([await keep.event()], scene.batch_id):  # who stayed is told
            pass
        async with scene.socket("*", since=token) as late:
            assert of(await late.until("live"), scene.batch_id)[-1:] == [("event", 3)]


async def test_among_all_what_changed_while_it_was_to_be_watched_by_its_id(scene: LiveScene, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene.socket("*") as client:
        await client.until("live")
        answered = scene.hold_postgres(monkeypatch)
        await client.say(type="subscribe", batch_id=str(scene.batch_id), since=5)
        (connection,) = scene.hub._connections
        await until(lambda: str(scene.batch_id) in connection.wanted)
        await scene.step(1, "completed")
        await scene.caught_up()
        await client.say(type="unsubscribe", batch_id=str(scene.batch_id))
        await until(lambda: not connection.wanted)
        answered.set()
        frame = await client.event()
        assert (frame["batch_id"], frame["event"]["revision"]) == (str(scene.batch_id), 1)


async def test_a_batch_that_was_replaced_while_a_gap_of_it_was_mended(scene: LiveScene, monkeypatch: pytest.MonkeyPatch) -> None:
    read, calls, second_came = progress.read_snapshots, 0, asyncio.Event()

    async def read_slowly(pool: Pool, ids: list[str]) -> dict[str, progress.ProgressEvent]:
        nonlocal calls
        calls += 1
        if calls == 1:
            await scene.connection.execute("DELETE FROM streamworker.batches WHERE id = $1", scene.batch_id)
            found = await read(pool, ids)
            await second_came.wait()
            return found
        if calls == 2:
            await scene.connection.execute("SELECT streamworker.submit($1, $2)", json.dumps(["a", "b"]), scene.batch_id)
        return await read(pool, ids)

    async with scene.socket(scene.batch_id) as first:
        await first.until("live")
        await scene.step(1)
        await first.event()
        monkeypatch.setattr("streamworker.gateway.reader.progress.read_snapshots", read_slowly)
        await scene.publish(scene.event(5))  # after a gap: Postgres is asked
        await until(lambda: calls > 0)
        feed = scene.hub._feeds.find(str(scene.batch_id))
        assert feed is not None
        async with scene.socket(scene.batch_id, since=9) as second:
            await until(lambda: feed.interest > 0)
            second_came.set()
            await second.until("live")
            await scene.step(1, "completed")
            assert (await second.until("end"))[-1]["status"] == "completed"
        assert not feed.mending


async def test_what_redis_had_not_told_when_it_was_stopped(own_redis: RedisServer, database_url: str) -> None:
    async with live_scene_on(own_redis.url, database_url) as scene:
        in_step = scene.hub._stream.history.in_step
        async with scene.socket(scene.batch_id) as client:
            await client.until("live")
            await scene.step(1)
            await client.event()
            own_redis.pause()
            try:
                await scene.record(3)
                async with asyncio.timeout(40):
                    await client.until("state")  # that Redis is away
                    feed = scene.hub._feeds.find(str(scene.batch_id))
                    assert feed is not None
                    await until(lambda: feed.revision == 3)
                    feed._stirred_at = scene.hub._stream.history.began_at = float("-inf")  # as if it had been long ago
                    for _ in range(2):
                        await scene.hub._look_after()
                    assert str(scene.batch_id) not in in_step
            finally:
                own_redis.resume()
            async with scene.socket(scene.batch_id) as second:
                token = (await second.until("live"))[-1]["id"]  # knows 3
        await scene.publish(scene.event(2))
        await scene.publish(scene.event(3))
        await scene.caught_up()
        async with scene.socket(scene.batch_id, since=token) as late:
            frames = await late.until("live")
        assert [(frame["event"]["revision"], frame.get("reset")) for frame in frames if "event" in frame] == [(3, True)]
