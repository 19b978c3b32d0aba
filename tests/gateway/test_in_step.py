"""A token stands for the stream, and a client may know more or less: who goes on from one misses nothing and hears nothing twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from streamworker.broker.connection import connect
from streamworker.gateway.connection import Connection
from streamworker.gateway.resume import Position, Record, read_since, scope_of
from streamworker.gateway.stream import Stream
from streamworker.messages import ProgressEvent, encode_event
from streamworker.store import progress
from tests.flows.hand_made import HandMade
from tests.gateway.live_scene import Frame, LiveScene, gateway_on, live_scene_on
from tests.gateway.test_resuming import told
from tests.servers import RedisServer


@pytest.fixture
async def scene(redis_url: str, database_url: str) -> AsyncIterator[LiveScene]:
    async with live_scene_on(redis_url, database_url) as scene:
        yield scene


def of(frames: list[Frame], batch_id: UUID) -> list[tuple[str, int]]:
    """What was told of one batch."""
    return told([frame for frame in frames if frame.get("batch_id") == str(batch_id)])


async def taken(client: Connection, count: int) -> list[Frame]:
    """The next frames of a client without a socket."""
    found = []
    async with asyncio.timeout(20):
        while len(found) < count:
            frame = await client.next()
            assert frame is not None
            found.append(json.loads(frame.json))
    return found


async def publish_all(scene: HandMade, *revisions: int) -> None:
    """Publish events so that they are read together."""
    async with scene.broker.pipeline(transaction=True) as pipeline:
        for revision in revisions:
            pipeline.xadd("progress", {"batch_id": str(scene.batch_id), "event": encode_event(scene.event(revision))})
        await pipeline.execute()


async def test_who_comes_in_the_middle_of_a_page(scene: LiveScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamworker.gateway.hub.SLICE", 10)
    monkeypatch.setattr("streamworker.gateway.feed.FRESH", 60.0)
    history, batch = scene.hub._stream.history, str(scene.batch_id)
    late, append = scene.hub.admit(), history.append
    assert late is not None
    joined: list[object] = []

    def append_and_join(position: Position, batch_id: str, revision: int, raw: bytes) -> Record | None:
        record = append(position, batch_id, revision, raw)
        if revision == 20:
            joined.append(scene.hub.subscribe(late, [batch]))
        return record

    monkeypatch.setattr(history, "append", append_and_join)
    async with scene.socket(scene.batch_id) as client:
        await client.until("live")
        await scene.record(20)
        await publish_all(scene, *range(1, 21))
        await scene.caught_up()
        snapshot, live = await taken(late, 2)
        scene.hub.leave(late)
        async with scene.socket(scene.batch_id, since=live["id"]) as again:
            missed = told(await again.until("live"))
    assert [snapshot["event"]["revision"], *(revision for _, revision in missed)][-1] == 20


async def test_several_of_which_one_waited_for_postgres(scene: LiveScene) -> None:
    beside = await scene.submit()
    ids = scene.batch_id, beside.batch_id
    async with scene.socket(*ids) as client:
        await client.until("live")
        for batch in (scene, beside):
            await batch.step(1)
            await client.event()
        await scene.step(5)  # 2, 3 and 4 were lost
        for revision in (2, 3, 4):
            await beside.step(revision)
        frames: list[Frame] = []
        while ("event", 5) not in told(frames):
            frames.append(await client.event())
    async with scene.socket(*ids, since=frames[-1]["id"]) as late:
        assert of(await late.until("live"), beside.batch_id) in ([], [("snapshot", 4)])


async def test_several_of_which_one_has_ended_long_ago(scene: LiveScene, monkeypatch: pytest.MonkeyPatch) -> None:
    old = await scene.submit()
    await old.record(5, "completed")  # of which the stream tells nothing any more
    ids = scene.batch_id, old.batch_id
    for settled, revision, expected in ((60.0, 1, ("snapshot", 2)), (0.0, 3, ("event", 4))):
        monkeypatch.setattr("streamworker.gateway.feed.SETTLED", settled)
        async with scene.socket(*ids) as client:
            await client.until("live")
            scene.hub._feeds.look_after(redis=True)
            await scene.step(revision)
            token = (await client.event())["id"]
        await scene.step(revision + 1)
        await scene.caught_up()
        async with scene.socket(*ids, since=token) as late:
            assert of(await late.until("live"), scene.batch_id) == [expected]


async def test_one_of_several_and_all(scene: LiveScene, redis_url: str, database_url: str) -> None:
    ids = scene.batch_id, "*"
    async with gateway_on(redis_url, database_url) as (port, hub), scene.socket(scene.batch_id) as client:
        other = LiveScene(port, hub, scene.connection, scene.broker, scene.batch_id)
        await client.until("live")
        await scene.record(3)
        async with other.socket(*ids) as early:
            frames = await early.until("live")
            while frames[-1].get("batch_id") != "*":
                frames.append(await early.frame())
        await publish_all(scene, 1, 2, 3)
        await scene.caught_up()
        for frame in frames:
            if frame["type"] == "live":
                async with scene.socket(*ids, since=frame["id"]) as late:
                    assert of(await late.until("live"), scene.batch_id) == [("snapshot", 3)]


async def test_who_knows_a_revision_that_the_stream_has_not_told(scene: LiveScene) -> None:
    async with scene.socket(scene.batch_id) as client:
        await client.until("live")
        await scene.step(1)
        await client.event()
        await scene.record(5)
        async with scene.socket(scene.batch_id, since=5) as early:
            frames = await early.until("live")
        assert told(frames) == []
        await publish_all(scene, 2, 3, 4, 5)
        await scene.caught_up()
        async with scene.socket(scene.batch_id, since=frames[-1]["id"]) as late:
            assert told(await late.until("live")) == [("snapshot", 5)]


async def test_the_end_is_told_to_who_knows_its_revision(scene: LiveScene) -> None:
    async with scene.socket(scene.batch_id) as client:
        await client.until("live")
        await scene.step(1)
        await client.event()
        await scene.record(3, "completed")
        async with scene.socket(scene.batch_id, since=3) as early:
            await early.until("end")


async def test_an_end_of_which_the_stream_never_tells(
    scene: LiveScene, redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene.socket(scene.batch_id) as client:
        await client.until("live")
        await scene.step(1)
        await client.event()
    async with gateway_on(redis_url, database_url) as (port, hub):
        other = LiveScene(port, hub, scene.connection, scene.broker, scene.batch_id)
        monkeypatch.setattr("streamworker.gateway.feed.FRESH", 0.0)
        await scene.record(3, "completed")
        async with other.events(scene.batch_id) as stream:
            await stream.rest()
            last = {"Last-Event-ID": stream.last_id}
        for gateway in (scene, other):  # or a browser would come back for ever, now here, now there
            found = await gateway.get(f"batch_id={scene.batch_id}", **last)
            assert found.status_code == 204, (gateway is scene, found.text)


async def test_what_another_gateway_has_read_already(
    scene: LiveScene, redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, go_on = scene.hub._stream.read, asyncio.Event()

    async def read_late(quiet: float) -> Any:
        found = await read(quiet)
        await go_on.wait()
        return found

    async with gateway_on(redis_url, database_url) as (port, hub), scene.socket(scene.batch_id) as client:
        other = LiveScene(port, hub, scene.connection, scene.broker, scene.batch_id)
        await client.until("live")
        async with other.socket(scene.batch_id) as ahead:
            await ahead.until("live")
            monkeypatch.setattr(scene.hub._stream, "read", read_late)
            await scene.step(1)  # this one is still waiting in a read of before
            await client.event()
            await scene.step(2)
            await ahead.event()
            token = (await ahead.event())["id"]
        async with scene.socket(scene.batch_id, since=token) as late:
            asyncio.get_running_loop().call_later(0.1, go_on.set)
            frames = await late.until("live")
            await scene.step(3)
            assert told([*frames, await late.event()]) == [("event", 3)]  # neither 2 again nor a snapshot


async def test_what_stood_there_when_redis_came(own_redis: RedisServer, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await asyncio.to_thread(own_redis.kill)
    async with live_scene_on(own_redis.url, database_url) as scene:
        answered = scene.hold_postgres(monkeypatch)
        async with scene.socket(scene.batch_id) as client:
            while scene.hub._reader._asked or scene.hub._reader._running is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await scene.hub._reader._running  # revision 0, and on its way
            await asyncio.to_thread(own_redis.start)
            await scene.step(1)
            await scene.caught_up()
            answered.set()
            frames = await client.until("live")
        async with gateway_on(own_redis.url, database_url) as (port, hub):
            other = LiveScene(port, hub, scene.connection, scene.broker, scene.batch_id)
            async with other.socket(scene.batch_id) as first:
                await first.until("live")
                async with other.socket(scene.batch_id, since=frames[-1]["id"]) as late:
                    missed = told(await late.until("live"))
        assert [*told(frames), *missed][-1][1] == 1


async def test_a_page_that_was_asked_for_before_the_history_began(own_redis: RedisServer) -> None:
    await asyncio.to_thread(own_redis.kill)
    stream = Stream(own_redis.url, "progress")
    await stream.start()
    await asyncio.to_thread(own_redis.start)

    async def read() -> list[int]:
        return [one.event.revision for one in await stream.read(1.0)]

    reading = asyncio.create_task(read())
    async with redis_of(own_redis) as made:
        while not (await made.broker.info("clients"))["blocked_clients"]:  # noqa: ASYNC110 it waits for the first
            await asyncio.sleep(0.01)
        await publish_all(made, *range(1, 251))
        assert await reading == []  # all of it is in the history
        tag = stream.history.tag
        assert (await read(), stream.history.tag) == ([], tag)
    await stream.close()


@asynccontextmanager
async def redis_of(server: RedisServer) -> AsyncIterator[HandMade]:
    """A batch that stands nowhere, whose events can be published."""
    broker = connect(server.url)
    try:
        yield HandMade(None, broker, uuid4())  # type: ignore[arg-type]
    finally:
        await broker.aclose()


async def test_a_batch_that_comes_while_two_ask_for_it(scene: LiveScene, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id, read = uuid4(), progress.read_snapshots
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def read_slowly(pool: Any, ids: Sequence[UUID]) -> dict[str, ProgressEvent]:
        found = await read(pool, ids)
        asked.set()
        await go_on.wait()
        return found

    monkeypatch.setattr("streamworker.gateway.reader.progress.read_snapshots", read_slowly)
    one, two = scene.hub.admit(), scene.hub.admit()
    assert one is not None
    assert two is not None
    first = scene.hub.subscribe(one, [str(batch_id)])
    await asked.wait()
    second = scene.hub.subscribe(two, [str(batch_id)])
    await asyncio.sleep(0)
    await scene.connection.execute("SELECT streamworker.submit($1, $2)", json.dumps(["1"]), batch_id)
    go_on.set()
    await asyncio.gather(first, second)
    made = HandMade(scene.connection, scene.broker, batch_id)
    await made.step(1, "completed")
    await scene.caught_up()
    assert [frame["type"] for frame in await taken(two, 4)] == ["snapshot", "live", "event", "end"]
    for client in (one, two):
        scene.hub.leave(client)


async def test_no_token_of_what_is_not_told_yet(scene: LiveScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamworker.gateway.connection.MOST_FRAMES", 3)
    beside = await scene.submit()
    async with scene.socket(beside.batch_id) as keep:
        await keep.until("live")
        await beside.step(1)
        await keep.event()
        client = scene.hub.admit()
        assert client is not None
        await scene.hub.subscribe(client, [str(scene.batch_id)])
        await taken(client, 2)
        answered = scene.hold_postgres(monkeypatch)
        opening = scene.hub.subscribe(client, [str(beside.batch_id)], read_since("nonsense"))
        await publish_all(scene, *range(1, 11))  # it does not keep up
        await scene.caught_up()
        frames = await taken(client, 2)
        assert [frame["type"] for frame in frames] == ["snapshot", "live"]
        assert frames[1]["id"].endswith(scope_of([str(scene.batch_id)]))
        answered.set()
        await opening
        assert of(await taken(client, 2), beside.batch_id) == [("snapshot", 1)]
        scene.hub.leave(client)


async def test_a_slow_client_that_lost_what_postgres_said_first(scene: LiveScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamworker.gateway.connection.MOST_FRAMES", 3)
    monkeypatch.setattr("streamworker.gateway.feed.FRESH", 0.0)
    beside = await scene.submit()
    async with scene.socket(scene.batch_id) as keep:
        await keep.until("live")
        await scene.step(1)
        await keep.event()
        await scene.record(4)
        client = scene.hub.admit()
        assert client is not None
        await scene.hub.subscribe(client, [str(beside.batch_id)])
        await taken(client, 2)
        await scene.hub.subscribe(client, [str(scene.batch_id)], read_since(1))  # it knows 1, and is to be shown 4
        for revision in (1, 2, 3, 4):
            await beside.step(revision)
        await scene.caught_up()  # but that is dropped
        answered = scene.hold_postgres(monkeypatch)
        frames = await taken(client, 2)
        await publish_all(scene, 2, 3, 4)
        await scene.caught_up()
        answered.set()
        while not of(frames, scene.batch_id):
            frames += await taken(client, 1)
        assert of(frames, scene.batch_id) == [("snapshot", 4)]
        scene.hub.leave(client)


async def test_postgres_is_away_and_the_client_heard_it_all_here(scene: LiveScene, monkeypatch: pytest.MonkeyPatch) -> None:
    await scene.record(5)  # of which the stream tells nothing any more
    async with scene.socket(scene.batch_id) as keep:
        token = (await keep.until("live"))[-1]["id"]
        scene.hold_postgres(monkeypatch)
        async with scene.socket(scene.batch_id, since=token) as client:
            assert told(await client.until("live")) == [("snapshot", 5)]
            await scene.publish(scene.event(6))
            assert told([await client.event()]) == [("event", 6)]


async def test_a_token_of_those_that_are_still_watched(scene: LiveScene) -> None:
    beside = await scene.submit()
    async with scene.socket(scene.batch_id, beside.batch_id) as client:
        await client.until("live")
        await client.say(type="unsubscribe", batch_id=str(scene.batch_id))
        await client.say(type="ping")
        while json.loads(await client.connection.recv())["type"] != "ping":
            pass
        await scene.step(1)
        await beside.step(1)
        token = (await client.event())["id"]
    async with scene.socket(scene.batch_id, beside.batch_id, since=token) as late:
        assert of(await late.until("live"), scene.batch_id) == [("snapshot", 1)]


async def test_what_is_forgotten_leaves_nothing_behind(scene: LiveScene) -> None:
    async with scene.socket(scene.batch_id) as client:
        await client.until("live")
        assert str(scene.batch_id) in scene.hub._stream.history.in_step
        await scene.connection.execute("DELETE FROM streamworker.batches")
        await client.until("error")
    while scene.hub._feeds.find(str(scene.batch_id)) is not None:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert scene.hub._stream.history.in_step == set()


async def test_who_asks_for_what_is_not_there(scene: LiveScene) -> None:
    async with httpx.AsyncClient() as client:
        for _ in range(3):
            found = await client.get(f"http://127.0.0.1:{scene.port}/events?batch_id={uuid4()}")
            assert found.status_code == 404
