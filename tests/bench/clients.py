"""Programs that use the client, to be measured from outside: `python -m tests.bench.clients submit|select|copy|watch ...`; prints JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import asyncpg
import uvloop

from streamworker import Client
from tests.bench.spawned import peak_memory

SELECTED = 10_000  # items of one SELECT streamworker.submit: a JSON array is held in memory as a whole


def generate(count: int) -> Iterator[dict[str, Any]]:
    """Items, one by one."""
    return ({"key": f"row {n}", "payload": {"row": n}} for n in range(count))


async def submit(count: str) -> dict[str, Any]:
    """Client.submit out of a generator."""
    async with Client.connect() as client:
        started = time.monotonic()
        batch_id = await client.submit(generate(int(count)))
        return {"batch_id": str(batch_id), "seconds": time.monotonic() - started}


async def select(count: str) -> dict[str, Any]:
    """SELECT streamworker.submit, some thousand items a call; making the arrays is not counted."""
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    seconds = 0.0
    for first in range(0, int(count), SELECTED):
        items = json.dumps(list(generate(min(SELECTED, int(count) - first))))
        started = time.monotonic()
        await connection.execute("SELECT streamworker.submit($1::text::jsonb)", items)
        seconds += time.monotonic() - started
    await connection.close()
    return {"seconds": seconds}


async def copy(count: str) -> dict[str, Any]:
    """The same rows by COPY into the same tables, and nothing else."""
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    batch_id = uuid4()
    rows = ((batch_id, n, item["key"], json.dumps(item["payload"])) for n, item in enumerate(generate(int(count))))
    started = time.monotonic()
    async with connection.transaction():
        await connection.execute("INSERT INTO streamworker.batches (id, total) VALUES ($1, $2)", batch_id, int(count))
        columns = ("batch_id", "position", "key", "payload")
        await connection.copy_records_to_table("items", schema_name="streamworker", records=rows, columns=columns)
    seconds = time.monotonic() - started
    await connection.close()
    return {"seconds": seconds}


async def watch(batch_id: str) -> dict[str, Any]:
    """Client.watch to the end."""
    async with Client.connect() as client:
        events = [0, 0]
        async for event in client.watch(batch_id):
            events = [events[0] + 1, event.processed]
        return {"events": events[0], "processed": events[1]}


async def main(verb: str, argument: str) -> None:
    """Do it, and tell what it took."""
    done = await {"submit": submit, "select": select, "copy": copy, "watch": watch}[verb](argument)
    print(json.dumps({**done, "memory": peak_memory()}))


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
