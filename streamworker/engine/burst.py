"""Small batches run together: claimed in one transaction, recorded in one, told and acknowledged in one round trip each.

Each keeps its own epoch, fence and counters, and is acknowledged only after its own end is durable and told. What turns out to be slow,
or has more in it than quick items that end at the first attempt, goes on as any other batch does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import msgspec

from streamworker.engine.attempts import LONGEST_BURST, Away, Pace, Policy, settle
from streamworker.engine.burst_writer import BurstWriter
from streamworker.engine.commits import REFUSED
from streamworker.engine.context import ItemContext, Voice
from streamworker.engine.endings import Ending, Endings
from streamworker.engine.holds import Call, HeldLease, Hold
from streamworker.engine.lanes import Lane, Lanes
from streamworker.engine.loop import server_of
from streamworker.engine.members import Arrival, Member
from streamworker.engine.patience import GivenUp, Patience
from streamworker.engine.processors import AnyProcessor, OpenProcessors
from streamworker.engine.progress import LiveItem, item_event, tell_rows
from streamworker.engine.services import Services
from streamworker.engine.source import batch_info, item_of
from streamworker.errors import ConfigurationError
from streamworker.messages import TERMINAL, Job
from streamworker.observe.events import BatchAcquired, ItemStarted, Step
from streamworker.processors.api import Unavailable
from streamworker.processors.outcomes import Failed, Interrupted, Outcome, failure_of
from streamworker.settings import Settings
from streamworker.store import bursts
from streamworker.store.batches import Acquired, Claim, timed_out
from streamworker.store.bursts import Wanted
from streamworker.store.items import ItemRecord, OpenItem

LOG = logging.getLogger("streamworker.engine")
# A batch with more items, or with a longer text of them, is not a small one.
MOST_ITEMS = 100
LONGEST_TEXT = 65_536


class Burst:
    """One burst. What it cannot end is left in `odd`; `slow` is the one of them that had an item under way when it was noticed.

    `leave(arrival)` is called as soon as an entry is in our care no longer; `hand_over(member)` writes down what a member has and gives
    it up; `worked()` is called, and `is_free` set, when nothing is left to start, and nothing but writing and telling to do.
    """

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
        leave: Callable[[Arrival], None],
        hand_over: Callable[[Member], Coroutine[Any, Any, None]],
        worked: Callable[[], None],
    ) -> None:
        self._services = services
        self._patience = patience
        self._endings = endings
        self._processors = processors
        self._pace = pace
        self._leave = leave
        self._hand_over = hand_over
        self._worked = worked
        self._writer = BurstWriter(services, patience)
        self._claimed: deque[Member] = deque()
        self._unfit: list[Member] = []
        self._done: list[Member] = []
        self.odd: list[Member] = []
        self.slow: Member | None = None
        self.draining = False
        self._current: Member | None = None
        self._relief: asyncio.Task[None] | None = None
        self._telling: set[asyncio.Task[None]] = set()
        self._limit: asyncio.TimerHandle | None = None
        self._lane = Lane(Call(Hold(None, asyncio.get_running_loop())))
        self._lanes = Lanes([self._lane], services.settings.item_timeout, services.heartbeat, self._notice_slow)
        self._loop = asyncio.get_running_loop()
        self._begun = self._ended = 0  # batches, and items of them
        self._spent = 0.0
        self.is_free = False

    def drain(self) -> None:
        """Start nothing more; the item under way may end."""
        self.draining = True

    def interrupt(self) -> None:
        """End what runs."""
        self.draining = True
        self._lanes.stop()

    async def work(self) -> None:
        """Run what was claimed: what is plain is recorded and told, the rest is left in `odd`."""
        self._lanes.look_out()
        try:
            while self._claimed and not self._is_over:
                await asyncio.create_task(self._run_some())
                if self._relief is not None:
                    await self._relief
                elif not self._claimed and all(member.is_plain for member in self._done):
                    self._pace.measured(self._spent / self._ended)
                    self._pace.more(self._spent / self._begun)
                    self.is_free = True
                    self._worked()
                await self._record_done()
            await self._let_go()
        except Exception as error:
            if not isinstance(error, GivenUp):
                LOG.exception("small batches: unexpected error; each goes on by itself")
            self.odd.extend(member for member in (*self._done, *self._claimed) if member not in self.odd)
        finally:
            self._lanes.look_away()
            if self._limit is not None:
                self._limit.cancel()
            for member in self.odd:
                member.hush()

    def aside(self, telling: Coroutine[Any, Any, None]) -> None:
        """Do this beside everything else: Redis may be away for long."""
        task = asyncio.create_task(self._guard(telling))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def told(self) -> None:
        """Return when all that ended has been told and acknowledged."""
        if self._telling:
            await asyncio.wait(self._telling)

    @property
    def _is_over(self) -> bool:
        return self.draining or self.slow is not None

    # --- claimed ------------------------------------------------------------------------------------------------------------

    async def claim(self, arrivals: Sequence[Arrival]) -> set[UUID]:
        """Claim what nobody has worked on yet; returns the ids."""
        services, settings = self._services, self._services.settings
        await services.heartbeat.ready()
        wanted = [Wanted(a.job, a.delivery.entry_id, a.job.max_attempts or settings.max_attempts) for a in arrivals]
        terms = Claim(settings.consumer, services.heartbeat.number, None, settings.lease_ttl, settings.batch_timeout)
        self._step("acquire", "before", [arrival.job.batch_id for arrival in arrivals])
        asked_at = time.monotonic()
        try:
            async with services.small.acquire() as connection:
                claimed = await bursts.claim(connection, wanted, terms, self.largest(len(wanted), settings, self._pace), LONGEST_TEXT)
        except Exception as error:
            if server_of(error) is None and not isinstance(error, REFUSED):
                raise
            await self._writer.undo([arrival.job.batch_id for arrival in arrivals])
            return set()  # one by one it will be found out what is wrong
        ours = [arrival for arrival in arrivals if arrival.job.batch_id in claimed]
        members = [Member(arrival, *claimed[arrival.job.batch_id], asked_at, len(wanted) > 1) for arrival in ours]
        for member in members:
            lease = HeldLease(member.grant.state.id, member.grant.state.epoch)
            member.arrival.hold.begin(lease, asked_at, settings.lease_ttl, partial(self._lost, member))
        whole = [member for member in members if len(member.items) == member.grant.state.total]
        self._unfit.extend(member for member in members if member not in whole)  # changed by hand: for the ordinary way to deal with
        self._claimed.extend(whole)
        if len(members) == 1:
            self._tell_acquired(members[0].grant)
        self._step("acquire", "after", list(claimed))
        return set(claimed)

    def _lost(self, member: Member, _reason: str) -> None:
        if member is self._current:
            self._lanes.stop()

    # --- worked on ----------------------------------------------------------------------------------------------------------

    async def _run_some(self) -> None:
        """Run batch after batch for a moment."""
        began, running = time.monotonic(), asyncio.current_task()
        with self._lanes.serving(self._lane), contextlib.suppress(asyncio.CancelledError):
            while self._claimed and not self._is_over and time.monotonic() - began < LONGEST_BURST:
                self._current = self._claimed.popleft()
                self._done.append(self._current)  # whatever becomes of it
                self._begun += 1
                await self._run_items(self._current)
                self._current = None
                if running is not None and running.cancelling():
                    break  # interrupted: the next item must not be
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
        except Unavailable as error:
            member.away = Away(failure_of(error).error)
            return
        hold, self._lane.call.hold = member.arrival.hold, member.arrival.hold
        voice = Voice(
            batch, hold, partial(self._tell, member), partial(self._checkpoint, member), partial(self._note, member),
            self._loop, member.began + member.grant.seconds_left,
        )  # fmt: skip
        policy = Policy(member.grant.max_attempts, self._services.settings.retry_delay)
        for item in member.items:
            if not (processor.is_ready or await self._is_ready(processor, member)):
                return
            hold.check_deadline()
            if hold.lost is not None or self._is_over or member.recorder is not None:
                return
            row = await self._run_item(member, item, processor, policy, voice)
            if row is None:
                return
            member.rows.append(row)
            if row.status not in TERMINAL:
                return
            if self._lane.is_greedy:
                await self._lane.be_fair()

    async def _is_ready(self, processor: AnyProcessor, member: Member) -> bool:
        try:
            await processor.ready()
        except ConfigurationError:
            return False  # for the ordinary way to deal with
        except Unavailable as error:
            member.away = Away(failure_of(error).error)
            return False
        return True

    async def _run_item(self, member: Member, item: OpenItem, processor: AnyProcessor, policy: Policy, voice: Voice) -> ItemRecord | None:
        context = ItemContext(voice, item.position, item.key, 1)
        began = self._lane.began = time.monotonic()
        outcome = await self._call(item, processor, policy, context)
        if context.has_told and member.progress is not None:
            member.progress.ended(item.position)
        if processor.abandoned:
            self.draining = True
            self._services.restart(f"item {item.position} of batch {voice.batch.id} does not end")
        if isinstance(outcome, Failed) and outcome.away:
            member.away = Away(outcome.error, (item.position,))
            return None
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
        return await self._lanes.call(self._lane, policy, context, processor(given, context))

    def _tell(self, member: Member, live: LiveItem) -> None:
        """An item has something to tell; plain functions do so from their threads, where nothing can be made that belongs to the loop."""
        if member.progress is not None:
            member.progress.told(live)
        elif not member.telling:
            member.telling = True
            self._loop.call_soon_threadsafe(self._begin_to_tell, member, live)

    def _begin_to_tell(self, member: Member, live: LiveItem) -> None:
        member.telling = False
        if member is self._current:  # else it is over
            member.progress_of(self._services).told(live)

    async def _checkpoint(self, member: Member, position: int, state: str) -> None:
        await member.recorder_of(self._services, position).checkpoint(position, state)

    def _note(self, member: Member, position: int, state: str) -> None:
        member.recorder_of(self._services, position).note(position, state)

    # --- slow ---------------------------------------------------------------------------------------------------------------

    def _notice_slow(self) -> None:
        """An item takes its time: nothing else shall wait for it, or be suspected with it."""
        member = self._current
        if self.slow is not None or member is None:
            return
        self.slow = member
        self._pace.measured(None)
        position = len(member.rows)
        progress = member.progress_of(self._services)
        progress.recorded(member.grant.state, [])
        progress.told(LiveItem(position, member.items[position].key, 1))
        left = member.grant.seconds_left - (time.monotonic() - member.began)
        self._limit = asyncio.get_running_loop().call_later(max(0.0, left), self._out_of_time, member)
        self._relief = asyncio.create_task(self._relieve(member, position))

    async def _relieve(self, member: Member, position: int) -> None:
        """Postgres alone is waited for: the slow item's own end is written as soon as this is done."""
        self._done.remove(member)
        try:
            await self._patience.persist(lambda: member.single_out(self._services.small, position + 1))
            if position > 0:
                recorder = member.recorder_of(self._services, position)
                for row in member.rows[:position]:
                    recorder.add(row)
                del member.rows[:position]
            await self._record_done()
            await self._let_go()
            neighbours, self.odd = self.odd, []
            for neighbour in neighbours:
                neighbour.hush()
                self.aside(self._hand_over(neighbour))
        finally:
            self._done.append(member)

    def _out_of_time(self, member: Member) -> None:
        member.failure = timed_out(self._services.settings.batch_timeout)
        if member is self._current:
            self._lanes.stop()

    # --- ended --------------------------------------------------------------------------------------------------------------

    async def _record_done(self) -> None:
        """Record what has ended, and see to it that it is told; what is not that simple becomes `odd`."""
        done, self._done = self._done, []
        for member in done:
            await member.close_recorder()
        plain = [member for member in done if member.is_plain]
        self.odd.extend(member for member in done if not member.is_plain)
        if not plain:
            return
        try:
            found = await self._writer.record(plain)
        except BaseException:
            self._done = plain
            raise
        if found is None:
            self.odd.extend(plain)
            return
        ended: list[tuple[Member, Ending]] = []
        for member in plain:
            member.hush()
            state = found.get(member.grant.state.id)
            if state is None:
                self.aside(self._after_loss(member))
            elif state.status in TERMINAL:
                tell_rows(self._services.events, state, member.rows)
                told = [item_event(row) for row in member.rows]
                ended.append((member, Ending(state, member.arrival.delivery, told, time.monotonic() - member.began)))
            else:  # more failures than it allows, or rows that were added by hand
                tell_rows(self._services.events, state, member.rows)
                member.rows, member.grant = [], msgspec.structs.replace(member.grant, state=state)
                self.odd.append(member)
        if ended:
            self.aside(self._conclude(ended))

    async def _let_go(self) -> None:
        """Give up what has not started, for anybody to take."""
        members = [*self._claimed, *self._unfit]
        if not members:
            return

        await self._writer.release([member.grant.state for member in members])
        self._claimed.clear()
        self._unfit.clear()
        for member in members:
            self._leave(member.arrival)
        self.aside(self._pass_on(members))

    # --- told, beside everything else ---------------------------------------------------------------------------------------

    async def _guard(self, telling: Coroutine[Any, Any, None]) -> None:
        try:
            await telling
        except GivenUp:
            pass  # the reconciler of another worker tells it
        except Exception:
            LOG.exception("small batches: unexpected error while their ends were told")

    async def _conclude(self, ended: Sequence[tuple[Member, Ending]]) -> None:
        await self._endings.conclude(*(ending for _, ending in ended))
        for member, _ in ended:
            self._leave(member.arrival)

    async def _after_loss(self, member: Member) -> None:
        await self._endings.after_loss(member.grant.state, member.arrival.hold, "the lease is lost", member.arrival.delivery)
        self._leave(member.arrival)

    async def _pass_on(self, members: Sequence[Member]) -> None:
        for member in members:
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
