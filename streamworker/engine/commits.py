"""One commit after another of a run: fenced, tried until it is known to be durable, and a row that Postgres refuses told apart."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import asyncpg

from streamworker.engine.attempts import Policy, backoff, settle
from streamworker.engine.holds import Hold
from streamworker.engine.outages import Outages
from streamworker.errors import LeaseLost
from streamworker.observe.events import Events, Step
from streamworker.processors.outcomes import failure_of
from streamworker.store import batches, items
from streamworker.store.batches import Acquired, BatchState, Connection
from streamworker.store.items import Fence, ItemRecord
from streamworker.store.pool import CONNECTION_ERRORS, Pool

FEW_ROWS = 8

REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)


@dataclass(slots=True)
class Flush:
    """One transaction's worth."""

    rows: list[ItemRecord]
    checkpoints: dict[int, str]
    frontier: int
    complete: bool
    judged: list[ItemRecord] = field(default_factory=list)  # as last sent to be committed: a write may have raised
    broken: list[ItemRecord] = field(default_factory=list)  # which are written as failed: their write, or their result, was refused


class Commits:
    """Writes the flushes of one run, one at a time.

    `small` is the pool whose statements are planned once. `durable(flush, rows)` is called after each commit, with the rows as they
    were written; `state` is that of the batch by then, and `seconds` what a commit takes.
    """

    def __init__(
        self,
        pool: Pool,
        small: Pool,
        grant: Acquired,
        hold: Hold,
        policy: Policy,
        lease_ttl: float,
        events: Events,
        outages: Outages,
        explain: Callable[[BaseException], str],
        durable: Callable[[Flush, list[ItemRecord]], None],
    ) -> None:
        self.state = grant.state
        self.seconds = 0.002
        self._frontier = grant.frontier
        self._pool = pool
        self._small = small
        self._hold = hold
        self._policy = policy
        self._lease_ttl = lease_ttl
        self._events = events
        self._outages = outages
        self._explain = explain
        self._name = f"recorder {grant.state.id}"
        self._durable = durable

    def close(self) -> None:
        """No more is written: whatever was away, nobody waits for it here."""
        self._outages.back("postgres", self._name)

    async def write(self, flush: Flush) -> bool:
        """Write until it is durable, in one commit unless the rows are far apart; False when the lease is lost."""
        *parts, flush.rows = items.parts_of(flush.rows)
        for part in parts:
            if not await self._write(self._part_of(flush, part)):
                return False
        return await self._write(flush)

    def _part_of(self, flush: Flush, rows: list[ItemRecord]) -> Flush:
        """The frontier moves on with the last part: nothing that waits for it starts before all of them are written."""
        return Flush(rows, {}, min(self._frontier, flush.frontier), False, broken=[row for row in flush.broken if row in rows])

    async def _write(self, flush: Flush) -> bool:
        failures = 0
        while True:
            asked_at = time.monotonic()
            try:
                state, rows = await self._commit(flush)
                self._hold.extend(asked_at, self._lease_ttl)
                break
            except LeaseLost:
                pass
            except items.WriteBroke as broken:
                self._fail_write(flush, broken)
            except REFUSED as error:
                return await self._write_apart(flush, error)
            except CONNECTION_ERRORS as error:
                failures += 1
                self._outages.away("postgres", self._name, self._explain(error))
                await asyncio.sleep(backoff(failures, random.random()))  # noqa: S311
            found = await self._read_back(flush)
            if found is not None:
                state, rows = found
                break
            if self._hold.lost is not None:
                return False
        if failures:
            self._outages.back("postgres", self._name)
        self.seconds += (time.monotonic() - asked_at - self.seconds) / 8
        self.state, self._frontier = state, flush.frontier
        self._durable(flush, rows)
        return True

    async def _commit(self, flush: Flush) -> tuple[BatchState, list[ItemRecord]]:
        fence = Fence(self.state.id, self.state.epoch, self.state.revision)
        rows = flush.rows
        self._step("before", rows)
        effects = any(row.write is not None for row in rows)
        single = not (effects or flush.checkpoints or flush.complete or self._events.hooked)
        # A slow item has a statement of its own, and the next one waits for it: that is planned once.
        pool = self._small if len(rows) <= FEW_ROWS and not effects else self._pool
        async with pool.acquire() as connection:
            async with contextlib.nullcontext() if single else _transaction(connection):
                if effects:
                    await items.lock(connection, fence)
                    rows = self._judge_writes(rows, await items.write_effects(connection, rows, self._lease_ttl / 2))
                flush.judged = rows
                state = await items.record(
                    connection, fence, rows, flush.checkpoints, flush.frontier, self._lease_ttl, self.state.worker or "", flush.complete
                )
                self._step("inside", rows)
            if effects:
                await connection.reset()  # user code was here
        self._step("after", rows)
        return state, rows

    def _step(self, moment: str, rows: Sequence[ItemRecord]) -> None:
        if self._events.hooked:
            self._events.step(Step("record", moment, self.state.id, rows[0].position if rows else -1))

    def _fail_write(self, flush: Flush, broken: items.WriteBroke) -> None:
        """A write that took the transaction down is a failed attempt; its neighbours are written again without it."""
        row = broken.row
        failed = settle(row.position, row.key, row.attempts, failure_of(broken.cause), self._policy, row.seconds or 0.0)
        flush.rows = [failed if other is row else other for other in flush.rows]
        flush.broken.append(failed)

    def _judge_writes(self, rows: list[ItemRecord], failures: list[tuple[ItemRecord, BaseException]]) -> list[ItemRecord]:
        failed = {id(row): error for row, error in failures}
        return [
            settle(row.position, row.key, row.attempts, failure_of(failed[id(row)]), self._policy, row.seconds or 0.0)
            if id(row) in failed
            else row
            for row in rows
        ]

    async def _read_back(self, flush: Flush) -> tuple[BatchState, list[ItemRecord]] | None:
        """Find out whether a commit whose reply was lost has happened; None when it has not, or the lease is lost."""
        try:
            async with self._pool.acquire() as connection:
                now = await batches.read_state(connection, self.state.id)
        except CONNECTION_ERRORS:
            return None
        if now is None:
            self._hold.lose("the batch was deleted")
        elif now.epoch != self.state.epoch:
            self._hold.lose("another worker has taken the batch over")
        elif now.status == "cancelled":
            self._hold.lose("the batch was cancelled")
        elif now.worker != self.state.worker:
            self._hold.lose("the batch was released")  # not our commit, whatever the revision says
        elif now.revision == self.state.revision + 1 and now.status in ("processing", "completed" if flush.complete else "processing"):
            return now, flush.judged
        elif now.revision != self.state.revision or now.status != "processing":
            self._hold.lose(f"the batch is {now.status} at revision {now.revision}")
        return None

    async def _write_apart(self, flush: Flush, error: Exception) -> bool:
        """Postgres refuses one of the rows: write them one by one, and the culprit as a failed attempt."""
        if not flush.rows:
            raise error  # neither the batch's own row nor a checkpoint can be written differently
        if len(flush.rows) == 1 and not flush.checkpoints:
            row = flush.rows[0]
            if row.result is None and row.write is None:
                raise error  # not the row's fault
            refused = failure_of(ValueError(f"result cannot be stored: {error}"))
            flush.rows = [settle(row.position, row.key, row.attempts, refused, self._policy, row.seconds or 0.0)]
            flush.broken.append(flush.rows[0])
            return await self._write(flush)
        for row in flush.rows:
            if not await self._write(self._part_of(flush, [row])):
                return False
        return await self._write(Flush([], flush.checkpoints, flush.frontier, flush.complete))


@contextlib.asynccontextmanager
async def _transaction(connection: Connection) -> AsyncIterator[None]:
    """A transaction; of what a write broke nothing is used again, and it is told, not what came of it."""
    broken: items.WriteBroke | None = None
    try:
        async with connection.transaction():
            try:
                yield
            except items.WriteBroke as error:
                broken = error
                raise
    except Exception as error:
        if broken is None:
            raise
        with contextlib.suppress(asyncpg.InterfaceError):  # it may be closed already
            connection.terminate()
        raise broken from error
