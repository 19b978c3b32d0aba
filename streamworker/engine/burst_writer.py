"""What is written for a burst as a whole: in one statement, repeated until its outcome is known."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from uuid import UUID

import asyncpg

from streamworker.engine.commits import REFUSED
from streamworker.engine.members import Member
from streamworker.engine.patience import Patience
from streamworker.engine.services import Services
from streamworker.observe.events import Step
from streamworker.store import bursts
from streamworker.store.batches import BatchState


class BurstWriter:
    """Records, releases and takes back; Postgres alone is asked."""

    def __init__(self, services: Services, patience: Patience) -> None:
        self._services = services
        self._patience = patience

    async def record(self, plain: Sequence[Member]) -> dict[UUID, BatchState] | None:
        """One transaction for all. A lost reply is read back: the statement has happened for every batch, or for none.

        None: a row was refused, or somebody holds a batch's lock; one by one the others get by.
        """
        before = [member.grant.state for member in plain]
        rows = [(member.grant.state.id, row) for member in plain for row in member.rows]
        tried = False

        async def record() -> dict[UUID, BatchState] | None:
            nonlocal tried
            async with self._services.small.acquire() as connection:
                if tried and (recorded := _recorded(before, await bursts.read_states(connection, [state.id for state in before]))):
                    return recorded
                tried = True
                try:
                    async with connection.transaction() if self._services.events.hooked else contextlib.nullcontext():
                        found = await bursts.record(connection, before, rows, self._services.settings.lease_ttl)
                        self._step("record", "inside", found)
                except (*REFUSED, asyncpg.LockNotAvailableError):
                    return None
                return found

        self._step("record", "before", [state.id for state in before])
        found = await self._patience.persist(record)
        self._step("record", "after", found or ())
        return found

    async def undo(self, batch_ids: Sequence[UUID]) -> None:
        """The reply to a claim was lost: if it happened, it is taken back, since nothing has started."""

        async def undo() -> None:
            async with self._services.small.acquire() as connection:
                worker = self._services.settings.consumer
                found = (await bursts.read_states(connection, batch_ids)).values()
                await bursts.release(connection, [state for state in found if (state.epoch, state.worker) == (1, worker)], worker)

        await self._patience.persist(undo)

    async def release(self, states: Sequence[BatchState]) -> None:
        """Give up batches of which nothing has started."""

        async def release() -> None:
            async with self._services.small.acquire() as connection:
                await bursts.release(connection, states, self._services.settings.consumer)

        await self._patience.persist(release)

    def _step(self, step: str, moment: str, batch_ids: Iterable[UUID]) -> None:
        if self._services.events.hooked:
            for batch_id in batch_ids:
                self._services.events.step(Step(step, moment, batch_id))


def _recorded(before: Sequence[BatchState], now: dict[UUID, BatchState]) -> dict[UUID, BatchState]:
    """Those of the batches that are one revision further under the same epoch and owner: only our own record does that."""
    return {
        state.id: found
        for state in before
        if (found := now.get(state.id)) is not None
        and (found.epoch, found.revision, found.worker) == (state.epoch, state.revision + 1, state.worker)
        and found.status in ("processing", "completed")
    }
