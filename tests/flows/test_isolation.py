"""Isolation `process`: what a processor does to its process costs the item an attempt, and the worker nothing."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from streamworker.processors import output
from tests.flows.bad_processors import bad
from tests.flows.scene import Scene
from tests.flows.workers import WorkerProcess

HERE = "tests.flows.bad_processors"
BOTH = f"work={HERE}:work,plain={HERE}:work_in_thread"
SHAPES = ["work", "plain"]


@pytest.fixture(scope="module")
def worker(module_scene: Scene) -> WorkerProcess:
    """Serves all tests of this file."""
    for words in ("in a library", "told with its traceback"):
        module_scene.residue.tolerate(words)
    return module_scene.start_worker(processor=f"{BOTH},counted={HERE}:Counted", isolation="process", item_timeout="20s")


# --- crashes ------------------------------------------------------------------------------------------------------------------

DEATHS: dict[str, tuple[dict[str, Any], str]] = {
    "segfault": (bad("segfault"), "died: signal 11 (SIGSEGV)"),
    "abort": (bad("signal", number=signal.SIGABRT), "died: signal 6 (SIGABRT)"),
    "killed": (bad("signal", number=signal.SIGKILL), "died: signal 9 (SIGKILL), perhaps for want of memory"),
    "terminated": (bad("signal", number=signal.SIGTERM), "died: signal 15 (SIGTERM)"),
    "exit": (bad("exit"), "died: exit status 1"),
    "exit without an error": (bad("exit", status=0), "died: exit status 0"),
    "no frame": (bad("garbage", hexadecimal=b"no frame".hex()), "was ended: it broke the protocol: a frame of"),
    "no msgpack": (bad("garbage", hexadecimal="00000002c1c1"), "was ended: it broke the protocol: MessagePack"),
    "unknown answer": (bad("garbage", hexadecimal="000000029163"), "was ended: it broke the protocol: "),
    "an answer to nothing": (bad("garbage", hexadecimal="000000029115"), "was ended: it broke the protocol: an answer that does not fit"),
    "hangs up": (bad("hang up"), "was ended: it closed the connection"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_death_is_charged_to_its_item_alone(shared: Scene, worker: WorkerProcess, shape: str) -> None:
    items = [item for kind in DEATHS for item in (DEATHS[kind][0], f"after {kind}")]
    row, found = shared.run(items, shape, max_attempts=1)
    assert row["epoch"] == 1
    for number, (kind, (_, words)) in enumerate(DEATHS.items()):
        died, after = found[2 * number : 2 * number + 2]
        assert (kind, died["status"]) == (kind, "failed")
        assert died["error"].startswith("the processor's process "), kind
        assert words in died["error"], kind
        assert (kind, after["status"]) == (kind, "completed")
    assert shared.starts(row["id"]) == [(position, 1) for position in range(len(items))]
    assert worker.lives


def test_one_of_ten_that_crashes_is_failed_after_two_attempts(shared: Scene, worker: WorkerProcess) -> None:
    row, items = shared.run([bad("segfault") if position == 4 else f"item {position}" for position in range(10)])
    assert (row["succeeded"], row["failed"], row["epoch"]) == (9, 1, 1)
    assert (items[4]["attempts"], items[4]["error"]) == (2, "the processor's process died: signal 11 (SIGSEGV)")
    assert worker.lives


def test_the_log_tells_where_it_crashed(shared: Scene, worker: WorkerProcess) -> None:
    row, _ = shared.run([bad("segfault")], max_attempts=1)
    lines = [line for line in worker.lines() if line.get("batch_id") == str(row["id"])]
    assert any("Segmentation fault" in line["message"] for line in lines)
    assert any("bad_processors.py" in line["message"] and line["position"] == 0 for line in lines)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_checkpoint_outlives_the_process(shared: Scene, worker: WorkerProcess, shape: str) -> None:
    _, (item,) = shared.run([bad("checkpoint then die")], shape)
    assert (item["status"], item["attempts"], item["checkpoint"]) == ("completed", 2, {"page": 7})


def test_what_forks_stays_one_processor(shared: Scene, worker: WorkerProcess) -> None:
    row, items = shared.run([bad("fork and return"), bad("fork and stay"), bad("exit in a thread"), "d"])
    assert row["succeeded"] == 4
    assert items[0]["result"] == "from the right process"
    assert items[1]["result"] == items[2]["result"] == items[3]["result"], "the process is none the worse for it"


# --- hangs --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_cancelling_ends_the_process(shared: Scene, worker: WorkerProcess, shape: str) -> None:
    batch_id = shared.job(["a", bad("hang with a child of its own"), "c"], processor=shape)
    shared.wait_start(batch_id, 1)
    assert shared.database.value("SELECT streamworker.cancel($1)", batch_id)
    shared.wait_end(batch_id, "cancelled")
    assert shared.statuses(batch_id) == ["completed", "cancelled", "cancelled"]
    _, (item,) = shared.run(["next"], shape)
    assert item["status"] == "completed"
    assert worker.messages().count("worker started") == 1


def test_one_that_does_not_listen_is_ended(shared: Scene, worker: WorkerProcess) -> None:
    batch_id = shared.job([bad("ignore its cancellation")])
    began = shared.wait_start(batch_id, 0)
    assert shared.database.value("SELECT streamworker.cancel($1)", batch_id)
    shared.wait_end(batch_id, "cancelled")
    row, _ = shared.run(["next"])
    assert {line.pid for line in shared.log(row["id"])} != {began.pid}
    assert worker.messages().count("worker started") == 1


def test_one_that_listens_is_interrupted_and_its_process_stays(shared: Scene, worker: WorkerProcess) -> None:
    batch_id = shared.job([bad("", gate="never")], processor="counted")
    began = shared.wait_start(batch_id, 0)
    assert shared.database.value("SELECT streamworker.cancel($1)", batch_id)
    shared.wait_end(batch_id, "cancelled")
    row, _ = shared.run(["next"], "counted")
    assert [line.outcome for line in shared.log(batch_id) if line.edge == "end"] == ["CancelledError"]
    assert {line.pid for line in shared.log(row["id"])} == {began.pid}


# --- what it prints and logs ------------------------------------------------------------------------------------------------------


def told(worker: WorkerProcess, row: Any, position: int = 0) -> list[tuple[str, str]]:
    """The level and the message of each line of the log with these ids."""
    lines = [line for line in worker.lines() if (line.get("batch_id"), line.get("position")) == (str(row["id"]), position)]
    assert {line["attempt"] for line in lines} <= {1}
    return [(line["level"], line["message"]) for line in lines]


def test_what_it_prints_is_logged_with_its_ids(shared: Scene, worker: WorkerProcess) -> None:
    row, _ = shared.run([bad("print", what=what) for what in ("lines", "bytes", "a long line")])
    expected = ["to standard output", "to standard error", "from native code", "from its child", "without an end"]
    assert told(worker, row) == [("info", text) for text in expected]
    assert told(worker, row, 1) == [("info", "\\xff\ufffd\\xd8 and a \x1b[31mcolour")]
    ((_, cut),) = told(worker, row, 2)
    assert cut == "x" * 4_000 + " (cut)"


def test_a_gigabyte_of_output_blocks_nothing(shared: Scene, worker: WorkerProcess, full: bool) -> None:
    before, printed = worker.memory, 1_074_000_000 if full else 100_000_000
    row, items = shared.run([bad("print", what="very much", bytes=printed), "b"])
    assert [item["status"] for item in items] == ["completed", "completed"]
    lines = told(worker, row)
    dropped = sum(int(text.split()[0].replace(",", "")) for level, text in lines if level == "warning")
    kept = sum(len(text) + 1 for level, text in lines if level == "info")
    assert dropped > 0.93 * printed
    assert 0 <= printed - dropped - kept < 500_000, "what is not told was counted, but for the lines that were torn"
    assert worker.memory - before < 50_000_000


def test_very_many_short_lines_block_nothing(shared: Scene, worker: WorkerProcess) -> None:
    printed = 20_000_000
    row, items = shared.run([bad("print", what="very many", bytes=printed), "b"])
    assert [item["status"] for item in items] == ["completed", "completed"]
    began, *_, ended = (line.at for line in shared.log(row["id"]))
    lines = told(worker, row)
    assert len(lines) < (output.BURST + (ended - began + 2) * output.RATE) / output.LINE
    dropped = sum(int(text.split()[0].replace(",", "")) for level, text in lines if level == "warning")
    kept = sum(len(text) + 1 for level, text in lines if level == "info")
    assert 0 <= printed - dropped - kept < 1000


def test_what_it_logs_keeps_its_level(shared: Scene, worker: WorkerProcess) -> None:
    row, _ = shared.run([bad("log")])
    lines = [line for line in worker.lines() if line.get("batch_id") == str(row["id"])]
    lines = [line for line in lines if line["logger"] != "streamworker"]
    found = [(line["level"], line["logger"], line["message"]) for line in lines]
    assert found == [
        ("warning", "streamworker.processor", "beware of the dog"),
        ("error", "some.library", "in a library"),
        ("error", "streamworker.processor", "told with its traceback"),
    ]
    assert (lines[1]["colour"], lines[1]["position"], lines[1]["attempt"]) == ("black", 0, 1)
    assert lines[2]["exception"].endswith("ValueError: the reason")


# --- effects ----------------------------------------------------------------------------------------------------------------------

REFUSED = {
    "closure": "_write.<locals>.closure",
    "lambda": "_write.<locals>.<lambda>",
    "method": "list.append",
    "instance": "got Held",
    "foreign": "expected a function of tests.flows.bad_processors or of its package, got asyncio.tasks.sleep",
    "unfit arguments": "its arguments must be JSON: $.kwargs.text: UUID is not JSON",
}


def test_a_write_has_a_name_and_plain_arguments(shared: Scene, worker: WorkerProcess) -> None:
    shared.database.rows("CREATE TABLE IF NOT EXISTS public.effects (batch uuid NOT NULL, position int NOT NULL)")
    row, items = shared.run([bad("write", what=what) for what in ("named", "of the package", *REFUSED)])
    assert [item["status"] for item in items] == ["completed", "completed", *["failed"] * len(REFUSED)]
    assert shared.database.column("SELECT position FROM public.effects WHERE batch = $1", row["id"]) == [1]
    for (what, words), item in zip(REFUSED.items(), items[2:], strict=True):
        assert item["error"].startswith("write: "), what
        assert words in item["error"], what
