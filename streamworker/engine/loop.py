"""The start/stop shell of every background loop, written once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping

from streamworker.broker.connection import CONNECTION_ERRORS as REDIS_ERRORS
from streamworker.engine.attempts import backoff
from streamworker.engine.outages import Outages, Server
from streamworker.store.pool import OUTAGE_ERRORS

LOG = logging.getLogger("streamworker.engine")

Explain = Mapping[Server, Callable[[BaseException], str]]


def server_of(error: BaseException) -> Server | None:
    """Which server an error speaks of, if any. A bare time-out or socket error counts for Postgres: redis-py wraps its own."""
    match error:
        case OSError():  # TimeoutError among them
            return "postgres"
        case _ if isinstance(error, REDIS_ERRORS):
            return "redis"
        case _ if isinstance(error, OUTAGE_ERRORS):
            return "postgres"
    return None


class Loop:
    """Calls `step` again and again until stopped; `step` returns how long to wait (seconds), `wake` ends the wait early.

    An error of a server is an outage: told once, then retried with growing pauses until it is over.
    A step is never cancelled: `stop` waits for the one under way.
    """

    def __init__(self, name: str, step: Callable[[], Awaitable[float]], outages: Outages, explain: Explain) -> None:
        self._name = name
        self._step = step
        self._outages = outages
        self._explain = explain
        self._wake = asyncio.Event()
        self._stopping = False
        self._running: asyncio.Task[None] | None = None

    @property
    def stopping(self) -> bool:
        """True once `stop` was called."""
        return self._stopping

    def start(self) -> None:
        """Begin, beside everything else."""
        self._running = asyncio.create_task(self._run(), name=self._name)

    def wake(self) -> None:
        """Do the next step now."""
        self._wake.set()

    async def stop(self) -> None:
        """End after the step under way."""
        self._stopping = True
        self._wake.set()
        if self._running is not None:
            await self._running

    async def _run(self) -> None:
        failures = 0
        while not self._stopping:
            self._wake.clear()
            try:
                pause = await self._step()
            except Exception as error:
                failures += 1
                self._complain(error, failures)
                pause = backoff(failures, random.random())  # noqa: S311
            else:
                failures = 0
                self._recover()
            await self._rest(pause)
        self._recover()

    def _complain(self, error: Exception, failures: int) -> None:
        server = server_of(error)
        if server is not None:
            self._outages.away(server, self._name, self._explain[server](error))
        elif failures == 1:
            LOG.error("%s: unexpected error, trying again", self._name, exc_info=error)

    def _recover(self) -> None:
        self._outages.back("redis", self._name)
        self._outages.back("postgres", self._name)

    async def _rest(self, seconds: float) -> None:
        if seconds > 0 and not self._stopping:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), seconds)
