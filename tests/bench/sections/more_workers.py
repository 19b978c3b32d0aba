"""(g) Many batches, and one, two or four workers."""

from __future__ import annotations

import time
from functools import partial

from tests.bench.figures import Goal, Measure, Row, Section, Sizes
from tests.bench.world import World

WAITING = 20  # a batch of items that wait has so many times fewer of them


def batches(world: World, sizes: Sizes, number: int, processor: str) -> dict[str, float]:
    """Items per second of so many workers."""
    many, each = sizes.shares
    warm = 400
    if processor == "short_pause":
        each, warm = max(1, each // WAITING), warm // WAITING
    world.settle()
    with world.workers(processor, number, warm) as workers:
        ids = world.insert_batches(each, many)
        started = time.monotonic()
        world.announce(ids)
        world.wait_drained(workers)
        seconds = time.monotonic() - started
    world.check_completed(many * each)
    return {f"{processor} {number}": many * each / seconds}


def section(numbers: tuple[int, ...]) -> Section:
    """The section for these numbers of workers."""
    kinds = (("nothing", "no-op items"), ("short_pause", "items of 5 ms"))
    measures: dict[str, Measure] = {}
    rows: list[Row] = []
    for processor, what in kinds:
        for number in numbers:
            measures[f"{what}, {number}"] = partial(batches, number=number, processor=processor)
            workers = f"{number} worker{'s' if number > 1 else ''}"
            goals = (Goal(f"{processor} {numbers[0]}"),) if number != numbers[0] else ()
            rows.append(Row(f"{processor} {number}", f"{what}, {workers}", "items/s", goals))
    return Section("g", "more workers", HOW, tuple(rows), measures)


HOW = (
    "Many batches, all announced at once, until the last is acknowledged. No-op items take what the machine has, servers included: more "
    "workers help as far as there are cores. Items of 5 ms wait for somebody else, as most do."
)
