"""What a client is told: a snapshot first, then each event once, then the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from streamworker.messages import ItemEvent
from tests.gateway.live_scene import Frame, LiveScene, live_scene_on


@pytest.fixture
async def scene(redis_url: str, database_url: str) -> AsyncIterator[LiveScene]:
    async with live_scene_on(redis_url, database_url) as scene:
        yield scene


def told(frame: Frame | None) -> tuple[str, int]:
    """The kind of a frame and the revision in it."""
    assert frame is not None
    return frame["type"], frame["event"]["revision"]


async def test_a_snapshot_then_live_then_each_event_then_the_end(scene: LiveScene) -> None:
    await scene.record(2)
    async with scene.socket(scene.batch_id) as client:
        snapshot, live = await client.until("live")
        assert told(snapshot) == ("snapshot", 2)
        assert snapshot["id"] == live["id"]
        published = [await scene.step(3), await scene.step(4), await scene.step(5, "completed")]
        frames = await client.until("end")
        assert [frame["event"]["revision"] for frame in frames[:-1]] == [event.revision for event in published]
        assert frames[-1] == {"type": "end", "batch_id": str(scene.batch_id), "status": "completed"}


async def test_both_endpoints_tell_the_same(scene: LiveScene) -> None:
    async with scene.socket(scene.batch_id) as client, scene.events(scene.batch_id) as stream:
        await scene.step(1)
        first = [await client.frame() for _ in range(3)]
        assert [await stream.frame() for _ in range(3)] == first
        await scene.step(2, "failed")
        assert await client.until("end") == await stream.rest()  # the stream of one batch ends with it


async def test_the_greeting_says_who_speaks(scene: LiveScene) -> None:
    async with scene.socket(greeted=False) as client:
        hello = await client.frame()
    assert (
        hello.items()
        >= {"type": "hello", "protocol": "streamworker.v1", "heartbeat_seconds": 15, "role": "operator", "redis": True}.items()
    )


async def test_a_late_comer_sees_the_item_in_flight(scene: LiveScene) -> None:
    async with scene.socket(scene.batch_id) as first:
        await first.until("live")
        await scene.step(1, items=[ItemEvent(1, "1", "processing", 1, 40.0, "reading")])
        await first.event()
        async with scene.socket(scene.batch_id) as late:
            snapshot = await late.event()
    assert [(item["position"], item["percent"]) for item in snapshot["event"]["items"]] == [(1, 40.0)]


async def test_the_items_in_flight_come_from_postgres_where_nobody_listened(scene: LiveScene) -> None:
    await scene.record(1, worker="w")
    await scene.connection.execute("UPDATE streamworker.batches SET frontier = 3")
    await scene.connection.execute(
        "UPDATE streamworker.items SET status = 'completed', attempts = 1, finished_at = now() WHERE position = 0"
    )
    async with scene.socket(scene.batch_id) as client:
        snapshot = await client.event()
    assert [(item["position"], item["status"]) for item in snapshot["event"]["items"]] == [(1, "processing"), (2, "processing")]


async def test_what_is_older_or_told_already_is_dropped(scene: LiveScene) -> None:
    async with scene.socket(scene.batch_id) as client:
        await client.until("live")
        published = [await scene.step(1), await scene.step(2)]
        for repeated in (*published, published[0], scene.event(2, items=[]), scene.event(0, items=[])):
            await scene.publish(repeated)
        await scene.step(3, "completed")
        assert [told(frame) for frame in (await client.until("end"))[:-1]] == [("event", 1), ("event", 2), ("event", 3)]


async def test_a_gap_is_filled_by_a_snapshot(scene: LiveScene) -> None:
    async with scene.socket(scene.batch_id) as client:
        await client.until("live")
        await scene.step(1)
        await client.event()
        await scene.record(5)
        await scene.publish(scene.event(3))
        await scene.publish(scene.event(5))
        snapshot = await client.event()
        assert (told(snapshot), snapshot["reset"]) == (("snapshot", 5), True)
        assert told(await client.event()) == ("event", 5)  # more about the items of that very revision
        await scene.step(6)
        assert told(await client.event()) == ("event", 6)


async def test_what_the_stream_never_told_comes_from_postgres(scene: LiveScene) -> None:
    async with scene.socket(scene.batch_id) as client:
        await client.until("live")
        await scene.record(7, "cancelled")
        snapshot, end = await client.until("end")
        assert (told(snapshot), snapshot["reset"], end["status"]) == (("snapshot", 7), True, "cancelled")


async def test_a_batch_that_ended_is_told_at_once_and_again_after_a_retry(scene: LiveScene) -> None:
    await scene.connection.fetchval("SELECT streamworker.cancel($1)", scene.batch_id)
    async with scene.socket(scene.batch_id) as client:
        assert [frame["type"] for frame in await client.until("live")] == ["snapshot", "end", "live"]
        await scene.connection.fetchval("SELECT streamworker.retry($1)", scene.batch_id)
        reopened = await client.event()
        assert (reopened["type"], reopened["event"]["status"]) == ("snapshot", "pending")


async def test_clients_subscribe_and_unsubscribe(scene: LiveScene) -> None:
    other = await scene.submit()
    async with scene.socket() as client:
        for batch in (scene, other):
            await client.say(type="subscribe", batch_id=str(batch.batch_id).upper())
            assert [frame["batch_id"] for frame in await client.until("live")] == [str(batch.batch_id)] * 2
        await client.say(type="unsubscribe", batch_id=str(scene.batch_id))
        await client.say(type="subscribe", batch_id=str(uuid4()))
        assert (await client.until("error"))[-1]["code"] == 4404  # and so the one before was heard
        await scene.step(1)
        await other.step(1)
        assert (await client.event())["batch_id"] == str(other.batch_id)


async def test_all_batches_are_told_without_their_items(scene: LiveScene) -> None:
    other = await scene.submit()
    async with scene.socket("*") as client:
        frames = await client.until("live")
        assert {frame["batch_id"] for frame in frames} == {str(scene.batch_id), str(other.batch_id), "*"}
        await other.step(1, "completed")
        event = await client.event()
        assert (told(event), event["event"]["items"]) == (("event", 1), [])
        third = await scene.submit()  # no event tells of it yet
        created = await client.event()
        assert (created["batch_id"], created["event"]["status"]) == (str(third.batch_id), "pending")


async def test_of_all_batches_only_the_newest_state_comes_a_few_times_a_second(scene: LiveScene) -> None:
    async with scene.events() as stream:
        while (await stream.frame() or {})["type"] != "live":
            pass
        for revision in range(1, 60):
            await scene.step(revision)
        await scene.step(60, "completed")
        revisions: list[int] = []
        while not revisions or revisions[-1] < 60:
            revisions.append(told(await stream.frame())[1])
    assert revisions == sorted(set(revisions))
    assert len(revisions) < 40


async def test_a_batch_that_is_deleted_is_no_more(scene: LiveScene) -> None:
    async with scene.socket(scene.batch_id) as client:
        await client.until("live")
        await scene.connection.execute("DELETE FROM streamworker.batches")
        error = await client.frame()
    assert (error["type"], error["code"], error["batch_id"]) == ("error", 4404, str(scene.batch_id))


async def test_heartbeats_come_where_nothing_else_does(scene: LiveScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamworker.gateway.hub.HEARTBEAT", 1)
    async with scene.socket() as client:
        assert await asyncio.wait_for(client.connection.recv(), 10) == '{"type":"ping"}'
        await client.say(type="ping")
        assert await asyncio.wait_for(client.connection.recv(), 10) == '{"type":"ping"}'


async def test_the_hook_of_a_mounted_gateway_is_asked_for_each_batch(redis_url: str, database_url: str) -> None:
    visible: set[UUID] = set()

    async def authorise(_: Any, batch_id: UUID | None) -> bool:
        return batch_id is None or batch_id in visible

    async with live_scene_on(redis_url, database_url, authorise) as scene:
        mine = await scene.submit()
        visible.add(mine.batch_id)
        async with scene.socket("*") as client:
            assert [frame["batch_id"] for frame in await client.until("live")] == [str(mine.batch_id), "*"]
            await client.say(type="subscribe", batch_id=str(scene.batch_id))
            assert (await client.frame())["code"] == 4404
            await scene.step(1)
            await mine.step(1)
            assert (await client.event())["batch_id"] == str(mine.batch_id)
        async with scene.socket(scene.batch_id) as client:
            assert await client.code() == 4404
        assert (await scene.get(f"batch_id={scene.batch_id}")).status_code == 404


async def test_the_hook_is_asked_for_many_batches_at_once_but_not_for_all(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamworker.gateway.rights.AT_ONCE", 3)
    asking, most, enough = 0, 0, asyncio.Event()

    async def authorise(_: Any, batch_id: UUID | None) -> bool:
        nonlocal asking, most
        if batch_id is not None:
            asking += 1
            most = max(most, asking)
            if asking == 3:
                enough.set()
            await enough.wait()
            asking -= 1
        return batch_id is None or batch_id.int % 2 == 0

    async with live_scene_on(redis_url, database_url, authorise) as scene:
        ids = [scene.batch_id, *[(await scene.submit()).batch_id for _ in range(5)]]
        mine = {str(id) for id in ids if id.int % 2 == 0}
        async with scene.socket("*") as client:
            assert {frame["batch_id"] for frame in await client.until("live")} == {*mine, "*"}
        assert most == 3
        most = 0
        enough.clear()
        async with httpx.AsyncClient() as http:
            listed = (await http.get(f"http://127.0.0.1:{scene.port}/api/batches")).json()["batches"]
        assert [batch["id"] for batch in listed] == [str(id) for id in reversed(ids) if str(id) in mine]
        assert most == 3


async def test_a_no_of_the_hook_stands_for_a_moment_and_a_late_answer_holds_back_ids(redis_url: str, database_url: str) -> None:
    owned: set[UUID | None] = {None}
    asked, answer = asyncio.Event(), asyncio.Event()
    slow: set[UUID] = set()

    async def authorise(_: Any, batch_id: UUID | None) -> bool:
        if batch_id in slow:
            asked.set()
            await answer.wait()
        return batch_id in owned

    async with live_scene_on(redis_url, database_url, authorise) as scene:
        owned.add(scene.batch_id)
        async with scene.socket("*") as client:
            await client.until("live")
            late = await scene.submit()
            await late.step(1)
            await scene.caught_up()
            await scene.step(1)
            assert "id" in await client.event()
            owned.add(late.batch_id)
            await late.step(2)  # and nothing more
            found = await client.event()
            assert (found["batch_id"], found["event"]["revision"]) == (str(late.batch_id), 2)
            last = await scene.submit()
            slow.add(last.batch_id)
            await last.step(1)
            await asked.wait()
            await scene.step(2)
            assert "id" not in await client.event()
            owned.add(last.batch_id)
            answer.set()
            assert (await client.event())["batch_id"] == str(last.batch_id)


async def test_a_cancel_through_the_gateway_is_told_without_any_worker(scene: LiveScene) -> None:
    async with scene.socket(scene.batch_id) as client, scene.socket("*") as everything, httpx.AsyncClient() as http:
        await client.until("live")
        await everything.until("live")
        place = f"http://127.0.0.1:{scene.port}"
        answer = await http.post(f"{place}/api/batches/{scene.batch_id}/cancel", json={}, headers={"Origin": place})
        assert answer.json() == {"cancelled": True}
        async with asyncio.timeout(1):  # sooner than the comparison would
            assert (await client.until("end"))[-1]["status"] == "cancelled"
            assert (await everything.event())["event"]["status"] == "cancelled"
