"""What many ask for at the same time, read once: a value is good for a moment, and who asks meanwhile gets the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")
FRESH = 0.5  # seconds


class Recent(Generic[Value]):
    """The latest value of `read`; an error is told to all who waited for it, and not kept."""

    def __init__(self, read: Callable[[], Awaitable[Value]]) -> None:
        self._read = read
        self._reading: asyncio.Future[Value] | None = None
        self._read_at = 0.0

    async def get(self) -> Value:
        """The value, at most half a second old."""
        if self._reading is None or (self._reading.done() and not self._is_fresh()):
            self._reading = asyncio.ensure_future(self._read())
            self._reading.add_done_callback(self._note)
        return await asyncio.shield(self._reading)  # whoever leaves does not take the others' answer along

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._read_at < FRESH

    def _note(self, reading: asyncio.Future[Value]) -> None:
        failed = reading.cancelled() or reading.exception() is not None
        self._read_at = 0.0 if failed else time.monotonic()
