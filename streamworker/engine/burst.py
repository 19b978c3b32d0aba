"""Small batches run together: claimed in one transaction, recorded in one, told and acknowledged in one round trip each.

Each keeps its own epoch, fence and counters, and is acknowledged only after its own end is durable and told. What turns out to be slow,
or has more in it than quick items that end at the first attempt, goes on as any other batch does.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from uuid import UUID

from streamworker.broker.consumer import Delivery
from streamworker.engine.attempts import LONGEST_BURST, Pace, Policy, settle
from streamworker.engine.context import ItemContext, Voice
from streamworker.engine.endings import Ending, Endings
from streamworker.engine.holds import Call, HeldLease, Hold
from streamworker.engine.lanes import Lane, Lanes
from streamworker.engine.loop import server_of
from streamworker.engine.patience import Patience
from streamworker.engine.processors import AnyProcessor, OpenProcessors
from streamworker.engine.progress import LiveItem, Progress, item_event
from streamworker.engine.recorder import REFUSED, Recorder
from streamworker.engine.run import batch_info, item_of, tell_rows
from streamworker.engine.services import Services
from streamworker.errors import ConfigurationError
from streamworker.messages import TERMINAL, Job
from streamworker.observe.events import BatchAcquired, ItemStarted, Step
from streamworker.processors.calls import Failed, Interrupted, Outcome
from streamworker.settings import Settings
from streamworker.store import bursts
from streamworker.store.batches import Acquired, BatchState, Claim, timed_out
from streamworker.store.bursts import Wanted
from streamworker.store.items import ItemRecord, OpenItem

# A batch with more items, or with a longer text of them, is not a small one.
MOST_ITEMS = 100
LONGEST_TEXT = 65_536


@dataclass(frozen=True, slots=True)
class Arrival:
    """A delivery that was read, and what keeps it from looking idle."""

    delivery: Delivery
    hold: Hold
    job: Job


@dataclass(slots=True, eq=False)
class Member:
    """One batch of a burst. `rows` is what its items ended as, unwritten; `failure` is why the batch as a whole fails."""

    arrival: Arrival
    grant: Acquired
    items: list[OpenItem]
    began: float
    together: bool
    rows: list[ItemRecord] = field(default_factory=list)
    failure: str | None = None
    progress: Progress | None = None
    recorder: Recorder | None = None

    @property
    def is_plain(self) -> bool:
        """Whether nothing is left but to record that all its items have ended."""
        whole = len(self.rows) == len(self.items) and self.failure is None and self.recorder is None and self.arrival.hold.lost is None
        return whole and all(row.status in TERMINAL and row.write is None for row in self.rows)


class Burst:
    """One burst. `go_on(member, stopping)` takes over what it cannot end; `worked()` is called when there is nothing left to start."""

    @staticmethod
    def largest(together: int, settings: Settings, pace: Pace) -> int:
        """How many items a batch may have. One that comes alone, or of unknown speed, has a single item: that alone is a suspect."""
        return MOST_ITEMS if together > 1 and pace.is_quick and settings.item_concurrency == 1 else 1

    @staticmethod
    def fits(job: Job, largest: int, processors: OpenProcessors, settings: Settings) -> bool:
        """Whether a job may be run in a burst, as far as the message tells."""
        small = job.items is None or (job.item_count <= largest and len(job.items) <= LONGEST_TEXT)
        return small and processors.are_open and (job.max_attempts or settings.max_attempts) > 1

    def __init__(
        self,
        services: Services,
        patience: Patience,
        endings: Endings,
        processors: OpenProcessors,
        pace: Pace,
        go_on: Callable[[Member, bool], Awaitable[None]],
        worked: Callable[[], None],
    ) -> None:
        self._services = services
        self._patience = patience
        self._endings = endings
        self._processors = processors
        self._pace = pace
        self._go_on = go_on
        self._worked = worked
        self._claimed: deque[Member] = deque()
        self._unfit: list[Member] = []
        self._done: list[Member] = []
        self._odd: list[Member] = []
        self._current: Member | None = None
        self._draining = False
        self._is_slow = False
        self._relief: asyncio.Task[None] | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._lane = Lane(Call(Hold(None, asyncio.get_running_loop())))
        self._lanes = Lanes([self._lane], services.settings.item_timeout, services.heartbeat, self._notice_slow)
        self._ended, self._spent = 0, 0.0

    def drain(self) -> None:
        """Start nothing more; the item under way may end."""
        self._draining = True

    def interrupt(self) -> None:
        """End what runs."""
        self._draining = True
        self._lanes.stop()

    async def run(self, arrivals: Sequence[Arrival]) -> set[UUID]:
        """Run what can be claimed of these batches; returns the ids of those that were."""
        members = await self._claim(arrivals)
        self._lanes.look_out()
        try:
            while self._claimed and not (self._draining or self._is_slow):
                await asyncio.create_task(self._work())
                if self._relief is not None:
                    await self._relief
                elif not self._claimed and all(member.is_plain for member in self._done):
                    self._pace.measured(self._spent / self._ended)
                    self._pace.more()
                    self._worked()
                await self._settle()
        finally:
            self._lanes.look_away()
            if self._limit is not None:
                self._limit.cancel()
        await self._let_go()
        for index, member in enumerate(self._odd):
            await self._go_on(member, self._draining or index > 0)
        return {member.grant.state.id for member in members}

    # --- claimed ------------------------------------------------------------------------------------------------------------

    async def _claim(self, arrivals: Sequence[Arrival]) -> list[Member]:
        services = self._services
        settings = services.settings
        await services.heartbeat.ready()
        wanted = [Wanted(a.job, a.delivery.entry_id, a.job.max_attempts or settings.max_attempts) for a in arrivals]
        terms = Claim(settings.consumer, services.heartbeat.number, None, settings.lease_ttl, settings.batch_timeout)
        largest = self.largest(len(arrivals), settings, self._pace)
        self._step("acquire", "before", [arrival.job.batch_id for arrival in arrivals])
        asked_at = time.monotonic()
        try:
            async with services.pool.acquire() as connection:
                claimed = await bursts.claim(connection, wanted, terms, largest)
        except Exception as error:
            if server_of(error) is None and not isinstance(error, REFUSED):
                raise
            return []  # one by one it will be found out what is wrong, or has happened
        members = [
            Member(arrival, *claimed[arrival.job.batch_id], asked_at, len(arrivals) > 1)
            for arrival in arrivals
            if arrival.job.batch_id in claimed
        ]
        for member in members:
            lease = HeldLease(member.grant.state.id, member.grant.state.epoch)
            member.arrival.hold.begin(lease, asked_at, settings.lease_ttl, partial(self._lost, member))
        whole = [member for member in members if len(member.items) == member.grant.state.total]
        self._unfit.extend(member for member in members if member not in whole)  # changed by hand: for the ordinary way to deal with
        self._claimed.extend(whole)
        if len(members) == 1:
            self._tell_acquired(members[0].grant)
        self._step("acquire", "after", list(claimed))
        return members

    def _lost(self, member: Member, _reason: str) -> None:
        if member is self._current:
            self._lanes.stop()

    # --- worked on ----------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Run batch after batch for a moment."""
        began = time.monotonic()
        with self._lanes.serving(self._lane), contextlib.suppress(asyncio.CancelledError):
            while self._claimed and not (self._draining or self._is_slow) and time.monotonic() - began < LONGEST_BURST:
                self._current = self._claimed.popleft()
                self._done.append(self._current)  # whatever becomes of it
                await self._run_items(self._current)
                self._current = None
                if self._lane.is_greedy:
                    await self._lane.be_fair()
        self._current = None

    async def _run_items(self, member: Member) -> None:
        name = self._processors.registry.resolve(member.grant.processor)
        if name is None:
            return  # for the ordinary way to deal with
        try:
            processor, batch = await self._processors.get(name), batch_info(member.grant)
        except ConfigurationError:
            return
        hold, self._lane.call.hold = member.arrival.hold, member.arrival.hold
        loop = asyncio.get_running_loop()
        voice = Voice(batch, hold, lambda live: self._progress_of(member).told(live), partial(self._checkpoint, member), loop)
        policy = Policy(member.grant.max_attempts, self._services.settings.retry_delay)
        for item in member.items:
            if not (processor.is_ready or await self._is_ready(processor)):
                return
            hold.check_deadline()
            if hold.lost is not None or self._draining or self._is_slow:
                return
            row = await self._run_item(member, item, processor, policy, voice)
            if row is None:
                return
            member.rows.append(row)
            if row.status not in TERMINAL:
                return

    async def _is_ready(self, processor: AnyProcessor) -> bool:
        try:
            await processor.ready()
        except ConfigurationError:
            return False  # for the ordinary way to deal with
        return True

    async def _run_item(self, member: Member, item: OpenItem, processor: AnyProcessor, policy: Policy, voice: Voice) -> ItemRecord | None:
        context = ItemContext(voice, item.position, item.key, 1)
        began = self._lane.began = time.monotonic()
        outcome = await self._call(item, processor, policy, context)
        if context.has_told and member.progress is not None:
            member.progress.ended(item.position)
        if processor.abandoned:
            self._draining = True
            self._services.restart(f"item {item.position} of batch {voice.batch.id} does not end")
        if isinstance(outcome, Interrupted):
            return None
        seconds = time.monotonic() - began
        self._ended, self._spent = self._ended + 1, self._spent + seconds
        if self._services.events.hooked:
            self._services.events.step(Step("process", "after", voice.batch.id, item.position))
        return settle(item.position, item.key, 1, outcome, policy, seconds)

    async def _call(self, item: OpenItem, processor: AnyProcessor, policy: Policy, context: ItemContext) -> Outcome:
        given = item_of(context.batch.id, item, 1)
        if isinstance(given, Failed):
            return given
        events = self._services.events
        if events.detailed or events.hooked:
            events.step(Step("process", "before", given.batch_id, given.position))
            events.emit(ItemStarted(batch_id=given.batch_id, epoch=1, position=given.position, key=given.key, attempt=1))
        return await self._lanes.call(self._lane, processor, policy, given, context)

    async def _checkpoint(self, member: Member, position: int, state: str) -> None:
        await self._recorder_of(member, position).checkpoint(position, state)

    def _recorder_of(self, member: Member, position: int) -> Recorder:
        """What writes for this batch alone while its item at `position` runs."""
        if member.recorder is None:
            services, progress = self._services, self._progress_of(member)

            def recorded(state: BatchState, rows: Sequence[ItemRecord]) -> None:
                progress.recorded(state, [item_event(row) for row in rows])
                tell_rows(services.events, state, rows)

            policy = Policy(member.grant.max_attempts, services.settings.retry_delay)
            member.recorder = Recorder(
                services.pool, member.grant, member.arrival.hold, policy, 1, lambda: 1, services.settings.lease_ttl, services.events,
                services.outages, services.explain_postgres, recorded=recorded, again=lambda row: None,
            )  # fmt: skip
            member.recorder.open()
        for started in range(position + 1):
            member.recorder.may_start(started)
        return member.recorder

    def _progress_of(self, member: Member) -> Progress:
        if member.progress is None:
            member.progress = Progress(self._services.announcer, member.grant.state, member.arrival.hold)
        return member.progress

    # --- slow ---------------------------------------------------------------------------------------------------------------

    def _notice_slow(self) -> None:
        """An item takes its time: nothing else shall wait for it, or be suspected with it."""
        member = self._current
        if self._is_slow or member is None:
            return
        self._is_slow = True
        self._pace.measured(None)
        position = len(member.rows)
        progress = self._progress_of(member)
        progress.recorded(member.grant.state, [])
        progress.told(LiveItem(position, member.items[position].key, 1))
        left = member.grant.seconds_left - (time.monotonic() - member.began)
        self._limit = asyncio.get_running_loop().call_later(max(0.0, left), self._out_of_time, member)
        self._relief = asyncio.create_task(self._relieve(member, position))

    async def _relieve(self, member: Member, position: int) -> None:
        self._done.remove(member)
        await self._single_out(member, position + 1)
        if position > 0:
            recorder = self._recorder_of(member, position)
            for row in member.rows[:position]:
                recorder.add(row)
            del member.rows[:position]
        await self._let_go()
        await self._settle()
        self._done.append(member)

    async def _single_out(self, member: Member, frontier: int) -> None:
        if frontier == member.grant.frontier and not member.together:
            return

        async def single_out() -> None:
            async with self._services.pool.acquire() as connection:
                await bursts.single_out(connection, member.grant.state, frontier)

        await self._patience.persist(single_out)
        member.grant = replace(member.grant, frontier=frontier)

    def _out_of_time(self, member: Member) -> None:
        member.failure = timed_out(self._services.settings.batch_timeout)
        if member is self._current:
            self._lanes.stop()

    # --- ended --------------------------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Record what has ended, tell it and acknowledge it; what is not that simple becomes `odd`."""
        done, self._done = self._done, []
        for member in done:
            if member.progress is not None:
                member.progress.close()
            if member.recorder is not None:
                await member.recorder.close()
                member.grant = replace(member.grant, state=member.recorder.state, frontier=member.recorder.frontier)
        plain = [member for member in done if member.is_plain]
        self._odd.extend(member for member in done if not member.is_plain)
        if not plain:
            return
        found = await self._record(plain)
        if found is None:
            self._odd.extend(plain)
            return
        endings = []
        for member in plain:
            state = found.get(member.grant.state.id)
            if state is None:
                await self._endings.after_loss(member.grant.state, member.arrival.hold, "the lease is lost", member.arrival.delivery)
                continue
            tell_rows(self._services.events, state, member.rows)
            if state.status in TERMINAL:
                told = [item_event(row) for row in member.rows]
                endings.append(Ending(state, member.arrival.delivery, told, time.monotonic() - member.began))
            else:
                member.rows, member.grant = [], replace(member.grant, state=state)
                self._odd.append(member)
        if endings:
            await self._endings.conclude(*endings)

    async def _record(self, plain: Sequence[Member]) -> dict[UUID, BatchState] | None:
        """One transaction for all. A lost reply is read back: the statement has happened for every batch, or for none. None: refused."""
        before = [member.grant.state for member in plain]
        rows = [(member.grant.state.id, row) for member in plain for row in member.rows]
        tried = False

        async def record() -> dict[UUID, BatchState]:
            nonlocal tried
            async with self._services.pool.acquire() as connection:
                if tried and (recorded := _recorded(before, await bursts.read_states(connection, [state.id for state in before]))):
                    return recorded
                tried = True
                if not self._services.events.hooked:
                    return await bursts.record(connection, before, rows, self._services.settings.lease_ttl)
                async with connection.transaction():
                    found = await bursts.record(connection, before, rows, self._services.settings.lease_ttl)
                    self._step("record", "inside", found)
                return found

        self._step("record", "before", [state.id for state in before])
        try:
            found = await self._patience.persist(record)
        except REFUSED:
            return None  # one of the rows; the ordinary way finds out which
        self._step("record", "after", found)
        return found

    async def _let_go(self) -> None:
        """Give up what has not started, for anybody to take."""
        members = [*self._claimed, *self._unfit]
        self._claimed.clear()
        self._unfit.clear()
        if not members:
            return

        async def release() -> None:
            async with self._services.pool.acquire() as connection:
                await bursts.release(connection, [member.grant.state for member in members])

        await self._patience.persist(release)
        for member in members:
            member.arrival.hold.entry_id = None  # not kept from looking idle any more
            await self._endings.pass_on(member.arrival.delivery)

    def _step(self, step: str, moment: str, batch_ids: Iterable[UUID]) -> None:
        if self._services.events.hooked:
            for batch_id in batch_ids:
                self._services.events.step(Step(step, moment, batch_id))

    def _tell_acquired(self, grant: Acquired) -> None:
        state = grant.state
        self._services.events.emit(
            BatchAcquired(
                batch_id=state.id, epoch=state.epoch, worker=state.worker or "", total=state.total,
                processed=0, processor=grant.processor, taken_from=None,
            )
        )  # fmt: skip


def _recorded(before: Sequence[BatchState], now: dict[UUID, BatchState]) -> dict[UUID, BatchState]:
    """Those of the batches that are one revision further under the same epoch and owner: only our own record does that."""
    return {
        state.id: found
        for state in before
        if (found := now.get(state.id)) is not None
        and (found.epoch, found.revision, found.worker) == (state.epoch, state.revision + 1, state.worker)
        and found.status in ("processing", "completed")
    }
