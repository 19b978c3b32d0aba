"""Group commit: what has ended is written together, fenced, with the frontier; what is durable is then announced."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import asyncpg

from streamworker.engine.attempts import LONGEST_BURST, Policy, backoff, settle, window
from streamworker.engine.holds import Hold
from streamworker.engine.outages import Outages
from streamworker.errors import LeaseLost
from streamworker.messages import TERMINAL
from streamworker.observe.events import Events, Step
from streamworker.processors.outcomes import failure_of
from streamworker.store import batches, items
from streamworker.store.batches import Acquired, BatchState
from streamworker.store.items import Fence, ItemRecord
from streamworker.store.pool import CONNECTION_ERRORS, Pool

MOST_ROWS = 2_000
FEW_ROWS = 8
MOST_BYTES = 32 * 1024 * 1024
# A completing record becomes one event, the last; an event holds at most this many items.
EVENT_ITEMS = 500

# How long quick items gather for one commit: so many times as long as it takes, at most so long (seconds).
GATHERING = 4
LONGEST_GATHERING = 0.005

# A checkpoint for which nobody waits is written after so many seconds at the latest.
NOTED_WITHIN = 1.0

REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)


@dataclass(slots=True)
class Flush:
    """One transaction's worth."""

    rows: list[ItemRecord]
    checkpoints: list[tuple[int, str]]
    frontier: int
    complete: bool
    judged: list[ItemRecord] = field(default_factory=list)  # as last sent to be committed: a write may have raised
    broken: list[ItemRecord] = field(default_factory=list)  # whose write broke the transaction


class Recorder:
    """Writes the outcomes of one run. Entered, it flushes whenever something has ended; leaving it flushes the rest.

    `small` is the pool whose statements are planned once. `busy()` tells how many lanes have an item in hand.
    `recorded(state, rows)` is called after each commit; `again(row)` for an attempt that turned out to need another (a `Result.write`
    that raised) after the item had been left.
    """

    def __init__(
        self,
        pool: Pool,
        small: Pool,
        grant: Acquired,
        hold: Hold,
        policy: Policy,
        lanes: int,
        busy: Callable[[], int],
        lease_ttl: float,
        events: Events,
        outages: Outages,
        explain: Callable[[BaseException], str],
        recorded: Callable[[BatchState, Sequence[ItemRecord]], None],
        again: Callable[[ItemRecord], None],
    ) -> None:
        self.state = grant.state
        self.frontier = grant.frontier
        self._pool = pool
        self._small = small
        self._hold = hold
        self._policy = policy
        self._lanes = lanes
        self._busy = busy
        self._careful_until = grant.careful_until
        self._lease_ttl = lease_ttl
        self._events = events
        self._outages = outages
        self._explain = explain
        self._name = f"recorder {grant.state.id}"
        self._recorded = recorded
        self._again = again
        self._pending: deque[ItemRecord] = deque()
        self._checkpoints: dict[int, str] = {}
        self._next_start = 0
        self._window = lanes
        self.item_seconds: float | None = None
        self._commit_seconds = 0.002
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._flushed = asyncio.Event()
        self._flushing = False
        self._noted: asyncio.TimerHandle | None = None
        self._wanted = -1
        self._waiting = 0
        self._narrowing = False
        self._complete = False
        self._closing = False
        self._ended = False
        self._writer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Recorder:
        self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def open(self) -> None:
        """Begin to write."""
        self._writer = asyncio.create_task(self._write())

    async def close(self) -> None:
        """Write the rest, then end."""
        self._closing = True
        self._wake.set()
        self._hurry.set()
        assert self._writer is not None
        try:
            await self._writer
        finally:
            self._outages.back("postgres", self._name)

    def add(self, row: ItemRecord, last: bool = False) -> None:
        """An attempt has ended: it is written with the next flush; with the `last` of all, the batch may be completed at once."""
        self._complete = self._complete or last
        self._pending.append(row)
        if row.seconds is not None and row.status in TERMINAL:
            known = self.item_seconds
            self.item_seconds = row.seconds if known is None else known + (row.seconds - known) / 8
        self._wake.set()
        if last:
            self._hurry.set()

    def add_quick(self, rows: Sequence[ItemRecord], last: bool) -> None:
        """As `add` and `may_start`, for items that have started, ended and completed one after another."""
        self._next_start = max(self._next_start, rows[-1].position + 1)
        self._complete = self._complete or last
        self._pending.extend(rows)
        mean = sum(row.seconds or 0.0 for row in rows) / len(rows)
        known = self.item_seconds
        self.item_seconds = mean if known is None else known + (mean - known) * min(1.0, len(rows) / 8)
        self._wake.set()
        if last:
            self._hurry.set()

    def may_start(self, position: int) -> bool:
        """Whether the durable mark allows this item to start now; if so it counts as started."""
        if position >= self.frontier:
            return False
        self._next_start = max(self._next_start, position + 1)
        return True

    async def clear(self, position: int) -> None:
        """Return once the mark that this item may have started is durable. Raises LeaseLost."""
        self._waiting += 1
        try:
            while not self.may_start(position):
                self._next_start = max(self._next_start, position)
                self._wanted = max(self._wanted, position)
                await self._next_flush()
        finally:
            self._waiting -= 1

    async def mark_retry(self, row: ItemRecord) -> None:
        """Make the start of a retry durable on its own row."""
        self.add(row)
        await self.written(row)

    async def written(self, row: ItemRecord) -> None:
        """Return once `row`, added before, is durable."""
        while row in self._pending or self._flushing:
            await self._next_flush()

    async def checkpoint(self, position: int, state: str) -> None:
        """Return once an item's checkpoint, or a newer one of it, is durable; those that come together share a commit."""
        self._checkpoints[position] = state
        while self._checkpoints.get(position) is state or self._flushing:
            await self._next_flush()

    def note(self, position: int, state: str) -> None:
        """An item's checkpoint for which nobody waits: the newest is written with whatever is written next, or in a moment."""
        self._checkpoints[position] = state
        if self._noted is None:
            self._noted = asyncio.get_running_loop().call_later(NOTED_WITHIN, self._wake.set)

    async def drain(self) -> None:
        """Write all that has ended."""
        while self._pending or self._checkpoints or self._flushing:
            await self._next_flush()

    async def complete(self) -> bool:
        """Write the rest and end the batch as completed; False when open items remain."""
        while self._pending or self._complete or self._flushing:
            await self._next_flush()
        if self.state.status != "completed":
            self._complete = True
            while self._complete or self._flushing:
                await self._next_flush()
        return self.state.status == "completed"

    @property
    def slow(self) -> bool:
        """Whether items are so slow that each has a commit of its own."""
        return self._window <= self._lanes

    def abort(self) -> None:
        """The lease is lost: write nothing more, and let go of everybody who waits."""
        self._wake.set()
        self._hurry.set()

    def narrow(self) -> None:
        """Draw the frontier back to what has started: the item under way is a slow one."""
        if self.frontier >= self._next_start + self._lanes:
            self.item_seconds = max(self.item_seconds or 0.0, LONGEST_BURST)  # one at a time from now on
            self._narrowing = True
            self._wake.set()
            self._hurry.set()

    async def _next_flush(self) -> None:
        if self._hold.lost is not None or self._ended:
            raise LeaseLost(self._hold.lost or "the lease is lost")
        self._wake.set()
        self._hurry.set()
        await self._flushed.wait()

    async def _write(self) -> None:
        try:
            await self._write_until_closed()
        finally:
            self._ended = True
            self._tell()  # whatever ended it, nobody may wait for another flush

    async def _write_until_closed(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._hold.lost is not None:
                return
            while self._has_work():
                await self._gather()
                if self._hold.lost is not None or not await self._flush(self._take()):
                    return
            if self._closing:
                return

    async def _gather(self) -> None:
        """Let quick items share the commit, until somebody waits for it: commits of a few rows each cost more than the items do."""
        if not (self.slow or self._complete or self._hurry.is_set()):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), min(GATHERING * self._commit_seconds, LONGEST_GATHERING))
        self._hurry.clear()

    def _has_work(self) -> bool:
        return bool(
            self._pending or self._checkpoints or self._complete or self._narrowing or (self._waiting and self._wanted >= self.frontier)
        )

    def _take(self) -> Flush:
        rows: list[ItemRecord] = []
        size = 0
        while self._pending and len(rows) < MOST_ROWS and size < MOST_BYTES:
            rows.append(self._pending.popleft())
            size += len(rows[-1].result or "")
        checkpoints, self._checkpoints = list(self._checkpoints.items()), {}
        if self._noted is not None:
            self._noted.cancel()
            self._noted = None
        # A terminal event is the last, and one event holds so many items: a larger flush leaves the end to the next.
        complete = self._complete and not self._pending and len(rows) <= EVENT_ITEMS
        self._complete = self._complete and not complete
        self._narrowing = False
        return Flush(rows, checkpoints, self._widen(), complete)

    def _widen(self) -> int:
        if self._next_start < self._careful_until:
            self._window = 1
        elif self._policy.max_attempts == 1:
            self._window = self._lanes  # whatever is marked as started may never start again: mark no more than that
        else:
            self._window = window(self.item_seconds, self._commit_seconds, self._lanes, self._window)
        frontier = self._next_start + self._ahead()
        self.frontier = min(self.frontier, frontier)  # drawn back at once, moved on only when it is durable
        return frontier

    def _ahead(self) -> int:
        """How many items may start beside those that have; slow ones only where a lane is free, so that a death has few suspects."""
        if self._window > self._lanes:
            return self._window
        return max(self._window - self._busy() + self._waiting, min(self._window, self._waiting))

    async def _flush(self, flush: Flush) -> bool:
        """Write until it is durable; False when the lease is lost."""
        self._flushing = True
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
                self._flushing = False
                return await self._flush_apart(flush, error)
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
        self._commit_seconds += (time.monotonic() - asked_at - self._commit_seconds) / 8
        self._adopt(state, flush, rows)
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
            async with contextlib.nullcontext() if single else connection.transaction():
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

    async def _flush_apart(self, flush: Flush, error: Exception) -> bool:
        """Postgres refuses one of the rows: write them one by one, and the culprit as a failed attempt."""
        if not flush.rows:
            raise error  # neither the batch's own row nor a checkpoint can be written differently
        if len(flush.rows) == 1 and not flush.checkpoints:
            row = flush.rows[0]
            if row.result is None and row.write is None:
                raise error  # not the row's fault
            refused = failure_of(ValueError(f"result cannot be stored: {error}"))
            flush.rows = [settle(row.position, row.key, row.attempts, refused, self._policy, row.seconds or 0.0)]
            self._again_if_open(flush.rows[0])
            return await self._flush(flush)
        for row in flush.rows:
            if not await self._flush(Flush([row], [], self.frontier, False)):
                return False
        return await self._flush(Flush([], flush.checkpoints, flush.frontier, flush.complete))

    def _adopt(self, state: BatchState, flush: Flush, rows: list[ItemRecord]) -> None:
        self.state = state
        self.frontier = flush.frontier
        self._flushing = False
        for old, new in zip(flush.rows, rows, strict=True):
            if old is not new:
                self._again_if_open(new)
        for row in flush.broken:
            self._again_if_open(row)
        # After this step, when the next commit is under way, and before anybody who waits for this one goes on.
        asyncio.get_running_loop().call_soon(self._recorded, state, rows)
        self._tell()

    def _again_if_open(self, row: ItemRecord) -> None:
        if row.status in ("pending", "processing"):
            self._again(row)

    def _tell(self) -> None:
        self._flushed.set()
        self._flushed = asyncio.Event()
