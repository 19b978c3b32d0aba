"""The story of a delivery: from the stream entry to its acknowledgement."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from streamworker.broker.consumer import Delivery
from streamworker.engine.acquirer import Acquirer
from streamworker.engine.attempts import Away, Pace
from streamworker.engine.burst import MOST_ITEMS, Burst
from streamworker.engine.endings import Ending, Endings
from streamworker.engine.holds import HeldLease, Hold, Lost
from streamworker.engine.members import Arrival, Member
from streamworker.engine.patience import GivenUp, Patience
from streamworker.engine.pauses import Pauses
from streamworker.engine.processors import AnyProcessor, OpenProcessors
from streamworker.engine.progress import charged_event
from streamworker.engine.run import Run
from streamworker.engine.services import Services
from streamworker.engine.waiting_room import WaitingRoom
from streamworker.errors import ConfigurationError, InvalidMessage, LeaseLost
from streamworker.messages import Job, clean_text, decode_job
from streamworker.observe.events import Step
from streamworker.processors.api import Unavailable
from streamworker.processors.outcomes import failure_of
from streamworker.store.batches import Acquired, BatchState, Ended, Foreign, Missing, Paused
from streamworker.store.items import ItemRecord

LOG = logging.getLogger("streamworker.engine")
T = TypeVar("T")
MOST_UNEXPECTED = 3
# Bytes of a message from which on its decoding would hold up the loop.
LARGE_MESSAGE = 100_000


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
        self._patience = Patience(services.outages, services.explain_redis, services.explain_postgres)
        self._endings = Endings(services, self._patience)
        self._acquirer = Acquirer(services, self._patience, processors)
        self._pauses = Pauses(services, self._patience, self._endings, waiting_room)
        self._current: dict[UUID, Current] = {}
        self._bursts: set[Burst] = set()
        self._unexpected: dict[UUID, int] = {}
        self._stopping = False
        self.pace = Pace()
        self.free_slot: Callable[[], None] = lambda: None
        self.forget: Callable[[str], None] = lambda entry_id: None

    def cancelled(self, batch_id: UUID) -> None:
        """Word came that the batch was cancelled; if it runs here, or waits, that is looked up and obeyed."""
        self._waiting_room.wake()
        if batch_id in self._current:
            self._current[batch_id].hold.lose("the batch was cancelled")

    def drain(self) -> None:
        """Start nothing more; what runs may end."""
        self._stopping = True
        for working in self._working():
            working.drain()

    def interrupt(self) -> None:
        """End what runs: the grace is over."""
        for working in self._working():
            working.interrupt()

    def give_up(self) -> None:
        """Wait for no server any longer."""
        self._patience.give_up()

    def _working(self) -> list[Run | Burst]:
        return [*(current.run for current in self._current.values() if current.run is not None), *self._bursts]

    async def run(self, deliveries: Sequence[Delivery]) -> None:
        """Take deliveries to their end: acknowledged, dead, waiting, handed over, or left to whoever owns them now.

        Small batches among several are run together, or else the first is run; the rest is offered to everybody again.
        """
        loop = asyncio.get_running_loop()
        taken, rest = _share(deliveries)
        holds = [Hold(delivery.entry_id, loop) for delivery in taken]
        with self._services.heartbeat.keep(*holds):
            if rest:
                self.pace.fewer()
            for delivery in rest:
                self.forget(delivery.entry_id)
                await self._guard(delivery, self._endings.pass_on(delivery))
            found = [await self._receive(delivery, hold) for delivery, hold in zip(taken, holds, strict=True)]
            arrivals = [arrival for arrival in found if arrival is not None]
            try:
                await self._run_all(arrivals)
            finally:
                for arrival in arrivals:
                    self._leave(arrival)

    async def _run_all(self, arrivals: list[Arrival]) -> None:
        if not arrivals or await self._run_together(arrivals):
            return
        if len(arrivals) > 1:
            self.pace.fewer()
        for arrival in arrivals[1:]:
            await self._give_away(arrival)
        await self._guard(arrivals[0].delivery, self._run_job(arrivals[0]))

    async def _give_away(self, arrival: Arrival) -> None:
        self._leave(arrival)
        await self._guard(arrival.delivery, self._endings.pass_on(arrival.delivery))

    async def _guard(self, delivery: Delivery, work: Coroutine[Any, Any, T]) -> T | None:
        try:
            return await work
        except InvalidMessage as error:
            await self._guard(delivery, self._endings.bury(delivery, error.reason, error.detail))
        except GivenUp:
            LOG.warning("entry %s is left to another worker: a server did not answer before the end", delivery.entry_id)
        except Exception:
            LOG.exception("entry %s: unexpected error; it will be reclaimed", delivery.entry_id)
        return None

    async def _receive(self, delivery: Delivery, hold: Hold) -> Arrival | None:
        """Read the message, and see whether its batch is with us already."""
        job = await self._guard(delivery, self._decode(delivery))
        if job is None:
            return None
        self._step(job.batch_id, "receive", "after")
        if (running := self._current.get(job.batch_id)) is not None:
            self._services.heartbeat.drop(hold)
            self.forget(delivery.entry_id)
            await self._guard(delivery, self._meet(running, job.batch_id, delivery))
            return None
        self._current[job.batch_id] = Current(delivery.entry_id, hold)
        return Arrival(delivery, hold, job)

    def _leave(self, arrival: Arrival) -> None:
        """The entry is in our care no longer: should it come again, it is news."""
        self._services.heartbeat.drop(arrival.hold)
        self.forget(arrival.delivery.entry_id)
        current = self._current.get(arrival.job.batch_id)
        if current is not None and current.hold is arrival.hold:
            del self._current[arrival.job.batch_id]

    async def _decode(self, delivery: Delivery) -> Job:
        limit = self._services.settings.max_message_bytes
        if _size(delivery) < LARGE_MESSAGE:
            job = decode_job(delivery.fields, limit)
        else:
            job = await asyncio.to_thread(decode_job, delivery.fields, limit)  # a million items take a second or two
        if job.items is not None and self._processors.registry.resolve(job.processor) is None:
            raise InvalidMessage(self._unknown(job.processor), "unknown_processor")
        return job

    async def _meet(self, running: Current, batch_id: UUID, delivery: Delivery) -> None:
        """An entry for a batch that this worker is busy with: a duplicate, as soon as it is certain that the other one stands for it."""
        certain = running.run is not None and running.hold.lost is None
        if running.entry_id != delivery.entry_id and certain:
            await self._endings.drop_duplicate(batch_id, delivery)
        # Else it stays pending, and is looked at again when it has been idle.

    async def _run_together(self, arrivals: list[Arrival]) -> bool:
        """Run what is small together, and offer the others to everybody; False when there was nothing to run so."""
        fit = self._fit(arrivals)
        if not fit or self._stopping or (len(arrivals) > 1 and not self.pace.is_quick):
            return False
        burst = Burst(
            self._services, self._patience, self._endings, self._processors, self.pace, self._leave, self._write_down, self.free_slot
        )
        self._bursts.add(burst)
        try:
            claimed = await burst.claim(fit)
            if not claimed:
                return False
            left = [arrival for arrival in arrivals if arrival.job.batch_id not in claimed]
            if left:
                self.pace.fewer()
            for arrival in left:
                burst.aside(self._give_away(arrival))
            await burst.work()
            await self._finish(burst)
            await burst.told()
        except GivenUp:
            LOG.warning("%d small batches are left to another worker: a server did not answer before the end", len(fit))
        finally:
            self._bursts.discard(burst)
        return True

    def _fit(self, arrivals: list[Arrival]) -> list[Arrival]:
        settings = self._services.settings
        largest = Burst.largest(len(arrivals), settings, self.pace)
        fit = [arrival for arrival in arrivals if Burst.fits(arrival.job, largest, self._processors, settings)]
        if len(fit) == 1:  # it would be alone
            fit = [arrival for arrival in fit if Burst.fits(arrival.job, 1, self._processors, settings)]
        return fit

    async def _finish(self, burst: Burst) -> None:
        """What a burst could not end: one of it goes on in this slot, if that is still ours, and the others are handed over."""
        first = burst.slow if burst.slow in burst.odd else next(iter(burst.odd), None)
        if burst.is_free:
            first = None
        await asyncio.gather(*(self._write_down(member) for member in burst.odd if member is not first))
        if first is not None:
            await self._go_on(first, burst.draining)

    async def _write_down(self, member: Member) -> None:
        """Write what a member of a burst has, and hand it over."""
        await self._go_on(member, True)
        self._leave(member.arrival)

    async def _run_job(self, arrival: Arrival) -> None:
        job, delivery = arrival.job, arrival.delivery
        grant, asked_at = await self._acquirer.acquire(job, delivery)
        match grant:
            case Missing():
                await self._waiting_room.admit(delivery, job.batch_id)
            case Paused():
                await self._waiting_room.admit(delivery, job.batch_id, self._name(grant.processor))
            case Foreign():
                await self._endings.yield_to(grant, job.batch_id, delivery)
            case Ended(state, fresh, charged):
                told = [charged_event(item) for item in charged]
                await self._endings.conclude(Ending(state, delivery, told, self._seconds(state), fresh))
            case Acquired():
                lost = Lost()
                lease = HeldLease(grant.state.id, grant.state.epoch, grant.max_attempts == 1)
                arrival.hold.begin(lease, asked_at, self._services.settings.lease_ttl, lost)
                await self._own(grant, delivery, arrival.hold, lost, [])

    async def _go_on(self, member: Member, stopping: bool) -> None:
        """What a burst has begun and could not end goes on as any other batch, or, `stopping`, is written down and handed over."""
        await self._guard(member.arrival.delivery, self._go_on_alone(member, stopping))

    async def _go_on_alone(self, member: Member, stopping: bool) -> None:
        arrival = member.arrival
        await self._patience.persist(lambda: member.single_out(self._services.pool, len(member.rows)))
        lost = Lost()
        arrival.hold.tell(lost)
        await self._own(member.grant, arrival.delivery, arrival.hold, lost, member.rows, member.failure, member.away, stopping)

    async def _own(
        self,
        grant: Acquired,
        delivery: Delivery,
        hold: Hold,
        lost: Lost,
        done: Sequence[ItemRecord],
        failure: str | None = None,
        away: Away | None = None,
        stopping: bool = False,
    ) -> None:
        """The batch is ours: work on it, and see to it that it ends or goes on elsewhere. `done` has ended already, unwritten."""
        state = grant.state
        name = self._processors.registry.resolve(grant.processor)
        run: Run | None = None
        try:
            if name is None:
                error = self._unknown(grant.processor)
                await self._endings.bury_copy(delivery, "unknown_processor", error)
                return await self._endings.fail(state, error, delivery, self._seconds(state))
            run = self._begin(grant, hold, await self._processors.get(name), stopping)
            run.got_through = partial(self._waiting_room.got_through, name)
            lost.tell(run.lost)
            completed = await run.work(done, failure, away)
        except Unavailable as error:  # it cannot be opened now
            away = Away(failure_of(error).error)
            return await self._pauses.pause(state, hold, away, self._name(grant.processor), delivery, self._seconds(state))
        except ConfigurationError as error:
            return await self._endings.fail(state, clean_text(str(error)), delivery, self._seconds(state))
        except (GivenUp, InvalidMessage):
            raise
        except LeaseLost as error:
            return await self._endings.after_loss(run.state if run else state, hold, str(error), delivery)
        except Exception as error:
            return await self._give_up_on(state, error, delivery)
        self.pace.measured(run.seconds_an_item)
        if state.total <= MOST_ITEMS and not stopping:
            self.pace.more(state.total * (run.seconds_an_item or 0.0))
        if completed:
            return await self._endings.conclude(Ending(run.state, delivery, run.last_items, self._seconds(state)))
        if run.failure is not None:
            return await self._endings.fail(run.state, run.failure, delivery, self._seconds(state))
        if run.away is not None:
            return await self._pauses.pause(run.state, hold, run.away, name, delivery, self._seconds(state))
        await self._endings.hand_over(run.state, delivery)

    async def _give_up_on(self, state: BatchState, error: Exception, delivery: Delivery) -> None:
        """An error that nobody foresaw: tried again a few times, by reclaiming; then the batch fails, rather than never ending."""
        LOG.exception("batch %s: unexpected error", state.id)
        self._unexpected[state.id] = self._unexpected.get(state.id, 0) + 1
        if self._unexpected[state.id] >= MOST_UNEXPECTED:
            del self._unexpected[state.id]
            await self._endings.fail(state, clean_text(f"unexpected error: {error!r}"), delivery, self._seconds(state))

    def _begin(self, grant: Acquired, hold: Hold, processor: AnyProcessor, stopping: bool) -> Run:
        run = Run(self._services, grant, hold, processor)
        self._current[grant.state.id].run = run
        if self._stopping or stopping:
            run.drain()
        return run

    async def not_found(self, delivery: Delivery, batch_id: UUID, seconds: float) -> None:
        """Nobody committed the batch that an entry names: it is given up."""
        detail = f"batch_id: expected a batch that is in Postgres, {batch_id} was not after {seconds:g} s"
        await self._endings.bury(delivery, "batch_not_found", detail)

    def _seconds(self, state: BatchState) -> float:
        return time.monotonic() - self._current[state.id].since

    def _name(self, processor: str | None) -> str:
        return self._processors.registry.resolve(processor) or processor or ""

    def _unknown(self, name: str | None) -> str:
        served = ", ".join(self._processors.registry.names)
        return f"processor: expected one that this worker was given ({served}), got {clean_text(name or '', 80)!r}"

    def _step(self, batch_id: UUID, step: str, moment: str) -> None:
        if self._services.events.hooked:
            self._services.events.step(Step(step, moment, batch_id))


def _share(deliveries: Sequence[Delivery]) -> tuple[list[Delivery], list[Delivery]]:
    """What to look at, and what to leave to everybody: of several only those that are not large, or else one alone."""
    if len(deliveries) == 1:
        return list(deliveries), []
    small: list[Delivery] = []
    large: list[Delivery] = []
    for delivery in deliveries:
        (small if _size(delivery) < LARGE_MESSAGE else large).append(delivery)
    return (small, large) if small else (large[:1], large[1:])


def _size(delivery: Delivery) -> int:
    return sum(len(value) for _, value in delivery.fields)
