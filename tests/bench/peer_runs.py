"""A peer's worker under measurement. It is held still while its jobs are put into Redis, so that sending them costs it nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from tests.bench.environments import python_of
from tests.bench.spawned import Spawned
from tests.bench.world import Refused, World

CHUNK = 500
WARM = 50  # jobs before the clock starts
READY = 30.0  # seconds until a worker must have done its first job
PATIENCE = 90.0

TABLES = (
    "CREATE TABLE IF NOT EXISTS peer_batches (id uuid PRIMARY KEY, total int NOT NULL, processed int NOT NULL)",
    "CREATE TABLE IF NOT EXISTS peer_items (batch_id uuid, position int, status text NOT NULL, result jsonb, "
    "PRIMARY KEY (batch_id, position))",
    "TRUNCATE peer_batches, peer_items",
)


@dataclass(frozen=True, slots=True)
class Peer:
    """How the worker of a peer is started: arguments of the Python of its environment."""

    name: str
    line: tuple[str, ...]
    environment: str = ""  # of .venv-bench; as `name` where empty
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """Where its jobs are."""
        return f"tests.bench.peers.on_{self.environment or self.name}"

    @property
    def python(self) -> str:
        """The Python it runs in; raises Refused."""
        return python_of(self.environment or self.name)


_HERE = "tests.bench.peers.on_"
_TASKIQ = ("-m", "taskiq", "worker", _HERE + "taskiq:broker", "--workers", "1", "--max-async-tasks", "100", "--log-level", "WARNING")
_RQ = ("-c", "from rq.cli import main; main()", "worker", "--worker-class", "rq.SimpleWorker", "--quiet")
_DRAMATIQ = ("-m", "dramatiq", _HERE + "dramatiq", "--skip-logging")
_CELERY = ("-m", "celery", "-A", _HERE + "celery:app", "worker", "--loglevel", "WARNING", "--without-gossip", "--without-mingle")
PEERS = (
    Peer("taskiq", _TASKIQ),
    Peer("taskiq streams", (*_TASKIQ, "--max-prefetch", "100"), "taskiq", {"BENCH_VARIANT": "stream"}),
    Peer("faststream", ("-m", _HERE + "faststream")),
    Peer("pydocket", ("-m", _HERE + "pydocket")),
    Peer("saq", ("-m", "saq", _HERE + "saq.settings", "--quiet")),
    Peer("streaq", ("-m", "streaq", "run", _HERE + "streaq:worker")),
    Peer("arq", ("-m", "arq", _HERE + "arq.WorkerSettings")),
    # Without the prefetch its threads wait for messages most of the time.
    Peer("dramatiq", (*_DRAMATIQ, "--processes", "1", "--threads", "8"), variables={"dramatiq_queue_prefetch": "100"}),
    Peer("celery", (*_CELERY, "--pool", "solo")),
    Peer("rq", _RQ),
)
_BY_NAME = {peer.name: peer for peer in PEERS}


def run_jobs(world: World, peer: Peer, job: str, count: int) -> float:
    """Seconds for so many jobs, all waiting in Redis, from the moment that the idle worker goes on."""
    with _worker(world, peer, job) as worker:
        seconds = _drain(world, peer, worker, {"job": job, "count": count})
    if job == "durable" and (found := world.value("SELECT sum(processed) FROM peer_batches")) < count:
        raise AssertionError(f"{peer.name} has recorded {found} of {count} items")
    return seconds


def run_chunks(world: World, items: int) -> float:
    """Seconds for a batch of so many items in jobs of 500, which dramatiq runs."""
    peer = _BY_NAME["dramatiq"]
    with _worker(world, peer, "durable") as worker:
        batch_id = world.insert_analyzed(items)
        starts = range(0, items, CHUNK)
        arguments = [[str(batch_id), start, [f"row {n}" for n in range(start, min(start + CHUNK, items))]] for start in starts]
        seconds = _drain(world, peer, worker, {"job": "chunk", "count": len(arguments), "arguments": arguments})
    succeeded = world.value("SELECT succeeded FROM streamworker.batches")
    done = world.value("SELECT count(*) FROM streamworker.items WHERE status = 'completed'")
    if (succeeded, done) != (items, items):
        raise AssertionError(f"{done} of {items} items are completed, {succeeded} are counted")
    return seconds


def pick_up(world: World, name: str, count: int, seed: int) -> list[float]:
    """Seconds from sending a job to an idle worker until it starts."""
    peer = _BY_NAME[name]
    with _worker(world, peer, "nothing"):
        seconds: list[float] = _send(world, peer, {"what": "pick up", "run": uuid4().hex, "count": count, "seed": seed})
        return seconds


def _drain(world: World, peer: Peer, worker: Spawned, request: dict[str, Any]) -> float:
    run = uuid4().hex
    worker.stop()
    _send(world, peer, {"what": "fill", "run": run, **request})
    started = time.monotonic()
    worker.resume()
    return _wait_done(world, run, worker, PATIENCE) - started


@contextmanager
def _worker(world: World, peer: Peer, job: str) -> Iterator[Spawned]:
    """The peer's worker, idle, and warm: it has done a few such jobs."""
    if not world.peers:
        raise Refused("left out by --no-peers")
    world.settle()
    for statement in TABLES:
        world.rows(statement)
    with world.spawn([peer.python, *peer.line], world.environment(**peer.variables)) as worker:
        _warm_up(world, peer, job, worker)
        yield worker


def _warm_up(world: World, peer: Peer, job: str, worker: Spawned) -> None:
    deadline = time.monotonic() + READY
    while True:  # what was sent before a worker has made its queue may be lost
        run = uuid4().hex
        _send(world, peer, {"what": "fill", "run": run, "job": job, "count": WARM})
        try:
            _wait_done(world, run, worker, 3)
            return
        except TimeoutError:
            if time.monotonic() > deadline:
                raise Refused(f"its worker did no job within {READY:g} s: {worker.tail()}") from None


def _send(world: World, peer: Peer, request: dict[str, Any]) -> Any:
    with world.file(json.dumps(request)) as path:
        line = [peer.python, "-m", "tests.bench.peers.send", peer.module, str(path)]
        with world.spawn(line, world.environment(**peer.variables)) as sender:
            return sender.answer(PATIENCE)


def _wait_done(world: World, run: str, worker: Spawned, seconds: float) -> float:
    """When the last job of the run was done (monotonic); TimeoutError if it is not by then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found: Any = world.redis.blpop([f"bench:done:{run}"], timeout=1)
        if found is not None:
            return float(found[1])
        worker.check()
    raise TimeoutError(f"jobs were not done within {seconds:g} s: {worker.tail()}")
