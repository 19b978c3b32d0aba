"""What is measured on: both servers as the embedded ones are set, workers as real processes, and what can be seen of them from outside."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg
import redis

from streamworker.embedded.postgres import Postgres
from streamworker.store.migrate import migrate
from tests.bench.spawned import Spawned
from tests.flows.database import Background
from tests.servers import PostgresServer, RedisServer

Value = TypeVar("Value")
STREAM = "batches"
WARM_BATCHES = 4
PATIENCE = 900.0  # seconds: the largest batch, on a slow machine
FOREIGN = ("STREAMWORKER_", "REDIS_URL", "DATABASE_URL", "PG", "BENCH_")
PROCESSOR = "tests.bench.processors:"


class Refused(Exception):
    """This cannot be measured here; the text says why, and stands in the table in place of a figure."""


class World:
    """Both servers, empty at first; a `with` block starts them and is rid of everything at its end. Without `peers` none is run."""

    def __init__(self, peers: bool = True) -> None:
        self.peers = peers
        self._open = ExitStack()
        self._numbers = count(1)

    def __enter__(self) -> World:
        with ExitStack() as stack:
            self._folder = Path(tempfile.mkdtemp(prefix="swb-"))
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self._start_servers(stack)
            self.background = Background()
            stack.callback(self.background.close)
            self._connection = self.wait(asyncpg.connect(self.database_url, command_timeout=PATIENCE))
            stack.callback(self.background.loop.call_soon_threadsafe, self._connection.terminate)
            self.wait(migrate(self._connection))
            self.redis = stack.enter_context(redis.Redis.from_url(self.redis_url))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _start_servers(self, stack: ExitStack) -> None:
        # By TCP, as in most installations: the peers and we pay the same for the way.
        valkey = RedisServer("valkey", self._folder / "valkey", tcp=True, persistent=True)
        stack.callback(valkey.close)
        valkey.start()
        self.redis_url = valkey.url
        postgres = PostgresServer(self._folder / "postgres")
        stack.callback(postgres.close)
        assert isinstance(postgres.server, Postgres)
        # The tests' Postgres need not survive the machine. This one does: a durable row costs what it costs.
        for unsafe in ("fsync", "full_page_writes", "dynamic_shared_memory_type"):
            postgres.server.options.pop(unsafe)
        postgres.start()
        self.database_url = postgres.url

    # --- Postgres ---------------------------------------------------------------------------------------------------------------

    def wait(self, work: Coroutine[Any, Any, Value]) -> Value:
        """Run a coroutine to its end, on the loop where the connection lives."""
        return self.background.run(work, PATIENCE)

    def rows(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """All rows of a statement."""
        return self.wait(self._connection.fetch(sql, *arguments))

    def value(self, sql: str, *arguments: Any) -> Any:
        """The first column of the first row."""
        return self.wait(self._connection.fetchval(sql, *arguments))

    def settle(self) -> None:
        """Empty both servers, and let Postgres write out what the last measurement left to write."""
        self.redis.flushall()
        self.rows("TRUNCATE streamworker.batches CASCADE")
        self.rows("CHECKPOINT")

    def insert_analyzed(self, items: int) -> UUID:
        """As `insert_batches`, for what others do with the rows: their plans depend on what Postgres knows of them, and ours must not."""
        (batch_id,) = self.insert_batches(items)
        self.rows("ANALYZE streamworker.items")
        return batch_id

    def insert_batches(self, items: int, batches: int = 1) -> list[UUID]:
        """Write batches of so many items without a word to the workers."""
        ids = [uuid4() for _ in range(batches)]
        self.rows(
            "WITH made AS (INSERT INTO streamworker.batches (id, total) SELECT unnest($1::uuid[]), $2 RETURNING id) "
            "INSERT INTO streamworker.items (batch_id, position, key, payload) "
            "SELECT id, n, 'row ' || n, to_jsonb('row ' || n) FROM made, generate_series(0, $2::int - 1) AS n ORDER BY id, n",
            ids,
            items,
        )
        return ids

    def check_completed(self, items: int) -> None:
        """A figure counts only if the work was done: every item completed, and every batch counts its own."""
        wrong = self.value(
            "SELECT count(*) FROM streamworker.batches WHERE status <> 'completed' OR succeeded <> total OR processed <> total"
        )
        done = self.value("SELECT count(*) FROM streamworker.items WHERE status = 'completed'")
        if wrong or done != items:
            raise AssertionError(f"{done} of {items} items are completed, {wrong} batches are not or have wrong counters")

    # --- Redis ------------------------------------------------------------------------------------------------------------------

    def announce(self, ids: Sequence[UUID]) -> None:
        """XADD batches that are in Postgres."""
        self._xadd({"batch_id": str(id)} for id in ids)

    def send(self, batches: int, items: int = 1) -> None:
        """XADD batches that bring their items along."""
        text = json.dumps([f"row {n}" for n in range(items)])
        self._xadd({"batch_id": str(uuid4()), "items": text} for _ in range(batches))

    def _xadd(self, jobs: Iterator[dict[str, str]]) -> None:
        with self.redis.pipeline(transaction=False) as pipeline:
            for job in jobs:
                pipeline.xadd(STREAM, job)
            pipeline.execute()

    def wait_drained(self, workers: Sequence[Spawned], poll: float = 0.002) -> None:
        """Return when the stream is empty: an entry leaves it once its batch's end is durable, announced and acknowledged."""
        self.wait_until(lambda: self.redis.xlen(STREAM) == 0, workers, poll)

    def wait_until(self, happened: Callable[[], bool], workers: Sequence[Spawned], poll: float) -> None:
        """Poll, as long as the workers live."""
        deadline, look = time.monotonic() + PATIENCE, 0
        while not happened():
            time.sleep(poll)
            look += 1
            if look % 100 == 0:
                for worker in workers:
                    worker.check()
            if time.monotonic() > deadline:
                raise AssertionError(f"not done within {PATIENCE:g} s")

    # --- processes --------------------------------------------------------------------------------------------------------------

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a process on these servers."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        return kept | {"REDIS_URL": self.redis_url, "DATABASE_URL": self.database_url} | more

    @contextmanager
    def file(self, text: str) -> Iterator[Path]:
        """A file with this text, for the length of the block."""
        path = self._folder / f"file-{next(self._numbers)}"
        path.write_text(text, "utf-8")
        try:
            yield path
        finally:
            path.unlink()

    @contextmanager
    def spawn(self, line: Sequence[str], environment: Mapping[str, str]) -> Iterator[Spawned]:
        """A process, gone at the end of the block."""
        process = Spawned(line, environment, self._folder / f"process-{next(self._numbers)}.log")
        try:
            yield process
        finally:
            process.end()

    @contextmanager
    def workers(self, processor: str, number: int = 1, warm: int = 400, **environment: str) -> Iterator[list[Spawned]]:
        """So many worker processes, idle; each has done about `warm` items, as one that has been at work for a while (0: just started).

        `environment` names whole variables, such as STREAMWORKER_BATCH_CONCURRENCY="16".
        """
        given = {"STREAMWORKER_PROCESSOR": PROCESSOR + processor, "STREAMWORKER_LOG_LEVEL": "warning"}
        line = [sys.executable, "-m", "streamworker"]
        with ExitStack() as stack:
            workers = [stack.enter_context(self.spawn(line, self.environment(**given | environment))) for _ in range(number)]
            if warm:
                self._warm_up(workers, warm)
            yield workers

    def _warm_up(self, workers: list[Spawned], items: int) -> None:
        """Wait until all look for work, and give each some; the rows are removed again."""
        self.wait_until(lambda: self._consumers() >= len(workers), workers, 0.01)
        self.send(WARM_BATCHES * len(workers), -(-items // WARM_BATCHES))
        self.wait_drained(workers)
        self.rows("TRUNCATE streamworker.batches CASCADE")

    def _consumers(self) -> int:
        groups = self.redis.xinfo_groups(STREAM) if self.redis.exists(STREAM) else []
        return sum(int(group["consumers"]) for group in groups)


def python(module: str, *arguments: str) -> list[str]:
    """The command line of a module of the bench in this process's own Python."""
    return [sys.executable, "-m", module, *arguments]
