"""(c) How long it takes from the XADD of a batch until an idle worker starts its item."""

from __future__ import annotations

import json
import random
import time
from uuid import uuid4

from tests.bench import peer_runs
from tests.bench.figures import Goal, Row, Section, Sizes, quantile
from tests.bench.world import STREAM, World

SEED = 7
IDLE = (0.005, 0.03)  # seconds between two batches: no step with anything that happens regularly


def ours(world: World, sizes: Sizes) -> dict[str, float]:
    """The processor tells when it was called; the mark that the item may have started is durable by then."""
    world.settle()
    sent: dict[str, float] = {}
    chance = random.Random(SEED)
    with world.workers("stamp") as workers:
        for _ in range(sizes.pickups):
            time.sleep(chance.uniform(*IDLE))
            batch_id = str(uuid4())
            sent[batch_id] = time.monotonic()
            world.redis.xadd(STREAM, {"batch_id": batch_id, "items": '["a"]'})
            world.wait_drained(workers)
    started = world.rows("SELECT batch_id::text, result::text FROM streamworker.items WHERE status = 'completed'")
    assert len(started) == sizes.pickups, f"{len(started)} of {sizes.pickups} items are completed"
    return _quantiles("ours", [json.loads(row["result"]) - sent[row["batch_id"]] for row in started])


def taskiq(world: World, sizes: Sizes) -> dict[str, float]:
    """A job that does nothing but tell when it was called."""
    return _quantiles("taskiq", peer_runs.pick_up(world, "taskiq", sizes.pickups, SEED))


def _quantiles(key: str, seconds: list[float]) -> dict[str, float]:
    return {f"{key} p50": 1000 * quantile(seconds, 0.5), f"{key} p99": 1000 * quantile(seconds, 0.99)}


SECTION = Section(
    "c",
    "pick-up by an idle worker",
    "From just before the XADD until the processor is called, by CLOCK_MONOTONIC in both processes; one batch at a time, at random "
    "moments. The baseline is a no-op job of taskiq, from just before its sending until it is called.",
    (
        Row("ours p50", "streamworker, p50", "ms", (Goal(at_most=3), Goal("taskiq p50", at_most=1.0, wish=True))),
        Row("ours p99", "streamworker, p99", "ms", (Goal(at_most=15), Goal("taskiq p99", at_most=1.0, wish=True))),
        Row("taskiq p50", "taskiq, p50", "ms"),
        Row("taskiq p99", "taskiq, p99", "ms"),
    ),
    {"ours": ours, "taskiq": taskiq},
)
