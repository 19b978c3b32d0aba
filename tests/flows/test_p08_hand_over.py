"""P8: SIGTERM hands over and costs no attempt; after a SIGKILL another worker goes on long before the lease is over."""

from __future__ import annotations

import signal
from pathlib import Path
from uuid import uuid4

import pytest

from tests.flows.processors import act, hold, sleep
from tests.flows.scene import Line, Scene
from tests.flows.workers import WorkerProcess

# The promise is one second after a hand-over and two after a death; a busy machine gets more, but far less than a lease lives.
SOON = 5.0


def owner_of(scene: Scene, line: Line) -> WorkerProcess:
    """The worker that wrote a line of the item log."""
    return next(worker for worker in scene.workers if worker.pid == line.pid)


def end_of(scene: Scene, position: int) -> Line:
    """The last end of an item."""
    return [line for line in scene.log() if (line.edge, line.position) == ("end", position)][-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_item_in_flight_ends_and_another_worker_goes_on(scene: Scene, number: signal.Signals) -> None:
    batch_id = scene.job(["a", hold("gate"), hold("next"), "d"])
    first = scene.start_worker(shutdown_timeout="20s")
    scene.wait_start(batch_id, 1)
    second = scene.start_worker()
    first.signal(number)
    first.wait_logged("worker stops")
    scene.open("gate")
    assert first.wait_ended() == 0
    start = scene.wait_start(batch_id, 2)
    assert start.pid == second.pid
    assert start.at - end_of(scene, 1).at < SOON
    scene.open("next")
    row = scene.wait_end(batch_id)
    assert (row["epoch"], row["deaths"], scene.attempts(batch_id)) == (2, 0, [1, 1, 1, 1])
    assert scene.starts(batch_id) == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert "worker stopped" in first.messages()
    scene.wait_announced(batch_id)


def test_a_processor_that_sets_handlers_of_its_own_takes_none_of_ours(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_DFL)\nfrom tests.flows.processors import work\n"
    (tmp_path / "own_handlers.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = scene.start_worker(processor="own_handlers:work", shutdown_timeout="20s")
    batch_id = scene.job([hold("gate"), "b"])
    scene.wait_start(batch_id, 0)
    worker.terminate()
    worker.wait_logged("worker stops")
    scene.open("gate")
    assert worker.wait_ended() == 0
    scene.start_worker()
    scene.wait_end(batch_id)
    assert scene.starts(batch_id) == [(0, 1), (1, 1)]


def test_nothing_new_is_started_after_the_signal(scene: Scene) -> None:
    worker = scene.start_worker(shutdown_timeout="20s")
    batch_id = scene.job([hold("gate"), "b"])
    scene.wait_start(batch_id, 0)
    worker.terminate()
    worker.wait_logged("worker stops")
    waiting = scene.job(["c"])
    scene.open("gate")
    assert worker.wait_ended() == 0
    row = scene.batch(batch_id)
    assert (row["worker"], row["lease_expires_at"], row["processed"]) == (None, None, 1)
    assert scene.starts(batch_id) == [(0, 1)]
    assert scene.starts(waiting) == []
    scene.start_worker()
    scene.wait_end(batch_id)
    scene.wait_end(waiting)


def test_ten_deploys_during_one_batch_cost_no_attempt(scene: Scene) -> None:
    batch_id = scene.job([hold(f"gate-{number}") for number in range(7)])
    scene.begin_worker(shutdown_timeout="0s")
    for turn in range(10):
        position, waits = turn // 2, turn % 2 == 1  # each item is interrupted once, and finished under a SIGTERM once
        line = scene.wait_start(batch_id, position, times=1 + waits)
        scene.start_worker(shutdown_timeout="0s" if waits else "20s")
        owner = owner_of(scene, line)
        owner.terminate()
        if waits:
            owner.wait_logged("worker stops")
            scene.open(f"gate-{position}")
        assert owner.wait_ended() == 0
    for position in (5, 6):
        scene.open(f"gate-{position}")
    row = scene.wait_end(batch_id)
    assert (row["succeeded"], row["failed"], row["deaths"], row["epoch"]) == (7, 0, 0, 11)
    assert scene.attempts(batch_id) == [1] * 7
    assert {attempt for _, attempt in scene.starts(batch_id)} == {1}
    scene.wait_announced(batch_id)


@pytest.mark.parametrize("processor", ["work", "work_in_thread"])
def test_an_item_that_outlasts_the_grace_is_interrupted_and_not_charged(scene: Scene, processor: str) -> None:
    scene.settings["processor"] = f"tests.flows.processors:{processor}"
    batch_id = scene.job(["a", hold("gate"), "c"])
    first = scene.start_worker(shutdown_timeout="300ms")
    scene.wait_start(batch_id, 1)
    assert first.end() == 0
    row, item = scene.batch(batch_id), scene.items(batch_id)[1]
    assert (row["worker"], row["processed"]) == (None, 1)
    assert (item["status"], item["attempts"], item["error"]) == ("pending", 0, None)
    scene.open("gate")
    scene.start_worker()
    scene.wait_end(batch_id)
    assert scene.attempts(batch_id) == [1, 1, 1]
    assert scene.starts(batch_id) == [(0, 1), (1, 1), (1, 1), (2, 1)]


def test_a_retry_that_is_interrupted_is_not_charged_either(scene: Scene) -> None:
    batch_id = scene.job([act("fail then hold", gate="gate"), "b"])
    first = scene.start_worker(shutdown_timeout="0s")
    scene.wait_start(batch_id, 0, attempt=2)
    assert first.end() == 0
    item = scene.items(batch_id)[0]
    assert (item["status"], item["attempts"]) == ("pending", 1)
    scene.open("gate")
    scene.start_worker()
    scene.wait_end(batch_id)
    assert scene.starts(batch_id) == [(0, 1), (0, 2), (0, 2), (1, 1)]


def test_a_second_signal_ends_at_once_as_a_death(scene: Scene) -> None:
    batch_id = scene.job([sleep(30), hold("gate", attempt=1), "c"])
    first = scene.start_worker(shutdown_timeout="60s")
    scene.wait_start(batch_id, 1)
    first.terminate()
    first.wait_logged("worker stops")
    first.terminate()
    assert first.wait_ended(SOON) == 128 + signal.SIGTERM
    scene.start_worker()
    scene.wait_end(batch_id)
    assert scene.attempts(batch_id) == [1, 2, 1]


def test_after_a_kill_another_worker_goes_on_long_before_the_lease_is_over(scene: Scene) -> None:
    batch_id = scene.job([sleep(30), hold("gate", attempt=1), "c"])
    first = scene.start_worker()
    scene.wait_start(batch_id, 1)
    second = scene.start_worker()
    killed_at = first.kill()
    start = scene.wait_start(batch_id, 1, attempt=2)
    assert (start.pid, start.at - killed_at < SOON) == (second.pid, True), f"{start.at - killed_at:.1f} s"
    row = scene.wait_end(batch_id)
    assert (row["epoch"], scene.attempts(batch_id)) == (2, [1, 2, 1])


def test_idle_workers_end_at_once(scene: Scene) -> None:
    worker = scene.start_worker(shutdown_timeout="60s")
    worker.terminate()
    assert worker.wait_ended(10) == 0


def test_an_entry_that_waits_for_its_batch_is_passed_on(scene: Scene) -> None:
    first = scene.start_worker()
    batch_id = uuid4()
    scene.xadd(batch_id=batch_id)
    scene.wait(scene.pending, 10, "the delivery")
    (consumer,) = scene.pending().values()
    second = scene.start_worker()
    assert first.end() == 0
    scene.wait(lambda: set(scene.pending().values()) not in (set(), {consumer}), SOON, "the other worker to wait with it")
    scene.submit(["a"], batch_id=batch_id)
    assert scene.wait_start(batch_id, 0).pid == second.pid
    scene.wait_end(batch_id)


def test_a_worker_holds_no_more_than_it_runs(scene: Scene) -> None:
    first = scene.start_worker(shutdown_timeout="20s")
    batches = [scene.job([hold("gate")])]
    scene.wait_start(batches[0], 0)
    batches += [scene.job([f"{number}"]) for number in range(3)]
    second = scene.start_worker()
    for batch_id in batches[1:]:
        scene.wait_end(batch_id)
        assert scene.log(batch_id)[0].pid == second.pid
    first.terminate()
    first.wait_logged("worker stops")
    scene.open("gate")
    assert first.wait_ended() == 0
    assert scene.wait_end(batches[0])["epoch"] in (1, 2)  # 2 where the other worker had only to end it
    assert scene.starts(batches[0]) == [(0, 1)]
