"""P10: a processor that blocks the loop or burns the CPU keeps its lease; one that hangs is ended, by the item timeout or by a cancel."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from streamworker import Context, Item
from tests.flows.processors import act, hold, logged, work_in_thread
from tests.flows.scene import Scene
from tests.flows.workers import WorkerProcess

LEASE = timedelta(seconds=4)
FOREVER = 3600
BOTH = f"tests.flows.processors:work,thread=tests.flows.processors:work_in_thread,deaf={__name__}:deaf"
RESTARTED = "to end it"


def deaf(item: Item, context: Context) -> Any:
    """In a thread, and for one payload inside native code, where nothing reaches it."""
    if item.payload != "deaf":
        return work_in_thread(item, context)
    with logged(item):
        time.sleep(FOREVER)


def starts_of(worker: WorkerProcess) -> int:
    """How often the process has begun to work, from the first program or from one that replaced it."""
    return worker.messages().count("worker started")


def outlive_the_lease(scene: Scene, batch_id: UUID) -> None:
    """Wait until the lease has been renewed at a time at which the first one would have been over."""
    first = scene.batch(batch_id)["lease_expires_at"]
    scene.wait(lambda: scene.batch(batch_id)["lease_expires_at"] > first + LEASE, 30, "the lease to be kept beyond its first end")


@pytest.mark.parametrize("isolation", ["inline", "thread"])
def test_who_keeps_the_interpreter_busy_keeps_the_lease(scene: Scene, isolation: str) -> None:
    for _ in range(2):
        scene.start_worker(processor=BOTH, lease_ttl="4s", isolation=isolation)
    for do, processor in (("block", "tests.flows.processors:work"), ("burn", "tests.flows.processors:work"), ("burn", "thread")):
        batch_id = scene.job([act(do, gate=f"{do} {processor[:6]}"), "next"], processor=processor)
        began = scene.wait_start(batch_id, 0)
        outlive_the_lease(scene, batch_id)
        scene.open(f"{do} {processor[:6]}")
        assert scene.wait_end(batch_id)["epoch"] == 1
        assert scene.starts(batch_id) == [(0, 1), (1, 1)]
        assert {line.pid for line in scene.log(batch_id)} == {began.pid}
        assert scene.attempts(batch_id) == [1, 1]


HANGS: dict[str, tuple[Any, str, str]] = {
    "async that blocks the loop": (act("block", gate="never"), "tests.flows.processors:work", "inline"),
    "async that ignores its cancellation": (act("ignore cancel", gate="never"), "tests.flows.processors:work", "inline"),
    "plain, in native code": ("deaf", f"{__name__}:deaf", "inline"),
    "async that blocks the loop of its thread": (act("block", gate="never"), "tests.flows.processors:work", "thread"),
    "async in a thread that ignores its cancellation": (act("ignore cancel", gate="never"), "tests.flows.processors:work", "thread"),
}


@pytest.mark.parametrize("kind", HANGS)
def test_what_hangs_for_good_is_ended_by_the_item_timeout(scene: Scene, kind: str) -> None:
    item, processor, isolation = HANGS[kind]
    scene.residue.tolerate(RESTARTED)
    worker = scene.start_worker(processor=processor, isolation=isolation, item_timeout="400ms")
    batch_id = scene.job(["a", item, "c"])
    row = scene.wait_end(batch_id, seconds=40)
    assert (row["succeeded"], row["failed"]) == (2, 1)
    assert scene.items(batch_id)[1]["error"] == "timed out after 0.4 s"
    assert scene.starts(batch_id) == [(0, 1), (1, 1), (1, 2), (2, 1)]
    assert scene.attempts(batch_id) == [1, 2, 1]
    scene.wait_announced(batch_id)
    worker.wait_started(times=3)
    assert {line.pid for line in scene.log(batch_id)} == {worker.pid}, "it replaces itself under its process id"


SOFT: dict[str, tuple[Any, str, str]] = {
    "async": (hold("never"), "tests.flows.processors:work", "inline"),
    "async in a thread": (hold("never"), "tests.flows.processors:work", "thread"),
    "plain, in Python": (act("block", gate="never"), "tests.flows.processors:work_in_thread", "inline"),
}


@pytest.mark.parametrize("kind", SOFT)
def test_what_can_be_interrupted_times_out_without_a_restart(scene: Scene, kind: str) -> None:
    item, processor, isolation = SOFT[kind]
    worker = scene.start_worker(processor=processor, isolation=isolation, item_timeout="300ms")
    batch_id = scene.job(["a", item, "c"])
    assert scene.wait_end(batch_id)["failed"] == 1
    assert scene.items(batch_id)[1]["error"] == "timed out after 0.3 s"
    assert scene.starts(batch_id) == [(0, 1), (1, 1), (1, 2), (2, 1)]
    assert starts_of(worker) == 1


def test_an_item_that_may_start_once_is_failed_by_the_first_time_out(scene: Scene) -> None:
    scene.residue.tolerate(RESTARTED)
    scene.start_worker(item_timeout="400ms")
    batch_id = scene.job(["a", act("block", gate="never"), "c"], max_attempts=1)
    assert scene.wait_end(batch_id)["failed"] == 1
    assert scene.items(batch_id)[1]["error"] == "timed out after 0.4 s"
    assert scene.starts(batch_id) == [(0, 1), (1, 1), (2, 1)]


def test_the_batch_beside_one_that_hangs_is_charged_nothing(scene: Scene) -> None:
    scene.residue.tolerate(RESTARTED)
    worker = scene.start_worker(batch_concurrency="2")
    beside = scene.job([hold("beside"), "b"])
    scene.wait_start(beside, 0)
    hanging = scene.job([act("block", gate="never")])
    scene.wait_start(hanging, 0)
    scene.database.value("SELECT streamworker.cancel($1)", hanging)
    worker.wait_started(times=2)
    scene.wait_start(beside, 0, times=2)
    scene.open("beside")
    scene.wait_end(beside)
    assert scene.attempts(beside) == [1, 1]


@pytest.fixture(scope="module")
def worker(module_scene: Scene) -> WorkerProcess:
    """Serves the tests of cancelling."""
    module_scene.residue.tolerate(RESTARTED)
    return module_scene.start_worker(processor=BOTH)


CANCELLED: dict[str, tuple[Any, str, bool]] = {
    "async": (hold("never"), "tests.flows.processors:work", False),
    "plain that looks at context.cancelled": (hold("never"), "thread", False),
    "plain that does not look, in Python": (act("block", gate="never"), "thread", False),
    "plain, in native code": ("deaf", "deaf", True),
    "async that ignores it": (act("ignore cancel", gate="never"), "tests.flows.processors:work", True),
    "async that blocks the loop": (act("block", gate="never"), "tests.flows.processors:work", True),
}


@pytest.mark.parametrize("kind", CANCELLED)
def test_cancelling_interrupts_the_item_in_flight(shared: Scene, worker: WorkerProcess, kind: str) -> None:
    item, processor, restarts = CANCELLED[kind]
    before = starts_of(worker)
    batch_id = shared.job(["a", item, "c"], processor=processor)
    shared.wait_start(batch_id, 1)
    asked_at = time.monotonic()
    assert shared.database.value("SELECT streamworker.cancel($1)", batch_id)
    following = shared.job(["next"])
    shared.wait_end(following)
    row = shared.wait_end(batch_id, "cancelled")
    assert (row["succeeded"], row["failed"]) == (1, 0)
    assert shared.statuses(batch_id) == ["completed", "cancelled", "cancelled"]
    assert shared.starts(batch_id) == [(0, 1), (1, 1)]
    assert {line.pid for line in (*shared.log(batch_id), *shared.log(following))} == {worker.pid}
    shared.wait_announced(batch_id)
    assert starts_of(worker) - before == restarts
    if not restarts:
        (ended,) = [line for line in shared.log(batch_id) if (line.edge, line.position) == ("end", 1)]
        assert ended.at - asked_at < 2, "a second is promised; another one for a busy machine"
