"""Valkey and Postgres for the default, shared by all who use a folder: started by the first, stopped by the last to leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from streamworker.embedded.sharing import Sharing, Urls

if TYPE_CHECKING:
    from streamworker.settings import Settings

__all__ = ["Urls", "located", "servers"]

Value = TypeVar("Value")


@asynccontextmanager
async def servers(settings: Settings) -> AsyncIterator[Urls]:
    """Hold the embedded servers of the folder `settings.home` while the context is open.

    Every process that uses the same folder shares them: the first one starts them, the last one to leave stops them, and servers whose
    users were all killed are adopted by the next. The data stay in the folder. Raises ConfigurationError, one sentence with the remedy.
    """
    sharing = Sharing(settings.home)
    try:
        yield await _to_the_end(sharing.enter, on_cancel=sharing.give_up)
    finally:
        await _to_the_end(sharing.leave)


@asynccontextmanager
async def located(settings: Settings) -> AsyncIterator[Settings]:
    """The settings with both URLs: where none is set, those of the embedded servers, which run meanwhile."""
    if settings.database_url is not None:
        yield settings
        return
    async with servers(settings) as urls:
        yield replace(settings, redis_url=urls.redis_url, database_url=urls.database_url)


async def _to_the_end(step: Callable[[], Value], on_cancel: Callable[[], None] | None = None) -> Value:
    """Run a blocking step in a thread; also when cancelled, wait for its end: a half-started server would be nobody's."""
    running = asyncio.ensure_future(asyncio.to_thread(step))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        await asyncio.wait([running])
        running.cancelled() or running.exception()  # seen: the cancellation is what counts
        raise
