"""What the measured workers do with an item. Times are CLOCK_MONOTONIC, one clock for all processes of a machine."""

from __future__ import annotations

import asyncio
import time

from streamworker import Context, Item

PAUSE = 0.1
SHORT_PAUSE = 0.005


async def nothing(item: Item, context: Context) -> None:
    """No work at all: what remains is ours."""


async def stamp(item: Item, context: Context) -> float:
    """Tell when the item started."""
    return time.monotonic()


async def pause(item: Item, context: Context) -> float:
    """A slow item; tells when it ended."""
    await asyncio.sleep(PAUSE)
    return time.monotonic()


async def short_pause(item: Item, context: Context) -> None:
    """An item that waits for somebody else."""
    await asyncio.sleep(SHORT_PAUSE)
