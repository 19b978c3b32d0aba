"""One batch under one lease: its lanes start items, the recorder writes what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from streamworker.engine.attempts import Away, Policy, backoff, counts, settle
from streamworker.engine.context import ItemContext, Voice
from streamworker.engine.holds import Call, Hold
from streamworker.engine.lanes import Lane, Lanes
from streamworker.engine.processors import AnyProcessor
from streamworker.engine.progress import Progress, charged_event, item_event, tell_rows
from streamworker.engine.recorder import Recorder
from streamworker.engine.relay import Relay
from streamworker.engine.services import Services
from streamworker.engine.source import ItemSource, Work, batch_info, item_of
from streamworker.engine.sprint import Parts, Sprint
from streamworker.errors import ConfigurationError, LeaseLost
from streamworker.messages import TERMINAL, ItemEvent, clean_text
from streamworker.observe.events import ItemStarted, OutageOver, Step
from streamworker.processors.api import Unavailable
from streamworker.processors.isolated import IsolatedProcessor
from streamworker.processors.outcomes import Failed, Interrupted, Outcome, Succeeded, failure_of
from streamworker.store import items
from streamworker.store.batches import Acquired, BatchState, Connection, timed_out, too_many_failures
from streamworker.store.items import ItemRecord, OpenItem
from streamworker.store.pool import CONNECTION_ERRORS


class Run:
    """The work on one batch, from its acquisition until it is completed, failed, lost or drained."""

    def __init__(self, services: Services, grant: Acquired, hold: Hold, processor: AnyProcessor) -> None:
        settings = services.settings
        self._services = services
        self._hold = hold
        self._processor = processor
        self._policy = Policy(grant.max_attempts, settings.retry_delay)
        self._grant = grant
        self._batch = batch_info(grant)
        self._outage = grant.outage
        self._progress = Progress(services.announcer, grant.state, hold)
        self._source = ItemSource(self._load, self._load_away if grant.was_paused else None)
        lanes = [Lane(Call(hold)) for _ in range(settings.item_concurrency)]
        self._lanes = Lanes(lanes, settings.item_timeout, services.heartbeat, self._narrow)
        self._alone = asyncio.Lock()
        self._open: dict[int, OpenItem] = {}
        self._recorder = Recorder(
            services.pool, services.small, grant, hold, self._policy, len(lanes), self._lanes.busy, settings.lease_ttl, services.events,
            services.outages, services.explain_postgres, recorded=self._recorded, again=self._again,
        )  # fmt: skip
        self._voice = Voice(
            self._batch, hold, self._progress.told, self._recorder.checkpoint, self._recorder.note, asyncio.get_running_loop(),
            time.monotonic() + grant.seconds_left,
        )  # fmt: skip
        self._quick = self._quick_by(processor) if settings.item_timeout is None else None
        self.failure: str | None = None
        self.away: Away | None = None
        self.got_through: Callable[[], None] = lambda: None
        self.last_items: list[ItemEvent] = []
        self.draining = False

    @property
    def hold(self) -> Hold:
        """What keeps the lease."""
        return self._hold

    async def flush(self) -> None:
        """Write all that has ended so far."""
        await self._recorder.drain()

    @property
    def state(self) -> BatchState:
        """The batch as of the last commit."""
        return self._recorder.state

    @property
    def seconds_an_item(self) -> float | None:
        """What an item takes, about; None as long as none has ended."""
        return self._recorder.item_seconds

    async def work(self, done: Sequence[ItemRecord], failure: str | None, away: Away | None) -> bool:
        """Work until nothing is open; True when the batch is completed. Raises LeaseLost.

        `done` has ended before and is to be written; with `failure`, or where what the processor needs is `away`, that is all that is done.
        """
        self._progress.recorded(self._grant.state, [charged_event(item) for item in self._grant.charged])
        limit = self._voice.loop.call_later(self._grant.seconds_left, self._fail, timed_out(self._services.settings.batch_timeout))
        try:
            async with self._recorder:
                for row in done:
                    self._recorder.add(row)
                await self._recorder.drain()
                if away is not None:
                    self._pause(away.reason, *away.met)
                if failure is not None:
                    self._fail(failure)
                if complaint := too_many_failures(self.state.failed, self._grant.max_failures):
                    self._fail(complaint)
                return await self._passes()
        finally:
            limit.cancel()
            self._lanes.look_away()
            self._progress.close()
            await self._source.aclose()

    def lost(self, reason: str) -> None:
        """The lease is gone: nothing more is written."""
        self._recorder.abort()
        self._stop()

    def drain(self) -> None:
        """Start nothing more; what runs may end."""
        self.draining = True
        self._source.close()

    def interrupt(self) -> None:
        """End what runs: the grace is over."""
        self._stop()

    async def _passes(self) -> bool:
        self._lanes.above = asyncio.current_task()
        while True:
            async with asyncio.TaskGroup() as group:
                for lane in self._lanes.all:
                    group.create_task(self._serve(lane))
            if self.state.status == "completed":
                return True
            if self._hold.lost is not None:
                raise LeaseLost(self._hold.lost)
            await self._recorder.drain()
            if self.state.status == "completed":
                return True
            if self.draining or self.failure is not None or self.away is not None:
                return False
            if not self._source.exhausted:
                continue  # a write in the recording transaction raised after its lane had gone on
            if await self._recorder.complete():
                return True
            if self.failure is not None:
                return False
            await self._source.rewind()  # rows are left over: delayed retries, or rows that came meanwhile

    async def _serve(self, lane: Lane) -> None:
        with self._lanes.serving(lane), contextlib.suppress(LeaseLost, asyncio.CancelledError):
            while (work := self._source.take() or await self._source.next()) is not None:
                lane.busy = True
                following: Work | None = work
                while following is not None:
                    if self._alone.locked() or following.item.position < self._grant.careful_until:
                        following = await self._start_alone(lane, following)
                    else:
                        following = await self._start_quick(lane, following)
                lane.busy = False
                if lane.is_greedy:
                    await lane.be_fair()

    def _quick_by(self, processor: AnyProcessor) -> Sprint | Relay | None:
        """A way to run quick items one after another, where there is one."""
        if self._services.events.detailed or self._services.events.hooked:
            return None  # each start is told to somebody who listens
        parts = Parts(
            self._batch.id, self._hold, self._source, self._recorder, self._voice, self._lanes, self._policy,
            lambda: not self._alone.locked(), self._is_last,
        )  # fmt: skip
        if isinstance(processor, IsolatedProcessor):
            return Relay(processor, parts)
        return Sprint(processor, parts) if processor.is_direct else None

    async def _start_alone(self, lane: Lane, work: Work) -> Work | None:
        """As `_start`; nothing else runs beside an item that is under suspicion."""
        if work.item.position < self._grant.careful_until:
            async with self._alone:
                return await self._start(lane, work)
        async with self._alone:
            pass  # those under suspicion came first, and have ended now
        return await self._start(lane, work)

    async def _start(self, lane: Lane, work: Work) -> Work | None:
        """Start the item once; returns the start that must follow at once, if any."""
        item, hold = work.item, self._hold
        if work.attempt == 1 and item.away_after is None:
            if not self._recorder.may_start(item.position):
                await self._recorder.clear(item.position)
                lane.since = time.monotonic()
        elif not work.marked:
            mark = ItemRecord(item.position, item.key, "processing", work.attempt, seconds=0.0, progressed=False)
            await self._recorder.mark_retry(mark)
        if not (self._processor.is_ready or await self._ready()):
            return None
        began = lane.began = time.monotonic()
        if began > hold.deadline:
            hold.check_deadline()  # a process that was stopped wakes up here before its heartbeat can look
        if hold.lost is not None or self._source.closed:
            return None
        context = ItemContext(self._voice, item.position, item.key, work.attempt)
        if self._recorder.slow:
            self._progress.told(context.live)  # one at a time: worth telling that it has begun
        outcome = await self._call(lane, work, context)
        return await self._ended(work, context, began, outcome)

    async def _start_quick(self, lane: Lane, work: Work) -> Work | None:
        """As `_start`, and in the same go those that follow, as long as they are quick."""
        quick = self._quick
        if quick is None or not quick.may_start(work):
            return await self._start(lane, work)
        last = await quick.run(lane, work.item)
        if last is None:
            return None
        return await self._ended(Work(last.item, 1), last.context, last.began, last.outcome)

    async def _ended(self, work: Work, context: ItemContext, began: float, outcome: Outcome) -> Work | None:
        item = work.item
        if context.has_told:
            self._progress.ended(item.position)
        if self._processor.abandoned:
            self._source.close()
            self._services.restart(f"item {item.position} of batch {self._batch.id} does not end")
        if isinstance(outcome, Interrupted):
            self._interrupted(work)
            return None
        if isinstance(outcome, Failed) and outcome.away:
            if item.away_after is not None:
                await self._recorder.drain()  # whatever got through since, counts
            self._meet(item, work.attempt, outcome.error)
            return None
        if context.saved is not None:
            item = msgspec.structs.replace(item, checkpoint=context.saved)
        row = self._settle(item, work.attempt, outcome, time.monotonic() - began)
        return None if row.status in TERMINAL else await self._follow(item, row, work.attempt)

    async def _ready(self) -> bool:
        """Wait until the processor can take an item: that is not the item's time, and no attempt at it."""
        try:
            await self._processor.ready()
        except ConfigurationError as error:
            self._fail(clean_text(str(error)))
            return False
        except Unavailable as error:
            self._pause(failure_of(error).error)
            return False
        return True

    async def _call(self, lane: Lane, work: Work, context: ItemContext) -> Outcome:
        item = work.item
        given = item_of(self._batch.id, item, work.attempt)
        if isinstance(given, Failed):
            return given
        if self._services.events.detailed or self._services.events.hooked:
            self._tell_start(work)
        return await self._lanes.call(lane, self._policy, context, self._processor(given, context))

    def _tell_start(self, work: Work) -> None:
        emit, item, epoch = self._services.events.emit, work.item, self.state.epoch
        self._services.events.step(Step("process", "before", self._batch.id, item.position))
        emit(ItemStarted(batch_id=self._batch.id, epoch=epoch, position=item.position, key=item.key, attempt=work.attempt))

    def _interrupted(self, work: Work) -> None:
        """We ended it: no attempt is charged, except where an item must never start twice."""
        if self._policy.max_attempts == 1 and self._hold.lost is None and self.failure is None:
            outcome = Failed("interrupted, and max_attempts is 1: it is never started twice", permanent=True)
            self._recorder.add(settle(work.item.position, work.item.key, work.attempt, outcome, self._policy, 0.0))

    def _settle(self, item: OpenItem, attempt: int, outcome: Succeeded | Failed, seconds: float) -> ItemRecord:
        row = settle(item.position, item.key, attempt, outcome, self._policy, seconds)
        if row.write is not None:
            self._open[item.position] = item  # its write may still raise, in the recording transaction
        self._recorder.add(row, last=self._is_last(row))
        if self._services.events.hooked:
            self._services.events.step(Step("process", "after", self._batch.id, item.position))
        return row

    async def _follow(self, item: OpenItem, row: ItemRecord, attempt: int) -> Work | None:
        """The next attempt: at once, or when its time comes."""
        await self._recorder.written(row)
        if row.status == "processing":
            return Work(item, row.attempts, marked=True)
        self._source.retry(msgspec.structs.replace(item, attempts=attempt), attempt + 1, row.delay or 0.0, marked=False)
        return None

    def _is_last(self, row: ItemRecord) -> bool:
        """Whether nothing is open any more once this row is written."""
        ended = row.status in TERMINAL and row.write is None
        return ended and self._source.exhausted and self._lanes.busy() == 1

    def _recorded(self, state: BatchState, rows: Sequence[ItemRecord]) -> None:
        if not self._recorder.slow:
            self._lanes.look_out()  # a slow item among fast ones must be noticed
        told = [item_event(row) for row in rows]
        self._progress.recorded(state, told)
        self.last_items = told  # the end is announced together with what was recorded last
        for row in rows:
            if row.status in TERMINAL:
                self._open.pop(row.position, None)
        tell_rows(self._services.events, state, rows)
        if self._outage is not None and any(row.status == "completed" for row in rows):
            self._services.events.emit(OutageOver(batch_id=state.id, epoch=state.epoch, seconds=self._outage))
            self._outage = None
            self.got_through()
        if complaint := too_many_failures(state.failed, self._grant.max_failures):
            self._fail(complaint)

    def _again(self, row: ItemRecord) -> None:
        item = self._open.pop(row.position, None)
        if row.away is not None:
            return self._pause(row.away, row.position) if item is None else self._meet(item, row.attempts + 1, row.away)
        if item is None:
            return  # its row tells: the next pass finds it
        attempt = row.attempts if row.status == "processing" else row.attempts + 1
        self._source.retry(
            msgspec.structs.replace(item, attempts=attempt - 1), attempt, row.delay or 0.0, marked=row.status == "processing"
        )

    def _fail(self, error: str) -> None:
        """The batch as a whole has failed: start nothing more, end what runs."""
        if self.failure is None and not self.draining:
            self.failure = error
            self._source.close()
            self._stop()

    def _meet(self, item: OpenItem, attempt: int, reason: str) -> None:
        """What the item needs is away: it has not been tried. But an affair of its own is an attempt, and the last one ends it."""
        if counts(self.state.succeeded, item.away_after):
            row = settle(item.position, item.key, attempt, Failed(reason, delay=0.0), self._policy, 0.0)
            if row.status == "failed":
                return self._recorder.add(row)
            self._recorder.add(ItemRecord(item.position, item.key, "pending", attempt, error=reason))
        self._pause(reason, item.position)

    def _pause(self, reason: str, *met: int) -> None:
        """What the processor needs is away: start nothing more; what runs may end, and counts."""
        self.away = Away(reason, met) if self.away is None else Away(self.away.reason, (*self.away.met, *met))
        self._source.close()

    def _stop(self) -> None:
        self._source.close()
        self._lanes.stop()

    def _narrow(self) -> None:
        self._recorder.narrow()
        if self._recorder.slow:
            self._lanes.look_away()

    async def _load(self, position: int, limit: int) -> list[OpenItem]:
        return await self._read(lambda connection: items.load_open(connection, self._batch.id, position, limit))

    async def _load_away(self, limit: int) -> list[OpenItem]:
        return await self._read(lambda connection: items.load_away(connection, self._batch.id, limit))

    async def _read(self, load: Callable[[Connection], Awaitable[list[OpenItem]]]) -> list[OpenItem]:
        failures = 0
        while self._hold.lost is None:
            try:
                async with self._services.pool.acquire() as connection:
                    return await load(connection)
            except CONNECTION_ERRORS:
                failures += 1
                await asyncio.sleep(backoff(failures, random.random()))  # noqa: S311
        return []
