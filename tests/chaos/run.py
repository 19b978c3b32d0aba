"""A chaos run: real workers on servers of its own, faults drawn from a seed, a drain, the checker, and one report line.

scripts/chaos --seed 7 --minutes 10        everything at once
scripts/chaos --seed 1 --kills 300         SIGKILLs at random instants, as fast as the workers come back
scripts/chaos --seed 3 --minutes 3 --page  with four tabs of a browser that look on
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.chaos import audit
from tests.chaos.checker import Report, report
from tests.chaos.live_page import LivePage
from tests.chaos.load import Load
from tests.chaos.loading import load as load_history
from tests.chaos.nemesis import KINDS, Nemesis
from tests.chaos.world import MUTANT, Spawned, Terms, World, wait_until

BATCH = 200  # items of a batch of the kill campaign
UNPROGRESSIVE = 3  # kills in a row without a finished item: the product gives a batch up after five deaths
DRAIN = 120.0  # seconds that the drain may take


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run."""

    seed: int = 1
    minutes: float = 0.0
    kills: int = 0
    workers: int = 0
    items: int = 0
    batches: int = 6
    only: tuple[str, ...] = ()
    page: bool = False
    every: bool = True  # each kind must have struck: a short run has no time for that


class Campaign:
    """One run in one world."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.world = world
        self.plan = plan
        self.chance = random.Random(plan.seed)
        self.load = Load(world, random.Random(plan.seed + 1))
        self.nemesis = Nemesis(world, self.load, self.chance)
        self.page = LivePage(world, random.Random(plan.seed + 2)) if plan.page else None
        self.kinds: list[str] = []
        self.wrong: list[str] = []

    async def run(self) -> None:
        """Everything up to the end of the workers; leaves the files of a history."""
        await self.world.start()
        if not await wait_until(lambda: len(self.world.fleet) == self.world.terms.workers and self._all_ready(), 60):
            raise RuntimeError(f"the workers did not begin to ask for work within 60 s; see {self.world.folder}/worker-0.log")
        async with self._looked_at():
            await (self._kill() if self.plan.kills else self._mix())
        ended = time.monotonic()
        await self._drain()
        if self.page is not None:
            await self.page.finish(self.load.retried)
            self.wrong += self.page.wrong
            print(self.page.line(), flush=True)
        left = await self._left()
        self.wrong += await self.world.stop_workers(self.world.terms.shutdown_timeout + 10)
        left |= await self._left_after()
        await self._save(left, ended)

    # --- phases -------------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _looked_at(self) -> AsyncIterator[None]:
        """With --page, tabs of a browser look on."""
        if self.page is None:
            yield
            return
        await self.page.start()
        looking = asyncio.create_task(self.page.look())
        try:
            yield
        finally:
            await self.page.settle(looking)

    async def _mix(self) -> None:
        until = time.monotonic() + self.plan.minutes * 60
        busy = asyncio.create_task(self.load.keep_busy(self.plan.batches, until))
        try:
            if self.plan.only:
                self.nemesis.kinds = {kind: KINDS[kind] for kind in self.plan.only}
            await asyncio.sleep(1)
            struck = await self.nemesis.rage(until)
            self.kinds = struck if self.plan.every else []
        finally:
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)

    async def _kill(self) -> None:
        """Kill the owner, or sometimes the idle one, mostly when both are up, sometimes while one is coming."""
        self.kinds = ["kill"]
        size = self.plan.items or BATCH
        feeding = asyncio.create_task(self._feed(size))
        ends, streak = 0, 0
        try:
            for _ in range(self.plan.kills):
                if self.chance.random() < 0.8:
                    await wait_until(self._all_ready, 20)
                await asyncio.sleep(self.chance.uniform(0, 0.3))
                await wait_until(lambda: bool(self._owners()), 20)
                streak = streak + 1 if self.world.progress.ends() == ends else 0
                if streak >= UNPROGRESSIVE:
                    await wait_until(lambda ends=ends: self.world.progress.ends() > ends, 20)  # type: ignore[misc]
                ends = self.world.progress.ends()
                if worker := self._victim():
                    self.world.kill(worker)
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    async def _feed(self, size: int) -> None:
        while True:
            if await self.load.open_batches() == 0:
                await self.load.steady(size, 2, 20)
            await asyncio.sleep(0.05)

    def _owners(self) -> list[Spawned]:
        return [worker for worker in self._alive() if worker.label in self.world.progress.running()]

    def _alive(self) -> list[Spawned]:
        return [worker for worker in self.world.fleet.values() if worker.process.returncode is None]

    def _victim(self) -> Spawned | None:
        owners, alive = self._owners(), self._alive()
        return self.chance.choice(owners if owners and self.chance.random() < 0.7 else alive) if alive else None

    def _all_ready(self) -> bool:
        return all(worker.ready and worker.process.returncode is None for worker in self.world.fleet.values())

    # --- the end ------------------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Fair weather, until everything has ended and nothing is left to do."""
        for proxy in (self.world.redis_proxy, self.world.postgres_proxy):
            proxy.traps.clear()
            proxy.heal()
        deadline = time.monotonic() + DRAIN
        await self.load.finish(DRAIN)
        while time.monotonic() < deadline:
            if await self.load.open_batches() == 0 and not any((await self._left()).values()):
                return
            await asyncio.sleep(0.1)

    async def _left(self) -> dict[str, int]:
        """What is left while the workers are idle."""

        def in_redis() -> dict[str, int]:
            with self.world.redis.client() as client:
                pending = sum(group["pending"] for group in client.xinfo_groups("batches")) if client.exists("batches") else 0
                return {"entries on the stream": int(client.xlen("batches")), "pending entries": pending}

        left = await asyncio.to_thread(in_redis)
        async with self.world.database() as connection:
            left["batches not announced"] = await connection.fetchval(
                "SELECT count(*) FROM streamworker.batches WHERE finished_at IS NOT NULL AND announced_at IS NULL"
            )
        return left

    async def _left_after(self) -> dict[str, int]:
        """What is left once the workers are gone."""
        for proxy in (self.world.redis_proxy, self.world.postgres_proxy):
            await proxy.stop()
        async with self.world.database() as connection:
            sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name <> 'chaos' AND backend_type = 'client backend'"
            locks = "SELECT count(*) FROM pg_locks WHERE locktype IN ('advisory', 'transactionid') AND pid <> pg_backend_pid()"
            for _ in range(100):
                if await connection.fetchval(sessions):
                    await asyncio.sleep(0.05)
            left = {"sessions": await connection.fetchval(sessions), "locks": await connection.fetchval(locks)}
        await wait_until(lambda: not self.world.orphans(), 5)
        errors = {f"error in a worker's log: {text}": times for text, times in self.world.logged_errors().items()}
        return left | {"processes": len(self.world.orphans())} | errors | dict.fromkeys(self.wrong + self.load.reader_errors, 1)

    async def _save(self, residue: dict[str, int], ended: float) -> None:
        async with self.world.database() as connection:
            changes = await audit.read_changes(connection)
            effects = await audit.read_effects(connection)
        folder = self.world.folder
        folder.joinpath("audit.jsonl").write_bytes(b"\n".join(msgspec.json.encode(change) for change in changes))
        options = {
            "lease_ttl": self.world.terms.lease_ttl,
            "item_concurrency": self.world.terms.item_concurrency,
            "kinds": self.kinds,
            "ended": ended,
        }
        meta = {
            "seed": self.plan.seed,
            "workers": self.world.labels,
            "options": options,
            "residue": residue,
            "effects": [[*key, times] for key, times in effects.items()],
        }
        folder.joinpath("meta.json").write_text(json.dumps(meta))


async def run(plan: Plan, terms: Terms, folder: Path) -> Report:
    """Run it, with all its files in `folder`; whatever happens, nothing that it started is left."""
    world = World(folder, terms)
    campaign = Campaign(world, plan)
    loop = asyncio.get_running_loop()
    this = asyncio.current_task()
    assert this is not None
    with contextlib.suppress(ValueError, RuntimeError):  # not the main thread: the caller sees to it
        loop.add_signal_handler(signal.SIGTERM, this.cancel)
    try:
        await campaign.run()
    finally:
        if campaign.page is not None:
            await campaign.page.close()
        await world.close()
    return await asyncio.to_thread(lambda: report(load_history(folder)))


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="decides the faults and the work (default: drawn)")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long to mix all faults (1)")
    parser.add_argument("--kills", type=int, default=0, help="instead of the mix: so many SIGKILLs")
    parser.add_argument("--workers", type=int, default=0, help="worker processes (2 with --kills, else 3)")
    parser.add_argument("--items", type=int, default=0, help=f"items of a batch of the kill campaign ({BATCH})")
    parser.add_argument("--batch-concurrency", type=int, default=0, help="batches of a worker at a time (drawn; with --kills 1)")
    parser.add_argument("--item-concurrency", type=int, default=0, help="items of a batch at a time (drawn; with --kills 1)")
    parser.add_argument("--only", action="append", default=[], metavar="FAULT", help="mix only these kinds of faults; may be repeated")
    parser.add_argument("--redis", default="valkey", help="valkey, redis62 or redis70")
    parser.add_argument("--isolation", default="inline", choices=("inline", "thread", "process"))
    parser.add_argument("--lease-ttl", type=float, default=0.0, help="seconds (2; with --kills 15)")
    parser.add_argument("--mutant", default="", help=f"run the workers with {MUTANT} set to this")
    parser.add_argument("--page", action="store_true", help="look on with a browser: no number goes back, nothing is missing at the end")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="leave all files there; `python -m tests.chaos.checker DIR` checks them again"
    )
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.only) - set(KINDS):
        parser.error(f"--only {', '.join(sorted(unknown))}: expected some of {', '.join(KINDS)}")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it and print the report; 1 if anything is off."""
    chosen = options(arguments)
    plan = Plan(chosen.seed, chosen.minutes, chosen.kills, chosen.workers, chosen.items, only=tuple(chosen.only), page=chosen.page)
    drawn = random.Random(chosen.seed)
    batches, items = (1, 1) if chosen.kills else (drawn.choice((1, 2, 3)), drawn.choice((1, 1, 4)))
    terms = Terms(
        batch_concurrency=chosen.batch_concurrency or batches,
        item_concurrency=chosen.item_concurrency or items,
        workers=chosen.workers or (2 if chosen.kills else 3),
        lease_ttl=chosen.lease_ttl or (15.0 if chosen.kills else 2.0),
        isolation=chosen.isolation,
        redis_kind=chosen.redis,
        mutant=chosen.mutant,
    )
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))  # short: it holds sockets
    logging.basicConfig(filename=folder / "clients.log", level=logging.WARNING)
    try:
        result = asyncio.run(run(plan, terms, folder))
        print(json.dumps(result.summary(), indent=1, default=str) if chosen.json else describe(result))
        return 0 if result.clean else 1
    finally:
        gc.collect()  # futures that nobody asked complain to the log now, while its folder is there
        if chosen.keep:
            keep(folder, chosen.keep)
        shutil.rmtree(folder, ignore_errors=True)


def describe(result: Report) -> str:
    """The violations, some of each check, and the report line."""
    lines = []
    for name, sentences in result.violations.items():
        lines += [f"{name}: {sentence}" for sentence in sentences[:20]]
        lines += [f"{name}: and {len(sentences) - 20} more"] if len(sentences) > 20 else []
    return "\n".join([*lines, result.line()])


def keep(folder: Path, target: Path) -> None:
    """Copy what a run left; not the servers' data."""
    target.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if file.is_file():
            shutil.copy(file, target / file.name)
    for name in ("pg/log", *(f"{found.name}/log" for found in folder.glob("r[0-9]*"))):
        with contextlib.suppress(OSError):
            shutil.copy(folder / name, target / name.replace("/", "-"))


if __name__ == "__main__":
    sys.exit(main())
