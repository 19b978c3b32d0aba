"""P3: at most one worker's writes count; one that was taken over writes nothing more, however late it wakes up."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos import audit
from tests.flows.processors import hold, sleep
from tests.flows.scene import Scene
from tests.flows.wires import Server, Wires
from tests.flows.workers import WorkerProcess

LOST = "batch lost to another worker"


@pytest.fixture
def audited(scene: Scene) -> Scene:
    """A scene in which Postgres writes down who changes what, and leases are short."""
    scene.background.run(_install(scene.database_url))
    scene.settings["lease_ttl"] = "2s"
    return scene


async def _install(url: str) -> None:
    connection = await audit.asyncpg.connect(url)
    await audit.install(connection)
    await connection.close()


def writers(scene: Scene) -> list[str]:
    """Who changed a row under a lease, in order; neighbours that are the same count once."""
    rows = scene.database.column(
        "SELECT application FROM audit.changes WHERE operation = 'UPDATE' AND application NOT LIKE '% reconciler' ORDER BY seq"
    )
    names = [name.partition(" ")[0] for name in rows]
    return [name for name, before in zip(names, [None, *names], strict=False) if name != before]


def take_over(scene: Scene, zombie: WorkerProcess, batch_id: Any) -> WorkerProcess:
    """Let another worker take the batch of one that stands still."""
    zombie.wait_stopped()
    heir = scene.start_worker(consumer="heir")
    scene.wait(lambda: scene.batch(batch_id)["worker"] == "heir", 15, "the take-over")
    return heir


@pytest.mark.parametrize("step", ["process:before:1", "process:after:1", "record:before:1", "record:inside:1", "record:after:1"])
def test_a_stopped_owner_wakes_up_and_writes_nothing(audited: Scene, step: str) -> None:
    scene = audited
    zombie = scene.begin_worker(step=step, fault="stop", consumer="zombie")
    batch_id = scene.job([sleep(30), hold("gate", attempt=2), hold("gate", attempt=2), sleep(30)])
    take_over(scene, zombie, batch_id)
    zombie.resume()
    zombie.wait_logged(LOST)
    assert set(scene.pending().values()) == {"heir"}, "the entry was stolen back"
    scene.open("gate")
    row = scene.wait_end(batch_id)
    assert (row["epoch"], row["worker"], row["succeeded"]) == (2, "heir", 4)
    assert writers(scene) == ["zombie", "heir"]
    assert scene.wait_announced(batch_id).worker == "heir"


def test_an_owner_that_was_stopped_between_end_and_announcement(audited: Scene) -> None:
    scene = audited
    zombie = scene.begin_worker(step="announce:before", fault="stop", consumer="zombie")
    batch_id = scene.job([sleep(30), sleep(30)])
    zombie.wait_stopped()
    scene.start_worker(consumer="heir")
    scene.wait_announced(batch_id)
    scene.wait(lambda: scene.residue.on_stream() == (0, 0), 15, "the acknowledgement")
    zombie.resume()
    next_batch = scene.job(["a"])
    scene.wait_announced(next_batch)
    assert scene.starts(batch_id) == [(0, 1), (1, 1)]
    assert {event.status for event in scene.read_events(batch_id)[-1:]} == {"completed"}


def test_a_worker_stopped_in_the_middle_of_user_code(audited: Scene) -> None:
    scene = audited
    zombie = scene.start_worker(consumer="zombie")
    batch_id = scene.job([sleep(30), hold("first", attempt=1), "c"])
    scene.wait_start(batch_id, 1)
    zombie.stop()
    take_over(scene, zombie, batch_id)
    scene.wait_end(batch_id)
    scene.wait(lambda: scene.batch(batch_id)["announced_at"] is not None, 15, "the note that its end was told")
    row = scene.batch(batch_id)
    zombie.resume()
    scene.open("first")
    zombie.wait_logged(LOST)
    assert scene.batch(batch_id) == row, "the batch changed after its end"
    assert scene.items(batch_id)[1]["result"] == {"position": 1, "attempt": 2}
    assert zombie.lives


@pytest.mark.parametrize("servers", [["postgres"], ["postgres", "redis"]], ids=["Postgres", "both"])
def test_a_worker_that_is_cut_off_is_replaced_and_fenced(audited: Scene, servers: list[Server]) -> None:
    scene = audited
    with Wires(scene) as wires:
        zombie = scene.start_worker(**wires.urls, consumer="zombie")
        batch_id = scene.job([sleep(30), hold("first", attempt=1), hold("gate", attempt=2), sleep(30)])
        scene.wait_start(batch_id, 1)
        scene.start_worker(consumer="heir")
        wires.silence(*servers)
        scene.wait(lambda: scene.batch(batch_id)["worker"] == "heir", 15, "the take-over")
        scene.wait(lambda: any(line.outcome == "CancelledError" for line in scene.log(batch_id)), 15, "the item to be interrupted")
        scene.open("first")
        scene.open("gate")
        assert scene.wait_end(batch_id)["succeeded"] == 4
        wires.heal()
        zombie.wait_logged(LOST)
        assert writers(scene) == ["zombie", "heir"]
        scene.wait_announced(batch_id)
        zombie.end()


def test_a_zombie_works_on_for_others(audited: Scene) -> None:
    scene = audited
    zombie = scene.start_worker(consumer="zombie")
    batch_id = scene.job([hold("first", attempt=1), "b"])
    scene.wait_start(batch_id, 0)
    zombie.stop()
    heir = take_over(scene, zombie, batch_id)
    scene.wait_end(batch_id)
    heir.end()
    zombie.resume()
    zombie.wait_logged(LOST)
    another = scene.job(["x"])
    assert scene.wait_end(another)["worker"] == "zombie"


def test_a_stopped_worker_holds_nobody_up(audited: Scene) -> None:
    scene = audited
    idle = scene.start_worker(consumer="zombie")
    first = scene.submit(["found by the only worker"])
    scene.wait_end(first)
    idle.stop()
    scene.start_worker(consumer="heir")
    batches = [scene.submit(["nobody sends a word"]), scene.job(["may go to the stopped one"])]
    for batch_id in batches:
        assert scene.wait_end(batch_id)["worker"] == "heir"
    idle.resume()


def test_stopping_and_waking_in_turns(audited: Scene) -> None:
    scene = audited
    pair = [scene.start_worker(consumer=name) for name in ("left", "right")]
    batch_id = scene.job([sleep(20)] * 100, max_attempts=20)
    for turn in range(2):
        scene.wait(lambda turn=turn: len(scene.starts(batch_id)) > 10 * turn + 5, 20, "some work")
        owner = pair[scene.batch(batch_id)["worker"] == "right"]
        epoch = scene.batch(batch_id)["epoch"]
        owner.stop()
        scene.wait(lambda epoch=epoch: scene.batch(batch_id)["epoch"] > epoch, 15, "the take-over")
        owner.resume()
    row = scene.wait_end(batch_id)
    assert (row["succeeded"], row["failed"]) == (100, 0)
    ended = [line.position for line in scene.log(batch_id) if line.edge == "start"]
    assert len(ended) <= 100 + 2 * 2, "finished items were started again"
    scene.wait_announced(batch_id)
