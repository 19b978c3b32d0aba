"""Isolation `process`, items that are quick: they follow one another through a child, and a death among them is still that item's alone."""

from __future__ import annotations

import pytest

from tests.flows.scene import Scene
from tests.flows.test_isolation import DEATHS, HERE
from tests.flows.workers import WorkerProcess

MANY = 300  # until so many have ended, not that many may start ahead of a commit
BETWEEN = 20


@pytest.fixture(scope="module", params=["1", "2"], ids=["one lane", "two lanes"])
def worker(module_scene: Scene, request: pytest.FixtureRequest) -> WorkerProcess:
    """Serves all tests of this file; without a time limit for items, since with one each is begun by itself."""
    for words in ("in a library", "told with its traceback"):
        module_scene.residue.tolerate(words)
    for before in module_scene.workers:
        before.end()
    return module_scene.start_worker(processor=f"work={HERE}:work", isolation="process", item_concurrency=request.param)


def test_deaths_among_quick_items(shared: Scene, worker: WorkerProcess) -> None:
    items: list[object] = [f"first {number}" for number in range(MANY)]
    deaths: dict[int, str] = {}
    for kind, (item, _) in DEATHS.items():
        deaths[len(items)] = kind
        items += [item, *(f"after {kind}, {number}" for number in range(BETWEEN))]
    row, found = shared.run(items)
    assert (row["succeeded"], row["failed"], row["epoch"]) == (len(items) - len(deaths), len(deaths), 1)
    for position, kind in deaths.items():
        assert (kind, found[position]["status"], found[position]["attempts"]) == (kind, "failed", 2)
        assert DEATHS[kind][1] in found[position]["error"], kind
    assert {item["attempts"] for position, item in enumerate(found) if position not in deaths} == {1}
    starts = [(position, attempt) for position in range(len(items)) for attempt in ((1, 2) if position in deaths else (1,))]
    assert sorted(shared.starts(row["id"])) == starts
    assert worker.lives
