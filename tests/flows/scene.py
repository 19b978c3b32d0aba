"""The building blocks of a flow test: workers, batches, and what can be seen of them from outside."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg
import redis

from streamworker.broker.revisions import Revisions, Verdict
from streamworker.messages import TERMINAL, ProgressEvent, decode_event
from tests.flows.database import Background, Database
from tests.flows.failing_worker import FAULT, STEP
from tests.flows.processors import FOLDER, gate_file
from tests.flows.residue import Residue
from tests.flows.workers import FAILING, PLAIN, WorkerProcess
from tests.servers import wait_for

Value = TypeVar("Value")
STREAM, GROUP, PROGRESS, DEAD = "batches", "workers", "progress", "batches:dead"
ENDED = "SELECT FROM streamworker.batches WHERE id = $1 AND finished_at IS NOT NULL"
OURS = ("STREAMWORKER_", "REDIS_URL", "DATABASE_URL", "PG")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the item log; `at` is monotonic, and one clock for all processes."""

    at: float
    edge: str
    pid: int
    batch: str = ""
    position: int = -1
    attempt: int = 0
    outcome: str = ""


class Scene:
    """One database and one Redis, and the workers that a test puts on them; `finish` looks what is left, leaving it is rid of all."""

    def __init__(self, redis_url: str, database_url: str, folder: Path, **settings: str) -> None:
        self.redis_url = redis_url
        self.database_url = database_url
        self.folder = folder
        self.settings = settings
        self.workers: list[WorkerProcess] = []
        self.background = Background()
        self.redis = redis.Redis.from_url(redis_url)
        self.database = Database(database_url, self.background)
        self.residue = Residue(self.redis, self.database)
        self._numbers = count(1)

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.discard()
        self.redis.close()
        self.database.close()
        self.background.close()

    def finish(self) -> None:
        """End the workers in good order and check that nothing is left of them."""
        self.residue.check_batches()
        alive = [worker for worker in self.workers if worker.lives]
        for worker in alive:
            worker.begin_end()
        for worker in alive:
            assert worker.wait_good_end() == 0, worker.tail()
        self.residue.check_processes(self.workers)

    # --- workers --------------------------------------------------------------------------------------------------------------

    def begin_worker(self, *, step: str = "", fault: str = "kill", **settings: str) -> WorkerProcess:
        """Start a worker and go on; with `step` it has a fail point. Settings are called as in the environment, in small letters."""
        environment = self._environment(**settings) | ({STEP: step, FAULT: fault} if step else {})
        log = self.folder / f"worker-{next(self._numbers)}.log"
        worker = WorkerProcess(environment, log, FAILING if step else PLAIN)
        self.workers.append(worker)
        return worker

    def start_worker(self, *, step: str = "", fault: str = "kill", **settings: str) -> WorkerProcess:
        """Start a worker and wait until it looks for work."""
        return self.begin_worker(step=step, fault=fault, **settings).wait_started()

    def _environment(self, **settings: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        urls = {name.upper(): settings.pop(name, getattr(self, name)) for name in ("redis_url", "database_url")}
        given = {"processor": "tests.flows.processors:work", "migrate": "0", "log_format": "json", "shutdown_timeout": "2s"}
        named = {f"STREAMWORKER_{name.upper()}": value for name, value in (given | self.settings | settings).items()}
        return kept | urls | named | {FOLDER: str(self.folder)}

    def relay(self, batch_id: UUID, seconds: float = 60.0, **settings: str) -> asyncpg.Record:
        """Start a worker whenever the last one has died, until the batch has ended; returns the batch."""

        def ended() -> bool:
            if not self.workers or not self.workers[-1].lives:
                self.begin_worker(**settings)
            return bool(self.database.rows(ENDED, batch_id))

        self.wait(ended, seconds, f"the end of batch {batch_id}")
        return self.batch(batch_id)

    def open(self, gate: str) -> None:
        """Let the items go on that wait at a gate."""
        gate_file(self.folder, gate).touch()

    # --- jobs -----------------------------------------------------------------------------------------------------------------

    def submit(self, items: Sequence[Any], **options: Any) -> UUID:
        """Submit by SQL, without a word to Redis."""
        arguments = {"batch_id": uuid4(), **options}
        named = ", ".join(f"{name} => ${number}" for number, name in enumerate(arguments, 2))
        found: UUID = self.database.value(f"SELECT streamworker.submit($1, {named})", list(items), *arguments.values())
        return found

    def job(self, items: Sequence[Any], **fields: Any) -> UUID:
        """Send a job with its items by XADD."""
        batch_id = fields.pop("batch_id", uuid4())
        self.xadd(batch_id=batch_id, items=json.dumps(items), **fields)
        return UUID(str(batch_id))

    def xadd(self, **fields: Any) -> str:
        """XADD these fields to the stream of jobs; returns the entry's id."""
        return self.redis.xadd(STREAM, {name: value if isinstance(value, bytes) else str(value) for name, value in fields.items()}).decode()

    # --- what can be seen -------------------------------------------------------------------------------------------------------

    def batch(self, batch_id: UUID) -> asyncpg.Record:
        """The batch's row."""
        return self.database.row("SELECT * FROM streamworker.batches WHERE id = $1", batch_id)

    def items(self, batch_id: UUID) -> list[asyncpg.Record]:
        """The rows of its items, in order."""
        return self.database.rows("SELECT * FROM streamworker.items WHERE batch_id = $1 ORDER BY position", batch_id)

    def statuses(self, batch_id: UUID) -> list[str]:
        """The status of each item."""
        return [item["status"] for item in self.items(batch_id)]

    def attempts(self, batch_id: UUID) -> list[int]:
        """The attempts of each item, as Postgres has them."""
        return [item["attempts"] for item in self.items(batch_id)]

    def wait_end(self, batch_id: UUID, status: str = "completed", seconds: float = 30.0) -> asyncpg.Record:
        """Wait until the batch has ended, with this status; returns its row."""
        self.wait(lambda: self.database.rows(ENDED, batch_id), seconds, f"the end of batch {batch_id}")
        row = self.batch(batch_id)
        assert row["status"] == status, f"{row['status']}: {row['error']}"
        return row

    def wait(self, happened: Callable[[], Value], seconds: float, about: str) -> Value:
        """Poll until it is so; when the time is over, the AssertionError tells how things stand."""
        try:
            return wait_for(happened, seconds, about)
        except AssertionError as late:
            rows = self.database.rows(
                "SELECT id, status, processed, total, worker, error FROM streamworker.batches ORDER BY status DESC LIMIT 5"
            )
            seen = [str(part) for part in (late, *rows, *self.log()[-5:], *(worker.tail() for worker in self.workers[-2:]))]
            raise AssertionError("\n".join(seen)) from None

    def run(
        self, items: Sequence[Any], processor: str = "work", seconds: float = 30.0, **fields: Any
    ) -> tuple[asyncpg.Record, list[asyncpg.Record]]:
        """Run a batch to its completion; returns its row and those of its items."""
        batch_id = self.job(items, processor=processor, **fields)
        return self.wait_end(batch_id, seconds=seconds), self.items(batch_id)

    def log(self, batch_id: UUID | None = None) -> list[Line]:
        """The lines of the item log, of one batch or of all."""
        file = self.folder / "items.log"
        found = [Line(**json.loads(line)) for line in file.read_text().rpartition("\n")[0].splitlines()] if file.exists() else []
        return [line for line in found if batch_id is None or line.batch == str(batch_id)]

    def starts(self, batch_id: UUID) -> list[tuple[int, int]]:
        """The position and the attempt number of every start, in order."""
        return [(line.position, line.attempt) for line in self.log(batch_id) if line.edge == "start"]

    def wait_start(self, batch_id: UUID, position: int, attempt: int = 1, times: int = 1, seconds: float = 30.0) -> Line:
        """Wait for the start of an attempt, or for the same one once more; returns its line."""

        def found() -> list[Line]:
            lines = [line for line in self.log(batch_id) if (line.edge, line.position, line.attempt) == ("start", position, attempt)]
            return lines[times - 1 :]

        return self.wait(found, seconds, f"start {times} of attempt {attempt} at item {position}")[0]

    def events(self, batch_id: UUID) -> list[ProgressEvent]:
        """What stands of it on the progress stream, as published."""
        wanted = str(batch_id).encode()
        entries = self.redis.xrange(PROGRESS)
        return [decode_event(fields[b"event"]) for _, fields in entries if fields[b"batch_id"] == wanted]

    def read_events(self, batch_id: UUID) -> list[ProgressEvent]:
        """What a reader sees of it who drops what he knows already; numbers that go back are an AssertionError."""
        seen, kept = Revisions(), []
        for event in self.events(batch_id):
            if seen.judge(event) is not Verdict.KNOWN:
                seen.accept(event)
                kept.append(event)
        for before, after in pairwise(kept):
            assert after.processed >= before.processed, (before, after)
            assert after.revision >= before.revision, (before, after)
        return kept

    def wait_announced(self, batch_id: UUID, seconds: float = 20.0) -> ProgressEvent:
        """Wait until the last event says what Postgres says: that the batch has ended, and what that has cancelled; returns it."""
        self.wait(lambda: any(event.status in TERMINAL for event in self.events(batch_id)), seconds, "the terminal event")
        last, row = self.read_events(batch_id)[-1], self.batch(batch_id)
        told = (last.status, last.revision, last.total, last.succeeded, last.failed, last.error)
        assert told == tuple(row[name] for name in ("status", "revision", "total", "succeeded", "failed", "error"))
        cut_off = {(row["position"], row["attempts"]) for row in self.items(batch_id) if row["status"] == "cancelled"}
        assert cut_off == {(item.position, item.attempt) for item in last.items if item.status == "cancelled"}
        return last

    def pending(self) -> dict[str, str]:
        """The pending entries of the group, and with whom."""
        if not self.redis.exists(STREAM) or not self.redis.xinfo_groups(STREAM):
            return {}
        rows = self.redis.xpending_range(STREAM, GROUP, "-", "+", 1000)
        return {row["message_id"].decode(): row["consumer"].decode() for row in rows}

    def letters(self) -> list[dict[bytes, bytes]]:
        """What lies on the dead stream."""
        return [fields for _, fields in self.redis.xrange(DEAD)]
