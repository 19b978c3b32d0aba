"""Puts on the stream what Postgres knows and the stream does not; hears what Postgres announces."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import asyncpg
from redis.exceptions import ResponseError

from streamworker.broker.consumer import Consumer, group_is_gone
from streamworker.engine.announcer import Announcer
from streamworker.engine.attempts import WIDEST_WINDOW
from streamworker.engine.progress import EVENT_ITEMS, event_of
from streamworker.observe.events import Events, Reconciled
from streamworker.store.leases import end_when_silent, try_lock
from streamworker.store.pool import CONNECTION_ERRORS, open_connection
from streamworker.store.progress import read_cut_off
from streamworker.store.reconciling import (
    BEGINNING,
    RECONCILER_LOCK,
    Undispatched,
    find_unannounced,
    find_undispatched,
    find_unlocked,
    find_unregistered,
    mark_announced,
    register_entry,
)

EVERY = 1.0
# A leader that says nothing for so long (seconds) is stopped or blocked: another one leads.
LONGEST_SILENCE = 5.0
PAGE = 1_000
MOST_ENDS = 200
STRANDED_EVERY = 10.0
CONSUMERS_EVERY = 60.0
IDLE_CONSUMER = 3_600.0
CHANNEL = "streamworker"


class Reconciler:
    """One worker at a time does the work, by a session lock; every worker listens on the channel.

    `cancelled(batch_id)` is called when a batch was cancelled anywhere.
    """

    def __init__(
        self,
        database_url: str,
        name: str,
        consumer: Consumer,
        announcer: Announcer,
        events: Events,
        cancelled: Callable[[UUID], None],
    ) -> None:
        self._database_url = database_url
        self._name = name
        self._consumer = consumer
        self._announcer = announcer
        self._events = events
        self._cancelled = cancelled
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._leading = False
        self._after = BEGINNING
        self._sweep_all = True
        self._consumers_at = self._stranded_at = 0.0
        self.wake: Callable[[], None] = lambda: None

    def entries_lost(self) -> None:
        """There is a sign that the stream lost entries: look at every open batch now."""
        self._sweep_all = True
        self.wake()

    async def close(self) -> None:
        """Give up the lock and the channel."""
        if self._connection is not None:
            with contextlib.suppress(*CONNECTION_ERRORS):
                await self._connection.close(timeout=2.0)

    async def step(self) -> float:
        """One round; returns when the next is due (seconds)."""
        connection = await self._session()
        if not self._leading:
            self._leading = await try_lock(connection, RECONCILER_LOCK)
            if not self._leading:
                return EVERY
        try:
            announced = await self._announce_ends(connection)
            dispatched = await self._dispatch_page(connection, await find_unregistered(connection, PAGE))
            dispatched += await self._dispatch(connection)
            dispatched += await self._requeue_stranded()
        except Exception:
            connection.terminate()  # somebody who reaches both servers shall lead
            raise
        if announced or dispatched:
            self._events.emit(Reconciled(dispatched=dispatched, announced=announced))
        await self._forget_consumers()
        return 0.0 if self._sweep_all else EVERY

    async def _session(self) -> asyncpg.Connection[asyncpg.Record]:
        if self._connection is None or self._connection.is_closed():
            self._leading = False
            self._sweep_all = True
            self._connection = await open_connection(self._database_url, application_name=f"{self._name} reconciler")
            await end_when_silent(self._connection, LONGEST_SILENCE)
            await self._connection.add_listener(CHANNEL, self._heard)
        return self._connection

    def _heard(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        word, _, batch_id = str(payload).partition(" ")
        if word == "cancel":
            with contextlib.suppress(ValueError):
                self._cancelled(UUID(batch_id))
        self.wake()

    async def _announce_ends(self, connection: asyncpg.Connection[asyncpg.Record]) -> int:
        ended = await find_unannounced(connection, MOST_ENDS)
        if ended:
            cut_off = {
                state.id: await read_cut_off(connection, state.id, WIDEST_WINDOW, EVENT_ITEMS)
                for state in ended
                if state.status != "completed"
            }
            events = [event_of(state, cut_off.get(state.id, [])) for state in ended]
            await asyncio.wait_for(self._announcer.announce_ends(events), 5.0)
            await mark_announced(connection, ended)
        return len(ended)

    async def _dispatch(self, connection: asyncpg.Connection[asyncpg.Record]) -> int:
        """Go through a page of the open batches without an owner; through all of them after a sign of loss."""
        dispatched = 0
        sweeping, self._sweep_all = self._sweep_all, False
        if sweeping:
            self._after = BEGINNING
        try:
            while True:
                page = await find_undispatched(connection, self._after, PAGE)
                dispatched += await self._dispatch_page(connection, page)
                self._after = page[-1] if len(page) == PAGE else BEGINNING
                if not sweeping or len(page) < PAGE:
                    return dispatched
        except BaseException:
            self._sweep_all = self._sweep_all or sweeping
            raise

    async def _dispatch_page(self, connection: asyncpg.Connection[asyncpg.Record], page: list[Undispatched]) -> int:
        lost = await self._find_lost([batch.entry_id for batch in page if batch.entry_id is not None])
        again = [batch for batch in page if batch.entry_id is None or batch.entry_id in lost]
        if again:  # one that somebody is changing must not hold up the others: it is looked at again in a second
            unlocked = await find_unlocked(connection, [batch.batch_id for batch in again])
            again = [batch for batch in again if batch.batch_id in unlocked]
        replaced: list[str] = []
        for batch in again:
            entry_id = await self._consumer.enqueue(str(batch.batch_id))
            if await register_entry(connection, batch.batch_id, batch.entry_id, entry_id) and batch.entry_id is not None:
                replaced.append(batch.entry_id)
        if replaced:
            # Delivered once and pending with nobody. One that still stands for its batch, which somebody works on by now, is no
            # business of ours: whoever ends the batch deletes it, or `requeue_stranded` finds it.
            await self._consumer.delete(replaced)
        return len(again)

    async def _find_lost(self, entry_ids: list[str]) -> set[str]:
        if not entry_ids:
            return set()
        try:
            return await self._consumer.find_lost(entry_ids)
        except ResponseError as error:
            if not group_is_gone(error):
                raise
        await self._consumer.create_group()
        self._sweep_all = True  # everything was lost, not only what is on this page
        return await self._consumer.find_lost(entry_ids)

    async def _requeue_stranded(self) -> int:
        """Messages that are not in Postgres yet are found by nobody else."""
        if time.monotonic() < self._stranded_at:
            return 0
        self._stranded_at = time.monotonic() + STRANDED_EVERY
        try:
            return await self._consumer.requeue_stranded()
        except ResponseError as error:
            if not group_is_gone(error):
                raise
            return 0

    async def _forget_consumers(self) -> None:
        if time.monotonic() >= self._consumers_at:
            self._consumers_at = time.monotonic() + CONSUMERS_EVERY
            try:
                await self._consumer.drop_idle_consumers(IDLE_CONSUMER)
            except ResponseError as error:
                if not group_is_gone(error):
                    raise
