"""Processors for the runs. Each writes the processor log: one line for its start and one for its end, each by one O_APPEND write.

The payload says what to do: `{"do": "sleep", "ms": 20}` (the default), `fail` (its first `times` attempts), `poison` (ends the worker),
`block` (holds the event loop), `burn` (holds the interpreter), `effect` (writes a row in the
transaction that records the item; on its first `times` attempts it fails after that). With `needs` the item needs a service, which is away
while there is a file `away` beside the log.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg

from streamworker import Context, Item, Result, Unavailable

LOG = "CHAOS_LOG"  # the file of the processor log
AWAY = "away"
ROUND = 0.02  # seconds between two looks at the clock while something is held


def _write(edge: str, item: Item, outcome: str = "") -> None:
    line = {
        "at": time.monotonic_ns(),
        "edge": edge,
        "worker": os.environ.get("STREAMWORKER_CONSUMER", ""),
        "pid": os.getpid(),
        "batch": str(item.batch_id),
        "position": item.position,
        "attempt": item.attempt,
        "outcome": outcome,
    }
    file = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")
    finally:
        os.close(file)


@contextmanager
def logged(item: Item) -> Iterator[None]:
    """Write the start, and the end with what it ended as."""
    _write("start", item)
    outcome = "ok"
    try:
        yield
    except BaseException as error:
        outcome = type(error).__name__
        raise
    finally:
        _write("end", item, outcome)


def _hold(item: Item) -> Any:
    """What needs no event loop; returns the result."""
    payload = item.payload if isinstance(item.payload, dict) else {}
    seconds = payload.get("ms", 5) / 1000
    if payload.get("needs") and Path(os.environ[LOG]).with_name(AWAY).exists():
        raise Unavailable("the service is away, as the nemesis wants it")
    match payload.get("do", "sleep"):
        case "poison":
            os._exit(1)
        case "fail" if item.attempt <= payload.get("times", 1):
            raise ValueError(f"item {item.position} fails on attempt {item.attempt}, as it was told")
        case "block":
            time.sleep(seconds)
        case "burn":
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                sum(range(10_000))
        case "effect":
            return Result({"position": item.position}, write=_effect(item))
    return {"position": item.position, "attempt": item.attempt}


def _effect(item: Item) -> Any:
    bad = item.attempt <= item.payload.get("times", 0)
    return partial(write_effect, batch=str(item.batch_id), position=item.position, bad=bad)  # it has a name: isolation `process` wants one


async def write_effect(connection: asyncpg.Connection[asyncpg.Record], batch: str, position: int, bad: bool) -> None:
    """Add the row of an item, and fail after it if it is to be a bad one."""
    await connection.execute('INSERT INTO public.effects (batch, "position") VALUES ($1, $2)', batch, position)
    if bad:
        raise ValueError("the write fails, as it was told; what it has written so far must not stay")


async def work(item: Item, context: Context) -> Any:
    """The async one: `block` and `burn` hold the worker's event loop."""
    with logged(item):
        payload = item.payload if isinstance(item.payload, dict) else {}
        if payload.get("do", "sleep") in ("sleep", "fail", "effect", "poison"):
            await context.progress(50, stage="half way")
            await asyncio.sleep(payload.get("ms", 5) / 1000)
        return _hold(item)


def work_in_thread(item: Item, context: Context) -> Any:
    """The plain one: runs in a thread of the worker."""
    with logged(item):
        payload = item.payload if isinstance(item.payload, dict) else {}
        until = time.monotonic() + payload.get("ms", 5) / 1000
        while payload.get("do") not in ("block", "burn") and time.monotonic() < until and not context.cancelled:
            time.sleep(min(ROUND, max(0.0, until - time.monotonic())))
        return _hold(item)
