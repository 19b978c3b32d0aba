"""Requests letter by letter, as no well-behaved client would send them, straight to an ASGI app."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp

Headers = Sequence[tuple[str, str]]


def scope_of(kind: str, path: str, headers: Headers, **more: Any) -> dict[str, Any]:
    """What uvicorn would make of it."""
    raw, _, query = path.partition("?")
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "http" if kind == "http" else "ws",
        "server": ("127.0.0.1", 8080),
        "client": ("127.0.0.1", 40000),
        "root_path": "",
        "path": unquote(raw),
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        "state": {},
        **more,
    }


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(app: ASGIApp, method: str, path: str, headers: Headers, body: bytes = b"{}", **more: Any) -> Answer:
    """One request; a stream is read up to its first part."""
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    sent = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if sent:
            return sent.pop()
        await asyncio.Event().wait()
        raise AssertionError

    running = asyncio.ensure_future(app(scope_of("http", path, headers, method=method, **more), receive, messages.put))
    try:
        start = await _next(messages, running)
        part = await _next(messages, running)
    finally:
        running.cancel()
        await asyncio.wait([running])
    named = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], named, part.get("body", b""))


async def _next(messages: asyncio.Queue[dict[str, Any]], running: asyncio.Future[None]) -> dict[str, Any]:
    waiting = asyncio.ensure_future(messages.get())
    await asyncio.wait([waiting, running], timeout=20, return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        if running.done():
            running.result()
        raise AssertionError("nothing came back")
    return waiting.result()


@dataclass
class Socket:
    """A WebSocket; what the app has sent comes out of `next`."""

    app: ASGIApp
    path: str
    headers: Headers
    subprotocols: Sequence[str] = ("streamworker.v1",)
    more: dict[str, Any] = field(default_factory=dict)

    async def __aenter__(self) -> Socket:
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._outgoing: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        await self._incoming.put({"type": "websocket.connect"})
        more = {"subprotocols": list(self.subprotocols), "extensions": {"websocket.http.response": {}}, **self.more}
        scope = scope_of("websocket", self.path, self.headers, **more)
        self._running = asyncio.ensure_future(self.app(scope, self._incoming.get, self._outgoing.put))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._incoming.put({"type": "websocket.disconnect", "code": 1000})
        self._running.cancel()
        with suppress(asyncio.CancelledError):
            await self._running

    async def next(self) -> dict[str, Any]:
        """The next message."""
        return await _next(self._outgoing, self._running)

    async def say(self, message: object) -> None:
        """Send a message."""
        await self._incoming.put({"type": "websocket.receive", "text": json.dumps(message)})

    async def outcome(self) -> int:
        """The status of a refused handshake, the code of a close after it, or 101."""
        first = await self.next()
        if first["type"] == "websocket.http.response.start":
            return int(first["status"])
        assert first["type"] == "websocket.accept", first
        second = await self.next()
        return int(second["code"]) if second["type"] == "websocket.close" else 101

    async def closed(self) -> int:
        """The code with which it is closed in the end."""
        while (message := await self.next())["type"] != "websocket.close":
            pass
        return int(message["code"])
