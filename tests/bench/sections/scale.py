"""(d) Whether a large batch costs more for each item, in time or in memory, than a small one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from tests.bench.figures import Goal, Measure, Row, Section, Sizes
from tests.bench.world import PATIENCE, World, python

SMALL = 10_000  # below it, the start of a batch is a good part of its time
MB = 1_000_000


def batch(world: World, sizes: Sizes, place: int) -> dict[str, float]:
    """Submit, watch and work on a batch of the size at this place, each in a process of its own that is new."""
    size = sizes.scale[place]
    world.settle()
    with world.spawn(python("tests.bench.clients", "submit", str(size)), world.environment()) as submitter:
        submitted = submitter.answer(PATIENCE)
    watching = python("tests.bench.clients", "watch", submitted["batch_id"])
    with world.spawn(watching, world.environment()) as watcher, world.workers("nothing", warm=0) as (worker,):
        watched = watcher.answer(PATIENCE)
        world.wait_drained([worker])
        memory = worker.memory()
    world.check_completed(size)
    assert watched["processed"] == size, f"watch ended at {watched['processed']} of {size}"
    seconds = world.value("SELECT extract(epoch FROM finished_at - started_at)::float8 FROM streamworker.batches")
    figures = {"time": 1e6 * seconds / size, "worker": memory / MB, "submit": submitted["memory"] / MB, "watch": watched["memory"] / MB}
    return {f"{name} {place}": value for name, value in figures.items()}


def slopes(figures: Mapping[str, float], scale: tuple[int, ...]) -> dict[str, float]:
    """How much more the greatest size takes than the least, of those of a round."""
    places = [place for place, size in enumerate(scale) if f"time {place}" in figures and size >= min(SMALL, scale[-1])]
    found: dict[str, float] = {}
    if len(places) > 1:
        times = [figures[f"time {place}"] for place in places]
        found["time slope"] = 100 * (max(times) / min(times) - 1)
    for who in ("worker", "submit", "watch"):
        memory = [figures[key] for place in range(len(scale)) if (key := f"{who} {place}") in figures]
        if len(memory) > 1:
            found[f"{who} growth"] = max(memory) - memory[0]
    return found


def section(scale: tuple[int, ...]) -> Section:
    """The section for these sizes."""
    measures: dict[str, Measure] = {f"{size:,} items": partial(batch, place=place) for place, size in enumerate(scale)}
    derive: Callable[[Mapping[str, float]], Mapping[str, float]] = partial(slopes, scale=scale)
    return Section("d", "time and memory by size of the batch", HOW, _rows(scale), measures, derive)


def _rows(scale: tuple[int, ...]) -> tuple[Row, ...]:
    first, last = scale[0], scale[-1]
    rows = [Row(f"time {place}", f"time for each of {size:,} items", "µs", (Goal("time 1"),)) for place, size in enumerate(scale)]
    rows.append(Row("time slope", f"most against least, {min(SMALL, last):,} to {last:,}", "%", (Goal(at_most=15),)))
    for who in ("worker", "submit", "watch"):
        rows += [Row(f"{who} {place}", f"memory of {who}, {size:,} items", "MB") for place, size in enumerate(scale)]
        rows.append(Row(f"{who} growth", f"memory of {who}, most above {first:,}", "MB", (Goal(at_most=20),)))
    return tuple(rows)


HOW = (
    "No-op items, one worker, new processes for each size. Time: from started_at to finished_at of the batch row, a watcher "
    "attached. Memory: the greatest resident size (VmHWM) of the worker, of a process that submits from a generator "
    "(Client.submit), and of one that watches (Client.watch), to the end."
)
