"""P5, with faults: whoever dies, or loses Redis, around the end of a batch leaves an entry that is told about before it is acknowledged."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis

from streamworker.messages import TERMINAL
from tests.flows.processors import hold
from tests.flows.scene import GROUP, PROGRESS, STREAM, Scene
from tests.servers import RedisServer

NOTHING = (0, 0)
WAITING = (1, 1)
ROW = "SELECT status, revision, epoch, succeeded, failed, finished_at FROM streamworker.batches WHERE id = $1"


def ends_told(scene: Scene, batch_id: UUID) -> int:
    """How often the end of the batch stands on the progress stream."""
    return sum(event.status in TERMINAL for event in scene.events(batch_id))


def wait_acknowledged(scene: Scene) -> None:
    scene.wait(lambda: scene.residue.on_stream() == NOTHING, 30, "the acknowledgement")


@contextmanager
def monitored(url: str) -> Iterator[list[str]]:
    """All commands that the server runs meanwhile, in its order, up to the first XDEL and what closes its transaction."""
    seen: list[str] = []
    ready = threading.Event()

    def read(client: redis.Redis) -> None:
        with client.monitor() as monitor:
            ready.set()
            while not any(command.startswith("XDEL") for command in seen) or seen[-1] != "EXEC":
                seen.append(monitor.next_command()["command"])

    with redis.Redis.from_url(url, socket_timeout=30) as client:
        reading = threading.Thread(target=read, args=(client,), daemon=True)
        reading.start()
        assert ready.wait(10)
        yield seen
        reading.join(30)
        assert not reading.is_alive()


def first(commands: list[str], belongs: Callable[[str], bool]) -> int:
    return next(number for number, command in enumerate(commands) if belongs(command))


@pytest.mark.parametrize("items", [["a"], ["a", "b", "c"]], ids=["one item", "three"])
def test_told_first_then_acknowledged_and_deleted_together(scene: Scene, items: list[str]) -> None:
    scene.start_worker()
    with monitored(scene.redis_url) as commands:
        batch_id = scene.job(items)
        wait_acknowledged(scene)
    told = first(commands, lambda command: command.startswith(f"XADD {PROGRESS} ") and '"status":"completed","total"' in _plain(command))
    multi = max(number for number, command in enumerate(commands) if command == "MULTI")
    closing = commands[multi:]
    assert told < multi
    assert [command.split()[0] for command in closing] == ["MULTI", "XACK", "XDEL", "EXEC"]
    assert closing[1].split()[1:3] == [STREAM, GROUP]
    assert closing[1].split()[3] == closing[2].split()[2], "one and the same entry"
    assert sum(command.startswith("XACK") for command in commands) == 1
    scene.wait_announced(batch_id)


def _plain(command: str) -> str:
    return command.replace("\\", "")


@pytest.mark.parametrize(
    ("step", "told"),
    [("announce:before", {1, 2}), ("announce:after", {2, 3}), ("ack:before", {2}), ("ack:after", {1})],
)
def test_who_dies_at_the_end_leaves_only_the_telling_to_the_next(scene: Scene, step: str, told: set[int]) -> None:
    worker = scene.begin_worker(step=step)
    batch_id = scene.job(["a", "b"])
    assert worker.wait_ended() == -9
    before = scene.database.row(ROW, batch_id)
    assert before["status"] == "completed"
    if step != "ack:after":
        assert scene.residue.on_stream() == WAITING
    scene.start_worker()
    wait_acknowledged(scene)
    scene.wait_announced(batch_id)
    assert scene.starts(batch_id) == [(0, 1), (1, 1)]
    assert scene.database.row(ROW, batch_id) == before
    assert ends_told(scene, batch_id) in told
    assert len({event.revision for event in scene.events(batch_id) if event.status in TERMINAL}) == 1


@pytest.mark.parametrize("concurrency", ["1", "3"])
def test_a_second_entry_met_by_the_worker_that_runs_the_batch(scene: Scene, concurrency: str) -> None:
    scene.start_worker(batch_concurrency=concurrency)
    batch_id = scene.job([hold("gate")])
    scene.wait_start(batch_id, 0)
    (entry,) = scene.pending()
    duplicates = [scene.xadd(batch_id=batch_id) for _ in range(3)]
    if concurrency != "1":  # a worker that has a slot free drops them at once, the other one when it comes to them
        scene.wait(lambda: not any(scene.redis.xrange(STREAM, one, one) for one in duplicates), 10, "the duplicates to be dropped")
        assert list(scene.pending()) == [entry]
    scene.open("gate")
    scene.wait_announced(batch_id)
    wait_acknowledged(scene)
    assert scene.starts(batch_id) == [(0, 1)]


@pytest.fixture
def durable_scene(own_redis: RedisServer, database_url: str, tmp_path: Path) -> Iterator[Scene]:
    """A scene whose Redis may be broken and keeps its data."""
    with Scene(own_redis.url, database_url, tmp_path) as scene:
        yield scene
        scene.finish()


def end_without_redis(scene: Scene, leave: Callable[[], Any], gate: str) -> tuple[Any, UUID]:
    """Take Redis away while the last item runs: the batch ends in Postgres, and nobody says so."""
    worker = scene.start_worker()
    batch_id = scene.job(["a", hold(gate)])
    scene.wait_start(batch_id, 1)
    leave()
    scene.open(gate)
    scene.wait_end(batch_id)
    worker.stop()
    assert scene.batch(batch_id)["announced_at"] is None
    return worker, batch_id


def test_redis_paused_at_the_end(durable_scene: Scene, own_redis: RedisServer) -> None:
    worker, batch_id = end_without_redis(durable_scene, own_redis.pause, "gate")
    own_redis.resume()
    assert durable_scene.residue.on_stream() == WAITING
    worker.resume()
    durable_scene.wait_announced(batch_id)
    wait_acknowledged(durable_scene)
    assert durable_scene.starts(batch_id) == [(0, 1), (1, 1)]
    assert durable_scene.batch(batch_id)["announced_at"] is not None


def test_redis_killed_at_the_end_and_back_with_its_data(durable_scene: Scene, own_redis: RedisServer) -> None:
    worker, batch_id = end_without_redis(durable_scene, own_redis.kill, "gate")
    own_redis.start()
    assert durable_scene.residue.on_stream() == WAITING
    assert ends_told(durable_scene, batch_id) == 0
    with monitored(own_redis.url) as commands:
        worker.resume()
        wait_acknowledged(durable_scene)
    told = first(commands, lambda command: command.startswith(f"XADD {PROGRESS} ") and str(batch_id) in command)
    assert told < first(commands, lambda command: command.startswith("XACK"))
    durable_scene.wait_announced(batch_id)
    assert durable_scene.starts(batch_id) == [(0, 1), (1, 1)]


def test_redis_killed_at_the_end_and_back_empty(own_redis_scene: Scene, weak_redis: RedisServer) -> None:
    worker, batch_id = end_without_redis(own_redis_scene, weak_redis.kill, "gate")
    weak_redis.start()
    worker.resume()
    assert own_redis_scene.wait_announced(batch_id).processed == 2
    wait_acknowledged(own_redis_scene)
    assert own_redis_scene.starts(batch_id) == [(0, 1), (1, 1)]


@pytest.mark.parametrize("then", ["paused", "killed"])
def test_whoever_waited_for_redis_dies_and_another_tells_it(durable_scene: Scene, own_redis: RedisServer, then: str) -> None:
    leave, back = (own_redis.pause, own_redis.resume) if then == "paused" else (own_redis.kill, own_redis.start)
    worker, batch_id = end_without_redis(durable_scene, leave, "gate")
    worker.kill()
    back()
    assert durable_scene.residue.on_stream() == WAITING
    durable_scene.start_worker()
    durable_scene.wait_announced(batch_id)
    wait_acknowledged(durable_scene)
    assert durable_scene.starts(batch_id) == [(0, 1), (1, 1)]
