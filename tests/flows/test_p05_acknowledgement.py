"""P5: an entry is acknowledged only when its batch has durably ended and that has been told; duplicates are dropped at once."""

from __future__ import annotations

from uuid import UUID

import pytest

from streamworker.messages import TERMINAL
from tests.flows.processors import hold, sleep
from tests.flows.scene import DEAD, PROGRESS, STREAM, Scene
from tests.flows.wires import Wires


def ends_told(scene: Scene, batch_id: UUID) -> int:
    """How often the end of the batch stands on the progress stream."""
    return sum(event.status in TERMINAL for event in scene.events(batch_id))


def test_what_has_ended_but_was_not_told_is_not_acknowledged(scene: Scene) -> None:
    worker = scene.begin_worker(step="announce:before", fault="stop")
    batch_id = scene.job(["a"])
    worker.wait_stopped()
    row = scene.batch(batch_id)
    assert (row["status"], row["announced_at"], ends_told(scene, batch_id)) == ("completed", None, 0)
    assert len(scene.pending()) == scene.redis.xlen(STREAM) == 1
    worker.resume()
    scene.wait_announced(batch_id)


def test_what_was_told_is_acknowledged_last(scene: Scene) -> None:
    worker = scene.begin_worker(step="ack:before", fault="stop")
    batch_id = scene.job(["a"])
    worker.wait_stopped()
    assert scene.batch(batch_id)["announced_at"] is not None
    assert ends_told(scene, batch_id) == 1
    assert len(scene.pending()) == scene.redis.xlen(STREAM) == 1
    worker.resume()


@pytest.mark.parametrize("items", [["a"], ["a", "b", "c"], [sleep(30), sleep(30)]], ids=["one", "quick", "slow"])
def test_the_order_on_the_wire(scene: Scene, items: list[object]) -> None:
    with Wires(scene) as wires:
        worker = scene.start_worker(**wires.urls)
        batch_id = scene.job(items)
        scene.wait_announced(batch_id)
        scene.wait(lambda: scene.residue.on_stream() == (0, 0), 10, "the acknowledgement")
        worker.end()
        (end,) = wires.find("postgres", r"SET status = 'completed'")
        commit = next(
            record for record in wires.find("postgres", "^COMMIT") if record["conn"] == end["conn"] and record["seq"] > end["seq"]
        )
        (told,) = [record for record in wires.find("redis", f"^XADD {PROGRESS} ") if '"status":"completed","total"' in str(record["args"])]
        (acknowledged,) = wires.find("redis", f"^XACK {STREAM} ")
        deleted = wires.find("redis", f"^XDEL {STREAM} ")[0]
        order = [wires.reply_to(commit)["seq"], told["seq"], wires.reply_to(told)["seq"], acknowledged["seq"], deleted["seq"]]
        assert order == sorted(order)


def test_a_bad_message_is_dead_before_it_is_acknowledged(scene: Scene) -> None:
    with Wires(scene) as wires:
        worker = scene.start_worker(**wires.urls)
        scene.xadd(batch_id="nonsense")
        scene.wait(lambda: scene.letters() and scene.redis.xlen(STREAM) == 0, 10, "the letter")
        worker.end()
        (buried,) = wires.find("redis", f"^XADD {DEAD} ")
        (acknowledged,) = wires.find("redis", f"^XACK {STREAM} ")
        assert wires.reply_to(buried)["seq"] < acknowledged["seq"]


def test_a_second_entry_of_a_running_batch_is_dropped_at_once(scene: Scene) -> None:
    scene.start_worker()
    scene.start_worker()
    batch_id = scene.job([hold("gate")])
    scene.wait_start(batch_id, 0)
    (entry,) = scene.pending()
    for _ in range(5):
        scene.xadd(batch_id=batch_id)
    scene.wait(lambda: scene.redis.xlen(STREAM) == 1, 10, "the duplicates to be dropped")
    assert list(scene.pending()) == [entry]
    scene.open("gate")
    scene.wait_announced(batch_id)
    assert (scene.starts(batch_id), ends_told(scene, batch_id)) == ([(0, 1)], 1)


@pytest.mark.parametrize("end", ["completed", "cancelled", "failed"])
def test_a_finished_batch_that_is_sent_again_is_only_told_again(scene: Scene, end: str) -> None:
    scene.start_worker()
    batch_id = scene.job(["a", hold("gate")])
    scene.wait_start(batch_id, 1)
    if end == "cancelled":
        scene.database.value("SELECT streamworker.cancel($1)", batch_id)
    if end == "failed":
        scene.database.rows(
            "WITH b AS (UPDATE streamworker.batches SET status = 'failed', error = 'by hand', finished_at = now(), "
            "revision = revision + 1, lease_expires_at = NULL WHERE id = $1) UPDATE streamworker.items SET status = 'cancelled', "
            "finished_at = now() WHERE batch_id = $1 AND status IN ('pending', 'processing')",
            batch_id,
        )
    scene.open("gate")
    scene.wait_end(batch_id, end)
    scene.wait(lambda: scene.residue.on_stream() == (0, 0), 10, "the acknowledgement")
    before, starts = ends_told(scene, batch_id), scene.starts(batch_id)
    scene.xadd(batch_id=batch_id)
    scene.wait(lambda: ends_told(scene, batch_id) == before + 1, 10, "the end to be told again")
    scene.wait(lambda: scene.residue.on_stream() == (0, 0), 10, "the acknowledgement")
    assert scene.starts(batch_id) == starts
    assert scene.events(batch_id)[-1].status == end
