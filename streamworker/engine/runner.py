"""The story of one delivery: from the stream entry to its acknowledgement."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

from redis.exceptions import ResponseError

from streamworker.broker.consumer import Delivery, group_is_gone
from streamworker.broker.dead_letters import bury
from streamworker.engine.attempts import backoff
from streamworker.engine.fetcher import RECLAIM_IDLE
from streamworker.engine.holds import HeldLease, Hold
from streamworker.engine.loop import server_of
from streamworker.engine.outages import Server
from streamworker.engine.processors import AnyProcessor, OpenProcessors
from streamworker.engine.progress import event_of
from streamworker.engine.run import Run
from streamworker.engine.services import Services
from streamworker.engine.waiting_room import WaitingRoom
from streamworker.errors import ConfigurationError, InvalidMessage, LeaseLost
from streamworker.messages import TERMINAL, ItemEvent, Job, clean_text, decode_job, timestamp
from streamworker.observe.events import (
    BatchAcknowledged,
    BatchAcquired,
    BatchFinished,
    DeadLettered,
    DuplicateDropped,
    HandedOver,
    Step,
)
from streamworker.observe.events import LeaseLost as LeaseLostEvent
from streamworker.store import batches, creation
from streamworker.store.batches import Acquired, BatchState, Claim, Ended, Foreign, Missing
from streamworker.store.reconciling import mark_announced

LOG = logging.getLogger("streamworker.engine")
T = TypeVar("T")
MOST_UNEXPECTED = 3
# Bytes of a message from which on its decoding would hold up the loop.
LARGE_MESSAGE = 100_000


class GivenUp(Exception):
    """The worker ends, and a server has not answered in time."""


@dataclass(slots=True)
class Current:
    """A batch that this worker is busy with."""

    entry_id: str
    hold: Hold
    run: Run | None = None
    since: float = field(default_factory=time.monotonic)


class Runner:
    """Runs deliveries; knows which batches run here. `run` never raises for anything that a batch or a server does."""

    def __init__(self, services: Services, processors: OpenProcessors, waiting_room: WaitingRoom) -> None:
        self._services = services
        self._processors = processors
        self._waiting_room = waiting_room
        self._current: dict[UUID, Current] = {}
        self._unexpected: dict[UUID, int] = {}
        self._stopping = False
        self._given_up = asyncio.Event()

    def cancelled(self, batch_id: UUID) -> None:
        """Word came that the batch was cancelled; if it runs here, that is looked up and obeyed."""
        if batch_id in self._current:
            self._current[batch_id].hold.lose("the batch was cancelled")

    def drain(self) -> None:
        """Start nothing more; what runs may end."""
        self._stopping = True
        for run in self._running():
            run.drain()

    def interrupt(self) -> None:
        """End what runs: the grace is over."""
        for run in self._running():
            run.interrupt()

    def give_up(self) -> None:
        """Wait for no server any longer."""
        self._given_up.set()

    def _running(self) -> list[Run]:
        return [current.run for current in self._current.values() if current.run is not None]

    async def run(self, delivery: Delivery) -> None:
        """Take one delivery to its end: acknowledged, dead, waiting, handed over, or left to whoever owns it now."""
        hold = Hold(delivery.entry_id, asyncio.get_running_loop())
        async with self._services.heartbeat.keep(hold):
            try:
                job = await self._decode(delivery)
                await self._run_job(job, delivery, hold)
            except InvalidMessage as error:
                await self._bury(delivery, error.reason, error.detail)
            except GivenUp:
                LOG.warning("entry %s is left to another worker: a server did not answer before the end", delivery.entry_id)
            except Exception:
                LOG.exception("entry %s: unexpected error; it will be reclaimed", delivery.entry_id)

    async def _decode(self, delivery: Delivery) -> Job:
        limit = self._services.settings.max_message_bytes
        if sum(len(value) for _, value in delivery.fields) < LARGE_MESSAGE:
            return decode_job(delivery.fields, limit)
        return await asyncio.to_thread(decode_job, delivery.fields, limit)  # a million items take a second or two

    async def _run_job(self, job: Job, delivery: Delivery, hold: Hold) -> None:
        self._step(job.batch_id, "receive", "after")
        if job.batch_id in self._current:
            return await self._drop_duplicate(job.batch_id, delivery)
        self._current[job.batch_id] = Current(delivery.entry_id, hold)
        try:
            if job.items is not None:
                await self._create(job, delivery)
            grant, asked_at = await self._acquire(job, delivery)
            match grant:
                case Missing():
                    await self._waiting_room.admit(delivery, job.batch_id)
                case Foreign():
                    await self._yield_to(grant, job.batch_id, delivery)
                case Ended(state, fresh):
                    await self._conclude(state, delivery, [], fresh)
                case Acquired():
                    await self._own(grant, asked_at, delivery, hold)
        finally:
            self._current.pop(job.batch_id, None)

    async def _create(self, job: Job, delivery: Delivery) -> None:
        """A job that brings its items: copied to Postgres first thing; sent twice, the first wins."""
        if self._processors.registry.resolve(job.processor) is None:
            raise InvalidMessage(self._unknown(job.processor), "unknown_processor")
        max_attempts = job.max_attempts or self._services.settings.max_attempts
        await self._persist(lambda: creation.create(self._services.pool, job, max_attempts, delivery.entry_id))

    async def _acquire(self, job: Job, delivery: Delivery) -> tuple[Acquired | Ended | Foreign | Missing, float]:
        settings, heartbeat = self._services.settings, self._services.heartbeat
        await heartbeat.ready()
        # While a processor has yet to be opened nothing counts as started: if that kills the worker, no item is to blame.
        width = settings.item_concurrency if self._processors.are_open else 0
        claim = Claim(settings.consumer, heartbeat.number, delivery.entry_id, settings.lease_ttl, settings.batch_timeout, width)
        asked_at = time.monotonic()
        grant: Acquired | Ended | Foreign | Missing = Missing()

        async def acquire() -> Acquired | Ended | Foreign | Missing:
            nonlocal asked_at, grant
            async with self._services.pool.acquire() as connection, connection.transaction():
                if isinstance(grant, Acquired) and await batches.is_current(connection, grant.state):
                    return grant  # the try before was committed, only its reply was lost
                asked_at = time.monotonic()
                grant = await batches.acquire(connection, job.batch_id, claim)
                return grant

        self._step(job.batch_id, "acquire", "before")
        grant = await self._persist(acquire)
        self._step(job.batch_id, "acquire", "after")
        return grant, asked_at

    async def _own(self, grant: Acquired, asked_at: float, delivery: Delivery, hold: Hold) -> None:
        """The batch is ours: work on it, and see to it that it ends or goes on elsewhere."""
        state = grant.state
        self._tell_acquired(grant)
        lost = _Lost()
        hold.begin(HeldLease(state.id, state.epoch, grant.max_attempts == 1), asked_at, self._services.settings.lease_ttl, lost)
        name = self._processors.registry.resolve(grant.processor)
        run: Run | None = None
        try:
            if name is None:
                error = self._unknown(grant.processor)
                await self._bury_copy(delivery, "unknown_processor", error)
                return await self._fail(state, error, delivery)
            run = self._begin(grant, hold, await self._processors.get(name))
            lost.tell(run.lost)
            completed = await run.work()
        except ConfigurationError as error:
            return await self._fail(state, clean_text(str(error)), delivery)
        except (GivenUp, InvalidMessage):
            raise
        except LeaseLost as error:
            return await self._after_loss(run.state if run else state, hold, str(error), delivery)
        except Exception as error:
            return await self._give_up_on(state, error, delivery)
        if completed:
            return await self._conclude(run.state, delivery, run.last_items)
        if run.failure is not None:
            return await self._fail(run.state, run.failure, delivery)
        await self._hand_over(run.state, delivery)

    async def _give_up_on(self, state: BatchState, error: Exception, delivery: Delivery) -> None:
        """An error that nobody foresaw: tried again a few times, by reclaiming; then the batch fails, rather than never ending."""
        LOG.exception("batch %s: unexpected error", state.id)
        self._unexpected[state.id] = self._unexpected.get(state.id, 0) + 1
        if self._unexpected[state.id] >= MOST_UNEXPECTED:
            del self._unexpected[state.id]
            await self._fail(state, clean_text(f"unexpected error: {error!r}"), delivery)

    def _begin(self, grant: Acquired, hold: Hold, processor: AnyProcessor) -> Run:
        run = Run(self._services, grant, hold, processor)
        self._current[grant.state.id].run = run
        if self._stopping:
            run.drain()
        return run

    async def _fail(self, state: BatchState, error: str, delivery: Delivery) -> None:
        """The batch as a whole has failed: record it, unless somebody else was faster."""

        async def fail() -> BatchState | None:
            async with self._services.pool.acquire() as connection, connection.transaction():
                return await batches.fail_epoch(connection, state.id, state.epoch, error)

        ended = await self._persist(fail)
        if ended is not None:
            await self._conclude(ended, delivery, [])

    async def _after_loss(self, state: BatchState, hold: Hold, reason: str, delivery: Delivery) -> None:
        """Nothing may be written under this epoch; but a cancelled batch wants its end told, and a lease nobody took a release."""

        async def look() -> BatchState | None:
            async with self._services.pool.acquire() as connection:
                return await batches.read_state(connection, state.id)

        now = await self._persist(look)
        if now is not None and now.epoch == state.epoch and now.status in TERMINAL:
            return await self._conclude(now, delivery, [])
        self._services.events.emit(LeaseLostEvent(batch_id=state.id, epoch=state.epoch, reason=hold.lost or reason))
        if now is None:  # deleted on purpose: an entry that brought its items must not bring the batch back
            detail = f"batch_id: expected a batch that is in Postgres, {state.id} was deleted while it ran"
            return await self._bury(delivery, "batch_not_found", detail)
        if now.epoch != state.epoch or now.status != "processing":
            return
        if hold.lease is not None and hold.lease.once_only:
            # What was in flight may not start again: no clean release, so that whoever goes on finds and fails it.
            return await self._deliver(lambda: self._services.consumer.pass_on(delivery.entry_id))
        await self._hand_over(now, delivery)

    async def _hand_over(self, state: BatchState, delivery: Delivery) -> None:
        """Release the lease, then offer the entry to everybody: the next reclaim goes on, and no attempt is charged."""

        async def release() -> BatchState | None:
            async with self._services.pool.acquire() as connection, connection.transaction():
                return await batches.release(connection, state.id, state.epoch)

        released = await self._persist(release)
        if released is None:
            return
        self._services.announcer.announce(event_of(released, []))
        processed = released.succeeded + released.failed
        self._services.events.emit(HandedOver(batch_id=state.id, epoch=state.epoch, processed=processed, total=released.total))
        await self._deliver(lambda: self._services.consumer.pass_on(delivery.entry_id))

    async def _conclude(self, state: BatchState, delivery: Delivery, items: list[ItemEvent], fresh: bool = True) -> None:
        """The end is durable: announce it, note that, and only then acknowledge."""
        if fresh:
            self._tell_finished(state, time.monotonic() - self._current[state.id].since)
        self._step(state.id, "announce", "before")
        await self._services.announcer.announce_end(event_of(state, items))
        self._step(state.id, "announce", "after")

        async def note() -> None:
            async with self._services.pool.acquire() as connection:
                await mark_announced(connection, state)

        await self._persist(note)
        self._step(state.id, "ack", "before")
        await self._deliver(lambda: self._services.consumer.acknowledge([delivery.entry_id]))
        self._step(state.id, "ack", "after")
        self._services.events.emit(BatchAcknowledged(batch_id=state.id, entry_id=delivery.entry_id))

    async def _yield_to(self, owner: Foreign, batch_id: UUID, delivery: Delivery) -> None:
        """A live worker has the batch: hand it the entry that stands for it; any other entry is a duplicate."""
        if delivery.entry_id != owner.entry_id:
            return await self._drop_duplicate(batch_id, delivery)
        # It looks idle again by the time at which the lease would end: a stopped owner is replaced without delay.
        idle = max(0.0, RECLAIM_IDLE - owner.seconds)
        await self._deliver(lambda: self._services.consumer.pass_on(delivery.entry_id, owner.worker, idle))

    async def _drop_duplicate(self, batch_id: UUID, delivery: Delivery) -> None:
        running = self._current.get(batch_id)
        if running is not None and running.entry_id != delivery.entry_id and running.run is None:
            return  # it is not known yet whether that one has a batch: this one is looked at again when it has been idle
        if running is not None and running.entry_id == delivery.entry_id and running.run is not None:
            return  # our own entry once more: it is being worked on
        await self._deliver(lambda: self._services.consumer.acknowledge([delivery.entry_id]))
        self._services.events.emit(DuplicateDropped(batch_id=batch_id, entry_id=delivery.entry_id))

    async def _bury(self, delivery: Delivery, reason: str, detail: str) -> None:
        """A message that cannot be run: written to the dead stream first, then acknowledged."""
        await self._bury_copy(delivery, reason, detail)
        await self._deliver(lambda: self._services.consumer.acknowledge([delivery.entry_id]))

    async def _bury_copy(self, delivery: Delivery, reason: str, detail: str) -> None:
        stream, redis = self._services.settings.dead_stream, self._services.redis
        died_at = timestamp(datetime.now(UTC))  # for people to read: nothing is decided by it
        await self._deliver(lambda: bury(redis, stream, delivery.fields, reason, detail, delivery.entry_id, died_at))
        self._services.events.emit(DeadLettered(entry_id=delivery.entry_id, reason=reason, detail=detail))

    async def not_found(self, delivery: Delivery, batch_id: UUID, seconds: float) -> None:
        """Nobody committed the batch that an entry names: it is given up."""
        await self._bury(
            delivery, "batch_not_found", f"batch_id: expected a batch that is in Postgres, {batch_id} was not after {seconds:g} s"
        )

    async def _persist(self, write: Callable[[], Awaitable[T]]) -> T:
        """Talk to Postgres until it answers; InvalidMessage and the like pass, an outage is waited for."""
        return await self._until_done("postgres", write)

    async def _deliver(self, send: Callable[[], Awaitable[object]]) -> None:
        """Talk to Redis until it answers; a group that is gone has nothing left to be told."""
        try:
            await self._until_done("redis", send)
        except ResponseError as error:
            if not group_is_gone(error):
                raise

    async def _until_done(self, server: Server, act: Callable[[], Awaitable[T]]) -> T:
        failures = 0
        explain = self._services.explain_redis if server == "redis" else self._services.explain_postgres
        name = f"{server} of {id(act)}"
        try:
            while True:
                try:
                    return await act()
                except Exception as error:
                    if server_of(error) is None or group_is_gone(error):
                        raise
                    failures += 1
                    self._services.outages.away(server, name, explain(error))
                    await self._pause(backoff(failures, random.random()))  # noqa: S311
        finally:
            self._services.outages.back(server, name)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._given_up.wait(), seconds)
        except TimeoutError:
            return
        raise GivenUp

    def _unknown(self, name: str | None) -> str:
        served = ", ".join(self._processors.registry.names)
        return f"processor: expected one that this worker was given ({served}), got {clean_text(name or '', 80)!r}"

    def _step(self, batch_id: UUID, step: str, moment: str) -> None:
        if self._services.events.hooked:
            self._services.events.step(Step(step, moment, batch_id))

    def _tell_acquired(self, grant: Acquired) -> None:
        state = grant.state
        if grant.declared_total != state.total:
            LOG.warning("batch %s: total says %d, but there are %d items: the rows win", state.id, grant.declared_total, state.total)
        for item in grant.charged:
            LOG.warning("batch %s: item %d: %s, attempt %d (%s)", state.id, item.position, batches.DIED, item.attempts, item.status)
        self._services.events.emit(
            BatchAcquired(
                batch_id=state.id, epoch=state.epoch, worker=state.worker or "", total=state.total,
                processed=state.succeeded + state.failed, processor=grant.processor, taken_from=grant.taken_from,
            )
        )  # fmt: skip

    def _tell_finished(self, state: BatchState, seconds: float) -> None:
        self._services.events.emit(
            BatchFinished(
                batch_id=state.id, epoch=state.epoch, status=state.status, total=state.total, succeeded=state.succeeded,
                failed=state.failed, seconds=seconds, error=state.error,
            )
        )  # fmt: skip


class _Lost:
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
