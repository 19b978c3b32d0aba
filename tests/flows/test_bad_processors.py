"""Whatever a processor returns, raises or is: a clear error where it belongs, in every isolation, and the worker goes on.

All rows of a table are one batch: what one item does must not touch the next anyway.
Deaths and hangs: test_isolation.py, test_p04_*, test_p10_*.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows.processors import act
from tests.flows.scene import Scene
from tests.flows.workers import WorkerProcess

WORK, THREAD = "tests.flows.processors:work", "tests.flows.processors:work_in_thread"
LIMIT = 2000
ISOLATIONS = ["inline", "thread", "process"]
PROCESSORS = f"work={WORK},plain={THREAD}"


# --- what is no processor -----------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[str, str]] = {
    "one argument": ("tests.flows.processors:one_argument", "(item, context), its signature is (item"),
    "no such module": ("tests.flows.nowhere:work", "there is no module 'tests.flows.nowhere'"),
    "no such attribute": ("tests.flows.processors:nothing", "has no attribute 'nothing'"),
    "not callable": ("tests.flows.processors:TICK", "got float"),
    "a name of nothing": ("whatever", "expected module:attribute"),
    "a missing import": ("broken_import:work", "'nowhere_at_all', which is not installed"),
    "raises": ("broken_raise:work", "importing broken_raise failed: ZeroDivisionError"),
    "exits": ("broken_exit:work", "importing broken_exit failed: SystemExit"),
    "does not parse": ("broken_syntax:work", "importing broken_syntax failed: SyntaxError"),
}
BROKEN = {
    "import": "import nowhere_at_all",
    "raise": "1 / 0",
    "exit": "raise SystemExit(3)",
    "syntax": "def work(:",
    "death": "import os; os._exit(3)",
}
DEADLY = ("broken_death:work", "could not start: the processor's process died: exit status 3")


@pytest.mark.parametrize("isolation", ["inline", "process"])  # in a thread it is imported as inline
def test_what_is_no_processor_is_refused_at_the_start(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolation: str
) -> None:
    for name, text in BROKEN.items():
        (tmp_path / f"broken_{name}.py").write_text(text + "\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rows = [*REFUSED.values(), *([DEADLY] if isolation == "process" else [])]
    workers = [(scene.begin_worker(processor=processor, isolation=isolation), processor, words) for processor, words in rows]
    for worker, processor, words in workers:
        assert worker.wait_ended(60) == 2, worker.tail()
        (line,) = worker.text().splitlines()
        assert words in line
        assert processor.partition(":")[0] in line


UNSTARTABLE = {
    "Unstartable": "processor 'Unstartable' could not start: FileNotFoundError: no model at model.bin",
    "Cancelling": "processor 'Cancelling' could not start: CancelledError",
    "Panicking": "processor 'Panicking' could not start: Panic: no device",
    "Interrupting": "processor 'Interrupting' could not start: KeyboardInterrupt",
    "Deadly": "processor 'Deadly' could not start: the processor's process died: exit status 3",
}


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_what_cannot_start_fails_its_batch_alone(scene: Scene, isolation: str) -> None:
    names = [
        name for name in UNSTARTABLE if name != "Deadly" or isolation == "process"
    ]  # elsewhere it kills its worker: test_p04_deaths.py
    given = [f"work={WORK}", *(f"{name}=tests.flows.processors:{name}" for name in names)]
    worker = scene.start_worker(processor=",".join(given), isolation=isolation)
    for name in names:
        batch_id = scene.job(["a"], processor=name)
        assert scene.wait_end(batch_id, "failed")["error"] == UNSTARTABLE[name]
        assert scene.attempts(batch_id) == [0]
    scene.wait_end(scene.job(["a"]))
    assert worker.lives


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_what_raises_as_it_is_closed_is_told_and_no_more(scene: Scene, isolation: str) -> None:
    scene.residue.tolerate("closing it failed")
    worker = scene.start_worker(processor="tests.flows.processors:ClosesBadly", isolation=isolation)
    scene.wait_end(scene.job(["a"]))
    assert worker.end() == 0
    assert "Panic: the device is gone" in worker.text()


SCRIPT = """
import sys
from streamworker import Result
if sys.argv[0] != "-c":
    raise SystemExit("expected a file to work on")
async def store(connection): ...
async def process(item, context): return Result(item.key, write=store)
"""


def test_a_script_that_ends_its_program_when_it_is_imported_for_its_write(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "script_of_mine.py").write_text(SCRIPT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = scene.start_worker(processor="script_of_mine:process", isolation="process")
    batch_id = scene.job(["a", "b"])
    assert scene.wait_end(batch_id)["failed"] == 2
    expected = "write: the worker cannot import script_of_mine: SystemExit: expected a file to work on"
    assert [item["error"] for item in scene.items(batch_id)] == [expected] * 2
    assert worker.lives


def test_what_was_taken_away_between_two_starts_is_a_dead_letter(scene: Scene) -> None:
    scene.start_worker(isolation="process")
    scene.job(["a"], processor="gone")
    scene.wait(scene.letters, 20, "the dead letter")
    assert scene.letters()[0][b"reason"] == b"unknown_processor"


# --- with one worker after another for all the rest -----------------------------------------------------------------------------


UNFIT = {
    "nan": "$.score: nan is not JSON",
    "infinity": "$: inf is not JSON",
    "bytes": "$: bytes is not JSON",
    "set": "$: set is not JSON",
    "object": "$: object is not JSON",
    "cycle": "nested deeper than 64 levels, or contains itself",
    "deep": "nested deeper than 64 levels",
    "nul": "$: text with a NUL character",
    "surrogate": "$[0]: text with half of a surrogate pair",
    "large": "more than 16,777,216 bytes of JSON",
    "number key": "a key is int, expected str",
}


def test_a_result_that_cannot_be_stored(shared: Scene, worker: WorkerProcess, mode: tuple[str, str]) -> None:
    row, items = shared.run([item for what in UNFIT for item in (act("return", what=what), "good")], mode[1])
    assert (row["succeeded"], row["failed"], row["epoch"]) == (len(UNFIT), len(UNFIT), 1)
    assert shared.starts(row["id"]) == [start for p in range(0, 2 * len(UNFIT), 2) for start in ((p, 1), (p, 2), (p + 1, 1))]
    for (what, words), item in zip(UNFIT.items(), items[::2], strict=True):
        assert item["status"] == "failed", what
        assert item["error"].startswith("result cannot be stored: $"), what
        assert words in item["error"], what
        assert len(item["error"]) < 300, what


LARGE_NUMBERS = (
    """SELECT streamworker.submit(replace('["before", {"payload": {"do": "fail", "text": many}}, "after"]', 'many', $1)::jsonb, """
    """processor => $2, metadata => replace('{"large": many}', 'many', $1)::jsonb)"""
)


@pytest.mark.parametrize("number", ["9" * 4100, "9" * 400 + ".5"], ids=["whole", "fraction"])
def test_a_number_beyond_what_python_reads_is_passed_on(shared: Scene, worker: WorkerProcess, mode: tuple[str, str], number: str) -> None:
    batch_id = shared.database.value(LARGE_NUMBERS, number, mode[1])
    assert shared.wait_end(batch_id)["epoch"] == 1
    before, large, after = shared.items(batch_id)
    assert (before["status"], after["status"]) == ("completed", "completed")
    assert (large["status"], large["attempts"], large["error"]) == ("failed", 2, number[:LIMIT])


RAISED = {
    "system exit": "SystemExit: 3",
    "keyboard interrupt": "KeyboardInterrupt",
    "cancelled": "CancelledError",
    "base": "BaseException: from the very base",
    "unspeakable": "(its text cannot be shown)",
    "long": "x" * LIMIT,
    "nul": "before\ufffdafter",
    "surrogate": "before\ufffdafter",
    "empty": "ValueError",
    "timeout": "not ours",
    "postgres": "of the processor's own connection",
}


def test_whatever_is_raised_is_a_failed_attempt(shared: Scene, worker: WorkerProcess, mode: tuple[str, str]) -> None:
    rows = [item for what in RAISED for item in (act("raise", what=what), act("raise", what=what, times=1), "good")]
    row, items = shared.run(rows, mode[1])
    for number, (what, text) in enumerate(RAISED.items()):
        failed, retried, good = items[3 * number : 3 * number + 3]
        assert [item["status"] for item in (failed, retried, good)] == ["failed", "completed", "completed"], what
        assert failed["error"] == text, what
        assert [item["attempts"] for item in (failed, retried, good)] == [2, 2, 1], what
    assert (row["epoch"], len({line.pid for line in shared.log(row["id"])})) == (1, 1), "nobody died of it"


def test_a_result_that_raises_when_it_is_looked_at(shared: Scene, worker: WorkerProcess, mode: tuple[str, str]) -> None:
    whats = ("system exit", "keyboard interrupt", "cancelled", "base")
    row, items = shared.run([item for what in whats for item in (act("return hostile", what=what), "good")], mode[1])
    assert (row["succeeded"], row["failed"], row["epoch"]) == (len(whats), len(whats), 1)
    assert [item["error"] for item in items[::2]] == [RAISED[what] for what in whats]
    assert [item["attempts"] for item in items] == [2, 1] * len(whats)


def test_an_item_that_cancels_its_own_task_has_failed(shared: Scene, worker: WorkerProcess, mode: tuple[str, str]) -> None:
    if mode[1] == "plain":
        pytest.skip("a plain function has no task of its own")
    _, items = shared.run(["good", act("cancel itself"), "good"], mode[1])
    assert [(item["status"], item["attempts"]) for item in items] == [("completed", 1), ("failed", 2), ("completed", 1)]
    assert items[1]["error"] == "CancelledError"


def test_what_forks_stays_one_worker(shared: Scene, worker: WorkerProcess, mode: tuple[str, str]) -> None:
    row, items = shared.run([act("fork"), "good", act("fork"), "good"], mode[1])
    assert [item["result"] for item in items[::2]] == ["0", "0"]
    assert (row["epoch"], shared.attempts(row["id"])) == (1, [1] * 4)


def test_a_million_calls_of_progress_are_few_events(shared: Scene, worker: WorkerProcess, mode: tuple[str, str], full: bool) -> None:
    times = 1_000_000 if full else 100_000
    row, items = shared.run([act("tell", times=times)], mode[1], seconds=300)
    assert items[0]["status"] == "completed"
    began, ended = (line.at for line in shared.log(row["id"]))
    shared.wait_announced(row["id"])
    told = [item for event in shared.events(row["id"]) for item in event.items if item.stage == "telling"]
    assert len(told) <= 10 * (ended - began) + 2
