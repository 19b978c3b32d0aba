"""(e) How fast a batch is submitted."""

from __future__ import annotations

from functools import partial

from tests.bench.figures import Goal, Row, Section, Sizes
from tests.bench.world import PATIENCE, World, python


def submitted(world: World, sizes: Sizes, verb: str) -> dict[str, float]:
    """Items per second of one way, nobody working on them."""
    world.settle()
    with world.spawn(python("tests.bench.clients", verb, str(sizes.submitted)), world.environment()) as client:
        seconds = client.answer(PATIENCE)["seconds"]
    found = world.value("SELECT count(*) FROM streamworker.items")
    assert found == sizes.submitted, f"{found} of {sizes.submitted} items are there"
    return {verb: sizes.submitted / seconds}


SECTION = Section(
    "e",
    "submitting",
    "Items/s of one client, small payloads. Client.submit: from a generator, one batch. SELECT streamworker.submit: arrays of 10,000. The "
    "baseline is COPY into the same tables by asyncpg, one batch.",
    (
        Row("submit", "Client.submit", "items/s", (Goal("copy"),)),
        Row("select", "SELECT streamworker.submit", "items/s", (Goal("copy"),)),
        Row("copy", "COPY of the same rows", "rows/s"),
    ),
    {verb: partial(submitted, verb=verb) for verb in ("submit", "select", "copy")},
)
