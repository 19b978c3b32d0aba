"""The context that a processor is given: tells progress, stores checkpoints, knows when it is no longer wanted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from streamworker.engine.holds import Hold
from streamworker.engine.progress import LiveItem
from streamworker.messages import clean_text, to_json
from streamworker.processors.api import DONE, LONGEST_TOLD, BatchInfo, percent_of

LOG = logging.getLogger("streamworker.processor")


class ItemContext:
    """One attempt's `Context`. Its methods may be called from the loop, from another loop, or from a plain thread."""

    __slots__ = ("_batch", "_hold", "_live", "_loop", "_store", "_tell", "saved", "stopped")

    def __init__(
        self,
        batch: BatchInfo,
        live: LiveItem,
        hold: Hold,
        tell: Callable[[LiveItem], None],
        store: Callable[[int, str], Coroutine[Any, Any, None]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._batch = batch
        self._live = live
        self._hold = hold
        self._tell = tell
        self._store = store
        self._loop = loop
        self.saved: str | None = None
        self.stopped = False

    @property
    def batch(self) -> BatchInfo:
        """See `Context.batch`."""
        return self._batch

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """See `Context.log`."""
        ids = {"batch_id": str(self._batch.id), "position": self._live.position, "attempt": self._live.attempt}
        return logging.LoggerAdapter(LOG, ids)

    @property
    def cancelled(self) -> bool:
        """See `Context.cancelled`."""
        return self.stopped or self._hold.lost is not None

    def progress(self, percent: float | None = None, stage: str | None = None, message: str | None = None) -> Awaitable[None]:
        """See `Context.progress`."""
        live = self._live
        if percent is not None:
            live.percent = percent_of(percent)
        if stage is not None:
            live.stage = clean_text(str(stage), LONGEST_TOLD)
        if message is not None:
            live.message = clean_text(str(message), LONGEST_TOLD)
        if not self.stopped:
            self._tell(live)
        return DONE

    def checkpoint(self, state: Any) -> Awaitable[None]:
        """See `Context.checkpoint`."""
        text = to_json(state)
        storing = self._save(text)
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run_coroutine_threadsafe(storing, self._loop).result()
            return DONE
        if running is self._loop:
            return asyncio.ensure_future(storing)
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(storing, self._loop))

    async def _save(self, text: str) -> None:
        await self._store(self._live.position, text)
        self.saved = text
