"""(b) One-item batches, and one job per item on the peers: without any record, and with a durable row for each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

from tests.bench import peer_runs
from tests.bench.figures import Goal, Measure, Row, Section, Sizes
from tests.bench.peer_runs import PEERS, Peer
from tests.bench.world import World

AT_ONCE = 16
FASTEST, BEST_DURABLE = "fastest no-op", "best durable"


def ours(world: World, sizes: Sizes, key: str, batch_concurrency: int) -> dict[str, float]:
    """From the moment that the worker goes on, with all batches on the stream, until it has acknowledged the last."""
    world.settle()
    with world.workers("nothing", STREAMWORKER_BATCH_CONCURRENCY=str(batch_concurrency)) as (worker,):
        worker.stop()
        world.send(sizes.small)
        started = time.monotonic()
        worker.resume()
        world.wait_drained([worker])
        seconds = time.monotonic() - started
    world.check_completed(sizes.small)
    return {key: sizes.small / seconds}


def theirs(world: World, sizes: Sizes, peer: Peer, job: str) -> dict[str, float]:
    """The same for a peer."""
    count = sizes.jobs if job == "nothing" else sizes.durable_jobs
    return {f"{peer.name} {job}": count / peer_runs.run_jobs(world, peer, job, count)}


def best(figures: Mapping[str, float]) -> dict[str, float]:
    """The best peer of a round, of either kind."""
    found = {FASTEST: _best(figures, "nothing"), BEST_DURABLE: _best(figures, "durable")}
    return {key: value for key, value in found.items() if value}


def _best(figures: Mapping[str, float], job: str) -> float:
    return max((figures.get(f"{peer.name} {job}", 0.0) for peer in PEERS), default=0.0)


def _measures() -> dict[str, Measure]:
    measures: dict[str, Measure] = {
        "streamworker": partial(ours, key="ours", batch_concurrency=1),
        f"streamworker, {AT_ONCE} batches at a time": partial(ours, key="ours at once", batch_concurrency=AT_ONCE),
    }
    for peer in PEERS:
        for job in ("nothing", "durable"):
            measures[f"{peer.name} {job}"] = partial(theirs, peer=peer, job=job)
    return measures


_GOALS = (Goal(FASTEST, at_least=1.0), Goal(BEST_DURABLE, at_least=5.0))

SECTION = Section(
    "b",
    "one-item batches, one worker process",
    "Batches or jobs per second of one worker process, all waiting in Redis; it is held still meanwhile, and the clock runs from "
    "the moment it goes on. Ours: each durable, with events, until the last is acknowledged. Peers: no-op jobs that leave nothing "
    "behind; and, like for like, jobs that write the item's row and its batch's counter in one statement and one commit.",
    (
        Row("ours", "streamworker, one-item batches", "batches/s", _GOALS),
        Row("ours at once", f"same, BATCH_CONCURRENCY={AT_ONCE}", "batches/s", tuple(Goal(goal.against) for goal in _GOALS)),
        Row(FASTEST, "fastest peer, no-op jobs", "jobs/s"),
        Row(BEST_DURABLE, "best peer, durable row each", "jobs/s"),
        *(Row(f"{peer.name} nothing", f"{peer.name}, no-op", "jobs/s", (Goal(FASTEST),)) for peer in PEERS),
        *(Row(f"{peer.name} durable", f"{peer.name}, durable row", "jobs/s", (Goal(BEST_DURABLE),)) for peer in PEERS),
    ),
    _measures(),
    best,
)
