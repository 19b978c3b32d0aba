"""P7: no reader sees a number go back, a gap leads to the snapshot, and what is seen last is what Postgres says."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from uuid import UUID

import pytest

from streamworker.client import Client
from streamworker.messages import TERMINAL, ProgressEvent
from tests.flows.processors import act, hold, sleep
from tests.flows.scene import PROGRESS, Scene
from tests.servers import RedisServer


class Reader:
    """A `watch` that follows a batch in the background."""

    def __init__(self, scene: Scene, batch_id: UUID) -> None:
        self._scene, self._batch_id = scene, batch_id
        self.events: list[ProgressEvent] = []
        self._reading = asyncio.run_coroutine_threadsafe(self._read(), scene.background.loop)
        scene.wait(lambda: self.events or self._reading.done(), 20, "the first event")

    async def _read(self) -> None:
        async with Client.connect(self._scene.redis_url, self._scene.database_url) as client:
            async for event in client.watch(self._batch_id):
                self.events.append(event)

    def check(self) -> list[ProgressEvent]:
        """Wait for the end, then check what was read; returns it."""
        try:
            self._reading.result(40)
        finally:
            self._reading.cancel()
        for before, after in pairwise(self.events):
            assert before.status not in TERMINAL, "something came after the end"
            for name in ("revision", "epoch", "processed", "succeeded", "failed", "percent", "at"):
                assert getattr(after, name) >= getattr(before, name), (name, before, after)
            assert after.revision <= before.revision + 1 or after.items == [], "a gap, and no snapshot in its place"
        last, row = self.events[-1], self._scene.batch(self._batch_id)
        for name in ("status", "revision", "epoch", "total", "processed", "succeeded", "failed", "error", "worker"):
            assert getattr(last, name) == row[name], name
        return self.events


def gaps(events: list[ProgressEvent]) -> int:
    """How often a revision was skipped."""
    return sum(after.revision > before.revision + 1 for before, after in pairwise(events))


def test_an_undisturbed_reader_sees_every_revision(scene: Scene) -> None:
    scene.start_worker()
    batch_id = scene.submit([hold("gate"), *[sleep(5)] * 40, *map(str, range(300)), act("fail", times=1), act("permanent")])
    scene.wait_start(batch_id, 0)
    reader = Reader(scene, batch_id)
    scene.open("gate")
    scene.wait_end(batch_id)
    events = reader.check()
    assert gaps(events) == 0
    told = [item.position for event in events for item in event.items if item.status in ("completed", "failed")]
    assert sorted(told) == list(range(343))
    assert [event.revision for event in scene.read_events(batch_id)][-1] == events[-1].revision


def test_across_kills_and_take_overs(scene: Scene) -> None:
    batch_id = scene.submit([sleep(30), hold("first", attempt=1), *[sleep(30)] * 20, hold("second", attempt=1), *[sleep(30)] * 20])
    scene.start_worker()
    scene.start_worker()
    readers = []
    for position in (1, 22):
        readers.append(Reader(scene, batch_id))
        line = scene.wait_start(batch_id, position)
        next(worker for worker in scene.workers if worker.pid == line.pid).kill()
    scene.start_worker()
    scene.wait_end(batch_id)
    for reader in readers:
        assert reader.check()[-1].epoch == 3
    scene.wait_announced(batch_id)


def test_across_a_stopped_owner_that_wakes_up_late(scene: Scene) -> None:
    scene.settings["lease_ttl"] = "2s"
    zombie = scene.begin_worker(step="announce:before", fault="stop")
    batch_id = scene.submit([sleep(15)] * 5)
    reader = Reader(scene, batch_id)
    zombie.wait_stopped()
    scene.start_worker()
    scene.wait_announced(batch_id)
    zombie.resume()
    reader.check()
    scene.wait(lambda: sum(event.status in TERMINAL for event in scene.events(batch_id)) >= 2, 20, "the late duplicate")
    scene.wait_announced(batch_id)


def test_across_a_flush(scene: Scene) -> None:
    scene.start_worker()
    batch_id = scene.submit([sleep(15)] * 60)
    reader = Reader(scene, batch_id)
    for position in (5, 25, 45):
        scene.wait_start(batch_id, position)
        scene.redis.flushall()
    scene.wait_end(batch_id)
    reader.check()
    scene.wait_announced(batch_id)


def test_across_a_flush_and_a_kill_at_once(scene: Scene) -> None:
    first = scene.start_worker()
    batch_id = scene.submit([sleep(15)] * 40)
    reader = Reader(scene, batch_id)
    scene.wait_start(batch_id, 10)
    first.kill()
    scene.redis.flushall()
    scene.start_worker()
    scene.wait_end(batch_id)
    reader.check()
    scene.wait_announced(batch_id)


def test_what_was_missed_while_redis_was_away_comes_as_a_snapshot(own_redis_scene: Scene, weak_redis: RedisServer) -> None:
    scene = own_redis_scene
    scene.start_worker()
    batch_id = scene.submit([hold("gate"), *[sleep(5)] * 30, hold("last"), "b"])
    scene.wait_start(batch_id, 0)
    reader = Reader(scene, batch_id)
    weak_redis.kill()
    scene.open("gate")
    scene.wait_start(batch_id, 31)
    scene.wait(lambda: reader.events[-1].processed == 31, 20, "the reader to know what happened meanwhile")
    weak_redis.start()
    scene.open("last")
    scene.wait_end(batch_id)
    assert gaps(reader.check()) >= 1
    scene.wait_announced(batch_id)


def test_across_a_stream_that_is_cut_short_again_and_again(scene: Scene) -> None:
    scene.start_worker(progress_maxlen="100")
    batch_id = scene.submit([sleep(2)] * 200)
    readers = [Reader(scene, batch_id) for _ in range(3)]
    for position in range(20, 200, 20):
        scene.wait_start(batch_id, position)
        scene.redis.xtrim(PROGRESS, maxlen=0, approximate=False)
    scene.wait_end(batch_id)
    for reader in readers:
        reader.check()
    scene.wait_announced(batch_id)


@pytest.mark.parametrize("step", ["record:after:0", "announce:before", "announce:after", "ack:before", "ack:after"])
@pytest.mark.parametrize("end", ["completed", "failed"])
def test_the_end_is_told_whenever_the_worker_dies(scene: Scene, step: str, end: str) -> None:
    first = scene.begin_worker(step=step)
    batch_id = scene.submit([act("permanent")], max_failures=0 if end == "failed" else None)
    reader = Reader(scene, batch_id)
    assert first.wait_ended() == -9
    scene.start_worker()
    scene.wait_end(batch_id, end)
    assert reader.check()[-1].status == end
    scene.wait_announced(batch_id)
    assert scene.starts(batch_id) == [(0, 1)]


def test_a_cancel_that_nobody_was_there_to_hear_is_told(scene: Scene) -> None:
    batch_id = scene.submit(["a", "b"])
    reader = Reader(scene, batch_id)
    assert scene.database.value("SELECT streamworker.cancel($1)", batch_id)
    scene.start_worker()
    scene.wait_announced(batch_id)
    assert reader.check()[-1].status == "cancelled"
    assert scene.starts(batch_id) == []


def test_an_end_tells_what_it_cut_off(scene: Scene) -> None:
    scene.start_worker()
    batch_id = scene.job(["a", hold("never"), *(f"item {number}" for number in range(700))])
    scene.wait_start(batch_id, 1)
    assert scene.database.value("SELECT streamworker.cancel($1)", batch_id)
    scene.wait(lambda: any(event.status == "cancelled" for event in scene.events(batch_id)), 20, "the end")
    told = scene.read_events(batch_id)[-1].items
    assert [(item.position, item.status, item.attempt) for item in told] == [(position, "cancelled", 0) for position in range(1, 501)]
