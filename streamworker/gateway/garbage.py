"""Full garbage collections at a time of our choosing: one stops all that is told for as long as there are objects to look at.

With a thousand clients that is a tenth of a second or two. What lasts here is freed by its last reference; only a connection
that ends leaves cycles behind. So nothing is looked for until some have ended.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_EVERY = 5.0
# Seconds after the last collection, and how many connections must have ended since.
OFTEN, MANY = 10.0, 1_000
SOMETIMES, ANY = 60.0, 1
SELDOM = 600.0  # whatever else may have left some
NEVER = 1_000_000_000


@contextmanager
def collected_seldom(ended: Callable[[], int]) -> Iterator[None]:
    """Until this is left the process has no full collections but ours. `ended()` counts the connections that have ended so far."""
    loop, before = asyncio.get_running_loop(), gc.get_threshold()
    at, seen = time.monotonic(), ended()
    timer: asyncio.TimerHandle | None = None

    def look() -> None:
        nonlocal timer, at, seen
        timer = loop.call_later(LOOK_EVERY, look)
        quiet, new = time.monotonic() - at, ended() - seen
        if (quiet >= OFTEN and new >= MANY) or (quiet >= SOMETIMES and new >= ANY) or quiet >= SELDOM:
            gc.collect()
            at, seen = time.monotonic(), ended()

    gc.collect()
    gc.freeze()  # what was imported stays, and need not be looked at
    gc.set_threshold(*before[:2], NEVER)
    timer = loop.call_later(LOOK_EVERY, look)
    try:
        yield
    finally:
        timer.cancel()
        gc.set_threshold(*before)
        gc.unfreeze()
