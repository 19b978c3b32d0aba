"""P2: an item's end is recorded once and never run again; resuming skips it, and nothing is counted twice."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.flows.processors import act, hold, sleep
from tests.flows.scene import Scene


def ends(scene: Scene, batch_id: Any) -> list[tuple[Any, ...]]:
    """Everything about the finished items."""
    rows = [row for row in scene.items(batch_id) if row["status"] in ("completed", "failed")]
    return [(row["position"], row["status"], row["attempts"], json.dumps(row["result"]), row["error"], row["finished_at"]) for row in rows]


@pytest.mark.parametrize("how", ["killed", "stopped in good order"])
def test_the_next_worker_goes_on_behind_what_is_finished(scene: Scene, how: str) -> None:
    batch_id = scene.job(["a", act("permanent"), "c", hold("gate"), "e", "f"])
    first = scene.start_worker(shutdown_timeout="0s")
    scene.wait_start(batch_id, 3)
    scene.wait(lambda: scene.batch(batch_id)["processed"] == 3, 10, "the first three to be recorded")
    if how == "killed":
        first.kill()
    else:
        assert first.end() == 0
    before = ends(scene, batch_id)
    second = scene.start_worker()
    scene.open("gate")
    row = scene.wait_end(batch_id)
    assert (row["processed"], row["succeeded"], row["failed"]) == (6, 5, 1)
    assert ends(scene, batch_id)[:3] == before
    assert {line.position for line in scene.log(batch_id) if line.pid == second.pid} == {3, 4, 5}


def test_a_batch_of_which_nothing_is_left_only_ends(scene: Scene) -> None:
    batch_id = scene.job(["a", "b"])
    assert scene.begin_worker(step="acquire:before").wait_ended() == -9
    scene.database.rows(
        "UPDATE streamworker.items SET status = 'completed', attempts = 1, finished_at = clock_timestamp() WHERE batch_id = $1", batch_id
    )
    scene.start_worker()
    assert scene.wait_end(batch_id)["succeeded"] == 2
    assert scene.starts(batch_id) == []


def test_the_same_job_sent_many_times_runs_once(scene: Scene) -> None:
    scene.start_worker()
    scene.start_worker()
    batch_id = uuid4()
    for _ in range(20):
        scene.job([sleep(10), sleep(10), sleep(10)], batch_id=batch_id)
    scene.submit([sleep(10), sleep(10), sleep(10)], batch_id=batch_id)
    scene.wait_end(batch_id)
    scene.wait(lambda: scene.residue.on_stream() == (0, 0), 15, "the duplicates to be dropped")
    assert scene.starts(batch_id) == [(0, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize("first", ["stream", "sql"])
def test_of_two_jobs_with_one_id_the_first_wins(scene: Scene, first: str) -> None:
    batch_id = uuid4()
    if first == "stream":
        scene.job(["a", "b"], batch_id=batch_id)
        scene.start_worker()
        scene.wait_end(batch_id)
        scene.submit(["x", "y", "z"], batch_id=batch_id)
    else:
        scene.submit(["a", "b"], batch_id=batch_id)
        scene.job(["x", "y", "z"], batch_id=batch_id)
        scene.start_worker()
    scene.wait_end(batch_id)
    assert [item["key"] for item in scene.items(batch_id)] == ["a", "b"]
    assert scene.starts(batch_id) == [(0, 1), (1, 1)]


def test_retry_runs_what_failed_and_nothing_else(scene: Scene) -> None:
    scene.start_worker()
    batch_id = scene.job(["a", act("fail", times=2), "c", act("permanent")])
    assert scene.wait_end(batch_id)["failed"] == 2
    before = ends(scene, batch_id)
    scene.wait_announced(batch_id)
    assert scene.database.value("SELECT streamworker.retry($1)", batch_id) == 2
    scene.wait(lambda: scene.batch(batch_id)["finished_at"] is not None, 20, "the second end")
    row = scene.batch(batch_id)
    assert (row["processed"], row["succeeded"], row["failed"]) == (4, 2, 2)
    assert scene.starts(batch_id) == [(0, 1), (1, 1), (1, 2), (2, 1), (3, 1), (1, 1), (1, 2), (3, 1)]
    after = ends(scene, batch_id)
    assert (after[0], after[2]) == (before[0], before[2])


def test_counters_follow_the_rows_at_every_event(scene: Scene) -> None:
    scene.start_worker(item_concurrency="4")
    batch_id = scene.job([act("fail", times=attempts) if attempts else sleep(5) for attempts in (0, 1, 2, 0, 1, 2, 0, 0, 1, 2)] * 5)
    row = scene.wait_end(batch_id)
    assert (row["processed"], row["succeeded"], row["failed"]) == (50, 35, 15)
    last = scene.wait_announced(batch_id)
    assert (last.processed, last.percent) == (50, 100.0)
    told = [(item.position, item.status) for event in scene.read_events(batch_id) for item in event.items]
    ended = [position for position, status in told if status in ("completed", "failed")]
    assert sorted(ended) == list(range(50)), "each end is told once"
