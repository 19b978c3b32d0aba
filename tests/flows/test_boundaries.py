"""Every boundary of one run: a worker dies there, another one goes on, and nothing is lost, repeated or miscounted."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg
import pytest

from tests.flows.processors import act, sleep
from tests.flows.scene import Scene
from tests.flows.workers import WorkerProcess

ITEMS = [sleep(30)] * 5  # long enough for a commit of its own, so that each item has all its boundaries
FIRST, MIDDLE, LAST = 0, 2, 4
ONCE_A_RUN = ["receive:after", "acquire:before", "acquire:after", "announce:before", "announce:after", "ack:before", "ack:after"]
ONCE_AN_ITEM = ["process:before", "process:after", "record:before", "record:inside", "record:after"]


def of_items(*positions: int, steps: Sequence[str] = ONCE_AN_ITEM) -> list[str]:
    return [f"{step}:{position}" for position in positions for step in steps]


def die_and_go_on(scene: Scene, batch_id: UUID, step: str, **settings: str) -> asyncpg.Record:
    """Let one worker die at the step, and another one end the batch; returns the batch, checked."""
    assert scene.begin_worker(step=step, **settings).wait_ended() == -9
    finished = {position for position, status in enumerate(scene.statuses(batch_id)) if status in ("completed", "failed")}
    successor = scene.begin_worker(**settings)
    row = scene.wait_end(batch_id)
    assert row["processed"] == row["total"] == len(scene.items(batch_id))
    again = {line.position for line in scene.log(batch_id) if line.edge == "start" and line.pid == successor.pid}
    assert again & finished == set()
    scene.wait_announced(batch_id)
    return row


@pytest.mark.parametrize("step", ONCE_A_RUN + of_items(FIRST, MIDDLE, LAST))
def test_a_death_at_any_boundary(scene: Scene, step: str) -> None:
    batch_id = scene.job(ITEMS)
    row = die_and_go_on(scene, batch_id, step)
    assert (row["succeeded"], row["failed"]) == (5, 0)
    starts = scene.starts(batch_id)
    assert len(starts) == len(set(starts)), "the same attempt at an item was started twice"
    assert max(attempt for _, attempt in starts) <= 2


@pytest.mark.parametrize("step", of_items(MIDDLE))
def test_what_may_start_once_is_never_started_twice(scene: Scene, step: str) -> None:
    batch_id = scene.job(ITEMS, max_attempts=1)
    row = die_and_go_on(scene, batch_id, step)
    positions = [position for position, _ in scene.starts(batch_id)]
    assert len(positions) == len(set(positions))
    assert row["failed"] == 1
    assert [item["error"] for item in scene.items(batch_id) if item["status"] == "failed"] == ["worker died while processing"]


@pytest.mark.parametrize("step", ["process:before:2", "record:inside#2", "record:after#3"])
def test_several_at_a_time(scene: Scene, step: str) -> None:
    batch_id = scene.job(ITEMS * 2)
    row = die_and_go_on(scene, batch_id, step, item_concurrency="3")
    assert (row["succeeded"], row["failed"]) == (10, 0)


@pytest.mark.parametrize("step", ["record:before#4", "record:inside#4", "record:after#4"])
def test_items_that_share_commits(scene: Scene, step: str) -> None:
    batch_id = scene.job(["quick"] * 400)
    row = die_and_go_on(scene, batch_id, step)
    assert row["succeeded"] == 400


@pytest.mark.parametrize(("step", "failed"), [("process:before:2#2", 1), ("record:before:2#2", 1), ("record:after:2#1", 1)])
def test_a_death_in_the_second_attempt(scene: Scene, step: str, failed: int) -> None:
    batch_id = scene.job([*ITEMS[:2], act("fail", times=1), *ITEMS[3:]])
    row = die_and_go_on(scene, batch_id, step)
    assert row["failed"] == failed
    assert scene.items(batch_id)[MIDDLE]["error"] == "worker died while processing"
    assert scene.starts(batch_id).count((MIDDLE, 2)) <= 1


@pytest.mark.parametrize("step", of_items(FIRST, MIDDLE, LAST, steps=["record:before", "record:inside", "record:after"]))
def test_a_connection_that_breaks_there_costs_nothing(scene: Scene, step: str) -> None:
    batch_id = scene.job(ITEMS)
    scene.begin_worker(step=step, fault="lose")
    scene.wait_end(batch_id)
    assert scene.starts(batch_id) == [(position, 1) for position in range(5)]
    assert scene.wait_announced(batch_id).epoch == 1


def test_five_deaths_in_a_row_at_different_boundaries(scene: Scene) -> None:
    batch_id = scene.job(ITEMS * 2)
    for step in ["acquire:after", "process:before:1", "record:inside:3", "record:after:5", "announce:before"]:
        assert scene.begin_worker(step=step).wait_ended() == -9
    last: WorkerProcess = scene.begin_worker()
    row = scene.wait_end(batch_id)
    assert (row["succeeded"], row["failed"]) == (10, 0)
    scene.wait_announced(batch_id)
    assert last.lives
