"""P12, beside the run: a word of the heartbeat, the reconciler or the reclaimer is lost while an item is in flight."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flows.processors import hold, sleep
from tests.flows.scene import Scene
from tests.flows.wires import Server, Wires

WORDS: dict[str, tuple[Server, str]] = {
    "renew the lease": ("postgres", "^-- A row that somebody has locked"),
    "check the lease": ("postgres", "^SELECT b.id, b.epoch, b.status"),
    "renew the entry": ("redis", "^EVALSHA"),
    "look for what nobody works on": ("postgres", "^(-- Open|SELECT b.id, b.entry_id)"),
    "take a free entry": ("redis", "^XAUTOCLAIM"),
    "read a new one": ("redis", "^XREADGROUP"),
}


@pytest.fixture(scope="module")
def wires(module_scene: Scene) -> Iterator[Wires]:
    """The wires of the file's worker."""
    with Wires(module_scene) as wires:
        worker = module_scene.start_worker(**wires.urls, batch_concurrency="2")
        yield wires
        worker.end()


@pytest.mark.parametrize("fault", ["lose_reply", "cut_before"])
@pytest.mark.parametrize("word", WORDS)
def test_a_word_beside_the_run_is_lost(shared: Scene, wires: Wires, word: str, fault: str) -> None:
    gate = f"{word}, {fault}"
    batch_id = shared.job([sleep(30), hold(gate), sleep(30)])
    shared.wait_start(batch_id, 1)
    trap = getattr(wires, fault)(*WORDS[word])
    shared.wait(trap.fired.is_set, 10, "the fault")
    beside = shared.job(["another batch"])
    shared.wait_end(beside)
    shared.open(gate)
    row = shared.wait_end(batch_id)
    assert (row["succeeded"], row["epoch"]) == (3, 1)
    assert shared.starts(batch_id) == [(0, 1), (1, 1), (2, 1)]
    shared.wait_announced(batch_id)
