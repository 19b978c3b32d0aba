"""The context that a processor is given: tells progress, stores checkpoints, knows when it is no longer wanted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from streamworker.engine.holds import Hold
from streamworker.engine.progress import LiveItem
from streamworker.messages import clean_text
from streamworker.processors.api import DONE, LONGEST_TOLD, BatchInfo, checkpoint_text, percent_of

LOG = logging.getLogger("streamworker.processor")


class Voice(msgspec.Struct, frozen=True):
    """What the attempts of one run have in common: how they tell, and how they store.

    `tell(live)` publishes soon, `store(position, state)` returns when the checkpoint is durable, `note(position, state)` has it written
    soon; all belong to `loop`'s thread. `deadline` is the end of the batch's time (monotonic seconds).
    """

    batch: BatchInfo
    hold: Hold
    tell: Callable[[LiveItem], None]
    store: Callable[[int, str], Coroutine[Any, Any, None]]
    note: Callable[[int, str], None]
    loop: asyncio.AbstractEventLoop
    deadline: float


class ItemContext:
    """One attempt's `Context`. Its methods may be called from the loop, from another loop, or from a plain thread."""

    __slots__ = ("_live", "_noted", "_scheduled", "_voice", "attempt", "interrupted", "key", "limit", "position", "saved", "stopped")

    def __init__(self, voice: Voice, position: int, key: str, attempt: int) -> None:
        self._voice = voice
        self.position = position
        self.key = key
        self.attempt = attempt
        self._live: LiveItem | None = None
        self._scheduled = False
        self.saved: str | None = None
        self.limit = float("inf")
        self.interrupted = False
        self.stopped = False

    @property
    def live(self) -> LiveItem:
        """What the item tells of itself: made when there is something to tell."""
        if self._live is None:
            self._live = LiveItem(self.position, self.key, self.attempt)
        return self._live

    @property
    def has_told(self) -> bool:
        """Whether a live event may be under way."""
        return self._live is not None

    @property
    def batch(self) -> BatchInfo:
        """See `Context.batch`."""
        return self._voice.batch

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """See `Context.log`."""
        ids = {"batch_id": str(self._voice.batch.id), "position": self.position, "attempt": self.attempt}
        return logging.LoggerAdapter(LOG, ids)

    @property
    def cancelled(self) -> bool:
        """See `Context.cancelled`."""
        return self.interrupted or self.stopped or self._voice.hold.lost is not None

    @property
    def deadline(self) -> float:
        """See `Context.deadline`."""
        return min(self.limit, self._voice.deadline)

    def progress(self, percent: float | None = None, stage: str | None = None, message: str | None = None) -> Awaitable[None]:
        """See `Context.progress`."""
        live = self.live
        if percent is not None:
            live.percent = percent_of(percent)
        if stage is not None:
            live.stage = clean_text(str(stage), LONGEST_TOLD)
        if message is not None:
            live.message = clean_text(str(message), LONGEST_TOLD)
        if not self.stopped:
            self._voice.tell(live)
        return DONE

    def checkpoint(self, state: Any, *, wait: bool = True) -> Awaitable[None]:
        """See `Context.checkpoint`."""
        text = checkpoint_text(state)
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if not wait:
            self._note_soon(text, running)
            return DONE
        storing = self._save(text)
        if running is None:
            asyncio.run_coroutine_threadsafe(storing, self._voice.loop).result()
            return DONE
        if running is self._voice.loop:
            return asyncio.ensure_future(storing)
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(storing, self._voice.loop))

    def _note_soon(self, text: str, running: asyncio.AbstractEventLoop | None) -> None:
        self._noted = text
        if running is self._voice.loop:
            self._note()  # the attempt may end before the loop does anything else
        elif not self._scheduled:
            self._scheduled = True
            self._voice.loop.call_soon_threadsafe(self._note)

    def _note(self) -> None:
        self._scheduled = False
        if not self.stopped:  # a thread that was left behind may go on for ever
            self.saved = self._noted
            self._voice.note(self.position, self.saved)

    async def _save(self, text: str) -> None:
        await self._voice.store(self.position, text)
        self.saved = text
