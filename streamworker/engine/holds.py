"""What a worker holds: an entry it keeps from looking idle, and perhaps a lease it must not outlive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import msgspec

from streamworker.store.items import ItemRecord

# How long (seconds) interrupted user code on the worker's own loop may take to end, before the worker is restarted to end it.
INTERRUPT_GRACE = 0.9
# A lease is given up this share of its time before it ends: clocks run at slightly different speeds.
MARGIN = 0.1


class HeldLease(msgspec.Struct, frozen=True):
    """The right to write on one batch under one epoch."""

    batch_id: UUID
    epoch: int
    once_only: bool = False  # max_attempts is 1: whatever has started may not start again


class Hold:
    """One delivery in our care. The heartbeat's thread keeps it; the worker's loop is told when it is lost.

    `lost` says why (or None); it may be read from any thread.
    """

    def __init__(self, entry_id: str | None, loop: asyncio.AbstractEventLoop) -> None:
        self.entry_id = entry_id
        self.taken_at = time.monotonic()
        self.lease: HeldLease | None = None
        self.deadline = float("inf")
        self.lost: str | None = None
        self.lost_at = float("inf")
        self._loop = loop
        self._on_lost: Callable[[str], None] | None = None

    def begin(self, lease: HeldLease, asked_at: float, ttl: float, on_lost: Callable[[str], None]) -> None:
        """The lease is ours, as of the monotonic time at which it was asked for."""
        self._on_lost = on_lost
        self.extend(asked_at, ttl)
        self.lease = lease

    def tell(self, on_lost: Callable[[str], None]) -> None:
        """Tell somebody else when the lease is lost: at once if it is."""
        self._on_lost = on_lost
        if self.lost is not None:
            on_lost(self.lost)

    def extend(self, asked_at: float, ttl: float) -> None:
        """A write that was sent at `asked_at` (monotonic) renewed the lease for `ttl` seconds."""
        self.deadline = asked_at + ttl * (1 - MARGIN)

    def check_deadline(self) -> None:
        """Give the lease up when nobody has confirmed it for too long."""
        if time.monotonic() > self.deadline:
            self.lose("Postgres did not confirm the lease in time")

    def lose(self, reason: str) -> None:
        """Stop renewing, and tell the run; from any thread."""
        if self.lease is None or self.lost is not None:
            return
        self.lost_at = time.monotonic()
        self.lost = reason
        self._loop.call_soon_threadsafe(self._tell, reason)

    def _tell(self, reason: str) -> None:
        if self._on_lost is not None:
            self._on_lost(reason)


class Lost:
    """Passes a lost lease on to the run, also when it was lost before there was one."""

    def __init__(self) -> None:
        self._reason: str | None = None
        self._told: Callable[[str], None] | None = None

    def __call__(self, reason: str) -> None:
        self._reason = reason
        if self._told is not None:
            self._told(reason)

    def tell(self, told: Callable[[str], None]) -> None:
        """Call `told` when it is lost: at once if it is."""
        self._told = told
        if self._reason is not None:
            told(self._reason)


@dataclass(slots=True, eq=False)
class Call:
    """User code under way, which must have ended at `overdue_at` (monotonic seconds)."""

    hold: Hold
    overdue_at: float = float("inf")
    running: bool = False
    timed_out: bool = False
    told: bool = False
    time_is_up_at: float = float("inf")
    if_timed_out: ItemRecord | None = None

    def is_overdue(self, now: float) -> bool:
        """Whether it should have ended; a lost lease ends it too, also where the blocked loop has not heard of it."""
        return self.running and now > min(self.overdue_at, self.hold.lost_at + INTERRUPT_GRACE)

    @property
    def timed_out_at_last(self) -> bool:
        """Whether its time is up; on a blocked loop nobody else has noticed."""
        return self.timed_out or time.monotonic() > self.time_is_up_at
