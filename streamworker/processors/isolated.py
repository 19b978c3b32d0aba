"""A processor in child processes, one for each item at the same time; what ends a child costs its item an attempt, and nothing else.

What is kept warm: one child that has begun nothing, an interpreter that has imported this package and waits. Where a child has died,
that one loads the processor at once. A loaded processor is never kept in reserve: that would double the memory of a model.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections import deque
from collections.abc import Callable
from functools import partial

from streamworker.errors import ConfigurationError
from streamworker.messages import clean_text
from streamworker.processors import frames
from streamworker.processors.api import Context, Item, Unavailable
from streamworker.processors.child_process import ChildDied, ChildProcess, Order
from streamworker.processors.outcomes import Failed, Interrupted, Outcome, Succeeded, sane_delay
from streamworker.processors.writes import Write, find_write

LOG = logging.getLogger("streamworker.processor")
# How often a processor is loaded that kills its process meanwhile, before it counts as one that cannot start.
MOST_LOADS = 2
# How many children in a row may die before they have begun with an item.
MOST_UNSTARTED = 3


# What gives the item that follows a success, or None where whoever asked is to see that success.
Follow = Callable[[Succeeded], Order | None]


class Nursery:
    """Gives children that wait for their first order, and keeps one in reserve."""

    def __init__(self, memory: int | None) -> None:
        self._memory = memory
        self._spare: ChildProcess | None = None

    def take(self) -> ChildProcess:
        """A child; started now unless there was one. Raises OSError where the system gives no further process."""
        spare, self._spare = self._spare, None
        return spare if spare is not None and spare.usable else ChildProcess(self._memory)

    def refill(self) -> None:
        """Have one in reserve again."""
        if self._spare is None or not self._spare.usable:
            with contextlib.suppress(OSError):
                self._spare = ChildProcess(self._memory)

    async def close(self) -> None:
        """End the one in reserve."""
        if self._spare is not None:
            await self._spare.close()


class IsolatedProcessor:
    """A processor that is loaded and entered in each of its children. To its callers like an OpenProcessor."""

    abandoned = False  # a child that does not end when it is interrupted is killed

    def __init__(self, name: str, spec: str, nursery: Nursery, most_items: int | None) -> None:
        """`spec` is its `module:attribute`; a child is replaced after `most_items` items."""
        self.name = name
        self._spec = spec
        self._module = spec.partition(":")[0]
        self._nursery = nursery
        self._most_items = most_items
        self._loaded: ChildProcess | None = None
        self._idle: list[ChildProcess] = []
        self._children: set[ChildProcess] = set()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._arriving: set[asyncio.Task[None]] = set()
        self._closing = False

    async def load(self) -> None:
        """Import the processor in a first child, and see whether it is one. Raises ConfigurationError."""
        self._loaded = await self._bring(enter=False)

    async def open(self) -> None:
        """Open it in a first child. Raises ConfigurationError, or Unavailable."""
        first, self._loaded = self._loaded, None
        if first is not None and first.usable:
            with contextlib.suppress(ChildDied):
                await self._enter(first)
                return self._arrive(first)
        self._arrive(await self._bring(enter=True))

    @property
    def is_ready(self) -> bool:
        """Whether a child is free: a call that is made at once gets it."""
        return bool(self._idle)

    async def ready(self) -> None:
        """Return when it `is_ready`. Raises ConfigurationError when none can be had, Unavailable when none can be had now."""
        while not self._idle:
            free: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(free)
            if len(self._arriving) < len(self._waiting):
                self._begin_arrival(None)
            try:
                await free
            finally:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(free)

    async def __call__(self, item: Item, context: Context, follow: Follow | None = None) -> Outcome:
        """Run the processor on one item. Cancelling this task interrupts it: the outcome is then Interrupted.

        `follow(succeeded)` may give the item that is to follow at once, in the same child, on a success without a write.
        It has then taken note of the success; the outcome is that of the last item.
        """
        try:
            match await self._call(item, context, follow):
                case frames.Succeeded(value, write):
                    return Succeeded(value, None if write is None else await self._find(write))
                case frames.Failed(error, permanent, delay, _, away):
                    return Failed(clean_text(error), permanent, None if delay is None else sane_delay(delay), away=away)
        except asyncio.CancelledError:
            pass
        except (ConfigurationError, Unavailable, ValueError) as error:
            return Failed(clean_text(str(error)), away=isinstance(error, Unavailable))
        except RecursionError:
            return Failed("the payload cannot be passed on: it is nested too deeply", permanent=True)
        return Interrupted()

    async def _find(self, write: frames.Named) -> Write:
        if write.module in sys.modules:
            return find_write(write, self._module)
        return await asyncio.to_thread(find_write, write, self._module)  # to import it takes as long as it takes

    async def close(self) -> None:
        """End all children in good order. Raises RuntimeError with what leaving the processor raised in one of them."""
        self._closing = True
        for arriving in self._arriving:
            arriving.cancel()
        errors = await asyncio.gather(*(child.close() for child in self._children))
        if any(errors):
            raise RuntimeError(next(filter(None, errors)))

    async def _call(self, item: Item, context: Context, follow: Follow | None) -> frames.Answer:
        order: Order = (item, context)
        unstarted = 0
        while True:
            if not self._idle:
                await self.ready()
            child = self._idle.pop()
            answer = None
            try:
                answer = await child.call(*order, None if follow is None else partial(self._follow, child, follow))
                return answer
            except ChildDied as death:
                before, order = order, death.order or order
                unstarted = unstarted + 1 if order[0] is before[0] else 1
                LOG.warning("processor %r: a child process ended before it had begun with item %d: %s", self.name, order[0].position, death)
                if unstarted == MOST_UNSTARTED:
                    return frames.Failed(str(death))
            finally:
                self._release(child, retired=isinstance(answer, frames.Failed) and answer.exhausted)

    def _follow(self, child: ChildProcess, follow: Follow, answer: frames.Succeeded) -> Order | None:
        if answer.write is not None or self._closing or self._has_served(child):
            return None
        return follow(Succeeded(answer.value))

    def _has_served(self, child: ChildProcess) -> bool:
        return self._most_items is not None and child.served >= self._most_items

    def _release(self, child: ChildProcess, retired: bool) -> None:
        """Its item has ended: it is free, or replaced."""
        if self._closing:
            return
        if not child.usable:
            self._replace(None)
        elif retired or self._has_served(child):
            self._replace(child)
        else:
            self._set_free(child)

    def _set_free(self, child: ChildProcess) -> None:
        self._idle.append(child)
        for free in self._waiting:
            if not free.done():
                free.set_result(None)
                break

    def _replace(self, retired: ChildProcess | None) -> None:
        """See to it that the next item finds a child, without waiting for it to ask; a retired one makes room first."""
        if retired is not None or not (self._idle or self._arriving):
            self._begin_arrival(retired)

    def _begin_arrival(self, retired: ChildProcess | None) -> None:
        arriving = asyncio.get_running_loop().create_task(self._bring_next(retired))
        self._arriving.add(arriving)
        arriving.add_done_callback(self._arrived)

    async def _bring_next(self, retired: ChildProcess | None) -> None:
        if retired is not None and (error := await retired.close()):
            LOG.error("processor %r: closing it failed: %s", self.name, error)
        self._arrive(await self._bring(enter=True))

    def _arrived(self, arriving: asyncio.Task[None]) -> None:
        self._arriving.discard(arriving)
        error = None if arriving.cancelled() else arriving.exception()
        if error is not None and not (self._waiting or isinstance(error, Unavailable)):
            LOG.error("%s", error)
        for free in self._waiting:
            if error is not None and not free.done():
                free.set_exception(error)

    def _arrive(self, child: ChildProcess) -> None:
        self._set_free(child)
        self._nursery.refill()

    async def _bring(self, enter: bool) -> ChildProcess:
        """A child with the processor, after one more try where its process died of it."""
        tried = 0
        while True:
            try:
                return await self._bring_once(enter)
            except (ChildDied, OSError) as error:
                tried += 1
                if tried == MOST_LOADS:
                    raise ConfigurationError(f"processor {self.name!r} could not start: {clean_text(str(error))}") from None

    async def _bring_once(self, enter: bool) -> ChildProcess:
        child = self._nursery.take()
        self._children.add(child)
        child.died = self._forget
        try:
            await child.load(self.name, self._spec)
            if enter:
                await child.enter()
        except BaseException:
            child.kill("it did not start")
            raise
        return child

    async def _enter(self, child: ChildProcess) -> None:
        try:
            await child.enter()
        except BaseException:
            child.kill("it did not start")
            raise

    def _forget(self, child: ChildProcess) -> None:
        self._children.discard(child)
        if child in self._idle and not self._closing:
            self._idle.remove(child)
            LOG.warning("processor %r: a child process ended between two items", self.name)
