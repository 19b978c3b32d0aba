"""Entries whose batch is not in Postgres yet, or is paused: looked up again, without a slot, and without blocking others."""

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
from streamworker.store.pauses import find_paused
from streamworker.store.pool import Pool
from streamworker.store.reconciling import existing

PATIENCE = 30.0
LOOK_EVERY = 0.25
# A pause may end early, by a cancel.
LOOK_AT_PAUSED_EVERY = 1.0
NOTHING_TO_DO = 60.0
# Entries beyond this number are not kept: they are reclaimed later.
MOST_WAITING = 10_000


@dataclass(slots=True)
class Waiting:
    """One entry, since when it waits, and what keeps it from looking idle. `paused`: its batch is there, but nobody may take it yet."""

    delivery: Delivery
    batch_id: UUID
    since: float
    keeping: contextlib.ExitStack
    paused: bool


class WaitingRoom:
    """Holds entries until their batch is committed, or may go on (`ready`), or was not there for `PATIENCE` seconds (`gone`)."""

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

    async def admit(self, delivery: Delivery, batch_id: UUID, paused: bool = False) -> None:
        """Let an entry wait, unless it does already."""
        if delivery.entry_id in self._waiting or len(self._waiting) >= MOST_WAITING:
            return
        keeping = contextlib.ExitStack()
        keeping.enter_context(self._heartbeat.keep(Hold(delivery.entry_id, asyncio.get_running_loop())))
        self._waiting[delivery.entry_id] = Waiting(delivery, batch_id, time.monotonic(), keeping, paused)
        self.wake()

    async def look(self) -> float:
        """Let those go whose batch has come or may go on, and those whose time is over; returns when to look again (seconds)."""
        missing = [waiting for waiting in self._waiting.values() if not waiting.paused]
        paused = [waiting for waiting in self._waiting.values() if waiting.paused]
        pauses = [NOTHING_TO_DO]
        if missing:
            pauses.append(await self._look_for(missing))
        if paused:
            pauses.append(await self._look_at(paused))
        return min(pauses)

    async def _look_for(self, missing: list[Waiting]) -> float:
        async with self._pool.acquire() as connection:
            there = await existing(connection, [waiting.batch_id for waiting in missing])
        now = time.monotonic()
        for waiting in missing:
            if waiting.batch_id in there:
                self._release(waiting)
            elif now - waiting.since > PATIENCE and self.gone is not None:
                await self.gone(waiting.delivery, waiting.batch_id, PATIENCE)
                self._let_go(waiting.delivery.entry_id)
        return LOOK_EVERY

    async def _look_at(self, paused: list[Waiting]) -> float:
        async with self._pool.acquire() as connection:
            left = await find_paused(connection, [waiting.batch_id for waiting in paused])
        for waiting in paused:
            if waiting.batch_id not in left:
                self._release(waiting)
        return min([LOOK_AT_PAUSED_EVERY, *left.values()])

    def _release(self, waiting: Waiting) -> None:
        self._let_go(waiting.delivery.entry_id)
        self.ready(waiting.delivery)

    def _let_go(self, entry_id: str) -> None:
        self._waiting.pop(entry_id).keeping.close()
