"""A free slot? What is ready goes first, then what was reclaimed, then what is new."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from streamworker.broker.consumer import Consumer, Delivery, group_is_gone

# An entry that nobody renewed for so long (seconds) has no living owner, as far as Redis can tell.
RECLAIM_IDLE = 1.0
RECLAIM_EVERY = 0.2
NOTHING_TO_DO = 60.0
MOST_CALLS = 100
# Runs that have done their work and only write and tell it; with more of them nothing new is begun.
MOST_ENDING = 3


class Fetcher:
    """Takes as many deliveries as there are free slots, never more: what is delivered is owned.

    `run` handles what fills one slot: a delivery, or as many as `together()` says where batches are small and quick.
    `lost` is called when there is a sign that the stream lost entries; `known` tells which entries are in our care already.
    """

    def __init__(
        self,
        consumer: Consumer,
        slots: int,
        run: Callable[[Sequence[Delivery]], Awaitable[None]],
        together: Callable[[], int],
        known: Callable[[str], bool],
        lost: Callable[[], None],
    ) -> None:
        self._consumer = consumer
        self._slots = slots
        self._run = run
        self._together = together
        self._known = known
        self._lost = lost
        self._ready: deque[Delivery] = deque()
        self._running: dict[asyncio.Task[None], set[str]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._reclaim_at = 0.0
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
        if not self._free():
            return NOTHING_TO_DO  # a slot that becomes free wakes us
        try:
            await self._fetch()
        except Exception as error:
            if not group_is_gone(error):
                raise
            self._has_group = False
            self._lost()
        return 0.0

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
            if await self._reclaim():
                self._reclaim_at = now  # where one was, there are more: they waited longest, so they come before what is new
        if self._free():
            block = max(0.001, self._reclaim_at - time.monotonic())
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

    def _dispatch(self, deliveries: Sequence[Delivery]) -> None:
        busy = set().union(*self._running.values())
        # One that is here already only looked idle: a heartbeat was late.
        new = [delivery for delivery in deliveries if delivery.entry_id not in busy and not self._known(delivery.entry_id)]
        if new:
            running = asyncio.create_task(self._run_all(new), name=f"run {new[0].entry_id}")
            self._running[running] = {delivery.entry_id for delivery in new}
            running.add_done_callback(self._ended)

    async def _run_all(self, deliveries: Sequence[Delivery]) -> None:
        await self._run(deliveries)

    def _ended(self, running: asyncio.Task[None]) -> None:
        self._running.pop(running, None)
        self._ending.discard(running)
        self.wake()
