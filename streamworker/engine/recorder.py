"""Group commit: what has ended is written together, fenced, with the frontier; what is durable is then announced."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from streamworker.engine.attempts import LONGEST_BURST, Policy, window
from streamworker.engine.commits import Commits, Flush
from streamworker.engine.holds import Hold
from streamworker.engine.outages import Outages
from streamworker.engine.progress import EVENT_ITEMS
from streamworker.errors import LeaseLost
from streamworker.messages import TERMINAL
from streamworker.observe.events import Events
from streamworker.store.batches import Acquired, BatchState
from streamworker.store.items import ItemRecord
from streamworker.store.pool import Pool

MOST_ROWS = 2_000
MOST_BYTES = 32 * 1024 * 1024
# How long quick items gather for one commit: so many times as long as it takes, at most so long (seconds).
GATHERING = 4
LONGEST_GATHERING = 0.010

# A checkpoint for which nobody waits is written after so many seconds at the latest.
NOTED_WITHIN = 1.0


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
        self.frontier = grant.frontier
        self._commits = Commits(pool, small, grant, hold, policy, lease_ttl, events, outages, explain, self._adopt)
        self._hold = hold
        self._policy = policy
        self._lanes = lanes
        self._busy = busy
        self._careful_until = grant.careful_until
        self._recorded = recorded
        self._again = again
        self._pending: deque[ItemRecord] = deque()
        self._checkpoints: dict[int, str] = {}
        self._next_start = 0
        self._window = lanes
        self.item_seconds: float | None = None
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._flushed = asyncio.Event()
        self._taken: Flush | None = None
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
            self._commits.close()

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
        while row in self._pending or (self._taken is not None and row in self._taken.rows):
            await self._next_flush()

    async def checkpoint(self, position: int, state: str) -> None:
        """Return once an item's checkpoint, or a newer one of it, is durable; those that come together share a commit."""
        self._checkpoints[position] = state
        while position in self._checkpoints or (self._taken is not None and position in self._taken.checkpoints):
            await self._next_flush()

    def note(self, position: int, state: str) -> None:
        """An item's checkpoint for which nobody waits: the newest is written with whatever is written next, or in a moment."""
        self._checkpoints[position] = state
        if self._noted is None:
            self._noted = asyncio.get_running_loop().call_later(NOTED_WITHIN, self._wake.set)

    async def drain(self) -> None:
        """Write all that has ended."""
        while self._pending or self._checkpoints or self._taken is not None:
            await self._next_flush()

    async def complete(self) -> bool:
        """Write the rest and end the batch as completed; False when open items remain."""
        while self._pending or self._complete or self._taken is not None:
            await self._next_flush()
        if self.state.status != "completed":
            self._complete = True
            while self._complete or self._taken is not None:
                await self._next_flush()
        return self.state.status == "completed"

    @property
    def state(self) -> BatchState:
        """The batch as of the last commit."""
        return self._commits.state

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
                if self._hold.lost is not None:
                    return
                self._taken = self._take()
                if not await self._commits.write(replace(self._taken)):
                    return
                self._taken = None
                self._tell()
            if self._closing:
                return

    async def _gather(self) -> None:
        """Let quick items share the commit, until somebody waits for it: commits of a few rows each cost more than the items do."""
        if not (self.slow or self._complete or self._hurry.is_set()):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), min(GATHERING * self._commits.seconds, LONGEST_GATHERING))
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
        checkpoints, self._checkpoints = self._checkpoints, {}
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
            self._window = window(self.item_seconds, self._commits.seconds, self._lanes, self._window)
        frontier = self._next_start + self._ahead()
        self.frontier = min(self.frontier, frontier)  # drawn back at once, moved on only when it is durable
        return frontier

    def _ahead(self) -> int:
        """How many items may start beside those that have; slow ones only where a lane is free, so that a death has few suspects."""
        if self._window > self._lanes:
            return self._window
        return max(self._window - self._busy() + self._waiting, min(self._window, self._waiting))

    def _adopt(self, flush: Flush, rows: list[ItemRecord]) -> None:
        self.frontier = flush.frontier
        for old, new in zip(flush.rows, rows, strict=True):
            if old is not new:
                self._again_if_open(new)
        for row in flush.broken:
            self._again_if_open(row)
        # After this step, when the next commit is under way, and before anybody who waits for this one goes on.
        asyncio.get_running_loop().call_soon(self._recorded, self.state, rows)

    def _again_if_open(self, row: ItemRecord) -> None:
        if row.status in ("pending", "processing"):
            self._again(row)

    def _tell(self) -> None:
        self._flushed.set()
        self._flushed = asyncio.Event()
