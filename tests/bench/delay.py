"""A proxy that delays: `python -m tests.bench.delay SECONDS PORT-OR-SOCKET...` prints a JSON list of the ports where it listens instead.

Every piece goes on when its time has come, however many came before it: what is delayed is the way, not the flow.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import sys
from collections import deque
from typing import cast


class Pipe(asyncio.Protocol):
    """One end of a connection; what arrives here leaves at the other end."""

    def __init__(self, delay: float, other: Pipe | None = None) -> None:
        self.delay = delay
        self.other = other
        self.transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[float, bytes | None]] = deque()  # None: the end
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._pass_on(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._pass_on(None)

    def _pass_on(self, data: bytes | None) -> None:
        assert self.other is not None
        self.other.later(data)

    def later(self, data: bytes | None) -> None:
        """Send this when the delay is over."""
        due = self._loop.time() + self.delay
        self._waiting.append((due, data))
        if self.delay == 0:
            self._flush()
        elif len(self._waiting) == 1:
            self._loop.call_at(due, self._flush)

    def _flush(self) -> None:
        now = self._loop.time()
        while self.transport is not None and self._waiting and self._waiting[0][0] <= now:
            _, data = self._waiting.popleft()
            if data is None:
                self.transport.close()
            else:
                self.transport.write(data)
        if self._waiting and self.transport is not None:
            self._loop.call_at(self._waiting[0][0], self._flush)


class Front(Pipe):
    """The client's end, which opens the other."""

    def __init__(self, delay: float, upstream: str) -> None:
        super().__init__(delay, Pipe(delay))
        assert self.other is not None
        self.other.other = self
        self._upstream = upstream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._opening = self._loop.create_task(self._open())

    async def _open(self) -> None:
        assert self.other is not None
        back = self.other
        try:
            if self._upstream.isdigit():
                await self._loop.create_connection(lambda: back, "127.0.0.1", int(self._upstream))
            else:
                await self._loop.create_unix_connection(lambda: back, self._upstream)
        except OSError:
            assert self.transport is not None
            self.transport.abort()


async def main(delay: float, upstreams: list[str]) -> None:
    """Listen for each server until killed."""
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(lambda upstream=upstream: Front(delay, upstream), "127.0.0.1", 0) for upstream in upstreams]  # type: ignore[misc]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    # select() waits by the microsecond, epoll by the millisecond: that would be half the delay again.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(main(float(sys.argv[1]), sys.argv[2:]))
