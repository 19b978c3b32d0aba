"""The processor API of the contract, section 4: every shape, every answer and every error of a processor."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from streamworker import Context, Item
from tests.flows.modes import Succession
from tests.flows.processors import FOLDER, TICK, Model, act, gate_file, logged, write_line
from tests.flows.scene import Scene
from tests.flows.workers import WorkerProcess

WORK, THREAD = "tests.flows.processors:work", "tests.flows.processors:work_in_thread"
HERE = __name__
OURS = ("speak", "bad_checkpoint", "Plain", "Callable")
PROCESSORS = ",".join([f"work={WORK}", f"plain={THREAD}", *(f"{name}={HERE}:{name}" for name in OURS)])
NUL, HALF = "\u2400", "\u241b"  # stand for what a payload cannot hold


# --- processors of this file ------------------------------------------------------------------------------------------------


class Plain:
    """Opened like a model, with a plain method."""

    async def __aenter__(self) -> None:
        self.factor = 2

    async def __aexit__(self, *_: object) -> None:
        self.factor = 0

    def process(self, item: Item, context: Context) -> Any:
        """Twice the payload."""
        return item.payload * self.factor


class Callable:
    """A class whose instances are called."""

    async def __call__(self, item: Item, context: Context) -> Any:
        """The key."""
        return item.key


INSTANCE = Model()


async def speak(item: Item, context: Context) -> Any:
    """Says what the payload says, and waits."""
    with logged(item):
        percent, stage, message = item.payload["say"]
        await context.progress(percent, stage=stage, message=message and message.replace(NUL, "\0").replace(HALF, "\ud800"))
        while not gate_file(Path(os.environ[FOLDER]), item.payload["gate"]).exists():  # noqa: ASYNC110 the gate is a file
            await asyncio.sleep(TICK)


async def remember(item: Item, context: Context) -> Any:
    """Stores a checkpoint and dies; with one in hand it returns it."""
    with logged(item):
        if item.checkpoint is None:
            await context.checkpoint({"page": 7, "seen": ["a", None, 0.5]})
            os.kill(os.getpid(), signal.SIGKILL)
        return item.checkpoint


def remember_in_thread(item: Item, context: Context) -> Any:
    """As `remember`."""
    with logged(item):
        if item.checkpoint is None:
            context.checkpoint({"page": 7, "seen": ["a", None, 0.5]})
            os.kill(os.getpid(), signal.SIGKILL)
        return item.checkpoint


async def note_and_stay(item: Item, context: Context) -> Any:
    """Stores checkpoints without waiting for them, and stays."""
    with logged(item):
        if item.checkpoint is None:
            for number in range(1000):
                context.checkpoint(number, wait=False)
            await asyncio.sleep(3600)
        return item.checkpoint


async def linger(item: Item, context: Context) -> None:
    """Says at its end whether it was told to end, and when it was to."""
    began = time.monotonic()
    try:
        await asyncio.sleep(3600)
    finally:
        assert context.deadline is not None
        write_line("end", item, outcome=f"{context.cancelled} {context.deadline - began:.1f}")


async def bad_checkpoint(item: Item, context: Context) -> Any:
    """Stores what cannot be stored."""
    await context.checkpoint({"score": float("nan")})


# --- with workers of their own ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["inline", "thread"])  # in `process`: test_isolation_limits.py
@pytest.mark.parametrize("attribute", ["tests.flows.processors:Model", f"{HERE}:INSTANCE"])
def test_a_class_is_opened_once_and_closed_at_the_end(scene: Scene, attribute: str, isolation: str) -> None:
    worker = scene.start_worker(processor=attribute, isolation=isolation, batch_concurrency="2", item_concurrency="2")
    for batch_id in [scene.job(["a", "b", "c"]) for _ in range(3)]:
        scene.wait_end(batch_id)
    assert worker.end() == 0
    edges = [line.edge for line in scene.log()]
    assert (edges.count("opened"), edges.count("closed"), edges.count("start")) == (1, 1, 9)
    assert (edges[0], edges[-1]) == ("opened", "closed")


@pytest.mark.parametrize("name", ["remember", "remember_in_thread"])
@pytest.mark.parametrize("isolation", ["inline", "thread"])
def test_a_checkpoint_outlives_its_worker(scene: Scene, name: str, isolation: str) -> None:
    batch_id = scene.job(["a"])
    row = scene.relay(batch_id, processor=f"{HERE}:{name}", isolation=isolation)
    assert row["succeeded"] == 1
    (item,) = scene.items(batch_id)
    assert item["result"] == {"page": 7, "seen": ["a", None, 0.5]}
    assert scene.starts(batch_id) == [(0, 1), (0, 2)]


@pytest.mark.parametrize("isolation", ["inline", "process"])
def test_a_checkpoint_that_nobody_waits_for_is_written_soon(scene: Scene, isolation: str) -> None:
    worker = scene.start_worker(processor=f"{HERE}:note_and_stay", isolation=isolation)
    batch_id = scene.job(["a"])
    scene.wait_start(batch_id, 0)
    scene.wait(lambda: scene.items(batch_id)[0]["checkpoint"] == 999, 10, "the newest checkpoint")
    assert scene.batch(batch_id)["revision"] <= 5, "and not each of them"
    worker.kill()
    assert scene.relay(batch_id, processor=f"{HERE}:note_and_stay", isolation=isolation)["succeeded"] == 1
    assert scene.items(batch_id)[0]["result"] == 999


@pytest.mark.parametrize("isolation", ["inline", "thread", "process"])
def test_a_processor_knows_its_deadline_and_that_it_is_over(scene: Scene, isolation: str) -> None:
    scene.start_worker(processor=f"{HERE}:linger", isolation=isolation, item_timeout="400ms")
    batch_id = scene.job(["a"], max_attempts=1)
    scene.wait_end(batch_id)
    assert [line.outcome for line in scene.log(batch_id)] == ["True 0.4"]


def test_the_delay_of_all_retries(scene: Scene) -> None:
    scene.start_worker(retry_delay="600ms")
    batch_id = scene.job([act("fail", times=1), "b", act("retry after", seconds=0, times=1), "d"])
    assert scene.wait_end(batch_id)["succeeded"] == 4
    assert scene.starts(batch_id) == [(0, 1), (1, 1), (2, 1), (2, 2), (3, 1), (0, 2)], "RetryAfter(0) does not wait"
    first, second = [line.at for line in scene.log(batch_id) if (line.edge, line.position) == ("start", 0)]
    assert second - first >= 0.6


# --- with one worker after another for all the rest -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def succession(module_scene: Scene, succession: Succession) -> Succession:
    """With a table for effects."""
    module_scene.database.rows("CREATE TABLE public.allowed (position int PRIMARY KEY)")
    module_scene.database.rows("INSERT INTO public.allowed SELECT generate_series(0, 2)")
    module_scene.database.rows(
        "CREATE TABLE public.effects (batch uuid NOT NULL, position int NOT NULL REFERENCES public.allowed DEFERRABLE INITIALLY DEFERRED)"
    )
    return succession


def test_what_a_processor_sees(shared: Scene, worker: WorkerProcess, mode: tuple[str, str]) -> None:
    payload = {"do": "look", "pages": [1, 2.5, None, {"ö": "\U0001f600"}]}
    row, items = shared.run(["a", {"payload": payload, "key": "the key"}], mode[1], metadata='{"for": ["whom"]}')
    assert 6 * 86_400 < items[1]["result"].pop("left") < 7 * 86_400, "the batch's time"
    assert items[1]["result"] == {
        "id": str(row["id"]), "total": 2, "metadata": {"for": ["whom"]}, "cancelled": False,
        "key": "the key", "payload": payload, "attempt": 1, "checkpoint": None,
    }  # fmt: skip
    (line,) = [line for line in worker.lines() if line.get("message") == "looked at the key" and line.get("batch_id") == str(row["id"])]
    assert (line["position"], line["attempt"], line["level"]) == (1, 1, "info")


@pytest.mark.parametrize(("processor", "result"), [("Plain", "kk"), ("Callable", "k")])
def test_other_shapes(shared: Scene, worker: WorkerProcess, mode: tuple[str, str], processor: str, result: str) -> None:
    _, items = shared.run(["k"], processor)
    assert items[0]["result"] == result


def test_progress_is_told_at_most_ten_times_a_second(shared: Scene, worker: WorkerProcess, mode: tuple[str, str]) -> None:
    row, items = shared.run([act("tell", times=50_000)], mode[1])
    assert items[0]["status"] == "completed"
    began, ended = (line.at for line in shared.log(row["id"]))
    shared.wait_announced(row["id"])
    told = [item for event in shared.events(row["id"]) for item in event.items if item.stage == "telling"]
    assert len(told) <= 10 * (ended - began) + 2
    assert all((item.message or "").startswith("number ") and item.percent is not None and 0 <= item.percent <= 100 for item in told)


SAID: dict[str, tuple[list[Any], tuple[Any, ...]]] = {
    "too much": ([250, "s", "m"], (100.0, "s", "m")),
    "too little": ([-3, "s", "m"], (0.0, "s", "m")),
    "not a number": (["nan", "s", "m"], (None, "s", "m")),
    "only a stage": ([None, "s", None], (None, "s", None)),
    "long": ([1, "s" * 10_000, "m" * 10_000], (1.0, "s" * 500, "m" * 500)),
    "what Postgres cannot hold": ([1, "s", f"a{NUL}b{HALF}c"], (1.0, "s", "a\ufffdb\ufffdc")),
    "unicode": ([33.333, "größe", "\U0001f600 <b>"], (33.33, "größe", "\U0001f600 <b>")),
}


@pytest.mark.parametrize("kind", SAID)
def test_what_progress_tells(shared: Scene, worker: WorkerProcess, mode: tuple[str, str], kind: str) -> None:
    say, expected = SAID[kind]
    gate = f"{kind} {mode}"
    batch_id = shared.job([act("speak", say=say, gate=gate)], processor="speak")

    def told() -> list[Any]:
        return [item for event in shared.events(batch_id) for item in event.items if item.stage is not None]

    found = shared.wait(told, 10, "the live event")[-1]
    assert (found.percent, found.stage, found.message) == expected
    assert (found.position, found.status, found.attempt) == (0, "processing", 1)
    shared.open(gate)
    shared.wait_end(batch_id)


def test_a_checkpoint_comes_back_on_the_next_attempt(shared: Scene, worker: WorkerProcess, mode: tuple[str, str]) -> None:
    _, items = shared.run(["a", act("checkpoint"), "c"], mode[1])
    assert (items[1]["result"], items[1]["checkpoint"], items[1]["attempts"]) == ({"page": 7}, {"page": 7}, 2)


def test_ten_thousand_checkpoints_cost_a_few_commits(shared: Scene, worker: WorkerProcess, mode: tuple[str, str]) -> None:
    row, (item,) = shared.run([act("frames", frames=10_000)], mode[1])
    assert (item["result"], item["attempts"]) == ({"frame": 9_999}, 2)
    assert row["revision"] < 15


def test_a_checkpoint_that_cannot_be_stored(shared: Scene, worker: WorkerProcess, mode: tuple[str, str]) -> None:
    _, items = shared.run(["a"], "bad_checkpoint")
    assert (items[0]["status"], items[0]["checkpoint"]) == ("failed", None)
    assert items[0]["error"] == "checkpoint cannot be stored: $.score: nan is not JSON"


# --- effects ------------------------------------------------------------------------------------------------------------------

EFFECTS = "SELECT position FROM public.effects WHERE batch = $1 ORDER BY 1"


def test_effects_happen_once_and_those_that_fail_leave_nothing(shared: Scene, worker: WorkerProcess, mode: tuple[str, str]) -> None:
    row, items = shared.run([act("effect"), act("effect", bad_writes=1), act("effect", bad_writes=2), "d"], mode[1])
    assert shared.database.column(EFFECTS, row["id"]) == [0, 1]
    assert [item["status"] for item in items] == ["completed", "completed", "failed", "completed"]
    assert [item["attempts"] for item in items] == [1, 2, 2, 1]
    assert (items[2]["error"], items[2]["result"]) == ("the write fails", None)
    assert items[0]["result"] == {"position": 0}
    shared.wait_announced(row["id"])


@pytest.mark.parametrize(("bad_writes", "status", "effects"), [(0, "completed", [1]), (1, "completed", [1]), (2, "failed", [])])
def test_the_effect_of_the_last_item(
    shared: Scene, worker: WorkerProcess, mode: tuple[str, str], bad_writes: int, status: str, effects: list[int]
) -> None:
    row, items = shared.run(["a", act("effect", bad_writes=bad_writes)], mode[1])
    assert items[1]["status"] == status
    assert shared.database.column(EFFECTS, row["id"]) == effects
    assert (row["succeeded"], row["failed"]) == (1 + len(effects), 1 - len(effects))
    shared.wait_announced(row["id"])


@pytest.mark.parametrize("last", [True, False])
def test_an_effect_that_a_deferred_constraint_refuses(shared: Scene, worker: WorkerProcess, mode: tuple[str, str], last: bool) -> None:
    row, items = shared.run([act("effect"), "b", act("effect"), act("effect"), *([] if last else ["e"])], mode[1])
    assert shared.database.column(EFFECTS, row["id"]) == [0, 2], "3 is not allowed; its neighbours are"
    assert (items[3]["status"], items[3]["attempts"]) == ("failed", 2)
    assert "violates foreign key constraint" in items[3]["error"]
    assert row["failed"] == 1
    shared.wait_announced(row["id"])


ENDED = "write: expected the transaction that it was called in to be open still, and it was ended"


@pytest.mark.parametrize(
    ("after", "error", "left"),
    [
        ("ROLLBACK", ENDED, 0),
        ("ROLLBACK; BEGIN", ENDED, 0),
        ("COMMIT", ENDED, 2),  # what it has committed itself stays: once an attempt
        ("COMMIT; BEGIN", ENDED, 2),
        ("close", "write: the connection is closed", 0),
        ("SELECT pg_terminate_backend(pg_backend_pid())", "terminating connection", 0),
    ],
)
def test_a_write_that_ends_its_transaction(
    shared: Scene, worker: WorkerProcess, mode: tuple[str, str], after: str, error: str, left: int
) -> None:
    row, items = shared.run(["a", act("effect", after=after), "b", "c"], mode[1])
    assert [(item["status"], item["attempts"]) for item in items] == [("completed", 1), ("failed", 2), ("completed", 1), ("completed", 1)]
    assert error in items[1]["error"]
    assert (row["succeeded"], row["failed"], row["epoch"]) == (3, 1, 1)
    assert len(shared.database.column(EFFECTS, row["id"])) == left
    _, (effect,) = shared.run([act("effect")], mode[1])
    assert effect["status"] == "completed", "the next one finds a connection that is whole"


# --- retries ----------------------------------------------------------------------------------------------------------------------


def test_permanent_and_retry_after(shared: Scene, worker: WorkerProcess, mode: tuple[str, str]) -> None:
    row, items = shared.run([act("permanent"), act("retry after", seconds=0.4, times=1), act("retry after", seconds=0.2), "d"], mode[1])
    assert [item["status"] for item in items] == ["failed", "completed", "failed", "completed"]
    assert (items[0]["error"], items[2]["error"]) == ("no use in trying again", "retry after 0.2 s")
    starts = shared.starts(row["id"])
    assert starts[:4] == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert sorted(starts[4:]) == [(1, 2), (2, 2)]
    for position, seconds in ((1, 0.4), (2, 0.2)):
        first, second = [line.at for line in shared.log(row["id"]) if (line.edge, line.position) == ("start", position)]
        assert second - first >= seconds
