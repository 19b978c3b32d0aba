"""Processors for test_isolated_processor.py: the payload's one key says what to do."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from typing import Any

from streamworker import Context, Item, Permanent, RetryAfter

FOREVER = 3600


async def work(item: Item, context: Context) -> Any:
    """Do it."""
    ((do, what),) = item.payload.items()
    match do:
        case "echo":
            return what
        case "pid":
            return os.getpid()
        case "metadata":
            return dict(context.batch.metadata)
        case "exit":
            os._exit(what)
        case "kill":
            os.kill(os.getpid(), what)
            time.sleep(FOREVER)
        case "raise":
            raise {"Permanent": Permanent("no"), "RetryAfter": RetryAfter(float("inf"), "later")}[what]
        case "checkpoint":
            await context.checkpoint(what)
            return [what]
    await context.progress(1)
    match do:
        case "wait":
            await asyncio.sleep(FOREVER)
        case "block":
            time.sleep(FOREVER)
        case "deaf":
            ctypes.PyDLL(None).sleep(FOREVER)


class Refusing:
    """Cannot be opened."""

    async def __aenter__(self) -> None:
        raise ValueError("not today")

    async def process(self, item: Item, context: Context) -> None:
        """Never called."""


class Dying(Refusing):
    """Dies as it is opened."""

    async def __aenter__(self) -> None:
        os._exit(9)


class Stuck(Refusing):
    """Cannot be left."""

    async def __aenter__(self) -> None:
        """Nothing."""

    async def __aexit__(self, *_: object) -> None:
        raise ValueError("cannot leave")
