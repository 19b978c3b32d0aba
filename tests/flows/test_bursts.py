"""Small batches that run together: each is still one of its own, whatever happens to its neighbours or to the worker."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from tests.flows.processors import act, hold, sleep
from tests.flows.scene import STREAM, Scene
from tests.flows.wires import Wires

DIED = "worker died while processing"
MANY = 150
OPEN = "SELECT count(*) FROM streamworker.batches WHERE finished_at IS NULL OR announced_at IS NULL"


def send(scene: Scene, *odd: Any, many: int = MANY, **fields: Any) -> list[UUID]:
    """Send many batches of one quick item, the odd ones among the last of them; returns their ids in that order: quick ones first."""
    quick = [scene.job([f"item {number}"], **fields) for number in range(many)]
    strange = [scene.job([item], **fields) for item in odd]
    return [*quick, *(scene.job(["last"]) for _ in range(many // 3)), *strange]


def wait_all(scene: Scene, seconds: float = 60.0) -> None:
    """Wait until everything has ended, and is told and acknowledged."""
    scene.wait(lambda: scene.database.value(OPEN) == 0 and scene.redis.xlen(STREAM) == 0, seconds, "the end of everything")


def check(scene: Scene, ids: Sequence[UUID], attempts: int = 1, told: bool = True) -> None:
    """Each batch is completed and was told to its end; its item succeeded at this attempt. Not `told`: who knew of the item died."""
    for batch_id in ids:
        row = scene.batch(batch_id)
        assert (row["status"], row["processed"], row["succeeded"], row["total"]) == ("completed", 1, 1, 1)
        assert scene.attempts(batch_id) == [attempts]
        assert scene.starts(batch_id)[-1] == (0, attempts)
        scene.wait_announced(batch_id)
        items = [item for event in scene.read_events(batch_id) for item in event.items if item.status == "completed"]
        assert [(item.position, item.attempt) for item in items] == [(0, attempts)] or not (told or items)


def largest_burst(scene: Scene) -> int:
    """How many batches were told of in one line of a log, at most."""
    lines = [line for worker in scene.workers for line in worker.lines() if line["message"] == "batches finished"]
    return max((line["batches"] for line in lines), default=0)


def test_many_run_together_and_each_ends_by_itself(scene: Scene) -> None:
    ids = send(scene)
    scene.start_worker()
    wait_all(scene)
    check(scene, ids)
    assert all(len(scene.starts(batch_id)) == 1 for batch_id in ids)
    assert {scene.batch(batch_id)["epoch"] for batch_id in ids} == {1}
    assert largest_burst(scene) > 8


def test_batches_that_postgres_knows_already(scene: Scene) -> None:
    ids = [scene.submit(["x"]) for _ in range(MANY)]
    scene.start_worker()
    wait_all(scene)
    check(scene, ids)
    assert all(len(scene.starts(batch_id)) == 1 for batch_id in ids)


def test_several_items_each(scene: Scene) -> None:
    ids = [scene.job([f"{number}" for number in range(7)]) for _ in range(60)]
    scene.start_worker()
    wait_all(scene)
    for batch_id in ids:
        assert scene.starts(batch_id) == [(position, 1) for position in range(7)]
        scene.wait_announced(batch_id)
        told = [item.position for event in scene.read_events(batch_id) for item in event.items if item.status == "completed"]
        assert told == list(range(7))


def test_what_fails_once_or_for_good_goes_on_by_itself(scene: Scene) -> None:
    *quick, once, twice, never, doubtful = send(scene, act("fail", times=1), act("fail"), act("permanent"), act("effect"), many=60)
    scene.database.rows("CREATE TABLE IF NOT EXISTS public.effects (batch uuid, position int)")
    scene.start_worker()
    wait_all(scene)
    check(scene, [*quick, doubtful])
    check(scene, [once], attempts=2)
    for batch_id, attempts in ((twice, 2), (never, 1)):
        assert (scene.batch(batch_id)["status"], scene.batch(batch_id)["failed"]) == ("completed", 1)
        assert scene.starts(batch_id) == [(0, attempt) for attempt in range(1, attempts + 1)]
        scene.wait_announced(batch_id)
    assert scene.database.column("SELECT position FROM public.effects WHERE batch = $1", doubtful) == [0]


def test_more_failures_than_the_batch_allows(scene: Scene) -> None:
    ids = send(scene, many=30)
    bad = scene.job([act("permanent")], max_failures=0)
    scene.start_worker()
    wait_all(scene)
    check(scene, ids)
    assert scene.batch(bad)["error"] == "1 items failed, more than max_failures allows (0)"
    assert scene.wait_announced(bad).status == "failed"


def test_nobody_waits_for_a_slow_one(scene: Scene) -> None:
    *quick, slow = send(scene, hold("gate"))
    later = [scene.job(["later"]) for _ in range(40)]
    scene.start_worker()
    scene.wait_start(slow, 0)
    scene.start_worker()
    scene.wait(lambda: scene.database.value(OPEN) == 1, 30, "the end of all but one")
    check(scene, [*quick, *later])
    assert scene.batch(slow)["frontier"] == 1
    assert not scene.batch(slow)["together"]
    scene.open("gate")
    wait_all(scene)
    check(scene, [slow])
    assert scene.starts(slow) == [(0, 1)]


def test_a_slow_one_is_cancelled_alone(scene: Scene) -> None:
    *quick, slow = send(scene, hold("never"))
    scene.start_worker()
    scene.wait_start(slow, 0)
    assert scene.database.value("SELECT streamworker.cancel($1)", slow)
    wait_all(scene)
    check(scene, quick)
    assert (scene.batch(slow)["status"], scene.statuses(slow)) == ("cancelled", ["cancelled"])
    scene.wait_announced(slow)


def test_one_that_kills_its_worker_is_found(scene: Scene) -> None:
    *quick, deadly = send(scene, act("die"))
    scene.relay(deadly)
    wait_all(scene)
    check(scene, quick, told=False)
    assert scene.items(deadly)[0]["error"] == DIED
    assert (scene.statuses(deadly), scene.attempts(deadly)) == (["failed"], [2])
    assert len(scene.starts(deadly)) <= 3


BOUNDARIES = ["acquire:after", "process:before:0", "process:after:0", "record:before", "record:inside", "announce:before", "ack:before"]


@pytest.mark.parametrize("step", [f"{boundary}#40" for boundary in BOUNDARIES])
def test_a_death_at_any_boundary(scene: Scene, step: str) -> None:
    ids = send(scene)
    assert scene.begin_worker(step=step).wait_ended() == -9
    ended = set(scene.database.column("SELECT id FROM streamworker.batches WHERE finished_at IS NOT NULL"))
    successor = scene.start_worker()
    wait_all(scene)
    check(scene, ids, told=False)
    again = {UUID(line.batch) for line in scene.log() if line.edge == "start" and line.pid == successor.pid}
    assert again & ended == set()


def test_a_shutdown_charges_nobody(scene: Scene) -> None:
    *quick, slow = send(scene, hold("gate"))
    first = scene.start_worker(shutdown_timeout="0s")
    scene.wait_start(slow, 0)
    first.signal(signal.SIGTERM)
    assert first.wait_ended() == 0
    scene.open("gate")
    scene.start_worker()
    wait_all(scene)
    check(scene, [*quick, slow])
    assert scene.starts(slow) == [(0, 1), (0, 1)]


@pytest.mark.parametrize("fate", ["lose_reply", "cut_before"])
@pytest.mark.parametrize("statement", ["^-- Small batches for one worker", "^-- As `record`", "^-- Told, each"])
def test_a_statement_in_doubt(scene: Scene, fate: str, statement: str) -> None:
    with Wires(scene) as wires:
        worker = scene.start_worker(**wires.urls)
        scene.wait_end(scene.job(["first"]))
        trap = getattr(wires, fate)("postgres", statement, 2)
        ids = send(scene)
        wait_all(scene)
        assert trap.fired.is_set()
        check(scene, ids)
        assert all(len(scene.starts(batch_id)) == 1 for batch_id in ids)
        assert worker.end() == 0


def test_items_of_unknown_speed_are_suspects_alone(scene: Scene) -> None:
    batch_id = scene.job([sleep(1), act("die"), sleep(1)])
    scene.relay(batch_id)
    assert scene.statuses(batch_id) == ["completed", "failed", "completed"]
    assert scene.starts(batch_id)[-1] == (2, 1)


def test_one_worker_goes_on_beside_a_slow_one(scene: Scene) -> None:
    *quick, slow = send(scene, hold("gate"))
    later = [scene.job(["later"]) for _ in range(40)]
    scene.start_worker(batch_concurrency="2")
    scene.wait_start(slow, 0)
    scene.wait(lambda: scene.database.value(OPEN) == 1, 30, "the end of all but the slow one")
    scene.open("gate")
    wait_all(scene)
    check(scene, [*quick, *later, slow])


def test_what_has_ended_is_written_though_another_waits_for_its_retry(scene: Scene) -> None:
    quick = send(scene)
    odd = [scene.job(["ok", act("fail", times=1)]) for _ in range(3)]
    scene.start_worker(retry_delay="6s")
    for batch_id in odd[:1]:
        scene.wait(lambda batch_id=batch_id: scene.statuses(batch_id)[:1] == ["completed"], 10, "the record of the item that succeeded")
    scene.start_worker(retry_delay="6s", batch_concurrency="4")
    for batch_id in odd:
        scene.wait(lambda batch_id=batch_id: scene.statuses(batch_id)[:1] == ["completed"], 5, "the record of the item that succeeded")
    wait_all(scene)
    check(scene, quick)
    assert [scene.attempts(batch_id) for batch_id in odd] == [[1, 2]] * 3


def test_a_death_after_the_burst_is_charged(scene: Scene) -> None:
    *quick, odd = send(scene, act("fail then die"))
    scene.relay(odd)
    wait_all(scene)
    check(scene, quick, told=False)
    assert (scene.starts(odd), scene.statuses(odd)) == ([(0, 1), (0, 2)], ["failed"])


def test_a_checkpoint_in_a_burst_brings_nobody_under_suspicion(scene: Scene) -> None:
    quick = send(scene)
    odd = [scene.job([act("checkpoint and die", times=1), "b", "c"]) for _ in range(2)]
    for batch_id in odd:
        scene.relay(batch_id)
    wait_all(scene)
    check(scene, quick, told=False)
    assert [scene.statuses(batch_id) for batch_id in odd] == [["completed"] * 3] * 2
