"""Redis away, back, empty; Postgres away: what is known is kept, what happens meanwhile is told, and it heals by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateway.live_scene import Frame, LiveScene, Socket, live_scene_on, submit
from tests.servers import PostgresServer, RedisServer, run_sql


@pytest.fixture
async def scene(redis_url: str, database_url: str) -> AsyncIterator[LiveScene]:
    async with live_scene_on(redis_url, database_url) as scene:
        yield scene


@pytest.fixture
def weak_redis(tmp_short: Path) -> RedisServer:
    """A server that forgets everything when it ends."""
    return RedisServer("valkey", tmp_short / "redis")


@pytest.fixture
async def weak_scene(weak_redis: RedisServer, database_url: str) -> AsyncIterator[LiveScene]:
    weak_redis.start()
    try:
        async with live_scene_on(weak_redis.url, database_url) as scene:
            yield scene
    finally:
        weak_redis.close()


def state(frame: Frame) -> tuple[bool, bool]:
    """What a state frame says of Redis and Postgres."""
    assert frame["type"] == "state", frame
    return frame["redis"], frame["postgres"]


async def next_change(client: Socket, revision: int) -> Frame:
    """The frame that brings this revision; those on the way to it never go back."""
    last = -1
    while (frame := await client.frame())["type"] == "live" or frame["event"]["revision"] < revision:
        if "event" in frame:
            assert frame["event"]["revision"] >= last
            last = frame["event"]["revision"]
    return frame


class TestRedis:
    async def test_it_is_killed_and_comes_back_empty(self, weak_scene: LiveScene, weak_redis: RedisServer) -> None:
        scene = weak_scene
        async with scene.socket(scene.batch_id) as client, scene.socket("*") as everything:
            await client.until("live")
            await everything.until("live")
            await scene.step(1)
            token = (await client.event())["id"]
            await everything.event()
            weak_redis.kill()
            assert state(await client.frame()) == (False, True)
            assert state(await everything.frame()) == (False, True)
            for revision in (2, 3):
                await scene.record(revision)
                frame = await next_change(client, revision)
                assert (frame["type"], frame["event"]["revision"]) == ("snapshot", revision)
                assert (await everything.event())["event"]["revision"] == revision
            async with scene.socket(greeted=False) as late:
                assert (await late.frame())["redis"] is False
                await late.say(type="subscribe", batch_id=str(scene.batch_id))
                assert (await late.event())["event"]["revision"] == 3
            weak_redis.start()
            assert state(await client.frame()) == (True, True)
            await scene.step(4)
            assert (await next_change(client, 4))["type"] == "event"
            async with scene.socket(scene.batch_id, since=token) as resumed:
                assert (await resumed.event())["reset"]  # another server's stream
            await scene.step(5, "completed")
            assert (await client.until("end"))[-1]["status"] == "completed"

    async def test_it_is_away_at_the_start(self, weak_redis: RedisServer, database_url: str) -> None:
        weak_redis.start()
        weak_redis.kill()
        try:
            async with live_scene_on(weak_redis.url, database_url) as scene, scene.socket(scene.batch_id) as client:
                assert (await client.until("live"))[0]["event"]["revision"] == 0
                await scene.record(1)
                await next_change(client, 1)
                weak_redis.start()
                assert state(await client.frame()) == (True, True)
                await scene.step(2)
                frame = await next_change(client, 2)
                async with scene.socket(scene.batch_id, since=frame["id"]) as resumed:
                    assert [one["type"] for one in await resumed.until("live")] in (["live"], ["snapshot", "live"])
        finally:
            weak_redis.close()

    async def test_it_hangs(self, weak_scene: LiveScene, weak_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
        scene = weak_scene
        async with scene.socket(scene.batch_id) as client:
            await client.until("live")
            weak_redis.pause()
            try:
                await scene.record(1)  # told by the comparison: it needs no answer of Redis
                assert (await next_change(client, 1))["type"] == "snapshot"
            finally:
                weak_redis.resume()

    async def test_it_is_flushed(self, scene: LiveScene, redis_server: RedisServer) -> None:
        async with scene.socket(scene.batch_id) as client:
            await client.until("live")
            await scene.step(1)
            await client.event()
            await scene.publish(scene.event(2))
            redis_server.flush()
            await scene.step(3)
            await next_change(client, 3)
            await scene.step(4, "completed")
            assert (await client.until("end"))[-2]["event"]["revision"] == 4

    async def test_its_stream_counts_anew_from_below(self, scene: LiveScene) -> None:
        await scene.broker.xadd("progress", {"x": "y"}, id="99999999999999-0")
        async with scene.socket(scene.batch_id) as client:
            token = (await client.until("live"))[0]["id"]
            await scene.broker.delete("progress")
            await scene.step(1)
            await next_change(client, 1)
            await scene.step(2)
            await next_change(client, 2)
            async with scene.socket(scene.batch_id, since=token) as resumed:
                assert (await resumed.event())["reset"]

    async def test_it_is_trimmed(self, scene: LiveScene) -> None:
        async with scene.socket(scene.batch_id) as client:
            await client.until("live")
            for revision in range(1, 30):
                await scene.step(revision)
                if revision % 7 == 0:
                    await scene.broker.xtrim("progress", maxlen=0, approximate=False)
            await next_change(client, 29)
            await scene.step(30, "completed")
            assert (await client.until("end"))[-2]["event"]["revision"] == 30


class TestPostgres:
    async def test_it_is_killed_and_comes_back(self, redis_url: str, own_postgres: PostgresServer) -> None:
        async with live_scene_on(redis_url, own_postgres.url) as scene, scene.socket(scene.batch_id) as client:
            await client.until("live")
            await scene.step(1)
            await client.event()
            own_postgres.kill()
            await scene.publish(scene.event(5))  # a gap: only Postgres can fill it
            assert state(await client.frame()) == (True, False)
            async with scene.events(scene.batch_id) as late:  # knows nothing yet, and is told so
                assert (await late.frame() or {})["type"] in ("snapshot", "live", "state")
            own_postgres.start()
            run_sql(own_postgres.url, f"SELECT streamworker.cancel('{scene.batch_id}')")
            frames = await client.until("end")
            assert (True, True) in [state(frame) for frame in frames if frame["type"] == "state"]
            assert frames[-1]["status"] == "cancelled"

    async def test_a_client_that_comes_meanwhile_waits(self, redis_url: str, own_postgres: PostgresServer) -> None:
        async with live_scene_on(redis_url, own_postgres.url) as scene:
            other = await submit(scene.connection)
            own_postgres.kill()
            async with scene.socket(other) as client, scene.socket("*") as everything:
                assert state(await client.frame()) == (True, False)
                own_postgres.start()
                frames = await client.until("live")
                assert [frame["type"] for frame in frames if frame["type"] != "state"] == ["snapshot", "live"]
                assert (await everything.until("live"))[-2]["type"] == "snapshot"

    async def test_one_that_leaves_while_it_waits_leaves_nothing(self, redis_url: str, own_postgres: PostgresServer) -> None:
        async with live_scene_on(redis_url, own_postgres.url) as scene:
            own_postgres.kill()
            async with scene.socket(scene.batch_id) as client:
                await client.frame()
            async with asyncio.timeout(20):
                while scene.hub._connections or scene.hub._of_connection:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            own_postgres.start()
