"""The open items of one batch, page by page: memory is a page, whatever the batch."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Awaitable, Callable
from uuid import UUID

import msgspec

from streamworker.errors import ConfigurationError
from streamworker.messages import from_json
from streamworker.processors.api import BatchInfo, Item
from streamworker.processors.outcomes import Failed
from streamworker.store.batches import Acquired
from streamworker.store.items import OpenItem

PAGE_BYTES = 4 * 1024 * 1024
FIRST_PAGE = 64
LONGEST_PAGE = 2_000
# Delayed retries kept at hand; more of them are found again by another pass over the batch.
MOST_DELAYED = 1_000
# How long one sleep for a delayed retry may last before the rows are looked at again.
LONGEST_SLEEP = 60.0


class Work(msgspec.Struct, frozen=True):
    """One start to be made: `marked` says that its row already tells of it."""

    item: OpenItem
    attempt: int
    marked: bool = False


class ItemSource:
    """Gives the work of a batch, in order of position; retries that are due come first.

    `load(position, limit)` reads the next page, and does not return before it can; `load_last(limit)` likewise what comes after all
    others: not all of it, where it is more than a page.
    """

    def __init__(
        self,
        load: Callable[[int, int], Awaitable[list[OpenItem]]],
        load_last: Callable[[int], Awaitable[list[OpenItem]]] | None = None,
    ) -> None:
        self._load = load
        self._load_last = load_last
        self._at_last = load_last is None
        self._page: deque[OpenItem] = deque()
        self._next_page: asyncio.Task[list[OpenItem]] | None = None
        self._position = 0
        self._limit = FIRST_PAGE
        self._read_all = False
        self._due: list[tuple[float, int, Work]] = []
        self._changed = asyncio.Event()
        self.closed = False

    def take(self) -> Work | None:
        """The next start if there is one at hand."""
        if self.closed:
            return None
        if self._due and (work := self._due_retry()):
            return work
        return self._fresh(self._page.popleft()) if self._page else None

    def take_quick(self, frontier: int) -> OpenItem | None:
        """The next item at hand, if it is an untried one below `frontier` and no retry is due before it."""
        if self.closed or not self._page or (self._due and self._due[0][0] <= time.monotonic()):
            return None
        item = self._page[0]
        fresh = item.attempts == 0 and item.away_after is None
        return self._page.popleft() if fresh and item.position < frontier else None

    async def next(self) -> Work | None:
        """The next start, or None when nothing is left to start (in this pass) or the source was closed."""
        while not self.closed:
            if work := self.take():
                return work
            if not self._read_all:
                await self._turn_page()
                continue
            if not self._due:
                return None
            await self._sleep_until(self._due[0][0])
        return None

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing left to give in this pass."""
        return self._read_all and not self._page and not self._due

    def retry(self, item: OpenItem, attempt: int, delay: float, marked: bool) -> None:
        """Start this item again, `delay` seconds from now at the earliest."""
        if len(self._due) >= MOST_DELAYED and not marked:
            return  # its row tells when: the next pass finds it
        heapq.heappush(self._due, (time.monotonic() + delay, item.position, Work(item, attempt, marked)))
        self._changed.set()

    def close(self) -> None:
        """Give nothing more."""
        self.closed = True
        self._changed.set()

    async def rewind(self) -> None:
        """Begin another pass; waits for a moment when rows were left over because their time has not come."""
        await self.aclose()
        self._position, self._limit, self._read_all, self._next_page = 0, FIRST_PAGE, False, None
        self._at_last = self._load_last is None
        self._due.clear()

    async def aclose(self) -> None:
        """Wait for the read under way, if any."""
        if self._next_page is not None:
            self._next_page.cancel()
            await asyncio.gather(self._next_page, return_exceptions=True)

    def _due_retry(self) -> Work | None:
        if self._due and self._due[0][0] <= time.monotonic():
            return heapq.heappop(self._due)[2]
        return None

    def _fresh(self, item: OpenItem) -> Work:
        return Work(item, item.attempts + 1)

    async def _turn_page(self) -> None:
        if self._next_page is None:
            self._next_page = self._read_page()
        reading = self._next_page
        page = await asyncio.shield(reading)
        if self._next_page is not reading:
            return  # another lane turned it meanwhile
        self._next_page = None
        ended = len(page) < self._limit
        if self._load_last is not None and (ended or self._at_last):
            self._read_all = self._at_last
            if not self._at_last:
                self._at_last = True
                self._next_page = asyncio.create_task(self._read_last(self._load_last))
        elif ended:
            self._read_all = True
        else:
            self._position = page[-1].position + 1
            self._limit = _page_limit(page)
            self._next_page = self._read_page()
        for item in page:
            if item.delay > 0:
                self.retry(item, item.attempts + 1, item.delay, marked=False)
            else:
                self._page.append(item)

    def _read_page(self) -> asyncio.Task[list[OpenItem]]:
        async def read() -> list[OpenItem]:
            return await self._load(self._position, self._limit)

        return asyncio.create_task(read())

    async def _read_last(self, load_last: Callable[[int], Awaitable[list[OpenItem]]]) -> list[OpenItem]:
        return await load_last(FIRST_PAGE)

    async def _sleep_until(self, due: float) -> None:
        self._changed.clear()
        pause = min(due - time.monotonic(), LONGEST_SLEEP)
        if pause > 0:
            try:
                await asyncio.wait_for(self._changed.wait(), pause)
            except TimeoutError:
                pass


def _page_limit(page: list[OpenItem]) -> int:
    average = sum(len(item.payload) + len(item.checkpoint or "") for item in page) / len(page) + 64
    return max(1, min(LONGEST_PAGE, int(PAGE_BYTES / average)))


def item_of(batch_id: UUID, item: OpenItem, attempt: int) -> Item | Failed:
    """What the processor gets; Failed when the row cannot be read."""
    try:
        checkpoint = None if item.checkpoint is None else from_json(item.checkpoint)
        return Item(batch_id, item.position, item.key, from_json(item.payload), attempt, checkpoint)
    except (ValueError, RecursionError) as error:
        return Failed(f"the payload cannot be read: {error}", permanent=True)


def batch_info(grant: Acquired) -> BatchInfo:
    """What the processor may know of its batch; ConfigurationError when its row cannot be read."""
    if grant.metadata == "{}":
        return BatchInfo(grant.state.id, grant.state.total, {})
    try:
        return BatchInfo(grant.state.id, grant.state.total, from_json(grant.metadata))
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"the batch's metadata cannot be read: {error}") from None
