"""The last means against user code that blocks the worker's own loop: record it, release the rest, and replace the process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import asyncpg
import msgspec

from streamworker.engine.holds import Call, HeldLease
from streamworker.errors import LeaseLost
from streamworker.store import batches, items, leases
from streamworker.store.items import Fence, ItemRecord
from streamworker.store.pool import CONNECTION_ERRORS, open_connection

LOG = logging.getLogger("streamworker.engine")
PATIENCE = 5.0


class Rescue:
    """Runs in the heartbeat's thread, because the worker's loop cannot; `end_process` does not return."""

    def __init__(self, database_url: str, worker: str, lease_ttl: float, end_process: Callable[[], None]) -> None:
        self._database_url = database_url
        self._worker = worker
        self._lease_ttl = lease_ttl
        self._end_process = end_process

    async def end(self, call: Call, held: list[HeldLease]) -> None:
        """Charge the attempt that hangs, release every batch, so that nobody else is charged, and end the process."""
        if not call.running:
            call.told = False
            return
        lease = call.hold.lease
        LOG.error("user code of batch %s does not end: the worker is restarted to end it", lease.batch_id if lease else "?")
        try:
            async with asyncio.timeout(PATIENCE):
                await self._settle(call, held)
        except (*CONNECTION_ERRORS, LeaseLost):
            pass  # whoever takes over finds out what was in flight
        except Exception:
            LOG.exception("the attempt that hangs could not be recorded")
        self._end_process()  # also if it has ended meanwhile: what was released is ours no longer

    async def _settle(self, call: Call, held: list[HeldLease]) -> None:
        connection = await open_connection(self._database_url, application_name=f"{self._worker} rescue", lock_timeout=2.0)
        try:
            if call.timed_out_at_last and call.hold.lease is not None and call.if_timed_out is not None:
                await self._record(connection, call.hold.lease, call.if_timed_out)
            for lease in held:
                if not lease.once_only:
                    async with connection.transaction():
                        await batches.release(connection, lease.batch_id, lease.epoch)
        finally:
            await connection.close(timeout=1.0)

    async def _record(self, connection: asyncpg.Connection[asyncpg.Record], lease: HeldLease, row: ItemRecord) -> None:
        if row.status == "processing":  # not in this process any more: whoever goes on marks the retry
            row = msgspec.structs.replace(row, status="pending", attempts=row.attempts - 1, seconds=None)
        async with connection.transaction():
            locked = await leases.lock_to_end_of(connection, lease.batch_id, lease.epoch)
            if locked is not None:
                revision, frontier = locked
                fence = Fence(lease.batch_id, lease.epoch, revision)
                await items.record(connection, fence, [row], {}, frontier, self._lease_ttl, self._worker, False)
