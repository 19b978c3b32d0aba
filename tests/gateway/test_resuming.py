"""Clients that come back: exactly what they missed, or a snapshot that says so."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest
import websockets

from streamworker.gateway.resume import read_since
from streamworker.messages import encode_event
from tests.flows.processors import act, sleep
from tests.flows.scene import Scene
from tests.gateway.live_scene import Frame, LiveScene, gateway_on, live_scene_on
from tests.servers import RedisServer


@pytest.fixture
async def scene(redis_url: str, database_url: str) -> AsyncIterator[LiveScene]:
    async with live_scene_on(redis_url, database_url) as scene:
        yield scene


def told(frames: list[Frame]) -> list[tuple[str, int]]:
    """Kind and revision of those frames that have one."""
    return [(frame["type"], frame["event"]["revision"]) for frame in frames if "event" in frame]


async def token_after(scene: LiveScene, revision: int) -> str:
    """Watch, make events up to a revision, leave; returns the last token."""
    async with scene.socket(scene.batch_id) as client:
        await client.until("live")
        for number in range(1, revision + 1):
            await scene.step(number)
            token = (await client.event())["id"]
    return str(token)


class TestWhatWasMissed:
    @pytest.mark.parametrize("kept", [True, False])
    async def test_only_that_comes(self, scene: LiveScene, kept: bool) -> None:
        token = await token_after(scene, 2)
        for revision in (3, 4, 5):
            await scene.step(revision)
        await scene.caught_up()
        if not kept:  # nobody watches it any more: all that is known comes from the last entries of the stream
            scene.hub._feeds._feeds.clear()
        async with scene.socket(scene.batch_id, since=token) as client:
            assert told(await client.until("live")) == [("event", 3), ("event", 4), ("event", 5)]
        async with scene.events(scene.batch_id, last_id=token) as stream:
            assert [(await stream.frame() or {})["event"]["revision"] for _ in range(3)] == [3, 4, 5]

    async def test_also_where_it_is_much(self, scene: LiveScene) -> None:
        token = await token_after(scene, 1)
        await scene.record(4000)
        async with scene.broker.pipeline(transaction=False) as pipeline:
            for revision in range(2, 4001):
                pipeline.xadd("progress", {"batch_id": str(scene.batch_id), "event": encode_event(scene.event(revision))})
            await pipeline.execute()
        await scene.caught_up()
        async with scene.socket(scene.batch_id, since=token) as client:
            assert told(await client.until("live")) == [("event", revision) for revision in range(2, 4001)]

    async def test_nothing_where_nothing_was_missed(self, scene: LiveScene) -> None:
        token = await token_after(scene, 2)
        async with scene.socket(scene.batch_id, since=token) as client:
            assert told(await client.until("live")) == []
            await scene.step(3)
            assert told([await client.event()]) == [("event", 3)]

    async def test_also_from_another_gateway_process(self, scene: LiveScene, redis_url: str, database_url: str) -> None:
        token = await token_after(scene, 2)
        await scene.step(3)
        async with gateway_on(redis_url, database_url) as (port, _):
            scene.port, first = port, scene.port
            async with scene.socket(scene.batch_id, since=token) as client:
                assert told(await client.until("live")) == [("event", 3)]
            scene.port = first

    async def test_after_a_snapshot_alone(self, scene: LiveScene) -> None:
        async with scene.socket(scene.batch_id) as client:
            token = (await client.until("live"))[0]["id"]
        await scene.step(1)
        await scene.caught_up()
        async with scene.socket(scene.batch_id, since=token) as client:
            assert told(await client.until("live")) == [("event", 1)]

    async def test_of_several_batches_in_the_order_in_which_it_happened(self, scene: LiveScene) -> None:
        other = await scene.submit()
        async with scene.events(scene.batch_id, other.batch_id) as stream:
            first = [await stream.frame() for _ in range(3)]
            assert ["id" in (frame or {}) for frame in first] == [False, False, True]  # only with the last one all is told
            await scene.step(1)
            await other.step(1)
            await stream.frame()
            await stream.frame()
            token = stream.last_id
        for revision in (2, 3):
            await scene.step(revision)
            await other.step(revision)
        await scene.caught_up()
        async with scene.events(scene.batch_id, other.batch_id, last_id=token) as stream:
            frames = [frame for frame in [await stream.frame() for _ in range(4)] if frame]
        wanted = [(str(batch.batch_id), revision) for revision in (2, 3) for batch in (scene, other)]
        assert [(frame["batch_id"], frame["event"]["revision"]) for frame in frames] == wanted

    async def test_of_all_batches_the_newest_state_of_those_that_changed(self, scene: LiveScene) -> None:
        other = await scene.submit()
        async with scene.socket("*") as client:
            token = (await client.until("live"))[-1]["id"]
            await scene.step(1)
            await client.event()
        await other.step(1)
        await other.step(2)
        await scene.caught_up()
        await scene.submit()
        async with scene.socket("*", since=token) as client:
            frames = await client.until("live")
            frames = frames if len(frames) == 4 else [*frames, await client.event()]
        assert sorted(told(frames)) == [("event", 1), ("event", 2), ("snapshot", 0)]  # of the new one the stream has not told

    async def test_once_by_who_asks_again_before_it_has_come(self, scene: LiveScene) -> None:
        token = await token_after(scene, 2)
        for revision in (3, 4):
            await scene.step(revision)
        await scene.caught_up()
        client = scene.hub.admit()
        assert client is not None
        for _ in range(2):
            await scene.hub.subscribe(client, [str(scene.batch_id)], read_since(token))
        await scene.step(5, "completed")
        await scene.caught_up()
        client.close(1000, "")
        frames = []
        while (frame := await client.next()) is not None:
            frames.append(json.loads(frame.json))
        scene.hub.leave(client)
        assert told(frames) == [("event", 3), ("event", 4), ("event", 5)]
        assert [frame["type"] for frame in frames[2:]] == ["live", "event", "end"]

    async def test_a_revision_says_that_no_snapshot_is_needed(self, scene: LiveScene) -> None:
        await scene.record(3)
        for since, expected in ((3, []), (2, [("snapshot", 3)]), (2**64, [("snapshot", 3)]), (9, [("snapshot", 3)])):
            async with scene.socket(scene.batch_id, since=since) as client:
                assert told(await client.until("live")) == expected


class TestWhatCannotBeProven:
    @pytest.mark.parametrize("since", ["somewhere", "-1", "01234567.1-1", "01234567.99999999999999-0", "٣", "1-1"])
    async def test_a_token_that_is_not_ours(self, scene: LiveScene, since: str) -> None:
        await scene.step(1)
        async with scene.socket(scene.batch_id, since=since) as client:
            frames = await client.until("live")
        assert (told(frames), frames[0]["reset"]) == ([("snapshot", 1)], True)

    async def test_a_position_in_the_future(self, scene: LiveScene) -> None:
        tag, _, position = (await token_after(scene, 2)).partition(".")
        moved = f"{tag}.{int(position.split('-')[0]) + 1_000_000}-0.{position.rpartition('.')[2]}"
        async with scene.socket(scene.batch_id, since=moved) as client:
            assert (await client.event())["reset"]

    async def test_a_position_before_the_oldest_entry(self, scene: LiveScene, redis_url: str, database_url: str) -> None:
        token = await token_after(scene, 2)
        await scene.step(3)
        await scene.broker.xtrim("progress", maxlen=1, approximate=False)
        async with gateway_on(redis_url, database_url) as (port, _):
            scene.port, first = port, scene.port
            async with scene.socket(scene.batch_id, since=token) as client:
                assert (await client.event())["reset"]
            scene.port = first

    async def test_more_entries_than_are_kept(self, scene: LiveScene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("streamworker.gateway.resume.MOST_ENTRIES", 10)
        token = await token_after(scene, 2)
        async with scene.socket(scene.batch_id) as client:
            await client.until("live")
            for revision in range(3, 20):
                await scene.step(revision)
                await client.event()
            async with scene.socket(scene.batch_id, since=token) as late:
                assert (await late.event())["reset"]

    async def test_what_was_never_published(self, scene: LiveScene) -> None:
        token = await token_after(scene, 2)
        await scene.record(5)
        async with scene.socket(scene.batch_id, since=token) as client:
            frames = await client.until("live")  # too soon after the others to ask Postgres again? Then it comes by itself
            frames = frames if told(frames) else [await client.event()]
            assert (told(frames), frames[0]["reset"]) == ([("snapshot", 5)], True)

    @pytest.mark.parametrize("status", ["processing", "completed"])
    @pytest.mark.parametrize("remembered", [True, False])
    async def test_what_was_never_published_to_who_is_the_first_to_come_back(
        self, scene: LiveScene, monkeypatch: pytest.MonkeyPatch, status: str, remembered: bool
    ) -> None:
        monkeypatch.setattr("streamworker.gateway.resume.MOST_ENTRIES", 10)
        other = await scene.submit()
        async with scene.socket(scene.batch_id) as client:
            await client.until("live")
            await scene.step(1)
            token = (await client.event())["id"]
        if not remembered:
            for revision in range(1, 12):
                await other.step(revision)
            await scene.caught_up()
            async with scene.socket(scene.batch_id) as client:
                token = (await client.until("live"))[-1]["id"]
        await scene.record(5, status)
        scene.hub._feeds._feeds.clear()  # nobody has watched it for a while
        async with scene.socket(scene.batch_id, since=token) as client:
            frames = await client.until("live")
        assert (told(frames), frames[0]["reset"]) == ([("snapshot", 5)], True)
        assert ("end" in [frame["type"] for frame in frames]) is (status == "completed")

    async def test_what_is_published_after_another_gateway_was_shown_it(self, scene: LiveScene, redis_url: str, database_url: str) -> None:
        token = await token_after(scene, 2)
        await scene.record(5)
        async with gateway_on(redis_url, database_url) as (port, hub):
            other = LiveScene(port, hub, scene.connection, scene.broker, scene.batch_id)
            async with other.socket(scene.batch_id) as client:
                assert told(await client.until("live")) == [("snapshot", 5)]
                async with scene.socket(scene.batch_id, since=token) as first:
                    await scene.publish(scene.event(3))
                    while (frame := await first.frame()).get("event", {}).get("revision") != 3:
                        pass
                for revision in (4, 5):
                    await scene.publish(scene.event(revision))
                await other.caught_up()
                async with other.socket(scene.batch_id, since=frame["id"]) as late:
                    assert told(await late.until("live")) in ([("event", 4), ("event", 5)], [("snapshot", 5)])

    async def test_no_id_stands_for_an_event_that_waits_for_those_before_it(
        self, scene: LiveScene, redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with scene.socket(scene.batch_id) as client:
            await client.until("live")
            await scene.step(1)
            await client.event()
            answered = scene.hold_postgres(monkeypatch)
            await scene.step(5)
            await scene.caught_up()
            async with scene.socket(scene.batch_id) as late:
                frames = await late.until("live")
            assert told(frames) == [("snapshot", 1)]
            answered.set()
        async with gateway_on(redis_url, database_url) as (port, hub):
            other = LiveScene(port, hub, scene.connection, scene.broker, scene.batch_id)
            for frame in frames:
                async with other.socket(scene.batch_id, since=frame["id"]) as client:
                    assert told(await client.until("live")) == [("snapshot", 5)]

    async def test_what_another_gateway_heard_from_postgres_before_the_stream_told_it(
        self, scene: LiveScene, redis_url: str, database_url: str
    ) -> None:
        async with gateway_on(redis_url, database_url) as (port, hub), scene.socket(scene.batch_id) as client:
            other = LiveScene(port, hub, scene.connection, scene.broker, scene.batch_id)
            await client.until("live")
            await scene.record(3)
            async with other.socket(scene.batch_id) as early:
                frames = await early.until("live")
                assert told(frames) == [("snapshot", 3)]
            for revision in (1, 2, 3):
                await scene.publish(scene.event(revision))
            await scene.caught_up()
            for frame in frames:
                async with scene.socket(scene.batch_id, since=frame["id"]) as late:
                    assert told(await late.until("live")) == [("snapshot", 3)]

    async def test_what_another_gateway_told_of_one_of_several_before_the_stream_did(
        self, scene: LiveScene, redis_url: str, database_url: str
    ) -> None:
        beside = await scene.submit()
        ids = scene.batch_id, beside.batch_id
        async with gateway_on(redis_url, database_url) as (port, hub), scene.socket(*ids) as client:
            other = LiveScene(port, hub, scene.connection, scene.broker, scene.batch_id)
            await client.until("live")
            await scene.record(3)
            async with other.socket(*ids) as early:
                frames = await early.until("live")
                await beside.step(1)
                frames.append(await early.event())
            for revision in (1, 2, 3):
                await scene.publish(scene.event(revision))
            await scene.caught_up()
            for token in [frame["id"] for frame in frames if "id" in frame]:
                async with scene.socket(*ids, since=token) as late:
                    found = [(frame["batch_id"], *told([frame])) for frame in await late.until("live") if "event" in frame]
                assert sorted(found) == sorted([(str(scene.batch_id), ("snapshot", 3)), (str(beside.batch_id), ("snapshot", 1))])

    async def test_what_another_gateway_told_of_all_a_moment_ago(self, scene: LiveScene, redis_url: str, database_url: str) -> None:
        async with gateway_on(redis_url, database_url) as (port, hub), scene.socket("*") as client:
            other = LiveScene(port, hub, scene.connection, scene.broker, scene.batch_id)
            await client.until("live")
            await scene.hub._overview.read()
            await scene.record(3)
            async with other.socket("*") as early:
                frames = await early.until("live")
                assert told(frames) == [("snapshot", 3)]
            async with scene.socket("*", since=frames[-1]["id"]) as late:
                assert told(await late.until("live")) == [("snapshot", 3)]

    async def test_what_this_one_heard_from_postgres_before_another_did(
        self, scene: LiveScene, redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        beside = await scene.submit()
        async with gateway_on(redis_url, database_url) as (port, hub), scene.socket("*") as client:
            other = LiveScene(port, hub, scene.connection, scene.broker, scene.batch_id)
            await client.until("live")
            async with other.socket("*") as first:
                await first.until("live")
                asked = asyncio.Event()
                monkeypatch.setattr(other.hub._overview, "read", asked.wait)  # it is about to ask
                await scene.record(3)
                assert told([await client.event()]) == [("snapshot", 3)]
                await beside.step(1)
                token = (await first.event())["id"]
            async with scene.socket("*", since=token) as late:
                assert ("snapshot", 3) in told(await late.until("live"))

    async def test_what_another_gateway_told_while_this_one_asks_postgres(
        self, scene: LiveScene, redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with gateway_on(redis_url, database_url) as (port, hub), scene.socket(scene.batch_id) as client:
            other = LiveScene(port, hub, scene.connection, scene.broker, scene.batch_id)
            await client.until("live")
            await scene.step(1)
            await client.event()
            for module in ("feed", "feeds"):  # Postgres was asked a moment ago, for as long as it takes
                monkeypatch.setattr(f"streamworker.gateway.{module}.FRESH", 2.0)
            await scene.step(5)
            await scene.caught_up()
            async with other.socket(scene.batch_id) as ahead:
                frames = await ahead.until("live")
                assert told(frames) == [("snapshot", 5)]
            for since in (*(frame["id"] for frame in frames), 5):
                async with scene.socket(scene.batch_id, since=since) as late:
                    assert told(await late.until("live")) in ([("snapshot", 5)], [] if since == 5 else None)

    async def test_what_another_gateway_told_while_postgres_is_slow(
        self, scene: LiveScene, redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with gateway_on(redis_url, database_url) as (port, hub), scene.socket(scene.batch_id) as client:
            other = LiveScene(port, hub, scene.connection, scene.broker, scene.batch_id)
            await client.until("live")
            await scene.step(1)
            await client.event()
            answered = scene.hold_postgres(monkeypatch)
            monkeypatch.setattr("streamworker.gateway.feeds.QUIET", 0.01)
            await scene.step(5)
            await scene.caught_up()
            async with other.socket(scene.batch_id) as ahead:
                token = (await ahead.until("live"))[0]["id"]
            async with scene.socket(scene.batch_id, since=token) as late:
                await asyncio.sleep(0.1)  # what is known here is not told meanwhile
                answered.set()
                assert told(await late.until("live")) == [("snapshot", 5)]

    async def test_more_than_is_kept_for_one_who_asked_for_several(self, scene: LiveScene, monkeypatch: pytest.MonkeyPatch) -> None:
        other = await scene.submit()
        async with scene.socket(scene.batch_id, other.batch_id) as client:
            token = (await client.until("live"))[-1]["id"]
        for revision in (1, 2, 3):
            await scene.step(revision)
        await other.step(1, "completed")
        await scene.caught_up()
        for bound, kind, reset in ((10_000, "event", None), (1_000, "snapshot", True)):
            monkeypatch.setattr("streamworker.gateway.subscriptions.MOST_BYTES", bound)
            async with scene.socket(scene.batch_id, other.batch_id, since=token) as client:
                frames = await client.until("live")
            last = {
                frame["batch_id"]: (frame["type"], frame["event"]["revision"], frame.get("reset")) for frame in frames if "event" in frame
            }
            assert last == {str(scene.batch_id): (kind, 3, reset), str(other.batch_id): (kind, 1, reset)}
            assert [frame["batch_id"] for frame in frames if frame["type"] == "end"] == [str(other.batch_id)]

    async def test_where_the_others_were_shown_a_snapshot_since(self, scene: LiveScene) -> None:
        token = await token_after(scene, 2)
        async with scene.socket(scene.batch_id) as client:
            await client.until("live")
            await scene.record(5)
            assert told([await client.event()]) == [("snapshot", 5)]
            async with scene.socket(scene.batch_id, since=token) as late:
                assert (await late.event())["reset"]

    async def test_who_heard_from_postgres_first_does_not_hear_less(self, scene: LiveScene) -> None:
        async with scene.socket(scene.batch_id) as first:
            await first.until("live")
            await asyncio.sleep(0.3)  # so that Postgres is asked again
            await scene.record(3)
            async with scene.socket(scene.batch_id) as second:
                snapshot = (await second.until("live"))[0]
            assert told([snapshot]) == [("snapshot", 3)]
            async with scene.socket(scene.batch_id, since=snapshot["id"]) as third:  # at once: Postgres is not asked
                assert told(await third.until("live")) == [("snapshot", 3)]


class TestTheEnd:
    async def test_a_stream_whose_batch_has_ended_is_not_opened_again(self, scene: LiveScene) -> None:
        async with scene.events(scene.batch_id) as stream:
            await scene.step(1, "completed")
            await stream.rest()
            last = stream.last_id
            event = last.rpartition(".")[0]
        async with scene.events(scene.batch_id, last_id=event) as stream:  # the end itself was missed
            assert [frame["type"] for frame in await stream.rest()] == ["end"]
        await scene.broker.xadd("progress", {"x": "y"})  # the stream goes on
        assert (await scene.get(f"batch_id={scene.batch_id}", **{"Last-Event-ID": last})).status_code == 204

    async def test_the_end_is_told_to_who_missed_it(self, scene: LiveScene) -> None:
        token = await token_after(scene, 2)
        await scene.step(3, "completed")
        await scene.caught_up()
        async with scene.events(scene.batch_id, last_id=token) as stream:
            assert [frame["type"] for frame in await stream.rest()] == ["event", "end"]


class Reader:
    """A client that leaves after so many frames and comes back, and keeps what it was told."""

    def __init__(self, batch_id: UUID, chance: random.Random) -> None:
        self.batch_id, self.chance = batch_id, chance
        self.frames: list[Frame] = []
        self.token = ""
        self.visits = 0

    async def run(self, *gateways: LiveScene) -> None:
        """Read up to the end, now from this gateway, now from that."""
        while not self.frames or self.frames[-1]["type"] != "end":
            self.visits += 1
            scene = self.chance.choice(gateways)
            stay = self.chance.randint(1, 30)
            if self.chance.random() < 0.5:
                await self._visit_socket(scene, stay)
            else:
                await self._visit_stream(scene, stay)

    async def _visit_socket(self, scene: LiveScene, stay: int) -> None:
        since = {"since": self.token} if self.token else {}
        async with scene.socket(self.batch_id, **since) as client:
            for _ in range(stay):
                if self._take(await client.frame()):
                    break
            client.connection.transport.abort()

    async def _visit_stream(self, scene: LiveScene, stay: int) -> None:
        try:
            async with scene.events(self.batch_id, last_id=self.token) as stream:
                for _ in range(stay):
                    frame = await stream.frame()
                    if frame is None or self._take(frame):
                        break
        except (httpx.HTTPError, websockets.WebSocketException):
            return

    def _take(self, frame: Frame) -> bool:
        self.token = frame.get("id", self.token)
        if frame["type"] in ("snapshot", "event", "end"):
            self.frames.append(frame)
        return bool(frame["type"] == "end")

    def check(self) -> None:
        """No number goes back, nothing is missing and nothing comes twice; what is missing says so."""
        last, seen = -1, set()
        for frame in self.frames[:-1]:
            revision = frame["event"]["revision"]
            if frame["type"] == "snapshot":
                assert last == -1 or (frame["reset"] and revision >= last), frame
            else:
                assert revision in (last, last + 1), (last, frame)
                assert frame["id"] not in seen
                seen.add(frame["id"])
            last = revision


@pytest.mark.parametrize("seed", [1])
async def test_readers_that_come_and_go_while_a_worker_works(redis_url: str, database_url: str, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with Scene(redis_url, database_url, tmp_path) as world:
        async with live_scene_on(redis_url, database_url) as scene:
            await scene.connection.execute("DELETE FROM streamworker.batches")
            batch_id = world.submit([*(sleep(chance.randint(1, 8)) for _ in range(300)), act("tell at the gate", gate="enough")])
            readers = [Reader(batch_id, random.Random(chance.random())) for _ in range(6)]
            world.begin_worker()

            async def end_the_batch() -> None:
                while sum(reader.visits for reader in readers) <= 30:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                world.open("enough")

            async with asyncio.timeout(60):
                await asyncio.gather(end_the_batch(), *(reader.run(scene) for reader in readers))
            row = world.batch(batch_id)
            for reader in readers:
                reader.check()
                assert reader.frames[-2]["event"]["revision"] == row["revision"]
                assert reader.frames[-1]["status"] == row["status"] == "completed"
            resets = [frame for reader in readers for frame in reader.frames if frame.get("reset")]
            assert len(resets) <= len(readers)  # coming back is nearly always a matter of what was missed
        world.finish()


@pytest.mark.parametrize("seed", [3])
async def test_readers_that_come_and_go_while_everything_breaks(tmp_short: Path, database_url: str, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    server = RedisServer("valkey", tmp_short / "redis")  # it forgets everything when it ends
    server.start()
    try:
        with Scene(server.url, database_url, tmp_path, max_attempts="1000") as world:
            async with live_scene_on(server.url, database_url) as scene, gateway_on(server.url, database_url) as (port, hub):
                other = LiveScene(port, hub, scene.connection, scene.broker, scene.batch_id)
                await scene.connection.execute("DELETE FROM streamworker.batches")
                batch_id = world.submit([sleep(chance.randint(1, 15)) for _ in range(400)], max_attempts=1000)
                readers = [Reader(batch_id, random.Random(chance.random())) for _ in range(6)]
                world.begin_worker()

                async def break_things() -> None:
                    for deed in chance.sample(["flush", "trim", "restart", "kill", "flush", "trim"], 6):
                        await world_moved(world, batch_id)
                        if deed == "flush":
                            await scene.broker.flushall()
                        elif deed == "trim":
                            await scene.broker.xtrim("progress", maxlen=chance.randint(0, 3), approximate=False)
                        elif deed == "kill":
                            world.workers[-1].kill()
                            world.begin_worker()
                        else:
                            await asyncio.to_thread(server.kill)
                            await world_moved(world, batch_id)
                            await asyncio.to_thread(server.start)

                async with asyncio.timeout(100):
                    await asyncio.gather(break_things(), *(reader.run(scene, other) for reader in readers))
                row = world.batch(batch_id)
                for reader in readers:
                    reader.check()
                    assert reader.frames[-2]["event"]["revision"] == row["revision"]
                    assert reader.frames[-1]["status"] == row["status"] == "completed"
    finally:
        server.close()


async def world_moved(world: Scene, batch_id: UUID) -> None:
    """Return when the batch has gone on for a while."""

    def processed() -> int:
        return int(world.batch(batch_id)["processed"])

    before = await asyncio.to_thread(processed)
    wanted = min(400, before + 30)
    await asyncio.to_thread(world.wait, lambda: processed() >= wanted, 60, f"{wanted} items")


async def test_a_flush_between_two_visits(scene: LiveScene, redis_server: RedisServer) -> None:
    token = await token_after(scene, 2)
    redis_server.flush()
    await scene.step(3)
    async with scene.socket(scene.batch_id, since=token) as client:
        assert told(await client.until("live")) in ([("event", 3)], [("snapshot", 3)])
