"""Telling the world what is durable: in order, never awaited by the processing, best effort but for the end."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from streamworker.broker.connection import CONNECTION_ERRORS
from streamworker.broker.publisher import Publisher
from streamworker.engine.attempts import backoff
from streamworker.engine.outages import Outages
from streamworker.messages import TERMINAL, ProgressEvent

AT_ONCE = 64
# More than this is not kept for a slow or absent Redis: readers see the gap and read the snapshot.
MOST_WAITING = 256


@dataclass(slots=True, eq=False)
class _Ends:
    """Terminal events that somebody waits for together: `told` is done when none is left."""

    told: asyncio.Future[None]
    left: int


class Announcer:
    """Publishes events in the order in which they were given.

    While Redis is away only the fact that a batch has changed is remembered; when it is back, `current` of each such batch
    is published, or, of one that runs here no longer, the last that was told of it. Terminal events are kept until they are out.
    """

    def __init__(self, publisher: Publisher, outages: Outages, explain: Callable[[BaseException], str]) -> None:
        self._publisher = publisher
        self._outages = outages
        self._explain = explain
        self._queue: deque[ProgressEvent] = deque()
        self._ends: dict[int, _Ends] = {}
        self._current: dict[str, Callable[[], ProgressEvent | None]] = {}
        self._dirty: set[str] = set()
        self._last: dict[str, ProgressEvent] = {}
        self._wake = asyncio.Event()
        self._stopping = False
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin publishing."""
        self._running = asyncio.create_task(self._run(), name="announcer")

    async def stop(self, patience: float) -> None:
        """Publish what is waiting, for at most `patience` seconds, then end."""
        self._stopping = True
        self._wake.set()
        if self._running is not None:
            await asyncio.wait([self._running], timeout=patience)
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        for ends in self._ends.values():
            ends.told.cancel()

    def register(self, batch_id: str, current: Callable[[], ProgressEvent | None]) -> None:
        """Where to ask for the present state of a batch that runs here; None once its lease is lost: then nothing more is told."""
        self._current[batch_id] = current

    def forget(self, batch_id: str) -> None:
        """The batch runs here no longer; what it has to tell is told, unless its lease is lost."""
        current = self._current.pop(batch_id, None)
        state = None if current is None else current()
        if current is not None and state is None:
            self._queue = deque(event for event in self._queue if event.batch_id != batch_id or id(event) in self._ends)
            self._dirty.discard(batch_id)
        elif state is not None and batch_id in self._dirty:
            self._keep_last(state)

    def _is_mute(self, batch_id: str) -> bool:
        current = self._current.get(batch_id)
        return current is not None and current() is None

    def announce(self, event: ProgressEvent) -> None:
        """Publish soon."""
        if len(self._queue) >= MOST_WAITING:
            self._put_off(event)
            return
        self._last.pop(event.batch_id, None)
        self._queue.append(event)
        self._wake.set()

    def announce_live(self, event: ProgressEvent) -> None:
        """Publish soon, or not at all when there is more important news waiting."""
        if len(self._queue) < AT_ONCE:
            self.announce(event)

    async def announce_ends(self, events: Sequence[ProgressEvent]) -> None:
        """Publish terminal events; returns when all are in the stream, however long that takes."""
        ends = _Ends(asyncio.get_running_loop().create_future(), len(events))
        for event in events:
            self._last.pop(event.batch_id, None)
            self._ends[id(event)] = ends
        self._queue.extend(events)
        self._wake.set()
        try:
            if events:
                await ends.told
        finally:
            for event in events:
                self._ends.pop(id(event), None)

    async def _run(self) -> None:
        failures = 0
        while True:
            if not self._queue and not self._dirty:
                if self._stopping:
                    return
                await self._wake.wait()
            self._wake.clear()
            taken = self._take()
            if not taken:
                continue
            try:
                await self._publisher.publish(taken)
            except CONNECTION_ERRORS as error:
                self._put_back(taken)
                failures += 1
                self._outages.away("redis", "announcer", self._explain(error))
                await asyncio.sleep(backoff(failures, random.random()))  # noqa: S311
                continue
            failures = 0
            self._outages.back("redis", "announcer")
            self._tell_ends(taken)

    def _take(self) -> list[ProgressEvent]:
        taken = [self._queue.popleft() for _ in range(min(AT_ONCE, len(self._queue)))]
        mute = {batch_id for batch_id in {event.batch_id for event in taken} if self._is_mute(batch_id)}
        if mute:  # another worker may tell of it by now
            taken = [event for event in taken if event.batch_id not in mute or id(event) in self._ends]
        if self._queue or not self._dirty:
            return taken
        # Everything older is out: now the state of those batches whose events were dropped.
        dirty, self._dirty = self._dirty, set()
        ends = [event for event in taken if id(event) in self._ends]
        others = [event for event in taken if id(event) not in self._ends]
        ended = {event.batch_id for event in ends}
        last, self._last = self._last, {}
        states = [self._current[batch]() if batch in self._current else last.get(batch) for batch in dirty if batch not in ended]
        return [*others, *(state for state in states if state is not None), *ends]

    def _put_back(self, taken: list[ProgressEvent]) -> None:
        """Keep the ends; of the others only the batch. What was published in part will be seen twice, never out of order."""
        waiting = [*taken, *self._queue]
        for event in waiting:
            if id(event) not in self._ends:
                self._put_off(event)
        self._queue = deque(event for event in waiting if id(event) in self._ends)

    def _put_off(self, event: ProgressEvent) -> None:
        self._dirty.add(event.batch_id)
        if event.batch_id not in self._current and event.status not in TERMINAL:
            self._keep_last(event)

    def _keep_last(self, event: ProgressEvent) -> None:
        known = self._last.get(event.batch_id)
        if known is None or known.revision <= event.revision:
            self._last[event.batch_id] = msgspec.structs.replace(event, items=[])

    def _tell_ends(self, published: list[ProgressEvent]) -> None:
        for event in published:
            ends = self._ends.pop(id(event), None)
            if ends is None:
                continue
            ends.left -= 1
            if not (ends.left or ends.told.done()):
                ends.told.set_result(None)
