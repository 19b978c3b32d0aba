"""redis-py's connections, so that a cancelled command is always cancelled.

redis-py writes under `asyncio.wait_for`, and that of Python 3.11 swallows a cancellation which comes just as the write is done:
a coroutine told to end would go on for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection


class _Cancellable:
    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send a command; a cancellation that came meanwhile is raised, and the connection closed: its reply is nobody's."""
        running = asyncio.current_task()
        before = running.cancelling() if running else 0
        await super().send_packed_command(command, check_health)  # type: ignore[misc]
        if running is not None and running.cancelling() > before:
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise asyncio.CancelledError


class CancellableConnection(_Cancellable, Connection):
    """Over TCP."""


class CancellableSSLConnection(_Cancellable, SSLConnection):
    """Over TLS."""


class CancellableUnixConnection(_Cancellable, UnixDomainSocketConnection):
    """Over a unix socket."""


class CancellableSentinelConnection(_Cancellable, SentinelManagedConnection):
    """To the present master."""


class CancellableSentinelSSLConnection(_Cancellable, SentinelManagedSSLConnection):
    """To the present master, over TLS."""
