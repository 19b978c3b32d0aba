"""The thread that keeps leases: own loop, own connections, so that a busy worker loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any
from uuid import UUID

import asyncpg

from streamworker.broker import connection as broker_connection
from streamworker.broker.consumer import Address, Renewer, group_is_gone
from streamworker.engine.holds import Call, HeldLease, Hold
from streamworker.engine.outages import Outages, Server
from streamworker.store import leases
from streamworker.store.pool import CONNECTION_ERRORS, explain, open_connection

LOG = logging.getLogger("streamworker.engine")
ENTRY_BEAT = 0.4
LEASE_BEAT = 0.5
WATCH_BEAT = 0.2
CONNECT_PAUSE = 0.25
# How long native code may keep even this thread from running before the process is ended.
HARD_GRACE = 10.0


class Heartbeat:
    """Keeps what the worker holds; ends the worker when user code can be ended in no other way.

    `number` is the key of the session lock that proves, for as long as this process lives, that it lives;
    negative behind a pooler that shares sessions: then the lease alone decides. `stuck(call, leases)` is awaited in this thread,
    also when the worker was to end by `stop_by` (monotonic seconds) and user code still runs.
    """

    def __init__(
        self,
        redis_url: str,
        database_url: str,
        address: Address,
        lease_ttl: float,
        item_timeout: float | None,
        outages: Outages,
        stuck: Callable[[Call, list[HeldLease]], Coroutine[Any, Any, None]],
    ) -> None:
        self._redis_url = redis_url
        self._database_url = database_url
        self._address = address
        self._lease_ttl = lease_ttl
        self._item_timeout = item_timeout
        self._outages = outages
        self._stuck = stuck
        self._key = random.SystemRandom().randrange(1, 2**62)
        self._shared_session = False
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._locked = threading.Event()
        self._locked_first: Future[None] = Future()
        self._stop = False
        self._holds: dict[int, Hold] = {}
        self.stop_by = float("inf")
        self._calls: dict[int, Call] = {}
        self._renewed_at = 0.0
        self._heard_at = 0.0  # when Postgres last answered something that was asked (monotonic seconds)
        self._main_loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    @property
    def number(self) -> int:
        """Our number, as it stands on batches that we own."""
        return -self._key if self._shared_session else self._key

    def start(self) -> None:
        """Start the thread; `ready` tells when the session lock is held."""
        self._main_loop = asyncio.get_running_loop()
        self._thread.start()

    async def ready(self) -> None:
        """Wait until the session lock is held: before that nobody could see that we live."""
        if not self._locked.is_set():
            await asyncio.wrap_future(self._locked_first)

    async def stop(self) -> None:
        """End the thread and its connections; the session lock goes with them."""
        self._stop = True
        self._locked_first.cancel()
        await asyncio.to_thread(self._thread.join, 10.0)

    @contextlib.contextmanager
    def keep(self, *holds: Hold) -> Iterator[None]:
        """Keep the entries, and each lease once its hold has one, inside the block."""
        self._holds.update({id(hold): hold for hold in holds})
        try:
            yield
        finally:
            for hold in holds:
                self._holds.pop(id(hold), None)

    def drop(self, hold: Hold) -> None:
        """Keep it no longer."""
        self._holds.pop(id(hold), None)

    def watch(self, call: Call) -> None:
        """Have user code watched until `unwatch`."""
        self._calls[id(call)] = call

    def unwatch(self, call: Call) -> None:
        """It has ended."""
        self._calls.pop(id(call), None)

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._beat())
        except BaseException:
            LOG.critical("the heartbeat failed: the worker ends, for another one to go on", exc_info=True)
            os._exit(1)

    async def _beat(self) -> None:
        redis = broker_connection.connect(self._redis_url)
        renewer = Renewer(redis, self._address)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._every(ENTRY_BEAT, "redis", lambda: self._renew_entries(renewer)))
                group.create_task(self._every(LEASE_BEAT, "postgres", self._renew_leases))
                group.create_task(self._watch())
        finally:
            faulthandler.cancel_dump_traceback_later()
            await redis.aclose()
            if self._connection is not None:
                with contextlib.suppress(*CONNECTION_ERRORS):
                    await self._connection.close(timeout=2.0)

    async def _every(self, seconds: float, server: Server, beat: Callable[[], Coroutine[Any, Any, None]]) -> None:
        away = False
        while not self._stop:
            try:
                await beat()
                if away:
                    self._tell(self._outages.back, server, "heartbeat")
                away = False
            except (*CONNECTION_ERRORS, *broker_connection.CONNECTION_ERRORS) as error:
                if not away and not group_is_gone(error):
                    self._tell(self._outages.away, server, "heartbeat", self._explain(server, error))
                    away = True
            await asyncio.sleep(seconds)

    def _tell(self, tell: Callable[..., None], *arguments: Any) -> None:
        if self._main_loop is not None and not self._main_loop.is_closed():
            self._main_loop.call_soon_threadsafe(tell, *arguments)

    def _explain(self, server: Server, error: BaseException) -> str:
        if server == "redis":
            return broker_connection.explain(error, self._redis_url)
        return explain(error, self._database_url)

    async def _renew_entries(self, renewer: Renewer) -> None:
        entry_ids = [hold.entry_id for hold in list(self._holds.values()) if hold.entry_id is not None and self._is_of_use(hold)]
        if entry_ids:
            await renewer.renew(entry_ids)  # one that is not ours any more is no loss: the lease decides

    def _is_of_use(self, hold: Hold) -> bool:
        """Whether we can do something with what we hold; what a worker without Postgres holds looks idle, and others take it."""
        if hold.lost is not None:
            return False
        return hold.lease is not None or time.monotonic() - max(self._heard_at, hold.taken_at) < self._lease_ttl

    async def _renew_leases(self) -> None:
        connection = await self._session()
        holds = list(self._holds.values())
        if not holds:
            return
        held = {hold.lease.batch_id: hold for hold in holds if hold.lease is not None and hold.lost is None}
        asked_at = time.monotonic()
        pairs = [(hold.lease.batch_id, hold.lease.epoch) for hold in held.values() if hold.lease]
        if pairs and asked_at - self._renewed_at >= self._lease_ttl / 4:
            for batch_id in await leases.renew(connection, pairs, self._lease_ttl, self.number):
                held[batch_id].extend(asked_at, self._lease_ttl)
            self._renewed_at = asked_at
        known = await leases.check(connection, [batch_id for batch_id, _ in pairs])
        self._heard_at = asked_at
        for batch_id, hold in held.items():
            _judge(batch_id, hold, known)

    async def _session(self) -> asyncpg.Connection[asyncpg.Record]:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._open_session()  # of use only with its lock
            self._renewed_at = 0.0
            if not self._locked.is_set():
                self._locked.set()
                self._locked_first.set_result(None)
        return self._connection

    async def _open_session(self) -> asyncpg.Connection[asyncpg.Record]:
        connection = await open_connection(
            self._database_url,
            application_name=f"{self._address.consumer} heartbeat",
            statement_timeout=self._lease_ttl / 2,
            lock_timeout=2.0,
        )
        try:
            self._shared_session = not await leases.lock_session(connection, self._key)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _watch(self) -> None:
        while not self._stop:
            for hold in list(self._holds.values()):
                hold.check_deadline()
            now = time.monotonic()
            for call in list(self._calls.values()):
                if (call.is_overdue(now) or (call.running and now > self.stop_by)) and not call.told:
                    call.told = True
                    await self._stuck(call, [hold.lease for hold in list(self._holds.values()) if hold.lease and hold.lost is None])
            self._arm_last_resort()
            await asyncio.sleep(WATCH_BEAT)

    def _arm_last_resort(self) -> None:
        # A timer of the C library: it fires even while native code holds the interpreter lock and nothing here can run.
        if self._item_timeout is not None and self._calls and sys.stderr is not None:
            faulthandler.dump_traceback_later(self._item_timeout + HARD_GRACE, exit=True)
        else:
            faulthandler.cancel_dump_traceback_later()


def _judge(batch_id: UUID, hold: Hold, known: dict[UUID, tuple[int, str]]) -> None:
    lease = hold.lease
    if lease is None:
        return
    if batch_id not in known:
        hold.lose("the batch was deleted")
        return
    epoch, status = known[batch_id]
    if epoch != lease.epoch:
        hold.lose("another worker has taken the batch over")
    elif status == "cancelled":
        hold.lose("the batch was cancelled")
    elif status == "pending":
        hold.lose(f"the batch is {status}")  # completed or failed under our epoch: that was ourselves
