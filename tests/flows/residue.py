"""What is left when a test is over: nothing pending, no lease, no open transaction, no process; and rows that add up."""

from __future__ import annotations

from collections.abc import Sequence

import redis

from tests.flows.database import Database
from tests.flows.workers import WorkerProcess
from tests.servers import wait_for

OPEN = "SELECT count(*) FROM streamworker.batches WHERE finished_at IS NULL"
UNANNOUNCED = "SELECT id FROM streamworker.batches WHERE finished_at IS NOT NULL AND announced_at IS NULL"
LEASED = "SELECT id FROM streamworker.batches WHERE finished_at IS NOT NULL AND lease_expires_at IS NOT NULL"
MISCOUNTED = """
SELECT b.id, b.status, b.succeeded, b.failed, i.* FROM streamworker.batches AS b
CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE i.status = 'completed') AS rows_completed,
                           count(*) FILTER (WHERE i.status = 'failed') AS rows_failed,
                           count(*) FILTER (WHERE i.status IN ('pending', 'processing')) AS rows_open
                    FROM streamworker.items AS i WHERE i.batch_id = b.id) AS i
WHERE b.succeeded <> rows_completed OR b.failed <> rows_failed OR (b.finished_at IS NOT NULL AND rows_open > 0)
"""
OVERTRIED = """
SELECT b.id, i.position, i.attempts FROM streamworker.batches AS b JOIN streamworker.items AS i ON i.batch_id = b.id
WHERE i.attempts > b.max_attempts
"""
IN_TRANSACTION = """
SELECT application_name, query FROM pg_stat_activity
WHERE datname = current_database() AND state LIKE 'idle in transaction%' AND pid <> pg_backend_pid()
"""
SESSIONS = """
SELECT application_name FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
    AND application_name NOT LIKE 'streamworker client%' AND application_name <> 'the test'
"""
PATIENCE = 10.0


class Residue:
    """Looks at the servers after a test; what should come to rest has a moment to do so."""

    def __init__(self, broker: redis.Redis, database: Database) -> None:
        self._redis = broker
        self._database = database
        self.tolerated: list[str] = []

    def tolerate(self, words: str) -> None:
        """This test makes a worker log an error with these words."""
        self.tolerated.append(words)

    def check_batches(self) -> None:
        """Rows add up, always; where all batches have ended, nothing is left on the stream and no lease in Postgres."""
        self._none(MISCOUNTED, "batches whose counters are not their rows")
        self._none(OVERTRIED, "items with more attempts than allowed")
        if self._database.value(OPEN):
            return
        self._none(UNANNOUNCED, "ends that nobody announced")
        self._none(LEASED, "leases on batches that have ended")
        wait_for(lambda: self.on_stream() == (0, 0), PATIENCE, "an empty stream with nothing pending")
        self._none(IN_TRANSACTION, "open transactions")

    def check_processes(self, workers: Sequence[WorkerProcess]) -> None:
        """The workers have ended: no session and no process of theirs is there any more, and none logged an error."""
        self._none(SESSIONS, "sessions of workers")
        for worker in workers:
            wait_for(lambda worker=worker: not worker.strays(), PATIENCE, f"the end of the processes that worker {worker.pid} started")
            errors = [error for error in worker.errors() if not any(words in error for words in self.tolerated)]
            assert errors == []

    def on_stream(self) -> tuple[int, int]:
        """Entries on the stream of jobs, and how many of them are pending."""
        length = int(self._redis.xlen("batches"))
        groups = self._redis.xinfo_groups("batches") if self._redis.exists("batches") else []
        return length, sum(group["pending"] for group in groups)

    def _none(self, sql: str, about: str) -> None:
        wait_for(lambda: not self._database.rows(sql), PATIENCE, f"no {about}: {self._database.rows(sql)}")
