"""Isolation `process`, with workers of their own: limits, time-outs, and that no process outlives its worker."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from tests.flows.bad_processors import bad
from tests.flows.processors import gate_file
from tests.flows.scene import Scene

HERE = "tests.flows.bad_processors"
BOTH = f"work={HERE}:work,plain={HERE}:work_in_thread"
SHAPES = ["work", "plain"]


def test_no_secrets_and_no_files_of_the_worker(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "secret-1")
    monkeypatch.setenv("SHOP_TOKEN", "the user's own")
    worker = scene.begin_worker(processor=BOTH, isolation="process", gateway_token="secret-2")
    os.environ.pop("PGPASSWORD")
    worker.wait_started()
    _, (item,) = scene.run([bad("look")])
    seen = item["result"]["environment"]
    assert not {"REDIS_URL", "DATABASE_URL", "STREAMWORKER_GATEWAY_TOKEN", "PGPASSWORD"} & set(seen)
    assert not [name for name, value in seen.items() if "secret-" in value or scene.database_url in value]
    assert (seen["SHOP_TOKEN"], seen["PATH"]) == ("the user's own", os.environ["PATH"])
    # /dev/null, output twice, the pipe that it ends with, the channel, and what its own loop and this very look at them need.
    kinds = item["result"]["files"]
    assert kinds.count("socket") <= 3, kinds
    assert [kind for kind in kinds if kind not in ("/dev/null", "pipe", "socket", "anon_inode") and "/fd" not in kind] == []
    assert item["result"]["group"] == item["result"]["pid"]


@pytest.mark.parametrize("shape", SHAPES)
def test_native_code_that_keeps_the_lock_is_ended_by_the_item_timeout(scene: Scene, shape: str) -> None:
    worker = scene.start_worker(processor=BOTH, isolation="process", item_timeout="400ms")
    os.mkfifo(gate_file(scene.folder, "never"))
    row, items = scene.run(["a", bad("keep the lock", gate="never"), bad("hang with a child of its own"), "d"], shape)
    assert [item["error"] for item in items] == [None, "timed out after 0.4 s", "timed out after 0.4 s", None]
    assert [item["attempts"] for item in items] == [1, 2, 2, 1]
    assert worker.messages().count("worker started") == 1
    assert row["epoch"] == 1
    grandchildren = [int(line.outcome) for line in scene.log(row["id"]) if line.edge == "child"]
    assert len(grandchildren) == 2
    scene.wait(lambda: not set(grandchildren) & set(worker.strays()), 10, "the end of what the ended processes had started")


@pytest.mark.timeout(180)
def test_one_that_keeps_the_lock_keeps_the_lease_and_is_started_once(scene: Scene, full: bool) -> None:
    lease, held = (15, 60) if full else (2, 0)
    for _ in range(2):
        scene.start_worker(processor=BOTH, isolation="process", lease_ttl=f"{lease}s")
    os.mkfifo(gate_file(scene.folder, "lease"))
    batch_id = scene.job([bad("keep the lock", gate="lease"), "b"], processor="work")
    scene.wait_start(batch_id, 0)
    first = scene.batch(batch_id)["lease_expires_at"]
    outlived = first + timedelta(seconds=max(lease, held))
    scene.wait(lambda: scene.batch(batch_id)["lease_expires_at"] > outlived, held + 30, "the lease to be kept beyond its first end")
    gate_file(scene.folder, "lease").write_text("x")
    assert scene.wait_end(batch_id)["epoch"] == 1
    assert scene.starts(batch_id) == [(0, 1), (1, 1)]


def test_the_end_of_the_grace_ends_the_process_and_charges_nothing(scene: Scene) -> None:
    worker = scene.start_worker(processor=BOTH, isolation="process", shutdown_timeout="300ms")
    os.mkfifo(gate_file(scene.folder, "grace"))
    batch_id = scene.job([bad("keep the lock", gate="grace"), "b"], processor="work")
    scene.wait_start(batch_id, 0)
    assert worker.end() == 0
    scene.wait(lambda: not worker.strays(), 10, "the end of its processes")
    scene.start_worker(processor=BOTH, isolation="process")
    scene.wait_start(batch_id, 0, times=2)
    scene.wait(lambda: _opened(gate_file(scene.folder, "grace")), 10, "the second one to wait at the gate")
    scene.wait_end(batch_id)
    assert scene.attempts(batch_id) == [1, 1]


def _opened(pipe: Path) -> bool:
    try:
        file = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False  # nobody reads it yet
    os.write(file, b"x")
    os.close(file)
    return True


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_survives_the_kill_of_the_worker(scene: Scene, shape: str) -> None:
    worker = scene.start_worker(processor=BOTH, isolation="process")
    batch_id = scene.job([bad("hang with a child of its own")], processor=shape)
    scene.wait(lambda: [line for line in scene.log(batch_id) if line.edge == "child"], 20, "the child of the child")
    assert len(worker.strays()) >= 2
    worker.kill()
    scene.wait(lambda: not worker.strays(), 10, "the end of the processes of a killed worker")
    scene.database.value("SELECT streamworker.cancel($1)", batch_id)
    scene.start_worker(processor=BOTH, isolation="process")
    scene.wait_end(batch_id, "cancelled")


def test_more_memory_than_allowed_is_an_error_of_the_item(scene: Scene) -> None:
    scene.start_worker(processor=BOTH, isolation="process", process_memory="256MiB", item_concurrency="1")
    takes = [bad("take memory", megabytes=megabytes) for megabytes in (10, 1000, 10)]
    _, items = scene.run(takes)
    assert [item["result"] for item in items] == [10, None, 10]
    assert items[1]["error"] == "MemoryError"
    leak, _ = scene.run([bad("leak")] * 600)
    assert leak["succeeded"] == 600, "who finds the memory full gets a fresh process for the next attempt"
    assert 3 <= len({line.pid for line in scene.log(leak["id"])}) <= 6


def test_a_process_is_replaced_after_so_many_items(scene: Scene) -> None:
    worker = scene.start_worker(processor=f"{HERE}:Counted", isolation="process", process_items="3")
    row, _ = scene.run(list("abcdefgh"), f"{HERE}:Counted")
    pids = [line.pid for line in scene.log(row["id"]) if line.edge == "start"]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 2]
    assert worker.end() == 0
    edges = [(line.edge, line.pid) for line in scene.log() if line.edge in ("opened", "closed")]
    assert edges == [(edge, pid) for pid in dict.fromkeys(pids) for edge in ("opened", "closed")], "one after another, each closed in order"


def test_items_at_the_same_time_have_a_process_each(scene: Scene) -> None:
    worker = scene.start_worker(processor=f"{HERE}:Counted", isolation="process", item_concurrency="3", shutdown_timeout="10s")
    batch_id = scene.job([bad("", gate="all")] * 6, processor=f"{HERE}:Counted")
    for position in range(3):
        scene.wait_start(batch_id, position)
    scene.open("all")
    scene.wait_end(batch_id)
    assert worker.end() == 0
    edges = [line.edge for line in scene.log()]
    assert (edges.count("opened"), edges.count("closed")) == (3, 3)
    assert len({line.pid for line in scene.log(batch_id)}) == 3


def test_one_that_dies_as_it_is_opened_is_tried_once_more(scene: Scene) -> None:
    scene.start_worker(processor=f"{HERE}:DiesOnce", isolation="process")
    _, (item,) = scene.run(["a"], f"{HERE}:DiesOnce")
    assert (item["result"], item["attempts"]) == ("a", 1)
