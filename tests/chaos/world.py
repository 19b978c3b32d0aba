"""The world of a run: its own Postgres and Valkey, the proxies before them, real worker processes, and the files that all of them leave."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import asyncpg
import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from streamworker.store.migrate import migrate
from tests.chaos import audit
from tests.chaos.history import Fault
from tests.chaos.processors import LOG
from tests.chaos.proxy import Proxy, Tap
from tests.servers import PostgresServer, RedisServer, die_with_parent, run_sql

ROOT = Path(__file__).parents[2]
PROCESSORS = "tests.chaos.processors:work,tests.chaos.processors:work_in_thread"
MUTANT = "TEST_OF_STREAMWORKER_MUTANT"  # passed through to the workers, read by the test build of the product only


class Journal:
    """A file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")

    def add(self, record: Any) -> None:
        """Write one record."""
        self._file.write(msgspec.json.encode(record) + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Progress:
    """Follows the processor log."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._ends = 0
        self._running: dict[str, str] = {}

    def ends(self) -> int:
        """How many items have ended so far."""
        self._follow()
        return self._ends

    def running(self) -> dict[str, str]:
        """Which workers have an item in flight, and of which batch; the dead are among them."""
        self._follow()
        return self._running

    def _follow(self) -> None:
        with self._path.open("rb") as log:
            log.seek(self._read)
            for raw in log:
                if not raw.endswith(b"\n"):
                    break
                self._read += len(raw)
                line = msgspec.json.decode(raw)
                if line["edge"] == "start":
                    self._running[line["worker"]] = line["batch"]
                else:
                    self._running.pop(line["worker"], None)
                    self._ends += 1


class CommitTimes(PostgresServer):
    """A Postgres that remembers when each transaction was committed, for the audit."""

    _prepared = False

    def start(self) -> None:
        """Start it; the first time with a restart, which this setting needs."""
        super().start()
        if not self._prepared:
            run_sql(self.url, "ALTER SYSTEM SET track_commit_timestamp = on")
            self.stop()
            super().start()
            self._prepared = True


@dataclass
class Spawned:
    """One worker process; `label` is its consumer name and its name at the proxies."""

    slot: int
    label: str
    process: asyncio.subprocess.Process
    began: float
    ready: bool = False  # it has asked for work

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; False if the process has ended already."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)
                return True
        return False


@dataclass
class Terms:
    """On which terms the workers run."""

    workers: int = 2
    lease_ttl: float = 2.0
    shutdown_timeout: float = 2.0
    batch_concurrency: int = 1
    item_concurrency: int = 1
    isolation: str = "inline"
    redis_kind: str = "valkey"
    mutant: str = ""
    more: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """The environment of a worker, but for its own name and addresses."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("STREAMWORKER_", "REDIS_URL", "DATABASE_URL", "PG"))
        }
        own = {
            "STREAMWORKER_PROCESSOR": PROCESSORS,
            "STREAMWORKER_LEASE_TTL": f"{self.lease_ttl:g}s",
            "STREAMWORKER_SHUTDOWN_TIMEOUT": f"{self.shutdown_timeout:g}s",
            "STREAMWORKER_BATCH_CONCURRENCY": str(self.batch_concurrency),
            "STREAMWORKER_ITEM_CONCURRENCY": str(self.item_concurrency),
            "STREAMWORKER_ISOLATION": self.isolation,
            "STREAMWORKER_MIGRATE": "0",
            "STREAMWORKER_LOG_FORMAT": "json",
        }
        mutant = self.mutant or os.environ.get(MUTANT, "")
        return kept | own | self.more | ({MUTANT: mutant} if mutant else {})


class World:
    """Starts and stops everything; what a run needs to touch is an attribute."""

    def __init__(self, folder: Path, terms: Terms) -> None:
        self.folder = folder
        self.terms = terms
        self.tap = Tap(folder / "tap.jsonl")
        self.faults = Journal(folder / "nemesis.jsonl")
        self.operations = Journal(folder / "operations.jsonl")
        self.readings = Journal(folder / "readers.jsonl")
        self.processor_log = folder / "processor.jsonl"
        self.progress = Progress(self.processor_log)
        self.postgres = CommitTimes(folder / "pg")
        self._redis_number = count(1)
        self.redis = self.new_redis()
        self.redis_proxy = Proxy("redis", socket_of(self.redis), self.tap)
        self.postgres_proxy = Proxy("postgres", socket_of(self.postgres), self.tap)
        self.labels: list[str] = []
        self.fleet: dict[int, Spawned] = {}
        self._supervisors: list[asyncio.Task[None]] = []
        self._incarnations = count(1)
        self._stopping = False
        self._groups: set[int] = set()  # each worker leads a process group of its own
        self._environment = terms.environment()
        self._addresses: dict[str, list[tuple[str, int]]] = {}

    def new_redis(self) -> RedisServer:
        """Another server, not started, empty: what it holds dies with it."""
        return RedisServer(self.terms.redis_kind, self.folder / f"r{next(self._redis_number)}", tcp=True)

    async def start(self) -> None:
        """Start servers, schema, audit and workers."""
        self.processor_log.touch()
        await asyncio.to_thread(self.postgres.start)
        await asyncio.to_thread(self.redis.start)
        async with self.database() as connection:
            await migrate(connection)
            await audit.install(connection)
        for label in ("client", "reader"):
            await self.open(label)
        self.tap.listen(self._notice)
        for slot in range(self.terms.workers):
            self._supervisors.append(asyncio.create_task(self._supervise(slot)))

    async def stop_workers(self, patience: float) -> list[str]:
        """End the workers in good order; returns what was wrong with their ends."""
        self._stopping = True
        spawned = list(self.fleet.values())
        for worker in spawned:
            worker.signal(signal.SIGCONT)
            if worker.signal(signal.SIGTERM):
                self.note("shutdown", worker.label, planned=False)
        wrong = []
        deadline = time.monotonic() + patience
        for worker in spawned:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + max(0.0, deadline - time.monotonic())):
                    code = await worker.process.wait()
                starting = not worker.ready and code == -signal.SIGTERM  # its interpreter had not come as far as listening
                if code != 0 and not starting:
                    wrong.append(f"{worker.label} exited with {code} at shutdown")
            except TimeoutError:
                wrong.append(f"{worker.label} did not end within {patience:g} s of SIGTERM")
        await self._end_workers()
        return wrong

    async def _end_workers(self) -> None:
        self._stopping = True
        for worker in self.fleet.values():
            worker.signal(signal.SIGKILL)
        if self._supervisors:
            await asyncio.wait(self._supervisors)
        self._supervisors.clear()

    def orphans(self) -> list[int]:
        """Processes of the workers' groups that are still there."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                    if int(group) in self._groups and state not in "ZX":
                        found.append(int(entry.name))
        return found

    def logged_errors(self) -> Counter[str]:
        """What the workers logged as an error: faults from outside are no errors of theirs."""
        found: Counter[str] = Counter()
        for log in self.folder.glob("worker-*.log"):
            for raw in log.read_text("utf-8", "backslashreplace").splitlines():
                with suppress(msgspec.DecodeError):
                    line = msgspec.json.decode(raw)
                    if line.get("level") in ("error", "critical") and "does not end" not in line["message"]:  # blocking code is ours
                        last = str(line.get("exception", "")).strip().rpartition("\n")[2]
                        found[f"{line['message']} {last}".strip()] += 1
        return found

    async def close(self) -> None:
        """Be rid of everything, whatever state it is in."""
        await self._end_workers()
        for pid in self.orphans():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self.redis_proxy.stop()
        await self.postgres_proxy.stop()
        for server in (self.redis, self.postgres):
            await asyncio.to_thread(server.close)
        for journal in (self.tap, self.faults, self.operations, self.readings):
            journal.close()

    # --- what the run asks for ------------------------------------------------------------------------------------------

    def note(self, kind: str, target: str = "", began: float | None = None, *, planned: bool = True) -> None:
        """Write a fault that ends now into the nemesis log."""
        now = time.monotonic()
        self.faults.add(asdict(Fault(kind, now if began is None else began, now, target, planned)))

    def kill(self, worker: Spawned, *, planned: bool = True) -> bool:
        """SIGKILL a worker; False if it has ended already."""
        began = time.monotonic()
        if killed := worker.signal(signal.SIGKILL):
            self.note("kill", worker.label, began, planned=planned)
        return killed

    @asynccontextmanager
    async def database(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """A connection past the proxy, for observers."""
        connection = await asyncpg.connect(self.postgres.url, timeout=10, command_timeout=60, server_settings={"application_name": "chaos"})
        try:
            yield connection
        finally:
            connection.terminate()

    @asynccontextmanager
    async def client_database(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """A client's connection, through the proxy."""
        connection = await asyncpg.connect(self.client_urls()[1], timeout=5, command_timeout=10)
        try:
            yield connection
        finally:
            connection.terminate()

    @asynccontextmanager
    async def client_redis(self) -> AsyncIterator[Redis]:
        """A client's connection, through the proxy; nothing is sent twice."""
        client = Redis.from_url(self.client_urls()[0], socket_timeout=5, socket_connect_timeout=5, retry=Retry(NoBackoff(), 0), protocol=2)
        try:
            yield client
        finally:
            await client.aclose()

    def client_urls(self, label: str = "client") -> tuple[str, str]:
        """The URLs of Redis and Postgres as `label` has them."""
        redis, postgres = (f"{host}:{port}" for host, port in self._addresses[label])
        return f"redis://{redis}/0", f"postgresql://postgres@{postgres}/streamworker"

    # --- workers ----------------------------------------------------------------------------------------------------------

    async def open(self, label: str) -> None:
        """Addresses of its own at the proxies, for whoever goes by this name."""
        addresses = [await self.redis_proxy.open(label), await self.postgres_proxy.open(label)]
        self._addresses[label] = [address for address in addresses if isinstance(address, tuple)]

    def _notice(self, record: dict[str, Any]) -> None:
        args = record.get("args")
        if args and args[0] == "XREADGROUP":
            for worker in self.fleet.values():
                if worker.label == record["label"]:
                    worker.ready = True

    async def _supervise(self, slot: int) -> None:
        quick = 0
        while not self._stopping:
            worker = await self._spawn(slot)
            await worker.process.wait()
            self.note("exit", worker.label, planned=False)
            for proxy in (self.redis_proxy, self.postgres_proxy):
                await proxy.retire(worker.label)
            quick = quick + 1 if time.monotonic() - worker.began < 1.0 else 0
            if quick > 3:
                await asyncio.sleep(min(2.0, 0.1 * quick))

    async def _spawn(self, slot: int) -> Spawned:
        label = f"w{slot}-{next(self._incarnations)}"
        await self.open(label)
        redis_url, database_url = self.client_urls(label)
        own = {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "STREAMWORKER_CONSUMER": label, LOG: str(self.processor_log)}
        with (self.folder / f"worker-{slot}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "streamworker", "run", cwd=ROOT, env=self._environment | own,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip
        worker = Spawned(slot, label, process, time.monotonic())
        self.labels.append(label)
        self._groups.add(process.pid)
        self.fleet[slot] = worker
        return worker


def socket_of(server: RedisServer | PostgresServer) -> str:
    """The unix socket of a server."""
    return str(server.server._socket)


async def wait_until(happened: Callable[[], bool], seconds: float) -> bool:
    """Look until it is so, or the time is over; tells which."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True
