"""(h) Items of 100 ms, one after another: what we add to them, and how long until each result is durable."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Mapping
from typing import Any

import asyncpg
import uvloop

from tests.bench.figures import Goal, Row, Section, Sizes
from tests.bench.processors import PAUSE
from tests.bench.world import World

# Sent when the transaction is durable, so that its arrival is a moment after.
TELL = (
    "CREATE OR REPLACE FUNCTION public.bench_tell() RETURNS trigger LANGUAGE plpgsql AS $$ "
    "BEGIN PERFORM pg_notify('bench', NEW.position::text); RETURN NULL; END $$",
    "CREATE TRIGGER bench_tell AFTER UPDATE ON streamworker.items FOR EACH ROW "
    "WHEN (NEW.status = 'completed' AND OLD.status <> 'completed') EXECUTE FUNCTION public.bench_tell()",
)


class Listener:
    """When the end of each item was heard of."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.heard: dict[int, float] = {}

    def __enter__(self) -> Listener:
        for statement in TELL:
            self._world.rows(statement)
        self._connection = self._world.wait(asyncpg.connect(self._world.database_url))
        self._world.wait(self._connection.add_listener("bench", self._hear))
        return self

    def __exit__(self, *_: object) -> None:
        self._world.wait(self._connection.close())
        self._world.rows("DROP TRIGGER bench_tell ON streamworker.items")

    def _hear(self, *notification: Any) -> None:
        self.heard[int(notification[3])] = time.monotonic()


def ours(world: World, sizes: Sizes) -> dict[str, float]:
    """From the XADD until the batch is acknowledged."""
    world.settle()
    with world.workers("pause", warm=4) as workers, Listener(world) as listener:
        ids = world.insert_batches(sizes.slow)
        started = time.monotonic()
        world.announce(ids)
        world.wait_drained(workers)
        seconds = time.monotonic() - started
        world.wait_until(lambda: len(listener.heard) == sizes.slow, workers, 0.002)
    world.check_completed(sizes.slow)
    ends = {row["position"]: json.loads(row["result"]) for row in world.rows("SELECT position, result::text FROM streamworker.items")}
    late = [1000 * (listener.heard[position] - ends[position]) for position in ends]
    return {"beyond": _beyond(seconds, sizes), "durable p50": statistics.median(late), "durable max": max(late)}


def sleeps(world: World, sizes: Sizes) -> dict[str, float]:
    """The same sleeps in a bare loop: what the machine itself adds."""

    async def loop() -> float:
        started = time.monotonic()
        for _ in range(sizes.slow):
            await asyncio.sleep(PAUSE)
        return time.monotonic() - started

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return {"bare": _beyond(runner.run(loop()), sizes)}


def _beyond(seconds: float, sizes: Sizes) -> float:
    return 100 * (seconds / (sizes.slow * PAUSE) - 1)


def lost(figures: Mapping[str, float]) -> dict[str, float]:
    """What of a round is lost to us, and not to sleeps that end late."""
    if not {"beyond", "bare"} <= figures.keys():
        return {}
    return {"lost": 100 * ((100 + figures["beyond"]) / (100 + figures["bare"]) - 1)}


SECTION = Section(
    "h",
    "items of 100 ms, one after another",
    "Beyond: the time from XADD to XACK beyond 100 ms an item, pick-up and end of the batch included. Bare: the same of a loop that does "
    "nothing but sleep. Lost: ours held against that loop of the same round. Durable: from the item's own "
    "time stamp at its end until a notification arrives that a trigger of the bench sends with the commit of its row.",
    (
        Row("lost", "time lost to us", "%", (Goal(at_most=3),)),
        Row("beyond", "beyond 100 ms an item", "%"),
        Row("bare", "the same, a bare loop of sleeps", "%"),
        Row("durable p50", "result durable after its end, p50", "ms"),
        Row("durable max", "result durable after its end, latest", "ms", (Goal(at_most=20),)),
    ),
    {"ours": ours, "bare": sleeps},
    lost,
)
