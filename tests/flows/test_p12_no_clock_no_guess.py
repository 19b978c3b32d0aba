"""P12: a reply that was lost is read back, never guessed: nothing is recorded, counted or started twice."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any
from uuid import UUID

import pytest

from tests.chaos.proxy import Trap
from tests.flows.processors import act, hold, sleep
from tests.flows.scene import Scene
from tests.flows.wires import Server, Wires

ITEMS = [sleep(30), "b", act("fail", times=1), act("permanent"), sleep(30)]
FATES = ["lose_reply", "cut_before"]
COMMITS = r"^(COMMIT|-- The batch row is locked first)"  # most records are one statement, and need no word of their own to be committed
STATEMENTS: dict[str, tuple[Server, str]] = {
    "the look at the batch": ("postgres", r"b\.entry_id, b\.frontier, b\.careful_until"),
    "the claim": ("postgres", r"epoch = b\.epoch \+ 1"),
    "the items": ("postgres", r"SELECT i\.position, i\.key, i\.payload::text AS payload, (greatest|i\.attempts)"),
    "the record": ("postgres", "^-- The batch row is locked first"),
    "the end": ("postgres", r"SET status = 'completed'"),
    "the note that it was told": ("postgres", "^-- Told, each"),
    "the delivery": ("redis", r"^XREADGROUP "),
    "an event": ("redis", r"^XADD progress "),
    "the acknowledgement": ("redis", r"^(EXEC|XACK)"),
}


@pytest.fixture(scope="module")
def wires(module_scene: Scene) -> Iterator[Wires]:
    """The wires of the worker that runs the batches of this file."""
    with Wires(module_scene) as wires:
        worker = module_scene.start_worker(**wires.urls)
        yield wires
        assert worker.end() == 0


def strike(wires: Wires, fate: str, server: Server, pattern: str, skip: int = 0) -> Trap:
    trap: Trap = getattr(wires, fate)(server, pattern, skip)
    return trap


def check_ran_once(scene: Scene, batch_id: UUID, max_attempts: int = 2) -> None:
    """Each attempt was started once, each end counted once and told once to a reader."""
    row = scene.wait_end(batch_id)
    failed = 1 if max_attempts > 1 else 2
    assert (row["processed"], row["succeeded"], row["failed"], row["epoch"]) == (5, 5 - failed, failed, 1)
    again = [(2, 2)] if max_attempts > 1 else []
    assert scene.starts(batch_id) == [(0, 1), (1, 1), (2, 1), *again, (3, 1), (4, 1)]
    assert scene.attempts(batch_id) == [1, 1, min(max_attempts, 2), 1, 1]
    scene.wait_announced(batch_id)
    ends = [item.position for event in scene.read_events(batch_id) for item in event.items if item.status in ("completed", "failed")]
    assert sorted(ends) == sorted(set(ends))
    scene.wait(lambda: scene.residue.on_stream() == (0, 0), 15, "the acknowledgement")


# These come first: the worker that the others share would take the entries.


@pytest.mark.parametrize("fate", FATES)
def test_the_release_is_in_doubt(scene: Scene, fate: str) -> None:
    with Wires(scene) as wires:
        first = scene.start_worker(**wires.urls, shutdown_timeout="0s")
        batch_id = scene.submit(["a", hold("gate"), "c"])
        scene.wait_start(batch_id, 1)
        scene.wait(lambda: scene.batch(batch_id)["processed"] == 1, 10, "the record")
        strike(wires, fate, "postgres", r"^COMMIT")
        assert first.end() == 0
        assert len(wires.find("postgres", "SET worker = NULL")) == 2, "released, and once more since nobody knew"
    assert scene.batch(batch_id)["worker"] is None
    scene.open("gate")
    scene.start_worker()
    check_second_run(scene, batch_id)


@pytest.mark.parametrize("fate", FATES)
def test_the_word_to_the_next_worker_is_in_doubt(scene: Scene, fate: str) -> None:
    with Wires(scene) as wires:
        first = scene.start_worker(**wires.urls, shutdown_timeout="0s")
        batch_id = scene.submit(["a", hold("gate"), "c"])
        scene.wait_start(batch_id, 1)
        trap = strike(wires, fate, "redis", r"^(EVALSHA|EVAL) ")
        assert first.end() == 0
        assert trap.fired.is_set()
    scene.open("gate")
    scene.start_worker()
    check_second_run(scene, batch_id)


def check_second_run(scene: Scene, batch_id: UUID) -> None:
    """The next owner went on behind what was finished, and nobody was charged."""
    row = scene.wait_end(batch_id)
    told: Any = (row["succeeded"], row["failed"], row["epoch"], scene.attempts(batch_id))
    assert told == (3, 0, 2, [1, 1, 1])
    assert scene.starts(batch_id) == [(0, 1), (1, 1), (1, 1), (2, 1)]
    scene.wait_announced(batch_id)


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("max_attempts", [1, 2])
def test_any_commit_of_a_batch_is_in_doubt(shared: Scene, wires: Wires, fate: str, max_attempts: int) -> None:
    for number in count():
        trap = strike(wires, fate, "postgres", COMMITS, number)
        batch_id = shared.submit(ITEMS, max_attempts=max_attempts)
        check_ran_once(shared, batch_id, max_attempts)
        if not trap.fired.is_set():
            break
    assert number >= 5, "acquired, recorded, ended: at least so many commits"
    trap.left = 0


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("statement", STATEMENTS)
def test_any_other_word_is_lost(shared: Scene, wires: Wires, fate: str, statement: str) -> None:
    trap = strike(wires, fate, *STATEMENTS[statement])
    batch_id = shared.job(ITEMS)
    check_ran_once(shared, batch_id)
    shared.wait(trap.fired.is_set, 10, "the trap to strike")


@pytest.mark.parametrize("fate", FATES)
def test_the_creation_from_a_message_is_in_doubt(shared: Scene, wires: Wires, fate: str) -> None:
    trap = strike(wires, fate, "postgres", r"^COMMIT")
    batch_id = shared.job(ITEMS)
    check_ran_once(shared, batch_id)
    assert trap.fired.is_set()
    assert len(shared.items(batch_id)) == len(ITEMS)


@pytest.mark.parametrize("fate", FATES)
def test_many_quick_items_share_a_commit_in_doubt(shared: Scene, wires: Wires, fate: str) -> None:
    trap = strike(wires, fate, "postgres", COMMITS, 4)
    batch_id = shared.submit([str(number) for number in range(300)])
    assert shared.wait_end(batch_id)["succeeded"] == 300
    assert trap.fired.is_set()
    assert shared.starts(batch_id) == [(position, 1) for position in range(300)]
    shared.wait_announced(batch_id)


@pytest.mark.parametrize("fate", FATES)
def test_effects_in_the_same_transaction_happen_once(shared: Scene, wires: Wires, fate: str) -> None:
    shared.database.rows("CREATE TABLE IF NOT EXISTS public.effects (batch uuid, position int)")
    for number in count():
        trap = strike(wires, fate, "postgres", COMMITS, number)
        batch_id = shared.submit([act("effect"), act("effect", bad_writes=1), act("effect", bad_writes=2), act("effect")])
        row = shared.wait_end(batch_id)
        assert (row["succeeded"], row["failed"]) == (3, 1)
        found = shared.database.column("SELECT position FROM public.effects WHERE batch = $1 ORDER BY position", batch_id)
        assert found == [0, 1, 3]
        shared.wait_announced(batch_id)
        assert told_last(shared, batch_id) == shared.statuses(batch_id)
        if not trap.fired.is_set():
            break
    trap.left = 0


def told_last(scene: Scene, batch_id: UUID) -> list[str]:
    """The last status that a reader heard of each item."""
    told: dict[int, str] = {}
    for event in scene.read_events(batch_id):
        told.update({item.position: item.status for item in event.items})
    return [told[position] for position in sorted(told)]


@pytest.mark.parametrize("fate", FATES)
def test_the_end_of_a_batch_that_fails_is_in_doubt(shared: Scene, wires: Wires, fate: str) -> None:
    for number in count():
        trap = strike(wires, fate, "postgres", COMMITS, number)
        batch_id = shared.submit([sleep(30), act("permanent"), sleep(30)], max_failures=0)
        row = shared.wait_end(batch_id, "failed")
        assert (row["succeeded"], row["failed"], row["epoch"]) == (1, 1, 1)
        assert shared.statuses(batch_id) == ["completed", "failed", "cancelled"]
        shared.wait_announced(batch_id)
        if not trap.fired.is_set():
            break
    trap.left = 0
