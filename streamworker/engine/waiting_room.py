"""Entries whose batch is not in Postgres yet, or is paused: looked up again, without a slot, and without blocking others."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
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
# A try that goes on for longer (seconds) seems to get through: the next one need not wait for its end.
LONGEST_TRY = 60.0
# Entries beyond this number are not kept: they are reclaimed later.
MOST_WAITING = 10_000


@dataclass(slots=True)
class Waiting:
    """One entry, since when it waits, and what keeps it from looking idle. `paused`: the processor of a batch that is there, but paused."""

    delivery: Delivery
    batch_id: UUID
    since: float
    keeping: contextlib.ExitStack
    paused: str | None


class WaitingRoom:
    """Holds entries until their batch is committed (`ready`), or was not there for `PATIENCE` seconds (`gone`), or its pause is over.

    Then it can be had from `take`: one after another, as long as nothing tells that what their processor needs is there again. Until
    it is had nothing keeps the entry from looking idle: another worker may have more time. `offer` is called when there may be one.
    """

    def __init__(self, pool: Pool, heartbeat: Heartbeat) -> None:
        self._pool = pool
        self._heartbeat = heartbeat
        self._waiting: dict[str, Waiting] = {}
        self._due: dict[str, dict[str, Waiting]] = {}
        self._away: set[str] = set()
        self._tried: dict[str, tuple[str, float]] = {}
        self.ready: Callable[[Delivery], None] = lambda delivery: None
        self.gone: Callable[[Delivery, UUID, float], Awaitable[None]] | None = None
        self.wake: Callable[[], None] = lambda: None
        self.offer: Callable[[], None] = lambda: None

    @property
    def is_full(self) -> bool:
        """Whether what comes now is not kept, and will come again."""
        return len(self._waiting) >= MOST_WAITING

    @property
    def offers(self) -> bool:
        """Whether `take` has something to give."""
        return next(self._offered(), None) is not None

    def take(self) -> Delivery | None:
        """One whose pause is over; it is being tried until it has `ended`, or its processor `got_through`."""
        processor = next(self._offered(), None)
        if processor is None:
            return None
        waiting = next(iter(self._due[processor].values()))
        self._let_go(waiting.delivery.entry_id)
        if processor in self._away:
            self._tried[processor] = waiting.delivery.entry_id, time.monotonic()
        return waiting.delivery

    def ended(self, entry_id: str) -> None:
        """What was taken is with us no longer, or waits again."""
        self._tried = {processor: tried for processor, tried in self._tried.items() if tried[0] != entry_id}
        self.offer()

    def got_through(self, processor: str) -> None:
        """What this processor needs is there again."""
        self._away.discard(processor)
        self._tried.pop(processor, None)
        self.offer()

    def _offered(self) -> Iterator[str]:
        return (processor for processor in self._due if not (processor in self._away and self._is_tried(processor)))

    def _is_tried(self, processor: str) -> bool:
        _, since = self._tried.get(processor, ("", -float("inf")))
        return time.monotonic() - since < LONGEST_TRY

    def holds(self, entry_id: str) -> bool:
        """Whether this entry waits here."""
        return entry_id in self._waiting

    async def give_away(self, consumer: Consumer) -> None:
        """The worker ends: another one may wait with the entries."""
        for entry_id in list(self._waiting):
            self._let_go(entry_id)
            with contextlib.suppress(*CONNECTION_ERRORS):
                await consumer.pass_on(entry_id)

    async def admit(self, delivery: Delivery, batch_id: UUID, paused: str | None = None) -> None:
        """Let an entry wait, unless it does already."""
        if paused is not None:
            self._away.add(paused)
        if delivery.entry_id in self._waiting or self.is_full:
            return
        waiting = Waiting(delivery, batch_id, time.monotonic(), contextlib.ExitStack(), paused)
        self._keep(waiting)
        self._waiting[delivery.entry_id] = waiting
        self.wake()

    async def look(self) -> float:
        """Let those go whose batch has come or may go on, and those whose time is over; returns when to look again (seconds)."""
        missing = [waiting for waiting in self._waiting.values() if waiting.paused is None]
        paused = [waiting for waiting in self._waiting.values() if waiting.paused is not None]
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
                self._let_go(waiting.delivery.entry_id)
                self.ready(waiting.delivery)
            elif now - waiting.since > PATIENCE and self.gone is not None:
                await self.gone(waiting.delivery, waiting.batch_id, PATIENCE)
                self._let_go(waiting.delivery.entry_id)
        return LOOK_EVERY

    async def _look_at(self, paused: list[Waiting]) -> float:
        async with self._pool.acquire() as connection:
            left = await find_paused(connection, [waiting.batch_id for waiting in paused])
        for waiting in paused:
            if self._waiting.get(waiting.delivery.entry_id) is waiting:  # else it was taken meanwhile
                self._judge(waiting, waiting.batch_id in left)
        self.offer()
        return min([LOOK_AT_PAUSED_EVERY, *left.values()])

    def _judge(self, waiting: Waiting, paused: bool) -> None:
        entry_id, processor = waiting.delivery.entry_id, waiting.paused or ""
        if not paused and entry_id not in self._due.get(processor, ()):
            waiting.keeping.close()
            self._due.setdefault(processor, {})[entry_id] = waiting
        elif paused and self._forget(waiting):  # another worker has tried it meanwhile
            self._keep(waiting)

    def _keep(self, waiting: Waiting) -> None:
        hold = Hold(waiting.delivery.entry_id, asyncio.get_running_loop())
        waiting.keeping.enter_context(self._heartbeat.keep(hold))

    def _forget(self, waiting: Waiting) -> bool:
        """Offer it no longer; whether it was offered."""
        processor = waiting.paused or ""
        due = self._due.get(processor, {})
        if due.pop(waiting.delivery.entry_id, None) is None:
            return False
        if not due:
            del self._due[processor]
        return True

    def _let_go(self, entry_id: str) -> None:
        waiting = self._waiting.pop(entry_id)
        waiting.keeping.close()
        self._forget(waiting)
