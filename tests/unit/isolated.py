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
        case "note":
            context.checkpoint(what)  # and waits for nothing
            return what
        case "helper":
            helper = asyncio.create_task(_help(context, what))
            await asyncio.sleep(0)
            helper.cancel()
            return what
        case "outlive":
            asyncio.get_running_loop().call_later(0.02, context.checkpoint, what)
            asyncio.get_running_loop().call_later(0.02, context.progress, what)
            return what
        case "doze":
            await asyncio.sleep(what)
            return None
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


async def _help(context: Context, what: Any) -> None:
    try:
        await asyncio.sleep(FOREVER)
    finally:
        context.log.info("helper of %s", what)
        await context.checkpoint(what)


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
