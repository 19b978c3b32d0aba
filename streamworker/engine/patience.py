"""Talking to a server until it answers: an outage is waited for, told once, and given up only when the worker ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import ResponseError

from streamworker.broker.consumer import group_is_gone
from streamworker.engine.attempts import backoff
from streamworker.engine.loop import server_of
from streamworker.engine.outages import Outages, Server

T = TypeVar("T")


class GivenUp(Exception):
    """The worker ends, and a server has not answered in time."""


class Patience:
    """What is asked again and again must be safe to repeat: its outcome may be unknown."""

    def __init__(
        self, outages: Outages, explain_redis: Callable[[BaseException], str], explain_postgres: Callable[[BaseException], str]
    ) -> None:
        self._outages = outages
        self._explain: dict[Server, Callable[[BaseException], str]] = {"redis": explain_redis, "postgres": explain_postgres}
        self._given_up = asyncio.Event()

    def give_up(self) -> None:
        """Wait for no server any longer."""
        self._given_up.set()

    async def persist(self, write: Callable[[], Awaitable[T]]) -> T:
        """Talk to Postgres until it answers; what is no outage is raised, InvalidMessage and the like among it."""
        return await self._until_done("postgres", write)

    async def deliver(self, send: Callable[[], Awaitable[object]]) -> None:
        """Talk to Redis until it answers; a group that is gone has nothing left to be told."""
        try:
            await self._until_done("redis", send)
        except ResponseError as error:
            if not group_is_gone(error):
                raise

    async def pause(self, seconds: float) -> None:
        """Wait a moment; GivenUp when the worker does not wait any longer."""
        try:
            await asyncio.wait_for(self._given_up.wait(), seconds)
        except TimeoutError:
            return
        raise GivenUp

    async def _until_done(self, server: Server, act: Callable[[], Awaitable[T]]) -> T:
        failures = 0
        name = f"{server} of {id(act)}"
        try:
            while True:
                try:
                    return await act()
                except Exception as error:
                    if server_of(error) is None or group_is_gone(error):
                        raise
                    failures += 1
                    self._outages.away(server, name, self._explain[server](error))
                    await self.pause(backoff(failures, random.random()))  # noqa: S311
        finally:
            if failures:
                self._outages.back(server, name)
