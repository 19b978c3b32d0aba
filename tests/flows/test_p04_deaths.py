"""P4, deaths: a death counts as an attempt of the item in flight; a poisonous one is failed, and the rest of its batch finishes."""

from __future__ import annotations

from uuid import UUID

import pytest

from tests.flows.processors import act, hold, sleep
from tests.flows.scene import Scene
from tests.servers import PostgresServer

DIED = "worker died while processing"


def starts_at(scene: Scene, batch_id: UUID, position: int) -> list[int]:
    """The attempt numbers of the starts of one item."""
    return [attempt for place, attempt in scene.starts(batch_id) if place == position]


def test_a_pause_before_each_retry(scene: Scene) -> None:
    scene.start_worker(retry_delay="300ms")
    batch_id = scene.job([act("fail", times=1), "b"])
    scene.wait_end(batch_id)
    assert scene.starts(batch_id) == [(0, 1), (1, 1), (0, 2)]
    first, second = [line.at for line in scene.log(batch_id) if (line.edge, line.position) == ("start", 0)]
    assert second - first >= 0.3


def test_the_wait_for_a_retry_survives_the_worker(scene: Scene) -> None:
    batch_id = scene.job([act("retry after", seconds=3, times=1), hold("gate")])
    first = scene.start_worker()
    scene.wait_start(batch_id, 1)
    first.kill()
    scene.open("gate")
    scene.start_worker()
    row = scene.wait_end(batch_id)
    assert (row["succeeded"], starts_at(scene, batch_id, 0)) == (2, [1, 2])
    before, after = [line.at for line in scene.log(batch_id) if (line.edge, line.position) == ("start", 0)]
    assert after - before >= 3


# In a process of its own such an item kills nothing else: test_isolation.py.
SHAPES = {
    "inline": {"isolation": "inline"},
    "inline, a plain def": {"isolation": "inline", "processor": "tests.flows.processors:work_in_thread"},
    "thread": {"isolation": "thread"},
}


class TestDeaths:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("death", ["die", "crash"])
    def test_an_item_that_kills_its_worker_fails_and_the_rest_completes(self, scene: Scene, death: str, shape: str) -> None:
        batch_id = scene.job([sleep(30), sleep(30), act(death), sleep(30), sleep(30)])
        row = scene.relay(batch_id, **SHAPES[shape])
        assert (row["status"], row["succeeded"], row["failed"]) == ("completed", 4, 1)
        assert starts_at(scene, batch_id, 2) == [1, 2]
        poison = scene.items(batch_id)[2]
        assert (poison["status"], poison["attempts"], poison["error"]) == ("failed", 2, DIED)
        assert [position for position, _ in scene.starts(batch_id)] == [0, 1, 2, 2, 3, 4]
        scene.wait_announced(batch_id)

    def test_one_that_kills_only_once_is_completed(self, scene: Scene) -> None:
        batch_id = scene.job([sleep(30), act("crash", times=1), sleep(30)])
        assert scene.relay(batch_id)["succeeded"] == 3
        assert scene.starts(batch_id) == [(0, 1), (1, 1), (1, 2), (2, 1)]

    def test_a_death_and_an_error_are_two_attempts(self, scene: Scene) -> None:
        batch_id = scene.job([sleep(30), act("fail then die"), sleep(30)])
        assert scene.relay(batch_id)["failed"] == 1
        assert starts_at(scene, batch_id, 1) == [1, 2]
        assert scene.items(batch_id)[1]["error"] == DIED

    @pytest.mark.parametrize("place", [0, 150, 299])
    def test_the_culprit_in_a_burst_costs_one_start_more(self, scene: Scene, place: int) -> None:
        items: list[object] = ["quick"] * 300
        items[place] = act("die")
        batch_id = scene.job(items)
        row = scene.relay(batch_id)
        assert (row["succeeded"], row["failed"]) == (299, 1)
        assert len(starts_at(scene, batch_id, place)) <= 3
        assert scene.items(batch_id)[place]["error"] == DIED
        assert all(item["attempts"] == 1 for item in scene.items(batch_id) if item["position"] != place), "an innocent was charged"

    def test_the_culprit_among_several_at_a_time_costs_one_start_more(self, scene: Scene) -> None:
        batch_id = scene.job([*[sleep(30)] * 6, act("die"), *[sleep(30)] * 6])
        row = scene.relay(batch_id, item_concurrency="3")
        assert (row["succeeded"], row["failed"]) == (12, 1)
        assert len(starts_at(scene, batch_id, 6)) <= 3
        assert all(item["attempts"] == 1 for item in scene.items(batch_id) if item["position"] != 6), "an innocent was charged"

    def test_several_culprits(self, scene: Scene) -> None:
        batch_id = scene.job([act("die") if position in (3, 4, 20) else "quick" for position in range(30)])
        row = scene.relay(batch_id)
        assert (row["succeeded"], row["failed"]) == (27, 3)
        assert all(len(starts_at(scene, batch_id, position)) <= 3 for position in (3, 4, 20))

    def test_a_slow_item_after_quick_ones_is_its_own_suspect(self, scene: Scene) -> None:
        batch_id = scene.job([*["quick"] * 50, hold("gate"), *["quick"] * 50])
        first = scene.start_worker()
        scene.wait_start(batch_id, 50)
        scene.wait(lambda: scene.batch(batch_id)["frontier"] == 51, 10, "the frontier to be drawn back to the slow item")
        first.kill()
        scene.open("gate")
        scene.start_worker()
        scene.wait_end(batch_id)
        assert starts_at(scene, batch_id, 50) == [1, 2]

    def test_a_checkpoint_brings_nobody_else_under_suspicion(self, scene: Scene) -> None:
        batch_id = scene.job([sleep(30), act("checkpoint and die"), sleep(30)])
        scene.relay(batch_id)
        assert starts_at(scene, batch_id, 1) == [1, 2]
        assert scene.attempts(batch_id) == [1, 2, 1]

    def test_one_poison_too_many_fails_the_batch(self, scene: Scene) -> None:
        batch_id = scene.job([sleep(30), act("die"), sleep(30), "d"], max_attempts=1, max_failures=0)
        row = scene.relay(batch_id)
        assert (row["status"], row["succeeded"], row["failed"]) == ("failed", 1, 1)
        assert row["error"] == "1 items failed, more than max_failures allows (0)"
        assert scene.statuses(batch_id) == ["completed", "failed", "cancelled", "cancelled"]
        poison, told = scene.items(batch_id)[1], scene.wait_announced(batch_id).items
        assert [(item.position, item.status, item.error) for item in told[:2]] == [(1, "failed", DIED), (2, "cancelled", None)]
        assert poison["started_at"] < poison["finished_at"]

    def test_a_culprit_among_several_batches_fails_only_itself(self, scene: Scene) -> None:
        # Nobody can tell which of the batches in one process killed it: whatever was in flight in each is charged.
        innocent = [scene.job([sleep(30)] * 20, max_attempts=10) for _ in range(2)]
        guilty = scene.job([sleep(30), act("die"), sleep(30)])
        row = scene.relay(guilty, batch_concurrency="3")
        assert (row["succeeded"], row["failed"]) == (2, 1)
        for batch_id in innocent:
            assert scene.relay(batch_id, batch_concurrency="3")["succeeded"] == 20

    def test_who_allows_many_attempts_gets_them(self, scene: Scene) -> None:
        batch_id = scene.job([act("die"), "b"], max_attempts=8)
        row = scene.relay(batch_id)
        assert (row["status"], row["succeeded"], row["failed"]) == ("completed", 1, 1)
        assert len(starts_at(scene, batch_id, 0)) == 8

    def test_deaths_that_no_item_is_to_blame_for_end_the_batch(self, scene: Scene) -> None:
        batch_id = scene.job(["a", "b"])
        row = scene.relay(batch_id, processor="tests.flows.processors:Deadly")
        assert (row["status"], row["error"]) == ("failed", "no progress after 5 worker deaths")
        assert scene.statuses(batch_id) == ["cancelled", "cancelled"]
        assert scene.starts(batch_id) == []


class TestOnceOnly:
    @pytest.mark.parametrize("quick", [True, False])
    def test_a_death_is_the_end_of_the_item(self, scene: Scene, quick: bool) -> None:
        batch_id = scene.job([*["quick" if quick else sleep(30)] * 20, act("die"), *["quick" if quick else sleep(30)] * 20], max_attempts=1)
        row = scene.relay(batch_id)
        assert (row["succeeded"], row["failed"]) == (40, 1)
        assert all(attempt == 1 for _, attempt in scene.starts(batch_id))
        assert len(scene.starts(batch_id)) == len(set(scene.starts(batch_id))) == 41

    def test_an_interrupted_item_is_not_started_again(self, scene: Scene) -> None:
        batch_id = scene.job([hold("never", attempt=1), "b"], max_attempts=1)
        first = scene.start_worker(shutdown_timeout="0s")
        scene.wait_start(batch_id, 0)
        assert first.end() == 0
        scene.start_worker()
        assert scene.wait_end(batch_id)["failed"] == 1
        assert scene.starts(batch_id) == [(0, 1), (1, 1)]

    def test_not_even_after_postgres_was_away(self, own_postgres_scene: Scene, own_postgres: PostgresServer) -> None:
        scene = own_postgres_scene
        scene.start_worker(lease_ttl="2s")
        batch_id = scene.job([sleep(30), hold("never", attempt=1), "c"], max_attempts=1)
        scene.wait_start(batch_id, 1)
        own_postgres.kill()
        scene.wait(lambda: any(line.outcome == "CancelledError" for line in scene.log()), 10, "the run to be given up")
        own_postgres.start()
        assert scene.wait_end(batch_id)["failed"] == 1
        assert scene.starts(batch_id) == [(0, 1), (1, 1), (2, 1)]
