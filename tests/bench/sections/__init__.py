"""One file a letter."""

from tests.bench.figures import Section, Sizes
from tests.bench.sections import (
    live_clients,
    more_workers,
    network_delay,
    one_batch,
    pick_up,
    scale,
    slow_items,
    small_batches,
    submit_rate,
)


def sections(sizes: Sizes) -> tuple[Section, ...]:
    """All of them, in order."""
    return (
        one_batch.SECTION,
        small_batches.SECTION,
        pick_up.SECTION,
        scale.section(sizes.scale),
        submit_rate.SECTION,
        network_delay.SECTION,
        more_workers.section(sizes.workers),
        slow_items.SECTION,
        live_clients.SECTION,
    )
