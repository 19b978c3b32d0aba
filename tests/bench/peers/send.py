"""Sends jobs to a peer's worker, in the peer's own environment: `python -m tests.bench.peers.send MODULE FILE`, the request in the file."""

from __future__ import annotations

import asyncio
import importlib
import json
import random
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import redis

from tests.bench.peers import work

AT_ONCE = 50


async def fill(send: Any, request: dict[str, Any]) -> None:
    """So many jobs of a run, or those that the request lists."""
    run, job, count = request["run"], request["job"], request["count"]
    more = request.get("arguments") or [[str(uuid4())] if job == "durable" else [] for _ in range(count)]
    for start in range(0, count, AT_ONCE):
        await asyncio.gather(*(send(job, run, count, *arguments) for arguments in more[start : start + AT_ONCE]))


async def pick_up(send: Any, request: dict[str, Any]) -> list[float]:
    """Seconds from sending a job to an idle worker until it starts, one after another."""
    chance, seconds = random.Random(request["seed"]), []
    with redis.Redis.from_url(work.REDIS_URL) as connection:
        for number in range(request["count"]):
            await asyncio.sleep(chance.uniform(0.005, 0.03))
            run, started = f"{request['run']}-{number}", time.monotonic()
            await send("nothing", run, 1)
            found: Any = await asyncio.to_thread(connection.blpop, [f"bench:done:{run}"], 10)
            if found is None:
                raise SystemExit(f"job {number} did not start within 10 s")
            seconds.append(float(found[1]) - started)
    return seconds


async def main(module: str, request: dict[str, Any]) -> None:
    """Do what is asked for and print the answer."""
    async with importlib.import_module(module).sender() as send:
        answer = await (pick_up if request["what"] == "pick up" else fill)(send, request)
    print(json.dumps(answer))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text("utf-8"))))
