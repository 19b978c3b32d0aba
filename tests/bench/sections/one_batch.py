"""(a) Durable no-op items in one batch: we, the loop that anybody writes, jobs of 500 items by hand, and the most that Postgres can do."""

from __future__ import annotations

import time

from tests.bench import by_hand, peer_runs
from tests.bench.figures import Goal, Row, Section, Sizes
from tests.bench.world import World


def ours(world: World, sizes: Sizes) -> dict[str, float]:
    """From the XADD of a batch that is in Postgres until its entry is acknowledged."""
    world.settle()
    with world.workers("nothing") as workers:
        ids = world.insert_batches(sizes.items)
        started = time.monotonic()
        world.announce(ids)
        world.wait_drained(workers)
        seconds = time.monotonic() - started
    world.check_completed(sizes.items)
    return {"ours": sizes.items / seconds}


def loop(world: World, sizes: Sizes) -> dict[str, float]:
    """The straightforward way."""
    world.settle()
    seconds = by_hand.straightforward_loop(world, sizes.loop)
    world.check_completed(sizes.loop)
    return {"loop": sizes.loop / seconds}


def limit(world: World, sizes: Sizes) -> dict[str, float]:
    """Nothing but writing."""
    world.settle()
    seconds = by_hand.bulk_limit(world, sizes.items)
    world.check_completed(sizes.items)
    return {"limit": sizes.items / seconds}


def chunks(world: World, sizes: Sizes) -> dict[str, float]:
    """Jobs of 500 items; all are in Redis when the worker, which has been held still, goes on."""
    world.settle()
    seconds = peer_runs.run_chunks(world, sizes.items)
    return {"chunks": sizes.items / seconds}


SECTION = Section(
    "a",
    "durable no-op items, one batch",
    "Items/s of a batch whose rows are in Postgres. Ours: one worker, default settings, from XADD to XACK. Loop: three UPDATEs, each "
    "committed, and an XADD for each item, asyncpg and uvloop. Chunks: one dramatiq process, a job brings 500 items and ends in one UPDATE "
    "of their rows and one of the counters; no item state, no fence, no progress. Limit: the same UPDATEs, 2,000 rows a transaction.",
    (
        Row(
            "ours",
            "streamworker",
            "items/s",
            (Goal("limit", at_least=0.6), Goal("limit", at_least=1.0, wish=True), Goal("loop", at_least=100), Goal("chunks", at_least=1.0)),
        ),
        Row("loop", "straightforward loop", "items/s", (Goal("limit"),)),
        Row("chunks", "500-item jobs by hand (dramatiq)", "items/s", (Goal("limit"),)),
        Row("limit", "bulk-update limit of this Postgres", "rows/s"),
    ),
    {"ours": ours, "loop": loop, "chunks": chunks, "limit": limit},
)
