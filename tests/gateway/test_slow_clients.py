"""Clients that read slowly, or not at all: they cost little, and nobody else anything."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from streamworker.gateway import connection as outbox
from streamworker.gateway.connection import Connection
from streamworker.gateway.frames import PING, Frame
from streamworker.gateway.resume import Since, read_since
from streamworker.messages import ItemEvent, ProgressEvent
from streamworker.store import progress
from streamworker.store.pool import Pool
from tests.gateway.live_scene import LiveScene, live_scene_on
from tests.servers import wait_for

LARGE = "x" * 2000


@pytest.fixture
async def scene(redis_url: str, database_url: str) -> AsyncIterator[LiveScene]:
    async with live_scene_on(redis_url, database_url) as scene:
        yield scene


async def publish_large(scene: LiveScene, first: int, last: int) -> None:
    """Events of 100 kB each."""
    for revision in range(first, last + 1):
        items = [ItemEvent(position, str(revision), "failed", 1, error=LARGE) for position in range(50)]
        await scene.step(revision, items=items)


def waiting_bytes(scene: LiveScene) -> list[int]:
    """What waits for each client."""
    return sorted(connection._bytes for connection in scene.hub._connections)


async def connected(scene: LiveScene, clients: int) -> None:
    """Return when so many clients are being told."""
    async with asyncio.timeout(20):
        while sum(len(feed.watchers) for feed in scene.hub._feeds._feeds.values()) != clients:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_one_that_reads_nothing_delays_nobody_and_is_bounded(scene: LiveScene) -> None:
    sleepers = [await scene.raw(f"/ws?batch_id={scene.batch_id}") for _ in range(5)]
    async with scene.socket(scene.batch_id) as client:
        await client.until("live")
        await connected(scene, 6)
        await publish_large(scene, 1, 150)  # 15 MB
        frames = [await client.event() for _ in range(150)]
        assert [frame["event"]["revision"] for frame in frames] == list(range(1, 151))
        assert max(waiting_bytes(scene)) <= outbox.MOST_BYTES
        shared = [connection for connection in scene.hub._connections if connection._stale]
        assert len(shared) == 5  # frames of theirs were dropped
    for sleeper in sleepers:
        sleeper.close()


async def test_who_begins_to_read_again_gets_the_present_state_and_goes_on(scene: LiveScene) -> None:
    async with scene.socket(scene.batch_id) as client:
        await client.until("live")
        client.connection.transport.pause_reading()
        await publish_large(scene, 1, 150)
        await scene.caught_up()
        client.connection.transport.resume_reading()
        revisions: list[int] = []
        while (frame := await client.event())["type"] == "event":
            revisions.append(frame["event"]["revision"])
        assert revisions == list(range(1, len(revisions) + 1))  # what was on its way already, without a hole
        assert (frame["reset"], frame["event"]["revision"]) == (True, 150)
        assert "id" not in frame
        assert (await client.frame())["type"] == "live"
        await scene.step(151, "completed")
        assert [frame["type"] for frame in await client.until("end")] == ["event", "end"]


async def test_no_id_stands_for_what_was_dropped_of_another_batch(scene: LiveScene) -> None:
    other = await scene.submit()
    async with scene.socket(scene.batch_id, other.batch_id) as client:
        await client.until("live")
        client.connection.transport.pause_reading()
        await publish_large(scene, 1, 150)
        for revision in range(1, 6):
            await other.step(revision)
        await scene.caught_up()
        client.connection.transport.resume_reading()
        frames = await client.until("live")
    told = [frame for frame in frames if "id" in frame]
    assert {frame["batch_id"] for frame in told[:-1]} == {str(scene.batch_id)}
    shown = {frame["batch_id"]: frame["event"]["revision"] for frame in frames if frame["type"] == "snapshot"}
    assert shown == {str(scene.batch_id): 150, str(other.batch_id): 5}
    async with scene.events(scene.batch_id, other.batch_id, last_id=told[-2]["id"]) as stream:  # it left before the snapshots
        missed = [frame for frame in [await stream.frame() for _ in range(3)] if frame]
    assert [frame["type"] for frame in missed] == ["snapshot", "snapshot", "live"]  # they were more than are kept


async def test_who_takes_nothing_for_long_is_cut_off(scene: LiveScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamworker.gateway.hub.PATIENCE", 1.0)
    sleeper = await scene.raw(f"/ws?batch_id={scene.batch_id}")
    stream = await scene.raw("/ws")  # takes its time, but has nothing to take
    events = await scene.raw_get(f"/events?batch_id={scene.batch_id}")
    await connected(scene, 2)
    await publish_large(scene, 1, 80)
    async with asyncio.timeout(20):
        while len(scene.hub._connections) != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    for client in (sleeper, stream, events):
        client.close()


async def test_under_a_server_that_is_not_ours(redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamworker.gateway.hub.PATIENCE", 1.0)
    async with live_scene_on(redis_url, database_url, plain=True) as scene, scene.socket(scene.batch_id) as client:
        await client.until("live")
        sleeper = await scene.raw(f"/ws?batch_id={scene.batch_id}")
        await connected(scene, 2)
        await publish_large(scene, 1, 80)
        assert [(await client.event())["event"]["revision"] for _ in range(80)] == list(range(1, 81))
        async with asyncio.timeout(20):
            while len(scene.hub._connections) != 1:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        sleeper.close()


async def test_frames_are_made_once_for_all(scene: LiveScene) -> None:
    sleepers = [await scene.raw(f"/ws?batch_id={scene.batch_id}") for _ in range(20)]
    await connected(scene, 20)
    await publish_large(scene, 1, 60)
    await scene.caught_up()
    queues = [{id(frame.json) for frame in connection._frames if frame.kind == "event"} for connection in scene.hub._connections]
    assert len(set.union(*queues)) <= 60
    for sleeper in sleepers:
        sleeper.close()


async def test_of_all_batches_only_the_newest_state_waits(scene: LiveScene) -> None:
    async with scene.socket("*") as client:
        await client.until("live")
        client.connection.transport.pause_reading()
        connection = next(iter(scene.hub._connections))
        for revision in range(1, 6):
            await scene.step(revision, error=LARGE * 300)
            await scene.caught_up()
            await asyncio.sleep(0.21)
        assert len(connection._states) <= 1
        client.connection.transport.resume_reading()
        revisions = [0]
        while revisions[-1] < 5:
            revisions.append((await client.event())["event"]["revision"])
        assert revisions == sorted(set(revisions))


async def test_who_does_not_read_of_many_batches_is_sent_away_and_comes_back(scene: LiveScene, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in (("overview.NEWEST", 3), ("overview.MOST_OPEN", 3), ("overview.MOST_KNOWN", 6), ("connection.MOST_STATES", 10)):
        monkeypatch.setattr(f"streamworker.gateway.{name}", number)
    sleeper, cut = scene.hub.admit(), list[bool]()
    assert sleeper is not None
    sleeper.cut = lambda: cut.append(True)
    async with scene.socket("*") as client:
        token = (await client.until("live"))[-1]["id"]
        await scene.hub.subscribe(sleeper, ["*"])
        for _ in range(20):
            batch = await scene.submit()
            await batch.step(1, "completed")
            while (frame := await client.event())["batch_id"] != str(batch.batch_id) or frame["event"]["revision"] != 1:
                pass
            assert len(sleeper._states) <= 10
        assert cut
        assert sleeper.closing == (4508, "more than 10 batches changed, and were not read of")
    scene.hub.leave(sleeper)
    again = scene.hub.admit()
    assert again is not None
    await scene.hub.subscribe(again, ["*"], read_since(token))  # more has changed than is told of in one go
    assert {b'"reset":true' in frame.json for frame in again._states.values() if frame.kind == "snapshot"} == {True}
    assert b'"revision":1' in again._states[str(batch.batch_id)].json
    scene.hub.leave(again)


async def test_nothing_is_left_of_those_who_have_gone(scene: LiveScene) -> None:
    for _ in range(3):
        async with scene.socket(scene.batch_id, "*") as client, scene.events(scene.batch_id) as stream:
            await client.until("live")
            await stream.frame()
    await asyncio.to_thread(wait_for, lambda: not scene.hub._connections)
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, outbox.Connection)]
    assert scene.hub._of_connection == {}


async def test_a_storm_of_reconnects_asks_postgres_a_few_times_only(scene: LiveScene, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    read = scene.hub._reader._pool.fetch

    async def counting(sql: str, *arguments: object, **options: object) -> object:
        if "ANY ($1::uuid[])" in sql and "LATERAL" not in sql:
            asked.append(len(arguments[0]))  # type: ignore[arg-type]
        return await read(sql, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(scene.hub._reader._pool, "fetch", counting)
    loop = asyncio.get_running_loop()

    async def visit() -> None:
        async with scene.socket(scene.batch_id) as client:
            await client.until("live")

    began = loop.time()
    await asyncio.gather(*(visit() for _ in range(200)))
    assert len(asked) <= 2 + (loop.time() - began) / 0.25


async def test_so_does_one_of_those_who_watch_all_and_what_is_shown_to_them_is_made_once(
    scene: LiveScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        await scene.submit()
    asked: list[float] = []
    loop, read = asyncio.get_running_loop(), progress.read_overview

    async def counting(pool: Pool, newest: int, most_open: int) -> list[ProgressEvent]:
        asked.append(loop.time())
        return await read(pool, newest, most_open)

    monkeypatch.setattr(progress, "read_overview", counting)
    clients = [client for _ in range(50) if (client := scene.hub.admit()) is not None]
    began = loop.time()
    await asyncio.gather(*(scene.hub.subscribe(client, ["*"], Since()) for client in clients))
    assert len(asked) <= 2 + (loop.time() - began) / 0.25
    told = [frame for client in clients for frame in client._states.values() if frame.kind == "snapshot"]
    assert (len(told), len({id(frame) for frame in told})) == (50 * 6, 6)
    for client in clients:
        scene.hub.leave(client)


async def test_what_is_shown_again_is_told_however_large_it_is() -> None:
    shown: list[set[str]] = []
    large = {id: Frame("snapshot", b"x" * (outbox.MOST_BYTES // 2 + n), id, None) for n, id in enumerate("abcd")}

    def resync(connection: Connection, ids: set[str]) -> None:
        shown.append(ids)
        assert len(shown) == 1, "it is shown once, and told"
        for id in sorted(ids):
            connection.offer(large[id])

    connection = Connection(resync)
    for told in large.values():
        connection.offer(told)  # together they are too much: dropped, to be shown later
    assert connection._bytes <= outbox.MOST_BYTES
    assert [await connection.next() for _ in large] == list(large.values())
    connection.offer(PING)
    assert await connection.next() is PING
