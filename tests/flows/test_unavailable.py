"""What a processor needs is away: its batch is paused and tried again, at no item's cost and in nobody's way."""

from __future__ import annotations

import os
import subprocess
import sys
from uuid import UUID

import asyncpg
import pytest

from tests.flows.away import REASON, away, write_when_there
from tests.flows.modes import Succession
from tests.flows.processors import act, hold
from tests.flows.scene import Scene
from tests.flows.workers import WorkerProcess
from tests.servers import RedisServer

NAMES = ("serve", "serve_in_thread", "Needy", "hesitate", "ask_in_group", "Fragile")
SERVE, THREAD, NEEDY, HESITATE, GROUP, FRAGILE = (f"tests.flows.away:{name}" for name in NAMES)
PROCESSORS = f"work={SERVE},plain={THREAD}"
PAUSED, GOES_ON = "batch paused: what its processor needs is away, trying again", "batch goes on: what its processor needs is there again"
# Something happens at once, on a busy machine.
SOON = 5.0


@pytest.fixture
def scene(scene: Scene) -> Scene:
    """With the processors of this file."""
    scene.settings["processor"] = SERVE
    return scene


def wait_paused(scene: Scene, batch_id: UUID, pauses: int = 1, seconds: float = 20.0) -> asyncpg.Record:
    """Wait until the batch is paused, for the n-th time or a later one; returns its row, checked."""

    def paused() -> asyncpg.Record | None:
        if not scene.database.rows("SELECT FROM streamworker.batches WHERE id = $1", batch_id):
            return None  # a job that no worker has read
        row = scene.batch(batch_id)
        return row if row["error"] is not None and row["pauses"] >= pauses else None

    row = scene.wait(paused, seconds, f"pause {pauses}")
    assert row["error"].startswith(f"paused: {REASON}; next try in "), row["error"]
    assert (row["status"], row["worker"], row["lease_expires_at"], row["frontier"]) == ("processing", None, None, 0)
    return row


def pause_long(scene: Scene, batch_id: UUID) -> asyncpg.Record:
    """Let the next pause be one of a minute, and wait until it has begun; returns the batch's row."""
    later = "UPDATE streamworker.batches SET pauses = 6 WHERE id = $1 AND worker IS NULL AND error IS NOT NULL RETURNING id"
    scene.wait(lambda: scene.database.rows(later, batch_id), 20, "a pause")
    return wait_paused(scene, batch_id, pauses=7)


def wait_due(scene: Scene, *batch_ids: UUID) -> None:
    """Wait until the pauses of these are over."""
    over = "SELECT bool_and(paused_until < clock_timestamp()) FROM streamworker.batches WHERE id = ANY ($1::uuid[])"
    scene.wait(lambda: scene.database.value(over, batch_ids), 20, "the ends of the pauses")


def lines(worker: WorkerProcess, batch_id: UUID) -> list[str]:
    """What the log tells of the batch at level info and above, by first words."""
    return [line["message"] for line in worker.lines() if line.get("batch_id") == str(batch_id)]


# --- when nothing can begin -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_processor_that_cannot_be_opened_now(scene: Scene, isolation: str) -> None:
    scene.start_worker(processor=f"{NEEDY},{SERVE}", isolation=isolation)
    batch_id = scene.job(["a"])
    wait_paused(scene, batch_id)
    scene.wait_end(scene.job(["b"], processor=SERVE))
    scene.open("needy")
    assert scene.wait_end(batch_id)["succeeded"] == 1
    assert scene.attempts(batch_id) == [1]
    assert scene.starts(batch_id) == [(0, 1)]


@pytest.mark.parametrize("many", [1, 100])
def test_a_child_that_cannot_be_replaced_now(scene: Scene, many: int) -> None:
    worker = scene.start_worker(processor=FRAGILE, isolation="process")
    for number in range(many):
        scene.wait_end(scene.job([f"{number}"])) if number < 5 else scene.job([f"{number}"])
    scene.wait(lambda: not scene.database.value("SELECT count(*) FROM streamworker.batches WHERE finished_at IS NULL"), 30, "the ends")
    batches = [scene.job(["die"]), *(scene.job([f"{number}"]) for number in range(5))]
    for batch_id in batches:
        wait_paused(scene, batch_id)
    scene.open("fragile")
    for batch_id in batches:
        assert scene.wait_end(batch_id)["succeeded"] == 1
    assert sorted(scene.attempts(batch_id)[0] for batch_id in batches) == [1, 1, 1, 1, 1, 2], "its death is the one attempt"
    assert worker.errors() == []


def test_what_a_task_group_raises(scene: Scene) -> None:
    scene.start_worker(processor=GROUP)
    batch_id = scene.job([away("there")])
    wait_paused(scene, batch_id)
    scene.open("there")
    scene.wait_end(batch_id)
    assert scene.attempts(batch_id) == [1]


# --- other batches --------------------------------------------------------------------------------------------------------------


def test_new_work_comes_between_two_tries(scene: Scene) -> None:
    scene.start_worker(processor=f"slow={HESITATE},work={SERVE}")
    paused = [scene.job([away("there")], processor="slow") for _ in range(3)]
    for batch_id in paused:
        wait_paused(scene, batch_id)
    scene.open("slow")
    known = len(scene.log())
    scene.wait(lambda: [line for line in scene.log()[known:] if line.edge == "start"], 20, "a try that takes its time")
    tried = scene.log()[-1].batch
    wait_due(scene, *(batch_id for batch_id in paused if str(batch_id) != tried))
    beside = scene.job(["a"], processor="work")
    scene.open("answer")
    scene.wait_end(beside)
    starts = [line.batch for line in scene.log() if line.edge == "start"]
    assert starts[starts.index(str(beside)) - 1] == tried, "it is the next"
    scene.open("there")
    for batch_id in paused:
        scene.wait_end(batch_id)


def test_one_try_at_a_time_until_something_gets_through(scene: Scene) -> None:
    scene.start_worker(processor=f"slow={HESITATE},work={SERVE}", batch_concurrency="4")
    paused = [scene.job([away("there")], processor="slow") for _ in range(3)]
    for batch_id in paused:
        wait_paused(scene, batch_id)
    scene.open("slow")
    known = len(scene.log())
    scene.wait(lambda: [line for line in scene.log()[known:] if line.edge == "start"], 20, "a try that takes its time")
    wait_due(scene, *(batch_id for batch_id in paused if str(batch_id) != scene.log()[-1].batch))
    for _ in range(2):
        scene.wait_end(scene.job(["a"], processor="work"))
    assert len([line for line in scene.log()[known:] if line.edge == "start" and line.batch in map(str, paused)]) == 1
    scene.open("there")
    scene.open("answer")
    for batch_id in paused:
        scene.wait_end(batch_id)


# --- an item's own affair -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", ["1", "3"])
def test_an_item_for_which_it_is_always_away(scene: Scene, concurrency: str) -> None:
    scene.start_worker(item_concurrency=concurrency)
    batch_id = scene.job(["a", away("never"), "c", away("never"), *[hold("slow")] * 3])
    scene.wait(lambda: len({line.position for line in scene.log(batch_id)}) > 4, 20, "the items behind them")
    scene.open("slow")
    row = scene.wait_end(batch_id)
    assert (row["succeeded"], row["failed"], row["error"]) == (5, 2, None)
    assert scene.statuses(batch_id) == ["completed", "failed", "completed", "failed", *["completed"] * 3]
    assert scene.attempts(batch_id) == [1, 2, 1, 2, 1, 1, 1]
    assert [scene.items(batch_id)[position]["error"] for position in (1, 3)] == [REASON] * 2
    scene.wait_announced(batch_id)


def test_a_retry_forgets_that_others_got_through(scene: Scene) -> None:
    scene.start_worker()
    batch_id = scene.job([away("there"), "b"], max_attempts=1)
    assert scene.wait_end(batch_id)["failed"] == 1
    assert scene.database.value("SELECT streamworker.retry($1)", batch_id) == 1
    wait_paused(scene, batch_id, pauses=2)
    scene.open("there")
    assert scene.wait_end(batch_id)["succeeded"] == 2


def test_a_death_behind_an_item_that_waits(scene: Scene) -> None:
    scene.start_worker()
    batch_id = scene.job([away("there"), act("die"), away("there")])
    scene.wait(lambda: not scene.workers[-1].lives, 20, "the death")
    assert scene.attempts(batch_id) == [0, 0, 0]
    scene.open("there")
    scene.relay(batch_id)
    assert scene.statuses(batch_id) == ["completed", "failed", "completed"]
    assert scene.attempts(batch_id) == [1, 2, 1], "nobody else is suspected"


def test_a_neighbour_that_fails_ends_no_outage(scene: Scene) -> None:
    worker = scene.start_worker()
    batch_id = scene.job([away("there"), act("permanent"), away("there")])
    row = wait_paused(scene, batch_id, pauses=2)
    assert (row["processed"], row["succeeded"], row["pauses"]) == (1, 0, 2)
    assert GOES_ON not in lines(worker, batch_id)
    scene.open("there")
    scene.wait_end(batch_id)
    assert scene.attempts(batch_id) == [1, 1, 1]


# --- delays, and their end ------------------------------------------------------------------------------------------------------


def test_the_delays_grow_and_a_success_begins_anew(scene: Scene) -> None:
    scene.start_worker(log_level="debug")
    batch_id = scene.job([away("first"), away("second")])
    wait_paused(scene, batch_id, pauses=2)
    scene.open("first")
    scene.wait(lambda: scene.statuses(batch_id)[0] == "completed" and scene.batch(batch_id)["error"], 20, "the next outage")
    assert scene.batch(batch_id)["pauses"] == 1
    scene.open("second")
    scene.wait_end(batch_id)
    scene.wait_announced(batch_id)
    told = [event.error for event in scene.read_events(batch_id) if event.error]
    assert told == [f"paused: {REASON}; next try in {seconds} s" for seconds in (1, 2, 1)]
    starts = [line.at for line in scene.log(batch_id) if line.edge == "start"]
    assert [after - before >= seconds for before, after, seconds in zip(starts, starts[1:], (1, 2), strict=False)] == [True] * 2
    assert scene.batch(batch_id)["deaths"] == 0


def test_who_comes_late_to_a_try_has_not_met_another_outage(scene: Scene) -> None:
    scene.start_worker()
    batch_id = scene.job([away("never")])
    wait_paused(scene, batch_id, pauses=2)
    hour_ago = "clock_timestamp() - interval '1 hour'"
    late = f"UPDATE streamworker.batches SET paused_until = {hour_ago} WHERE id = $1 AND worker IS NULL RETURNING id"
    scene.wait(lambda: scene.database.rows(late, batch_id), 20, "a pause")
    wait_paused(scene, batch_id, pauses=3)
    told = [event.error for event in scene.read_events(batch_id) if event.error]
    assert told[:2] == [f"paused: {REASON}; next try in {seconds} s" for seconds in (1, 2)]
    assert scene.batch(batch_id)["error"] != told[0]
    scene.database.value("SELECT streamworker.cancel($1)", batch_id)


def test_an_outage_that_is_too_long_fails_the_batch(scene: Scene) -> None:
    scene.start_worker(unavailable_timeout="1500ms")
    batch_id = scene.job(["a", away("never"), away("never")])
    row = scene.wait_end(batch_id, "failed")
    assert row["error"] == f"given up after 2 s (STREAMWORKER_UNAVAILABLE_TIMEOUT): {REASON}"
    assert (scene.statuses(batch_id), scene.attempts(batch_id)) == (["completed", "cancelled", "cancelled"], [1, 0, 0])
    scene.wait_announced(batch_id)
    assert scene.database.value("SELECT streamworker.retry($1)", batch_id) == 2
    assert wait_paused(scene, batch_id)["pauses"] == 1, "a retry has all the time again"
    scene.open("never")
    scene.wait_end(batch_id)


def test_the_time_of_the_batch_ends_a_pause(scene: Scene) -> None:
    scene.start_worker(batch_timeout="1500ms")
    batch_id = scene.job([away("never")])
    wait_paused(scene, batch_id)
    assert scene.wait_end(batch_id, "failed")["error"] == "the batch's time limit of 1.5 s passed"


def test_status_tells_of_it_and_a_cancel_works_at_once(scene: Scene) -> None:
    scene.start_worker()
    batch_id = scene.job(["a", away("never")])
    wait_paused(scene, batch_id, pauses=3)
    line = [sys.executable, "-m", "streamworker", "status", str(batch_id)]
    urls = {"REDIS_URL": scene.redis_url, "DATABASE_URL": scene.database_url}
    told = subprocess.run(line, env=os.environ | urls, capture_output=True, text=True, check=True, timeout=30).stdout
    assert f"error      paused: {REASON}; next try in " in told
    assert scene.database.value("SELECT streamworker.cancel($1)", batch_id)
    scene.wait_announced(batch_id, SOON / 2)
    assert (scene.batch(batch_id)["error"], scene.statuses(batch_id)) == (None, ["completed", "cancelled"])
    scene.wait(lambda: scene.residue.on_stream() == (0, 0), SOON / 2, "the entry to be acknowledged before the pause is over")


# --- workers come and go --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_a_pause_outlives_its_worker(scene: Scene, end: str) -> None:
    both = [scene.start_worker() for _ in range(2)]
    batch_id = scene.job(["a", away("there")])
    row = wait_paused(scene, batch_id, pauses=2)
    last = [line for line in scene.log(batch_id) if line.edge == "start"][-1]
    first, second = sorted(both, key=lambda worker: worker.pid != last.pid)
    getattr(first, end)()
    if end == "terminate":
        assert first.wait_ended(SOON) == 0
    scene.wait(lambda: scene.batch(batch_id)["epoch"] > row["epoch"], 20, "the next try")
    tried = scene.database.value("SELECT updated_at FROM streamworker.batches WHERE id = $1", batch_id)
    assert tried >= row["paused_until"]
    scene.open("there")
    scene.wait_end(batch_id)
    assert scene.attempts(batch_id) == [1, 1]
    assert [line for line in scene.log(batch_id) if line.edge == "start"][-1].pid == second.pid


def test_a_hand_over_after_a_pause_is_at_once(scene: Scene) -> None:
    first = scene.start_worker(processor=HESITATE, shutdown_timeout="1s")
    batch_id = scene.job([away("there"), away("there")])
    pause_long(scene, batch_id)
    assert scene.database.value("SELECT streamworker.cancel($1)", batch_id)
    scene.wait_announced(batch_id)
    scene.open("slow")
    started = len(scene.starts(batch_id))
    assert scene.database.value("SELECT streamworker.retry($1)", batch_id) == 2
    scene.wait(lambda: len(scene.starts(batch_id)) > started, SOON, "its start, since a retry does not wait")
    assert scene.batch(batch_id)["paused_until"] is None
    scene.start_worker(processor=HESITATE)
    first.terminate()
    assert first.wait_ended() == 0
    scene.wait(lambda: len(scene.starts(batch_id)) > started + 1, SOON, "the start elsewhere, long before the end of the old pause")
    scene.open("there")
    scene.open("answer")
    scene.wait_end(batch_id)
    assert scene.attempts(batch_id) == [1, 1]


def test_a_pause_while_redis_is_away_is_told_later(own_redis_scene: Scene, weak_redis: RedisServer) -> None:
    scene = own_redis_scene
    scene.start_worker(processor=SERVE)
    batch_id = scene.job([away("there")])
    wait_paused(scene, batch_id)
    weak_redis.kill()
    row = pause_long(scene, batch_id)
    weak_redis.start()
    scene.wait(lambda: [event for event in scene.events(batch_id) if event.revision == row["revision"]], 20, "the event")
    assert scene.events(batch_id)[-1].error == row["error"]
    scene.database.value("SELECT streamworker.cancel($1)", batch_id)
    scene.wait_announced(batch_id)


@pytest.mark.parametrize(
    ("step", "attempts", "fault"), [("pause:after", 1, "kill"), ("pause:inside", 2, "kill"), ("pause:inside", 1, "lose")]
)
def test_a_death_at_the_pause(scene: Scene, step: str, attempts: int, fault: str) -> None:
    batch_id = scene.job([away("there")])
    worker = scene.begin_worker(step=step, fault=fault)
    if fault == "kill":
        assert worker.wait_ended() == -9
        scene.open("there")
        scene.start_worker()
    else:
        wait_paused(scene, batch_id)
        scene.open("there")
    scene.wait_end(batch_id)
    assert scene.attempts(batch_id) == [attempts], "what ended by a death counts, what ended by a pause does not"


def test_what_is_in_flight_beside_it_ends_and_counts(scene: Scene) -> None:
    scene.start_worker(item_concurrency="2")
    batch_id = scene.job([hold("slow"), *[away("there")] * 5])
    scene.wait(lambda: [line for line in scene.log(batch_id) if (line.edge, line.position) == ("end", 1)], 20, "the outage")
    assert scene.batch(batch_id)["error"] is None
    scene.open("slow")
    row = wait_paused(scene, batch_id)
    assert row["succeeded"] >= 1
    assert scene.attempts(batch_id)[:2] == [1, 0]
    scene.open("there")
    scene.wait_end(batch_id)
    assert scene.attempts(batch_id) == [1] * 6
    assert scene.starts(batch_id).count((0, 1)) == 1


def test_small_batches_that_are_run_together(scene: Scene) -> None:
    scene.start_worker()
    quick = [scene.job([f"{number}"]) for number in range(200)]
    batches = [scene.job(["a", away("there"), away("there")]) if number % 10 == 0 else scene.job(["a", "b"]) for number in range(60)]
    for batch_id in [*quick, *(batch for number, batch in enumerate(batches) if number % 10)]:
        scene.wait_end(batch_id, seconds=60)
    paused = batches[::10]
    for batch_id in paused:
        wait_paused(scene, batch_id)
        assert scene.attempts(batch_id) == [1, 0, 0]
    scene.open("there")
    for batch_id in paused:
        scene.wait_end(batch_id)
        assert scene.attempts(batch_id) == [1, 1, 1]
        assert scene.starts(batch_id).count((0, 1)) == 1


# --- with one worker after another, in every isolation --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def succession(module_scene: Scene, succession: Succession) -> Succession:
    """With a table for effects."""
    module_scene.database.rows("CREATE TABLE public.effects (batch uuid NOT NULL, position int NOT NULL)")
    return succession


def test_the_batch_is_paused_and_goes_on_at_no_cost(shared: Scene, worker: WorkerProcess, mode: tuple[str, str]) -> None:
    gate = "-".join(mode)
    first = shared.job(["a", away(gate), away(gate, fails=1), write_when_there(gate), away(gate)], processor=mode[1])
    wait_paused(shared, first)
    assert shared.attempts(first)[:2] == [1, 0]
    once = shared.job([away(gate)], processor=mode[1], max_attempts=1)
    wait_paused(shared, once)
    beside = shared.job(["b", "c"], processor=mode[1])
    assert shared.wait_end(beside)["succeeded"] == 2, "its only slot is free meanwhile"
    wait_paused(shared, first, pauses=4)
    assert (shared.attempts(first), shared.statuses(first)) == ([1, 0, 1, 0, 0], ["completed", *["pending"] * 4]), "what failed counts"
    assert shared.starts(first)[-4:] == [(2, 1), (2, 2), (3, 1), (4, 1)], "each try begins behind the item of the one before"
    assert shared.database.column("SELECT position FROM public.effects WHERE batch = $1", first) == []
    shared.open(gate)
    assert shared.wait_end(first)["error"] is None
    assert shared.wait_end(once)["succeeded"] == 1, "what may start once has not started, as far as that goes"
    assert shared.attempts(once) == [1]
    assert shared.attempts(first) == [1, 1, 2, 1, 1]
    assert shared.database.column("SELECT position FROM public.effects WHERE batch = $1", first) == [3]
    shared.wait_announced(first)
    assert any((event.error or "").startswith("paused: ") for event in shared.read_events(first))
    told = lines(worker, first)
    assert (told.count(PAUSED), told.count(GOES_ON), told.count("batch acquired")) == (1, 1, 1), "one line an outage, not one a try"
