"""P12: an outcome that is not known, because the reply was lost, is read back and never assumed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.flows.processors import act, hold, sleep
from tests.flows.scene import Scene
from tests.flows.wires import Server, Wires

ITEMS: list[Any] = [sleep(30), act("fail", times=1), sleep(30)]
FAULTS = ["lose_reply", "cut_before"]
STARTS = [(0, 1), (1, 1), (1, 2), (2, 1)]


@pytest.fixture(scope="module")
def wires(module_scene: Scene) -> Iterator[Wires]:
    """The wires of the file's worker."""
    with Wires(module_scene) as wires:
        worker = module_scene.start_worker(**wires.urls)
        yield wires
        worker.end()


@pytest.fixture(autouse=True)
def _no_trap_left(wires: Wires) -> Iterator[None]:
    yield
    wires.clear()


def check(scene: Scene, batch_id: Any, starts: list[tuple[int, int]]) -> None:
    """It ended once, everything counted, and no item was started but as it must be."""
    row = scene.wait_end(batch_id)
    assert (row["processed"], row["succeeded"], row["failed"]) == (len(scene.items(batch_id)), row["total"], 0)
    assert scene.starts(batch_id) == starts
    scene.wait_announced(batch_id)


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("fault", FAULTS)
def test_any_commit_of_a_run(shared: Scene, wires: Wires, fault: str, number: int) -> None:
    batch_id = shared.submit(ITEMS)
    getattr(wires, fault)("postgres", "^COMMIT", skip=number)  # a run may take fewer commits than there are tests
    shared.xadd(batch_id=batch_id)
    check(shared, batch_id, STARTS)


STATEMENTS: dict[str, tuple[Server, str]] = {
    "create": ("postgres", "streamworker.submit"),
    "begin": ("postgres", "^BEGIN"),
    "lock": ("postgres", "^SELECT b.status, b.processor"),
    "claim": ("postgres", "SET status = 'processing'"),
    "load": ("postgres", "SELECT i.position"),
    "record the batch": ("postgres", "SET revision = b.revision"),
    "record the items": ("postgres", "SET status = r.status"),
    "complete": ("postgres", "SET status = 'completed'"),
    "note the announcement": ("postgres", "SET announced_at"),
    "read": ("redis", "^XREADGROUP"),
    "reclaim": ("redis", "^XAUTOCLAIM"),
    "announce": ("redis", "^XADD progress"),
    "acknowledge": ("redis", "^XACK"),
    "commit the acknowledgement": ("redis", "^EXEC"),
}
BEATS: dict[str, tuple[Server, str]] = {
    "renew the lease": ("postgres", "SET lease_expires_at"),
    "check the lease": ("postgres", "^SELECT b.id, b.epoch, b.status"),
    "renew the entry": ("redis", "^EVALSHA"),
    "reconcile": ("postgres", "^(-- Open|SELECT b.id, b.entry_id)"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", STATEMENTS)
def test_any_statement_and_command(shared: Scene, wires: Wires, place: str, fault: str) -> None:
    trap = getattr(wires, fault)(*STATEMENTS[place])
    batch_id = shared.job(ITEMS)
    check(shared, batch_id, STARTS)
    shared.wait(trap.fired.is_set, 10, "the fault")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", BEATS)
def test_any_beat_while_an_item_is_in_flight(shared: Scene, wires: Wires, place: str, fault: str) -> None:
    gate = f"{place}, {fault}"
    batch_id = shared.job([sleep(30), hold(gate), sleep(30)])
    shared.wait_start(batch_id, 1)
    trap = getattr(wires, fault)(*BEATS[place])
    shared.wait(trap.fired.is_set, 10, "the fault")
    shared.open(gate)
    check(shared, batch_id, [(0, 1), (1, 1), (2, 1)])


def test_a_commit_of_many_quick_items(shared: Scene, wires: Wires) -> None:
    batch_id = shared.submit(["quick"] * 500)
    traps = [wires.lose_reply("postgres", "^COMMIT", skip=number) for number in (1, 3, 4, 6)]
    shared.xadd(batch_id=batch_id)
    check(shared, batch_id, [(position, 1) for position in range(500)])
    assert any(trap.fired.is_set() for trap in traps)


def test_an_effect_in_the_transaction_whose_reply_is_lost(shared: Scene, wires: Wires) -> None:
    shared.database.rows("CREATE TABLE public.effects (batch uuid NOT NULL, position int NOT NULL)")
    batch_id = shared.submit([act("effect"), act("effect"), sleep(30)])
    traps = [wires.lose_reply("postgres", "^COMMIT", skip=number) for number in (1, 3)]
    shared.xadd(batch_id=batch_id)
    check(shared, batch_id, [(0, 1), (1, 1), (2, 1)])
    assert traps[0].fired.is_set()
    assert shared.database.column("SELECT position FROM public.effects WHERE batch = $1 ORDER BY 1", batch_id) == [0, 1]


def test_a_batch_that_may_start_once(shared: Scene, wires: Wires) -> None:
    batch_id = shared.submit([sleep(30), sleep(30)], max_attempts=1)
    wires.lose_reply("postgres", "^COMMIT")
    shared.xadd(batch_id=batch_id)
    check(shared, batch_id, [(0, 1), (1, 1)])
