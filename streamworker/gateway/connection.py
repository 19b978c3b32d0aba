"""One client's outbox: what is waiting for it, within bounds, however slow it reads."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from streamworker.gateway.frames import Frame

MOST_BYTES = 1024 * 1024
MOST_FRAMES = 1_000
MOST_STATES = 5_000
SLOW = 4508  # the code for a client that does not keep up, and shall come back
OVERTAKEN = frozenset({"event", "snapshot", "end", "live"})  # what a fresh snapshot makes up for


class Connection:
    """What one client watches and what it has yet to be sent.

    Frames are shared among the clients. One that reads too slowly loses the frames of its batches, and gets the state of each
    of them (`resync`) once it has read what else was waiting. Of a batch in the list of all only the newest state waits;
    whoever has not read of thousands of them is sent away, to come back with its token.
    """

    __slots__ = (
        "__weakref__",
        "_bytes",
        "_frames",
        "_missed",
        "_resync",
        "_resyncing",
        "_stale",
        "_states",
        "_waiter",
        "ask",
        "asking",
        "closing",
        "cut",
        "direct",
        "everything",
        "gone",
        "last_sent",
        "role",
        "sending_since",
        "together",
        "visible",
        "wanted",
    )

    def __init__(
        self, resync: Callable[[Connection, set[str]], None], role: str = "read", ask: Callable[[str], Awaitable[bool]] | None = None
    ) -> None:
        self.role = role
        self.ask = ask  # may it see a batch that it did not ask for by id? None: any
        self.visible: dict[str, bool] = {}  # what was answered
        self.asking = 0  # answers that are waited for
        self.wanted: set[str] = set()  # batches by id
        self.together: dict[str, str] = {}  # the scope of those that were asked for with others, by id
        self.everything = False
        self.gone = False
        self.closing: tuple[int, str] | None = None
        self.cut: Callable[[], None] | None = None  # ends the connection at once, whatever is still to be sent
        self.direct: Callable[[Frame], bool] | None = None  # writes a frame if the socket takes it
        self.last_sent = time.monotonic()
        self.sending_since: float | None = None
        self._resync = resync
        self._frames: deque[Frame] = deque()
        self._missed: deque[Frame] = deque()
        self._states: dict[str, Frame] = {}
        self._stale: set[str] = set()
        self._resyncing = False
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None

    def offer(self, frame: Frame) -> None:
        """Send this next, after what is waiting already."""
        if self._waiter is not None and self.direct is not None and self._is_empty() and self.direct(frame):
            self.last_sent = time.monotonic()
            return
        if self._resyncing:  # each batch once, and all of them, however large they are: dropped again, they would never be told
            self._missed.append(frame)
            return
        if self._stale and frame.kind in OVERTAKEN:
            # Of no batch anything more until all is shown: a later id would stand for what was dropped, too.
            if frame.batch_id is not None:
                self._stale.add(frame.batch_id)
            return
        self._frames.append(frame)
        self._bytes += len(frame.json)
        if (self._bytes > MOST_BYTES or len(self._frames) > MOST_FRAMES) and len(self._frames) > 1:
            self._overflow()
        self._wake()

    def offer_missed(self, frames: Iterable[Frame]) -> None:
        """Send these first: they are older than all that waits. Who offers them sees to it that they are not too many."""
        self._missed.extend(frames)
        self._wake()

    def offer_state(self, key: str, frame: Frame) -> None:
        """Send this when nothing else is waiting, unless something newer with the same key comes first.

        What takes the place of something older comes without its id: others that are older wait behind it.
        """
        if self._waiter is not None and self.direct is not None and self._is_empty() and self.direct(frame):
            self.last_sent = time.monotonic()
            return
        self._states[key] = frame.bare if key in self._states else frame
        if len(self._states) > MOST_STATES:
            self.forget_states()
            self.close(SLOW, f"more than {MOST_STATES:,} batches changed, and were not read of")
            if self.cut is not None:
                self.cut()
        self._wake()

    def forget_states(self) -> None:
        """All of that is told anew, or to nobody any more."""
        self._states.clear()

    def _is_empty(self) -> bool:
        return not (self._missed or self._frames or self._states or self._stale or self.closing)

    def forget(self, batch_id: str) -> bool:
        """What is waiting of this batch is of no interest any more; returns whether anything was."""
        waiting = batch_id in self._stale or any(frame.batch_id == batch_id for frame in (*self._missed, *self._frames))
        self._stale.discard(batch_id)
        self._missed = deque(frame for frame in self._missed if frame.batch_id != batch_id)
        self._keep([frame for frame in self._frames if frame.batch_id != batch_id or frame.kind not in OVERTAKEN])
        return waiting

    def close(self, code: int, reason: str) -> None:
        """End the connection with this code once what waits is sent."""
        if self.closing is None:
            self.closing = (code, reason)
        self._wake()

    async def next(self) -> Frame | None:
        """The next frame to send; None when it is time to close."""
        self.sending_since = None
        while True:
            if self._missed:
                frame = self._missed.popleft()
                break
            if self._frames:
                frame = self._frames.popleft()
                self._bytes -= len(frame.json)
                break
            if self._stale:
                stale, self._stale = self._stale, set()
                self._resyncing = True
                try:
                    self._resync(self, stale)
                finally:
                    self._resyncing = False
            elif self._states:
                frame = self._states.pop(next(iter(self._states)))
                break
            elif self.closing is not None:
                return None
            else:
                await self._wait()
        self.last_sent = self.sending_since = time.monotonic()
        return frame

    def _overflow(self) -> None:
        self._stale.update(frame.batch_id for frame in self._frames if frame.batch_id is not None and frame.kind in OVERTAKEN)
        self._keep([frame for frame in self._frames if frame.kind not in OVERTAKEN])

    def _keep(self, frames: list[Frame]) -> None:
        self._frames = deque(frames)
        self._bytes = sum(len(frame.json) for frame in frames)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
