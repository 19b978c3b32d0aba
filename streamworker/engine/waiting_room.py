"""Entries whose batch is not in Postgres yet: looked up again for a while, without blocking others."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from streamworker.broker.connection import CONNECTION_ERRORS
from streamworker.broker.consumer import Consumer, Delivery
from streamworker.engine.heartbeat import Heartbeat
from streamworker.engine.holds import Hold
from streamworker.store.pool import Pool
from streamworker.store.reconciling import existing

PATIENCE = 30.0
LOOK_EVERY = 0.25
# Entries beyond this number are not kept: they are reclaimed later.
MOST_WAITING = 10_000


@dataclass(slots=True)
class Waiting:
    """One entry, since when it waits, and what keeps it from looking idle."""

    delivery: Delivery
    batch_id: UUID
    since: float
    keeping: contextlib.ExitStack


class WaitingRoom:
    """Holds entries until their batch is committed (`ready`) or `PATIENCE` seconds have passed (`gone`)."""

    def __init__(self, pool: Pool, heartbeat: Heartbeat) -> None:
        self._pool = pool
        self._heartbeat = heartbeat
        self._waiting: dict[str, Waiting] = {}
        self.ready: Callable[[Delivery], None] = lambda delivery: None
        self.gone: Callable[[Delivery, UUID, float], Awaitable[None]] | None = None
        self.wake: Callable[[], None] = lambda: None

    def holds(self, entry_id: str) -> bool:
        """Whether this entry waits here."""
        return entry_id in self._waiting

    async def give_away(self, consumer: Consumer) -> None:
        """The worker ends: another one may wait with the entries."""
        for entry_id in list(self._waiting):
            self._let_go(entry_id)
            with contextlib.suppress(*CONNECTION_ERRORS):
                await consumer.pass_on(entry_id)

    async def admit(self, delivery: Delivery, batch_id: UUID) -> None:
        """Let an entry wait, unless it does already."""
        if delivery.entry_id in self._waiting or len(self._waiting) >= MOST_WAITING:
            return
        keeping = contextlib.ExitStack()
        keeping.enter_context(self._heartbeat.keep(Hold(delivery.entry_id, asyncio.get_running_loop())))
        self._waiting[delivery.entry_id] = Waiting(delivery, batch_id, time.monotonic(), keeping)
        self.wake()

    async def look(self) -> float:
        """Let those go whose batch has come, and those whose time is over; returns when to look again (seconds)."""
        if not self._waiting:
            return 60.0
        async with self._pool.acquire() as connection:
            there = await existing(connection, [waiting.batch_id for waiting in self._waiting.values()])
        now = time.monotonic()
        for entry_id, waiting in list(self._waiting.items()):
            if waiting.batch_id in there:
                self._let_go(entry_id)
                self.ready(waiting.delivery)
            elif now - waiting.since > PATIENCE and self.gone is not None:
                await self.gone(waiting.delivery, waiting.batch_id, PATIENCE)
                self._let_go(entry_id)
        return LOOK_EVERY

    def _let_go(self, entry_id: str) -> None:
        self._waiting.pop(entry_id).keeping.close()
