"""A proxy between the workers and one server: it breaks connections in chosen ways and writes down what passes."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from tests.chaos.wire import Asked, Conversation, PostgresConversation, RedisConversation

Address = tuple[str, int] | str  # host and port, or the path of a unix socket

_CHUNK = 1 << 16


class Tap:
    """One file for all proxies: JSON lines in one order, each with a monotonic stamp (`at`, seconds)."""

    def __init__(self, path: Path | None = None) -> None:
        self._file: BinaryIO | None = path.open("wb") if path else None
        self._listeners: list[Callable[[dict[str, Any]], None]] = []
        self._encode = msgspec.json.Encoder().encode
        self._count = count(1)

    def listen(self, listener: Callable[[dict[str, Any]], None]) -> None:
        """Have `listener` called with each record."""
        self._listeners.append(listener)

    def write(self, **record: Any) -> None:
        """Add a record."""
        record = {"at": time.monotonic(), "seq": next(self._count), **record}
        if self._file:
            self._file.write(self._encode(record) + b"\n")
        for listener in self._listeners:
            listener(record)

    def close(self) -> None:
        """Write out what is buffered; further records are dropped."""
        if self._file:
            self._file.close()
            self._file = None


@dataclass
class Weather:
    """How the connections of one label fare just now."""

    delay: float = 0.0  # seconds, for each chunk, both ways
    refuse: bool = False  # new connections are closed at once
    cut_after: dict[str, int] = field(default_factory=dict)  # "requests" or "replies" -> bytes that still pass
    clear: asyncio.Event = field(default_factory=asyncio.Event)  # unset: nothing passes, nothing is closed (half-open)

    def __post_init__(self) -> None:
        self.clear.set()


@dataclass
class Trap:
    """Waits for a command or statement that matches, then strikes its connection."""

    pattern: re.Pattern[str]
    action: Literal["lose reply", "cut before", "hold"]
    label: str | None
    left: int
    fired: asyncio.Event = field(default_factory=asyncio.Event)
    hits: list[tuple[float, str, str]] = field(default_factory=list)

    def springs(self, label: str, text: str) -> bool:
        """True if it strikes here; counts the hit."""
        if self.left <= 0 or self.label not in (None, label) or not self.pattern.search(text):
            return False
        self.left -= 1
        self.hits.append((time.monotonic(), label, text))
        self.fired.set()
        return True


class _Cut(Exception):
    """This connection ends here, both ways."""


class Proxy:
    """Forwards to `upstream`. Each `open(label)` is an address of its own, so a client can be told apart, and hit alone, by its label."""

    def __init__(self, server: Literal["redis", "postgres"], upstream: Address, tap: Tap | None = None) -> None:
        self.server = server
        self.upstream = upstream
        self.tap = tap or Tap()
        self.traps: list[Trap] = []
        self._weather: dict[str, Weather] = {}
        self._listeners: dict[str, asyncio.Server] = {}
        self.links: set[_Link] = set()
        self.numbers = count(1)

    async def open(self, label: str = "", path: Path | None = None) -> Address:
        """Listen for `label` on loopback, or on a unix socket; returns where."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _Link(self, label, reader, writer).run()

        if path:
            listener = await asyncio.start_unix_server(serve, str(path), limit=_CHUNK)
        else:
            listener = await asyncio.start_server(serve, "127.0.0.1", 0, limit=_CHUNK)
        self._listeners[label] = listener
        self.weather(label)
        return str(path) if path else listener.sockets[0].getsockname()[:2]

    async def retire(self, label: str) -> None:
        """Stop listening for `label`, whose process has ended: what it had sent still arrives."""
        if listener := self._listeners.pop(label, None):
            listener.close()
        self.heal(label)
        self._weather.pop(label, None)

    async def close(self, label: str) -> None:
        """Stop listening for `label` and cut its connections."""
        await self.retire(label)
        await self.cut(label)

    async def stop(self) -> None:
        """Stop everything; no connection, listener or coroutine is left."""
        self.traps.clear()
        for label in list(self._listeners):
            await self.close(label)
        await self.cut()

    def weather(self, label: str) -> Weather:
        """The weather of one label."""
        return self._weather.setdefault(label, Weather())

    def labels(self) -> list[str]:
        """All labels that are listened for."""
        return list(self._listeners)

    def _each(self, label: str | None) -> Iterator[Weather]:
        return iter([self.weather(label)] if label is not None else list(self._weather.values()))

    def slow(self, seconds: float, label: str | None = None) -> None:
        """Delay what passes by `seconds`."""
        for weather in self._each(label):
            weather.delay = seconds

    def refuse(self, label: str | None = None) -> None:
        """Close new connections at once."""
        for weather in self._each(label):
            weather.refuse = True

    def black_hole(self, label: str | None = None) -> None:
        """Let nothing pass and close nothing, until healed."""
        for weather in self._each(label):
            weather.clear.clear()

    def cut_after(self, size: int, direction: Literal["requests", "replies"], label: str | None = None) -> None:
        """Cut the connection that carries the `size`-th byte from now, right after that byte."""
        for weather in self._each(label):
            weather.cut_after[direction] = size

    def heal(self, label: str | None = None) -> None:
        """Fair weather again; connections that were held go on."""
        for weather in self._each(label):
            weather.delay, weather.refuse = 0.0, False
            weather.cut_after.clear()
            weather.clear.set()

    async def cut(self, label: str | None = None) -> int:
        """Cut all connections; returns how many there were."""
        doomed = [link for link in self.links if label in (None, link.label)]
        for link in doomed:
            link.abort()
        if doomed:
            await asyncio.wait([link.ended for link in doomed])
        return len(doomed)

    async def switch(self, upstream: Address) -> None:
        """Forward to another server from now on, as after a failover; the connections to the old one are cut."""
        self.upstream = upstream
        await self.cut()

    def lose_reply(self, pattern: str, label: str | None = None, times: int = 1) -> Trap:
        """Deliver the next request that matches, then drop its reply and cut the connection."""
        return self._set(Trap(re.compile(pattern), "lose reply", label, times))

    def cut_before(self, pattern: str, label: str | None = None, times: int = 1) -> Trap:
        """Cut the connection instead of delivering the next request that matches."""
        return self._set(Trap(re.compile(pattern), "cut before", label, times))

    def hold(self, pattern: str, label: str | None = None) -> Trap:
        """Hold everything of that client just before the next request that matches is delivered, until healed."""
        return self._set(Trap(re.compile(pattern), "hold", label, 1))

    def _set(self, trap: Trap) -> Trap:
        self.traps = [old for old in self.traps if old.left > 0]
        self.traps.append(trap)
        return trap


class _Link:
    """One client connection and its counterpart at the server."""

    def __init__(self, proxy: Proxy, label: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.label = label
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._proxy = proxy
        self._number = next(proxy.numbers)
        self._weather = proxy.weather(label)
        self._client = (reader, writer)
        self._talk: Conversation = RedisConversation() if proxy.server == "redis" else PostgresConversation()
        self._running: asyncio.Task[None] | None = None
        self._aborted = False

    async def run(self) -> None:
        self._proxy.links.add(self)
        self._running = asyncio.create_task(self._forward())
        try:
            await asyncio.wait([self._running])
        finally:
            self._running.cancel()
            writer = self._client[1]
            (writer.transport.abort if self._aborted else writer.close)()
            self._proxy.links.discard(self)
            self.ended.set_result(None)

    def abort(self) -> None:
        self._aborted = True
        if self._running:
            self._running.cancel()

    async def _forward(self) -> None:
        if self._weather.refuse:
            return
        await self._weather.clear.wait()
        try:
            reader, writer = await self._connect()
        except OSError:
            return  # the server is not there: the client sees a closed connection
        self._tell(op="open")
        pumps = [asyncio.create_task(self._requests(self._client[0], writer)), asyncio.create_task(self._replies(reader, self._client[1]))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._tell(op="close", cut=self._aborted)
            for pump in pumps:
                pump.cancel()
            (writer.transport.abort if self._aborted else writer.close)()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        upstream = self._proxy.upstream
        if isinstance(upstream, str):
            return await asyncio.open_unix_connection(upstream, limit=_CHUNK)
        return await asyncio.open_connection(*upstream, limit=_CHUNK)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(_Cut, OSError):
            while chunk := await reader.read(_CHUNK):
                passed = bytearray()
                try:
                    for raw, asked in self._talk.requests(chunk):
                        if asked is not None:
                            self._judge(asked)
                        passed += raw
                finally:
                    await self._send(writer, bytes(passed), "requests")

    def _judge(self, asked: Asked) -> None:
        for trap in self._proxy.traps:
            if trap.springs(self.label, asked.text):
                if trap.action == "cut before":
                    self._tell(op="cut", n=asked.number, text=asked.text)
                    raise _Cut
                if trap.action == "hold":
                    self._weather.clear.clear()
                else:
                    asked.lost = True
        if self._proxy.server == "redis":
            self._tell(op="request", n=asked.number, args=asked.parts)
        else:
            self._tell(op="request", n=asked.number, sql=asked.text, **({"args": asked.parts} if asked.parts else {}))

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(_Cut, OSError):
            while chunk := await reader.read(_CHUNK):
                passed = bytearray()
                try:
                    for raw, answer in self._talk.replies(chunk):
                        if answer is not None:
                            number = answer.asked.number if answer.asked else None
                            lost = bool(answer.asked and answer.asked.lost)
                            self._tell(op="reply", n=number, **answer.told, **({"lost": True} if lost else {}))
                            if lost:
                                raise _Cut
                        passed += raw
                finally:
                    await self._send(writer, bytes(passed), "replies")

    async def _send(self, writer: asyncio.StreamWriter, passed: bytes, direction: str) -> None:
        weather = self._weather
        if not passed:
            return
        if weather.delay:
            await asyncio.sleep(weather.delay)
        await weather.clear.wait()
        if (left := weather.cut_after.get(direction)) is not None:
            if left <= len(passed):
                del weather.cut_after[direction]
                writer.write(passed[:left])
                await writer.drain()
                raise _Cut
            weather.cut_after[direction] = left - len(passed)
        writer.write(passed)
        await writer.drain()

    def _tell(self, **record: Any) -> None:
        self._proxy.tap.write(server=self._proxy.server, label=self.label, conn=self._number, **record)
