"""Connections that outlive the request they began with: a WebSocket, an event stream.

They end with the session they were opened by. Where the user's own hook decides who may see what, they end after half an hour, and the
client, which comes back at once and goes on where it was, is asked for anew.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from streamworker.gateway.sessions import Keys, Visitor

LONGEST_TRUST = 30 * 60.0  # seconds, whatever clocks do meanwhile
OVER, AGAIN = (4401, "the session is over"), (1012, "come back: who may see what is asked anew")


class Lasting:
    """All connections that a session keeps open."""

    def __init__(self, keys: Keys, asks_again: bool = False, longest_trust: float = LONGEST_TRUST) -> None:
        self._keys = keys
        self._asks_again = asks_again
        self._longest_trust = longest_trust
        self._by_session: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    def end(self, visitor: Visitor) -> None:
        """The session is over: so are its connections."""
        for over in self._by_session.pop(visitor.session, ()):
            over.set()

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, visitor: Visitor) -> None:
        """Run the app for a request, at most as long as the visitor's session."""
        if not visitor.session and not self._asks_again:
            return await app(scope, receive, send)
        over = asyncio.Event()
        if visitor.session:  # what belongs to none ends with none
            self._by_session[visitor.session].add(over)
        started = _Started(send)
        serving = asyncio.ensure_future(app(scope, receive, started))
        watching = asyncio.ensure_future(self._until_over(visitor, over))
        try:
            await asyncio.wait([serving, watching], return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                serving.cancel()
                await asyncio.wait([serving])
                await started.close(*(AGAIN if self._keys.is_valid(visitor) and not over.is_set() else OVER))
            elif not serving.cancelled():
                serving.result()
        finally:
            watching.cancel()
            serving.cancel()
            self._forget(visitor, over)

    async def _until_over(self, visitor: Visitor, over: asyncio.Event) -> None:
        while self._keys.is_valid(visitor) and not over.is_set():
            try:
                async with asyncio.timeout(max(0.0, min(self._keys.seconds_left(visitor), self._longest_trust))):
                    await over.wait()
            except TimeoutError:
                if self._asks_again:
                    return

    def _forget(self, visitor: Visitor, over: asyncio.Event) -> None:
        found = self._by_session.get(visitor.session)
        if found is not None:
            found.discard(over)
            if not found:
                del self._by_session[visitor.session]


class _Started:
    """What was sent already, to know how the rest must end."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._last = ""

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        self._last = str(message["type"])
        await self._send(message)

    async def close(self, code: int, reason: str) -> None:
        """End the connection in the way of its kind."""
        if self._last in ("websocket.accept", "websocket.send"):
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        elif self._last.startswith("http.response"):
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
