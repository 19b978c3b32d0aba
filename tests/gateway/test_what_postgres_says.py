"""Postgres is the truth: whatever stands in the stream, and whatever becomes of a batch, in the end clients are told what it says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import redis.asyncio

from streamworker.broker.tail import position
from streamworker.errors import BatchNotFound
from streamworker.gateway.resume import Token
from streamworker.gateway.stream import FIRST_PAGE, Stream
from streamworker.messages import encode_event
from streamworker.store import progress
from tests.gateway.live_scene import Frame, LiveScene, Socket, live_scene_on, submit
from tests.servers import RedisServer


@pytest.fixture
async def scene(redis_url: str, database_url: str) -> AsyncIterator[LiveScene]:
    async with live_scene_on(redis_url, database_url) as scene:
        yield scene


def told(frame: Frame | None) -> tuple[str, int, bool]:
    """Kind, revision and `reset` of a frame."""
    assert frame is not None
    return frame["type"], frame["event"]["revision"], frame.get("reset", False)


async def until_revision(client: Socket, revision: int) -> list[tuple[str, int, bool]]:
    """What is told up to this revision."""
    found = [told(await client.event())]
    while found[-1][1] != revision:
        found.append(told(await client.event()))
    return found


async def submit_again(scene: LiveScene) -> None:
    """Delete the batch and submit another one of the same id, all at once."""
    async with scene.connection.transaction():
        await scene.connection.execute("DELETE FROM streamworker.batches WHERE id = $1", scene.batch_id)
        await scene.connection.execute("SELECT streamworker.submit($1, $2)", json.dumps(["a", "b"]), scene.batch_id)


STRANGE: tuple[dict[str, Any], ...] = (
    {"batch_id": "x"}, {"batch_id": "*"}, {"batch_id": str(uuid4()).upper()}, {"revision": 2**63}, {"revision": -1}, {"epoch": -1},
    {"status": "odd"}, {"processed": -1}, {"total": 2**31}, {"at": "9999-12-31T23:59:59.9999999Z"}, {"at": "now"},
)  # fmt: skip


class TestStrangersEntries:
    async def test_they_are_passed_over_and_the_list_of_all_lives_on(self, scene: LiveScene) -> None:
        heard = scene.hub._stream.history
        async with scene.socket("*") as everything:
            await everything.until("live")
            for change in STRANGE:
                await scene.publish(msgspec.structs.replace(scene.event(1), **change))
            await scene.caught_up()
            assert not heard._by_batch
            third = await submit(scene.connection)  # only Postgres tells of it
            assert (await everything.event())["batch_id"] == str(third)

    async def test_a_revision_that_is_too_high_is_not_believed(self, scene: LiveScene) -> None:
        async with scene.socket(scene.batch_id) as client, scene.socket("*") as everything:
            await client.until("live")
            await everything.until("live")
            await scene.publish(scene.event(1000, "completed"))
            await scene.publish(scene.event(1, batch_id=str(uuid4())))  # and neither is a batch that is not there
            await scene.step(1)
            assert [one[1] for one in (*await until_revision(client, 1), *await until_revision(everything, 1))] == [1, 1]
            await scene.step(2)
            assert [(await until_revision(one, 2))[-1] for one in (client, everything)] == [("event", 2, False)] * 2

    async def test_one_that_came_while_nobody_watched_mutes_nothing(self, scene: LiveScene) -> None:
        await scene.publish(scene.event(1000))
        await scene.caught_up()
        async with scene.socket(scene.batch_id) as client:
            await client.until("live")
            await scene.step(1)
            assert told(await client.event()) == ("event", 1, False)

    async def test_what_looked_like_the_next_event_and_was_none(self, scene: LiveScene) -> None:
        async with scene.socket(scene.batch_id) as client, scene.socket("*") as everything:
            await client.until("live")
            await everything.until("live")
            await scene.publish(scene.event(1))
            for one in (client, everything):
                assert (await until_revision(one, 0))[-2:] == [("event", 1, False), ("snapshot", 0, True)]

    async def test_an_error_in_one_event_loses_no_other(self, scene: LiveScene, monkeypatch: pytest.MonkeyPatch) -> None:
        other, hear = await scene.submit(), scene.hub._feeds.hear

        def fail(one: Any) -> None:
            assert one.event.batch_id != str(other.batch_id)
            hear(one)

        monkeypatch.setattr(scene.hub._feeds, "hear", fail)
        async with scene.socket(scene.batch_id) as client:
            await client.until("live")
            await scene.record(1)
            async with scene.broker.pipeline(transaction=True) as page:
                for event in (other.event(1), scene.event(1)):
                    page.xadd("progress", {"batch_id": event.batch_id, "event": encode_event(event)})
                await page.execute()
            assert told(await client.event()) == ("event", 1, False)


class TestAnotherBatchOfTheSameId:
    @pytest.mark.parametrize("watched", [True, False])
    async def test_it_is_told_anew(self, scene: LiveScene, watched: bool) -> None:
        for revision in (1, 2):
            await scene.step(revision)
        await scene.step(3, "completed")
        await scene.caught_up()
        if watched:
            async with scene.socket(scene.batch_id) as client, scene.socket("*") as everything:
                await client.until("live")
                await everything.until("live")
                await submit_again(scene)
                for one in (client, everything):
                    assert told(await one.event()) == ("snapshot", 0, True)
                await scene.step(1)
                assert [told(await one.event()) for one in (client, everything)] == [("event", 1, False)] * 2
        else:
            await submit_again(scene)
            await scene.step(1)
        async with scene.socket(scene.batch_id) as client, scene.socket("*") as everything:
            assert [told((await one.until("live"))[0])[1] for one in (client, everything)] == [1, 1]
            await scene.step(2)
            assert [told(await one.event())[:2] for one in (client, everything)] == [("event", 2)] * 2

    async def test_a_deleted_one_that_had_ended_leaves_the_list_of_all(self, scene: LiveScene) -> None:
        other = await scene.submit()
        await other.step(1, "completed")
        async with scene.socket("*") as everything:
            await everything.until("live")
        await scene.connection.execute("DELETE FROM streamworker.batches WHERE id = $1", other.batch_id)
        await scene.hub._overview.read()
        async with scene.socket("*") as everything:
            assert [frame["batch_id"] for frame in await everything.until("live")] == [str(scene.batch_id), "*"]


class TestTokens:
    async def test_one_is_good_only_for_what_was_asked_for_with_it(self, scene: LiveScene) -> None:
        other = await scene.submit()
        for batch in (scene, other):
            await batch.step(1)
        await scene.caught_up()
        choices = ((scene.batch_id,), (other.batch_id,), (scene.batch_id, other.batch_id), ("*",), (scene.batch_id, "*"))
        for mine in choices:
            async with scene.events(*mine) as stream:
                while (await stream.frame() or {})["type"] != "live" or (len(mine) > 1 and not stream.last_id):
                    pass
                token = stream.last_id
            for theirs in choices:
                async with scene.socket(*theirs, since=token) as client:
                    first = await client.frame()
                assert (first["type"] == "live") == (mine == theirs), (mine, theirs)
                assert mine == theirs or first["reset"]

    async def test_the_end_of_one_batch_is_not_that_of_another(self, scene: LiveScene) -> None:
        other = await scene.submit()
        for batch in (scene, other):
            await batch.step(1, "completed")
        await scene.caught_up()
        async with scene.events(other.batch_id) as stream:
            await stream.rest()
            token = stream.last_id
        assert (await scene.get(f"batch_id={other.batch_id}", **{"Last-Event-ID": token})).status_code == 204
        for batch, last in ((scene, token), (other, f"deadbeef{token[8:]}")):
            async with scene.events(batch.batch_id, last_id=last) as stream:
                assert told(await stream.frame()) == ("snapshot", 1, True)


async def test_a_row_that_cannot_be_read_fails_alone(scene: LiveScene, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned, read = await submit(scene.connection), progress.read_snapshots

    async def fail(pool: Any, ids: list[UUID]) -> Mapping[str, Any]:
        if poisoned in ids:
            raise OverflowError
        return await read(pool, ids)

    monkeypatch.setattr(progress, "read_snapshots", fail)
    asked = [scene.hub._reader.read(str(id)) for id in (scene.batch_id, poisoned, uuid4())]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(one).__name__ for one in found] == ["ProgressEvent", "OverflowError", BatchNotFound.__name__]


class TestTheStream:
    async def test_large_entries_are_read_back_few_at_a_time(
        self, scene: LiveScene, monkeypatch: pytest.MonkeyPatch, redis_url: str
    ) -> None:
        monkeypatch.setattr("streamworker.gateway.stream.MOST_BYTES", 100_000)
        for _ in range(3 * FIRST_PAGE):
            await scene.broker.xadd("progress", {"x": b"x" * 50_000})
        stream = Stream(redis_url, "progress")
        assert len(await stream._read_back(scene.broker, await position(scene.broker, "progress"))) == FIRST_PAGE

    async def test_small_ones_all(self, scene: LiveScene, redis_url: str) -> None:
        for _ in range(9 * FIRST_PAGE):
            await scene.broker.xadd("progress", {"x": b"x"})
        stream = Stream(redis_url, "progress")
        assert len(await stream._read_back(scene.broker, await position(scene.broker, "progress"))) == 9 * FIRST_PAGE

    async def test_after_a_restart_that_kept_it_only_what_comes_is_known(self, tmp_short: Path) -> None:
        server = RedisServer("valkey", tmp_short / "redis", persistent=True)
        server.start()
        stream = Stream(server.url, "progress")
        broker = redis.asyncio.Redis.from_url(server.url)
        try:
            await broker.xadd("progress", {"x": "y"}, id="1-0")
            await broker.xadd("progress", {"x": "y"}, id="2-0")
            await stream.start()
            await asyncio.to_thread(server.kill)
            await stream.read(0.01)
            await asyncio.to_thread(server.start)
            async with asyncio.timeout(20):
                while not stream.healthy:
                    list(await stream.read(0.01))
            covered = [stream.history.covers(Token(stream.history.tag, (at, 0), "")) for at in (1, 2)]
            assert covered == [False, True]
        finally:
            await stream.close()
            await broker.aclose()
            server.close()
