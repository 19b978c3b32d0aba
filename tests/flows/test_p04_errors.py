"""P4, errors: an attempt that raises is followed by another one, at once or later, as long as attempts are left."""

from __future__ import annotations

import pytest

from tests.flows.processors import act
from tests.flows.scene import Scene


@pytest.fixture(scope="module", autouse=True)
def _worker(module_scene: Scene) -> None:
    module_scene.start_worker()


def test_once_more_then_on_to_the_next(shared: Scene) -> None:
    batch_id = shared.job(["a", act("fail", times=1), act("fail", times=2), "d"])
    row = shared.wait_end(batch_id)
    assert (row["succeeded"], row["failed"]) == (3, 1)
    assert shared.starts(batch_id) == [(0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1)]
    second, third = shared.items(batch_id)[1:3]
    assert (second["status"], second["attempts"], second["error"]) == ("completed", 2, None)
    assert (third["status"], third["attempts"], third["error"]) == ("failed", 2, "item 2 fails on attempt 2")


@pytest.mark.parametrize("allowed", [1, 3, 5])
def test_as_often_as_the_batch_says(shared: Scene, allowed: int) -> None:
    batch_id = shared.job([act("fail"), "b"], max_attempts=allowed)
    shared.wait_end(batch_id)
    assert shared.starts(batch_id) == [*((0, attempt) for attempt in range(1, allowed + 1)), (1, 1)]
    assert shared.attempts(batch_id) == [allowed, 1]


def test_what_no_retry_can_help_is_tried_once(shared: Scene) -> None:
    batch_id = shared.job([act("permanent"), "b"], max_attempts=5)
    assert shared.wait_end(batch_id)["failed"] == 1
    assert shared.starts(batch_id) == [(0, 1), (1, 1)]
    assert shared.items(batch_id)[0]["error"] == "no use in trying again"


def test_a_later_retry_lets_others_go_first(shared: Scene) -> None:
    batch_id = shared.job([act("retry after", seconds=0.5, times=1), "b", "c"])
    shared.wait_end(batch_id)
    assert shared.starts(batch_id) == [(0, 1), (1, 1), (2, 1), (0, 2)]
    first, *_, second = [line.at for line in shared.log(batch_id) if (line.edge, line.position) == ("start", 0)]
    assert second - first >= 0.5


@pytest.mark.parametrize("seconds", [0, -5, float("nan")])
def test_a_retry_after_no_time_is_a_plain_retry(shared: Scene, seconds: float) -> None:
    batch_id = shared.submit([act("retry after", seconds=0 if seconds != seconds else seconds, times=1)])
    shared.wait_end(batch_id)
    assert shared.starts(batch_id) == [(0, 1), (0, 2)]
