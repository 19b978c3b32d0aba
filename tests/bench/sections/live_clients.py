"""(i) The gateway: how soon a client hears, how many there may be, and what the slow ones cost the others."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.figures import Goal, Row, Section, Sizes, quantile
from tests.bench.spawned import Spawned
from tests.bench.world import World, python
from tests.servers import free_port

RATE = 10  # changes a second of each batch
SLOW, OTHERS = 50, 50  # clients that read nothing, and the batches that each of them asks for
START = 20.0  # seconds for a gateway to start


@contextmanager
def gateway(world: World) -> Iterator[tuple[int, Spawned]]:
    """One gateway process, serving; its port."""
    port = free_port()
    line = python("streamworker", "gateway", "--address", f"127.0.0.1:{port}", "--log-level", "warning")
    with world.spawn(line, world.environment()) as process:
        world.wait_until(lambda: "serves" in process.written(), [process], 0.01)
        yield port, process


def watch(world: World, ids: Sequence[str], clients: int, seconds: float, others: Sequence[str] = (), slow: int = 0) -> dict[str, Any]:
    """So many clients, spread over the batches, each of which changes ten times a second; the slow ones watch all the others."""
    with (
        gateway(world) as (port, process),
        world.file("\n".join(ids)) as file,
        world.file("\n".join(others)) as other_file,
        world.file("\n".join([*ids, *others])) as all_file,
    ):
        wanted = {"port": port, "ids": str(file), "clients": clients, "seconds": seconds + 1, "slow": slow, "slow_ids": str(other_file)}
        with world.spawn(python("tests.bench.live_clients", json.dumps(wanted)), world.environment()) as watching:
            world.wait_until(lambda: "ready" in watching.written(), [process, watching], 0.01)
            load = {"url": world.redis_url, "ids": str(all_file), "rate": RATE, "seconds": seconds}
            with world.spawn(python("tests.bench.live_publisher", json.dumps(load)), world.environment()) as publishing:
                before, begun = _processor_seconds(process.pid), time.monotonic()
                found: dict[str, Any] = watching.answer(60 + 2 * seconds)
                sent = publishing.answer(60)["sent"]
                share = (_processor_seconds(process.pid) - before) / (time.monotonic() - begun)
        expected = sent / (len(ids) + len(others)) * clients
        if found["lost"] or found["events"] < 0.99 * expected:
            raise AssertionError(f"{found['events']} of {expected:.0f} events arrived, {found['lost']} clients were lost")
        return {**found, "share": 100 * share, "memory": process.memory() / 1e6}


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def own_batches(world: World, sizes: Sizes) -> dict[str, float]:
    """Each client watches a batch of its own."""
    world.settle()
    ids = [str(id) for id in world.insert_batches(1, sizes.live)]
    found = watch(world, ids, sizes.live, sizes.live_seconds)
    return {"own p50": found["p50"], "own p99": found["p99"], "own share": found["share"]}


def one_batch(world: World, sizes: Sizes) -> dict[str, float]:
    """All watch the same batch while others change too; then again beside clients that ask for all those and read nothing."""
    world.settle()
    first, second = ([str(id)] for id in world.insert_batches(1, 2))
    others, more = ([str(id) for id in world.insert_batches(1, OTHERS)] for _ in range(2))
    alone = watch(world, first, sizes.live, sizes.live_seconds, others)
    beside = watch(world, second, sizes.live, sizes.live_seconds, more, SLOW)
    return {
        "same p50": alone["p50"],
        "same p99": alone["p99"],
        "slow p99": beside["p99"],
        "slow memory": beside["memory"] - alone["memory"],
    }


def idle(world: World, sizes: Sizes) -> dict[str, float]:
    """Clients of a thousand batches that do not change."""
    world.settle()
    ids = [str(id) for id in world.insert_batches(1, min(1000, sizes.idle))]
    with gateway(world) as (port, process), world.file("\n".join(ids)) as file:
        wanted = {"port": port, "ids": str(file), "clients": sizes.idle, "seconds": 3}
        with world.spawn(python("tests.bench.live_clients", json.dumps(wanted)), world.environment()) as watching:
            found = watching.answer(300)
        if found["lost"]:
            raise AssertionError(f"{found['lost']} clients were lost")
        return {"idle memory": process.memory() / 1e6, "idle connect": sizes.idle / found["connect"]}


def commit(world: World, sizes: Sizes) -> dict[str, float]:
    """One client, one worker, items that pause: from the row's time stamp, which is just before its commit, to the client."""
    world.settle()
    ids = world.insert_batches(sizes.slow)
    with (
        gateway(world) as (port, process),
        world.workers("pause", warm=0) as workers,
        world.file(str(ids[0])) as file,
    ):
        wanted = {"port": port, "ids": str(file), "clients": 1, "seconds": 2 + sizes.slow * 0.11, "commit": True}
        with world.spawn(python("tests.bench.live_clients", json.dumps(wanted)), world.environment()) as watching:
            world.wait_until(lambda: "ready" in watching.written(), [process, watching, *workers], 0.01)
            world.announce(ids)
            late: list[float] = watching.answer(120)["commits"]
    return {"commit p50": 1000 * quantile(late, 0.5), "commit p99": 1000 * quantile(late, 0.99)}


SECTION = Section(
    "i",
    "live clients of one gateway process",
    "WebSocket clients that take everything, in a process of their own beside the publisher of the events; from just before the XADD "
    "until the frame has arrived, by CLOCK_MONOTONIC. Each batch changes 10 times a second. Those that read nothing ask "
    "for 50 more batches each: what waits for them overflows, and after 10 s they are cut off. Idle: the most memory of the gateway. "
    "Commit: from the time stamp that the recording statement put into the row (before its commit) until the event's frame has arrived.",
    (
        Row("own p50", "1,000 clients, a batch each, p50", "ms"),
        Row("own p99", "1,000 clients, a batch each, p99", "ms", (Goal(at_most=250),)),
        Row("own share", "  the gateway's share of a core", "%"),
        Row("same p50", "1,000 clients, one batch, p50", "ms"),
        Row("same p99", "1,000 clients, one batch, p99", "ms", (Goal(at_most=250),)),
        Row("slow p99", "  beside 50 that read nothing, p99", "ms", (Goal("same p99", at_most=1.2),)),
        Row("slow memory", "  memory that these 50 cost", "MB"),
        Row("idle memory", "10,000 idle clients", "MB", (Goal(at_most=500),)),
        Row("idle connect", "  clients that come, each second", "1/s"),
        Row("commit p50", "commit to client, p50", "ms", (Goal(at_most=20),)),
        Row("commit p99", "commit to client, p99", "ms"),
    ),
    {"own": own_batches, "same": one_batch, "idle": idle, "commit": commit},
)
