"""How a delivery ends: its batch's end told and acknowledged, a message buried, a duplicate dropped, a batch handed on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from streamworker.broker.consumer import Delivery
from streamworker.broker.dead_letters import bury
from streamworker.engine.attempts import WIDEST_WINDOW
from streamworker.engine.fetcher import RECLAIM_IDLE
from streamworker.engine.holds import Hold
from streamworker.engine.patience import Patience
from streamworker.engine.progress import EVENT_ITEMS, event_of
from streamworker.engine.services import Services
from streamworker.messages import TERMINAL, ItemEvent, timestamp
from streamworker.observe.events import (
    BatchAcknowledged,
    BatchesFinished,
    BatchFinished,
    DeadLettered,
    DuplicateDropped,
    HandedOver,
    LeaseLost,
    Step,
)
from streamworker.store import batches
from streamworker.store.batches import BatchState, Foreign
from streamworker.store.progress import read_cut_off
from streamworker.store.reconciling import mark_announced


class Ending(msgspec.Struct, frozen=True):
    """A batch that has ended, the entry that stands for it, what to tell of its items, and how long it took here (seconds).

    `fresh` if it has ended just now; else its end is only announced again.
    """

    state: BatchState
    delivery: Delivery
    items: Sequence[ItemEvent] = ()
    seconds: float = 0.0
    fresh: bool = True


class Endings:
    """Every way in which a delivery leaves our care."""

    def __init__(self, services: Services, patience: Patience) -> None:
        self._services = services
        self._patience = patience

    async def conclude(self, *endings: Ending) -> None:
        """The ends are durable: announce them, note that, and only then acknowledge."""
        self._tell_finished([ending for ending in endings if ending.fresh])
        events = [event_of(ending.state, await self._items(ending)) for ending in endings]
        self._steps(endings, "announce", "before")
        await self._services.announcer.announce_ends(events)
        self._steps(endings, "announce", "after")

        async def note() -> None:
            async with self._services.small.acquire() as connection:
                await mark_announced(connection, [ending.state for ending in endings])

        await self._patience.persist(note)
        self._steps(endings, "ack", "before")
        await self._patience.deliver(lambda: self._services.consumer.acknowledge([ending.delivery.entry_id for ending in endings]))
        self._steps(endings, "ack", "after")
        for ending in endings:
            self._services.events.emit(BatchAcknowledged(batch_id=ending.state.id, entry_id=ending.delivery.entry_id))

    async def _items(self, ending: Ending) -> list[ItemEvent]:
        """What is to be told of its items, and what the end of the batch has cancelled, if it was not its items' end."""
        told = list(ending.items)
        if ending.state.status == "completed":
            return told

        async def read() -> list[ItemEvent]:
            async with self._services.small.acquire() as connection:
                return await read_cut_off(connection, ending.state.id, WIDEST_WINDOW, EVENT_ITEMS)

        return (told + await self._patience.persist(read))[:EVENT_ITEMS]

    async def fail(self, state: BatchState, error: str, delivery: Delivery, seconds: float) -> None:
        """The batch as a whole has failed: record it, unless somebody else was faster."""

        async def fail() -> BatchState | None:
            async with self._services.pool.acquire() as connection, connection.transaction():
                return await batches.fail_epoch(connection, state.id, state.epoch, error)

        ended = await self._patience.persist(fail)
        if ended is not None:
            await self.conclude(Ending(ended, delivery, seconds=seconds))

    async def after_loss(self, state: BatchState, hold: Hold, reason: str, delivery: Delivery) -> None:
        """Nothing may be written under this epoch; but a cancelled batch wants its end told, and a lease nobody took a release."""

        async def look() -> BatchState | None:
            async with self._services.pool.acquire() as connection:
                return await batches.read_state(connection, state.id)

        now = await self._patience.persist(look)
        if now is not None and now.epoch == state.epoch and now.status in TERMINAL:
            return await self.conclude(Ending(now, delivery))
        self._services.events.emit(LeaseLost(batch_id=state.id, epoch=state.epoch, reason=hold.lost or reason))
        if now is None:  # deleted on purpose: an entry that brought its items must not bring the batch back
            detail = f"batch_id: expected a batch that is in Postgres, {state.id} was deleted while it ran"
            return await self.bury(delivery, "batch_not_found", detail)
        if now.epoch != state.epoch or now.status != "processing":
            return
        if hold.lease is not None and hold.lease.once_only:
            # What was in flight may not start again: no clean release, so that whoever goes on finds and fails it.
            return await self.pass_on(delivery)
        await self.hand_over(now, delivery)

    async def hand_over(self, state: BatchState, delivery: Delivery) -> None:
        """Release the lease, then offer the entry to everybody: the next reclaim goes on, and no attempt is charged."""

        async def release() -> BatchState | None:
            async with self._services.pool.acquire() as connection, connection.transaction():
                return await batches.release(connection, state.id, state.epoch)

        released = await self._patience.persist(release)
        if released is None:
            return
        self._services.announcer.announce(event_of(released, []))
        processed = released.succeeded + released.failed
        self._services.events.emit(HandedOver(batch_id=state.id, epoch=state.epoch, processed=processed, total=released.total))
        await self.pass_on(delivery)

    async def pass_on(self, delivery: Delivery) -> None:
        """Offer the entry to everybody: the next reclaim takes it."""
        await self._patience.deliver(lambda: self._services.consumer.pass_on(delivery.entry_id))

    async def yield_to(self, owner: Foreign, batch_id: UUID, delivery: Delivery) -> None:
        """A live worker has the batch: hand it the entry that stands for it; any other entry is a duplicate."""
        if delivery.entry_id != owner.entry_id:
            return await self.drop_duplicate(batch_id, delivery)
        # It looks idle again by the time at which the lease would end: a stopped owner is replaced without delay.
        idle = max(0.0, RECLAIM_IDLE - owner.seconds)
        await self._patience.deliver(lambda: self._services.consumer.pass_on(delivery.entry_id, owner.worker, idle))

    async def drop_duplicate(self, batch_id: UUID, delivery: Delivery) -> None:
        """Another entry stands for the batch: this one goes at once."""
        await self._patience.deliver(lambda: self._services.consumer.acknowledge([delivery.entry_id]))
        self._services.events.emit(DuplicateDropped(batch_id=batch_id, entry_id=delivery.entry_id))

    async def bury(self, delivery: Delivery, reason: str, detail: str) -> None:
        """A message that cannot be run: written to the dead stream first, then acknowledged."""
        await self.bury_copy(delivery, reason, detail)
        await self._patience.deliver(lambda: self._services.consumer.acknowledge([delivery.entry_id]))

    async def bury_copy(self, delivery: Delivery, reason: str, detail: str) -> None:
        """Write it to the dead stream; the original stays."""
        stream, redis = self._services.settings.dead_stream, self._services.redis
        died_at = timestamp(datetime.now(UTC))  # for people to read: nothing is decided by it
        await self._patience.deliver(lambda: bury(redis, stream, delivery.fields, reason, detail, delivery.entry_id, died_at))
        self._services.events.emit(DeadLettered(entry_id=delivery.entry_id, reason=reason, detail=detail))

    def _steps(self, endings: Sequence[Ending], step: str, moment: str) -> None:
        if self._services.events.hooked:
            for ending in endings:
                self._services.events.step(Step(step, moment, ending.state.id))

    def _tell_finished(self, endings: Sequence[Ending]) -> None:
        emit = self._services.events.emit
        if len(endings) > 1:  # small ones, by the hundred: one line tells of them all
            succeeded, failed = (sum(getattr(ending.state, count) for ending in endings) for count in ("succeeded", "failed"))
            return emit(BatchesFinished(batches=len(endings), succeeded=succeeded, failed=failed))
        for ending in endings:
            state = ending.state
            emit(
                BatchFinished(
                    batch_id=state.id, epoch=state.epoch, status=state.status, total=state.total, succeeded=state.succeeded,
                    failed=state.failed, seconds=ending.seconds, error=state.error,
                )
            )  # fmt: skip
