"""(f) The same batch with both servers further away."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from urllib.parse import parse_qs, urlsplit

import redis

from tests.bench.figures import Goal, Row, Section, Sizes
from tests.bench.world import World, python

PINGS = 50


def batch(world: World, sizes: Sizes, key: str, delayed: bool | None) -> dict[str, float]:
    """Items per second of one batch; `delayed` None: without the proxy."""
    world.settle()
    with _proxied(world, None if delayed is None else sizes.delay * delayed) as urls, world.workers("nothing", 1, 400, **urls) as workers:
        ids = world.insert_batches(sizes.delayed)
        started = time.monotonic()
        world.announce(ids)
        world.wait_drained(workers)
        seconds = time.monotonic() - started
        ping = 1000 * _ping(urls.get("REDIS_URL", world.redis_url))
    world.check_completed(sizes.delayed)
    return {key: sizes.delayed / seconds, f"{key} ping": ping}


@contextmanager
def _proxied(world: World, delay: float | None) -> Iterator[dict[str, str]]:
    if delay is None:
        yield {}
        return
    socket = f"{parse_qs(urlsplit(world.database_url).query)['host'][0]}/.s.PGSQL.5432"
    line = python("tests.bench.delay", str(delay), str(urlsplit(world.redis_url).port), socket)
    with world.spawn(line, world.environment()) as proxy:
        world.wait_until(lambda: "]" in proxy.written(), [proxy], 0.01)
        redis_port, postgres_port = json.loads(proxy.written())
        yield {
            "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
            "DATABASE_URL": f"postgresql://postgres@127.0.0.1:{postgres_port}/streamworker",
        }


def _ping(url: str) -> float:
    with redis.Redis.from_url(url) as connection:
        connection.ping()
        seconds = []
        for _ in range(PINGS):
            started = time.monotonic()
            connection.ping()
            seconds.append(time.monotonic() - started)
    return statistics.median(seconds)


SECTION = Section(
    "f",
    "network delay to both servers",
    "One batch of no-op items, one worker, both servers behind a TCP proxy that holds every piece back for 2 ms each way, so that a "
    "round trip takes 4 ms more. The proxy without delay shows what the proxy itself takes; the pings to Redis show that it delays "
    "as it should.",
    (
        Row("direct", "direct", "items/s"),
        Row("proxy", "through the proxy, no delay", "items/s", (Goal("direct"),)),
        Row("delayed", "through the proxy, +2 ms each way", "items/s", (Goal("direct", at_least=0.5), Goal("proxy"))),
        Row("direct ping", "round trip to Redis, direct", "ms"),
        Row("proxy ping", "round trip to Redis, no delay", "ms"),
        Row("delayed ping", "round trip to Redis, +2 ms each way", "ms"),
    ),
    {
        "direct": partial(batch, key="direct", delayed=None),
        "proxy": partial(batch, key="proxy", delayed=False),
        "delayed": partial(batch, key="delayed", delayed=True),
    },
)
