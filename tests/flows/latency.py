"""How long it takes until somebody goes on: after SIGKILL, SIGTERM and SIGSTOP, after a cancel, after FLUSHALL.

Usage: python -m tests.flows.latency [--rounds N]. Two workers, one of them idle; default settings, but a lease of 2 s where it is outlived.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import asyncpg

from streamworker.store.migrate import migrate
from tests.flows.processors import hold, sleep
from tests.flows.scene import STREAM, Scene
from tests.flows.workers import WorkerProcess
from tests.servers import PostgresServer, RedisServer, run_async, wait_for

STOPPED_LEASE = 2.0


@contextmanager
def scene_on_own_servers() -> Iterator[Scene]:
    """A scene outside of any test."""
    folder = Path(tempfile.mkdtemp(prefix="swl-"))
    redis, postgres = RedisServer("valkey", folder / "redis"), PostgresServer(folder / "postgres")

    async def prepare() -> None:
        connection = await asyncpg.connect(postgres.url)
        await migrate(connection)
        await connection.close()

    try:
        redis.start()
        postgres.start()
        run_async(prepare())
        with Scene(redis.url, postgres.url, folder) as scene:
            yield scene
    finally:
        redis.close()
        postgres.close()
        shutil.rmtree(folder)


def owner_and_idle(scene: Scene, workers: list[WorkerProcess], batch_id: UUID) -> tuple[WorkerProcess, WorkerProcess]:
    """Which of the two runs the batch."""
    pid = scene.wait_start(batch_id, 1).pid
    first, second = workers
    return (first, second) if first.pid == pid else (second, first)


def until_next(scene: Scene, batch_id: UUID, pid: int, since: float) -> float:
    """Seconds from `since` until the worker `pid` starts an item of the batch."""
    lines = wait_for(lambda: [line for line in scene.log(batch_id) if line.pid == pid and line.edge == "start"], 40)
    return lines[0].at - since


def after_kill(scene: Scene) -> float:
    """SIGKILL of the owner, until the other one starts an item."""
    workers = [scene.start_worker(), scene.start_worker()]
    batch_id = scene.job([sleep(150) for _ in range(40)])
    owner, idle = owner_and_idle(scene, workers, batch_id)
    seconds = until_next(scene, batch_id, idle.pid, owner.kill())
    end(scene, batch_id, idle)
    return seconds


def after_term(scene: Scene) -> float:
    """SIGTERM of the owner: from the end of the item in flight until the other one starts the next."""
    workers = [scene.start_worker(), scene.start_worker()]
    batch_id = scene.job([sleep(150) for _ in range(40)])
    owner, idle = owner_and_idle(scene, workers, batch_id)
    owner.terminate()
    wait_for(lambda: [line for line in scene.log(batch_id) if line.pid == idle.pid], 40)
    last_end = max(line.at for line in scene.log(batch_id) if line.pid == owner.pid and line.edge == "end")
    seconds = until_next(scene, batch_id, idle.pid, last_end)
    end(scene, batch_id, idle)
    return seconds


def after_stop(scene: Scene) -> float:
    """SIGSTOP of the owner, beyond its lease; what is above the lease itself."""
    workers = [scene.start_worker(lease_ttl=f"{STOPPED_LEASE:g}s"), scene.start_worker(lease_ttl=f"{STOPPED_LEASE:g}s")]
    batch_id = scene.job([sleep(150) for _ in range(60)])
    owner, idle = owner_and_idle(scene, workers, batch_id)
    stopped = time.monotonic()
    owner.stop()
    seconds = until_next(scene, batch_id, idle.pid, stopped)
    owner.resume()
    end(scene, batch_id, idle, owner)
    return seconds - STOPPED_LEASE


def after_cancel(scene: Scene) -> float:
    """Cancel of a batch whose item would run for ever, until the next batch's item starts on the same worker."""
    worker = scene.start_worker()
    batch_id = scene.job([sleep(1), hold("never")])
    scene.wait_start(batch_id, 1)
    following = scene.job(["next"])
    since = time.monotonic()
    scene.database.value("SELECT streamworker.cancel($1)", batch_id)
    seconds = until_next(scene, following, worker.pid, since)
    end(scene, following, worker)
    return seconds


def after_flush(scene: Scene) -> float:
    """FLUSHALL with 200 batches waiting and the only worker busy, until all of them are on the stream again."""
    worker = scene.start_worker()
    busy = scene.job([hold("open")])
    scene.wait_start(busy, 0)
    for _ in range(200):
        scene.submit(["x"])
    wait_for(lambda: scene.redis.xlen(STREAM) >= 201, 20)
    scene.redis.flushall()
    since = time.monotonic()
    wait_for(lambda: scene.redis.xlen(STREAM) >= 200, 20)
    seconds = time.monotonic() - since
    worker.kill()
    scene.database.rows("TRUNCATE streamworker.batches CASCADE")
    scene.redis.flushall()
    return seconds


def end(scene: Scene, batch_id: UUID, *workers: WorkerProcess) -> None:
    """Let the batch go, and the workers."""
    scene.database.value("SELECT streamworker.cancel($1)", batch_id)
    for worker in workers:
        if worker.lives:
            worker.kill()
    scene.database.rows("TRUNCATE streamworker.batches CASCADE")
    scene.redis.flushall()


MEASURES: tuple[tuple[str, float, Callable[[Scene], float]], ...] = (
    ("SIGKILL: take-over", 2.0, after_kill),
    ("SIGTERM: hand-over", 1.0, after_term),
    ("SIGSTOP: beyond the lease", 1.0, after_stop),
    ("cancel: next batch begins", 1.0, after_cancel),
    ("FLUSHALL: 200 batches back", 2.0, after_flush),
)


def main() -> int:
    """Measure each so many times; exit code 1 if one goal is missed in any round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    met = True
    with scene_on_own_servers() as scene:
        for name, goal, measure in MEASURES:
            seconds = sorted(measure(scene) for _ in range(rounds))
            within = sum(value <= goal for value in seconds)
            met = met and within == rounds
            figures = f"p50 {statistics.median(seconds):.2f}  max {seconds[-1]:.2f}  goal {goal:.1f} s"
            print(f"{name:28} {figures}  {within} of {rounds}", flush=True)
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
