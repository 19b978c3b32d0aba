"""The context that a processor is given in a child process: what it tells goes to the worker."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from typing import Any

from streamworker.messages import clean_text
from streamworker.processors.api import DONE, LONGEST_TOLD, BatchInfo, checkpoint_text, percent_of
from streamworker.processors.channel import Channel
from streamworker.processors.frames import Told

# The worker adds the ids, as it does to everything that comes from here.
ADAPTER = logging.LoggerAdapter(logging.getLogger("streamworker.processor"))
# What is told within so many seconds is told once, by its last state.
PAUSE = 0.1


class ChildContext:
    """One attempt's `Context` in the child. Its methods may be called from the loop, from another loop, or from a plain thread."""

    __slots__ = (
        "_at", "_channel", "_loop", "_message", "_noted", "_noting", "_number", "_percent", "_scheduled", "_sent_at", "_stage",
        "batch", "deadline", "ended", "log", "stopped",
    )  # fmt: skip

    def __init__(self, channel: Channel, batch: BatchInfo, loop: asyncio.AbstractEventLoop, deadline: float | None, number: int) -> None:
        self.batch = batch
        self.log = ADAPTER
        self.deadline = deadline
        self.stopped = self.ended = False
        self._channel = channel
        self._number = number  # of the item
        self._loop = loop
        self._percent: float | None = None
        self._stage: str | None = None
        self._message: str | None = None
        self._at = 0.0
        self._scheduled = False
        self._noted: str | None = None  # not sent yet
        self._noting = False
        self._sent_at = 0.0

    @property
    def cancelled(self) -> bool:
        """See `Context.cancelled`."""
        return self.stopped

    def progress(self, percent: float | None = None, stage: str | None = None, message: str | None = None) -> Awaitable[None]:
        """See `Context.progress`."""
        if percent is not None:
            self._percent = percent_of(percent)
        if stage is not None:
            self._stage = clean_text(str(stage), LONGEST_TOLD)
        if message is not None:
            self._message = clean_text(str(message), LONGEST_TOLD)
        now = time.monotonic()
        if now >= self._at + PAUSE:
            self._tell()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon_threadsafe(self._loop.call_later, self._at + PAUSE - now, self._tell_last)
        return DONE

    def checkpoint(self, state: Any, *, wait: bool = True) -> Awaitable[None]:
        """See `Context.checkpoint`."""
        text = checkpoint_text(state)
        if self.ended:
            return DONE  # what outlives its item has nothing to store for it
        if not wait:
            self._noted = text
            if (left := self._sent_at + PAUSE - time.monotonic()) <= 0:
                self.send_noted()
            elif not self._noting:
                self._noting = True
                self._loop.call_soon_threadsafe(self._loop.call_later, left, self.send_noted)
            return DONE
        self._noted = None
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run_coroutine_threadsafe(self._store(text), self._loop).result()
            return DONE
        if running is self._loop:
            return self._channel.store(self._number, text)
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._store(text), self._loop))

    async def _store(self, text: str) -> None:
        if not self.ended:
            await self._channel.store(self._number, text)

    def send_noted(self) -> None:
        """Pass the newest checkpoint on for which nobody waits, if that has not been done."""
        self._noting = False
        noted, self._noted = self._noted, None
        if noted is not None:
            self._sent_at = time.monotonic()
            self._channel.note(self._number, noted)

    def _tell_last(self) -> None:
        self._scheduled = False
        self._tell()

    def _tell(self) -> None:
        self._at = time.monotonic()
        if not self.stopped:
            self._channel.send(Told(self._number, self._percent, self._stage, self._message))
