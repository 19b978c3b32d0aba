"""What every part of the engine may use: made once by the worker, handed on as one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from redis.asyncio import Redis

from streamworker.broker.consumer import Consumer
from streamworker.engine.announcer import Announcer
from streamworker.engine.heartbeat import Heartbeat
from streamworker.engine.outages import Outages
from streamworker.observe.events import Events
from streamworker.settings import Settings
from streamworker.store.pool import Pool


@dataclass(frozen=True, slots=True)
class Services:
    """The open connections and the parts that live as long as the worker."""

    settings: Settings
    events: Events
    outages: Outages
    redis: Redis
    consumer: Consumer
    pool: Pool
    small: Pool  # plans once: for what touches few rows, many times a second
    heartbeat: Heartbeat
    announcer: Announcer
    explain_redis: Callable[[BaseException], str]
    explain_postgres: Callable[[BaseException], str]
    restart: Callable[[str], None]
