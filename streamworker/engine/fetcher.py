"""A free slot? What is ready goes first, then what was reclaimed, then what is new; what was paused takes turns with these."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from streamworker.broker.consumer import Consumer, Delivery, group_is_gone
from streamworker.engine.waiting_room import WaitingRoom

# An entry that nobody renewed for so long (seconds) has no living owner, as far as Redis can tell.
RECLAIM_IDLE = 1.0
RECLAIM_EVERY = 0.2
NOTHING_TO_DO = 60.0
MOST_CALLS = 100
# Runs that have done their work and only write and tell it; with more of them nothing new is begun.
MOST_ENDING = 3
# What was paused and is tried again may take its time to find that nothing has changed. If there is anything else to do, that has as much
# time after it as it took, at most so much (seconds).
LONGEST_TURN = 60.0


class Fetcher:
    """Takes as many deliveries as there are free slots, never more: what is delivered is owned.

    `run` handles what fills one slot: a delivery, or as many as `together()` says where batches are small and quick.
    `lost` is called when there is a sign that the stream lost entries. What waits in the `waiting_room` is in our care already.
    """

    def __init__(
        self,
        consumer: Consumer,
        slots: int,
        run: Callable[[Sequence[Delivery]], Awaitable[None]],
        together: Callable[[], int],
        waiting_room: WaitingRoom,
        lost: Callable[[], None],
    ) -> None:
        self._consumer = consumer
        self._slots = slots
        self._run = run
        self._together = together
        self._waiting_room = waiting_room
        self._lost = lost
        self._ready: deque[Delivery] = deque()
        self._running: dict[asyncio.Task[None], set[str]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._reclaim_at = 0.0
        self._begun = 0
        self._looked = True
        self._paused_at = 0.0
        self._has_group = False
        self.wake: Callable[[], None] = lambda: None

    def ready(self, delivery: Delivery) -> None:
        """A delivery of ours that waited can be run now."""
        self._ready.append(delivery)
        self.wake()

    def free_slot(self) -> None:
        """The run that calls this has nothing left to start: its slot is for another one, while it writes and tells what it did."""
        running = asyncio.current_task()
        if running in self._running:
            self._ending.add(running)
            self.wake()

    def forget(self, entry_id: str) -> None:
        """This entry is in our care no longer: when it comes again it is taken."""
        for entry_ids in self._running.values():
            entry_ids.discard(entry_id)

    def busy(self) -> list[asyncio.Task[None]]:
        """What is running."""
        return list(self._running)

    async def step(self) -> float:
        """Fill the free slots; returns how long to wait when there is none."""
        while self._ready and self._free():
            self._dispatch([self._ready.popleft()])
        self._go_on_with_paused()
        if not self._free():
            return NOTHING_TO_DO  # a slot that becomes free wakes us
        before = self._begun
        try:
            await self._fetch()
        except Exception as error:
            if not group_is_gone(error):
                raise
            self._has_group = False
            self._lost()
        finally:
            self._looked = True
            if self._begun == before:
                self._paused_at = 0.0  # there is nothing else to do
        return 0.0

    def _go_on_with_paused(self) -> None:
        """Try one whose pause is over, if there was a look at what else there is since the last one, and time for it."""
        if not (self._free() and self._looked and time.monotonic() >= self._paused_at):
            return
        delivery = self._waiting_room.take()
        if delivery is None:
            return
        self._looked = False
        began, entry_id = time.monotonic(), delivery.entry_id

        def ended(_running: object = None) -> None:
            self._paused_at = time.monotonic() + min(time.monotonic() - began, LONGEST_TURN)
            self._waiting_room.ended(entry_id)

        running = self._dispatch([delivery])
        if running is None:
            ended()
        else:
            running.add_done_callback(ended)

    async def _fetch(self) -> None:
        if not self._has_group:
            if await self._consumer.create_group():
                self._lost()
            self._has_group = True
            if not self._free():
                return
        now = time.monotonic()
        if now >= self._reclaim_at:
            # Spread out, so that many workers do not look at the same instant.
            self._reclaim_at = now + RECLAIM_EVERY * (0.75 + random.random() / 2)  # noqa: S311
            if await self._reclaim() and not self._waiting_room.is_full:  # else they may be those that find no room, again and again
                self._reclaim_at = now  # where one was, there are more: they waited longest, so they come before what is new
        if self._free():
            block = 0.001 if self._waiting_room.offers else max(0.001, self._reclaim_at - time.monotonic())
            together = self._together()
            found = await self._consumer.read(self._free() if together == 1 else together, block)
            if together == 1:
                for delivery in found:
                    self._dispatch([delivery])
            elif found:
                self._dispatch(found)

    async def _reclaim(self) -> bool:
        """Look through the pending list until the slots are full: one call looks at ten entries a slot only. True if that filled any."""
        before = len(self._running)
        for _ in range(MOST_CALLS):
            reclaimed = await self._consumer.reclaim(self._free(), RECLAIM_IDLE)
            for delivery in reclaimed.deliveries:
                self._dispatch([delivery])
            if reclaimed.deleted:
                self._lost()
            if reclaimed.through or not self._free():
                break
        return len(self._running) > before

    def _free(self) -> int:
        if len(self._ending) > MOST_ENDING:
            return 0
        return self._slots - len(self._running) + len(self._ending)

    def _dispatch(self, deliveries: Sequence[Delivery]) -> asyncio.Task[None] | None:
        busy = set().union(*self._running.values())
        # One that is here already only looked idle: a heartbeat was late.
        new = [delivery for delivery in deliveries if delivery.entry_id not in busy and not self._waiting_room.holds(delivery.entry_id)]
        if not new:
            return None
        self._begun += 1
        running = asyncio.create_task(self._run_all(new), name=f"run {new[0].entry_id}")
        self._running[running] = {delivery.entry_id for delivery in new}
        running.add_done_callback(self._ended)
        return running

    async def _run_all(self, deliveries: Sequence[Delivery]) -> None:
        await self._run(deliveries)

    def _ended(self, running: asyncio.Task[None]) -> None:
        self._running.pop(running, None)
        self._ending.discard(running)
        self.wake()
