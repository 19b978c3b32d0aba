"""A real gateway on a port of its own, a batch that the test changes by hand, and clients that take frame after frame."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
import redis.asyncio
import uvicorn
import websockets
from websockets.asyncio.client import ClientConnection

from streamworker.gateway.application import build
from streamworker.gateway.hub import Hub
from streamworker.gateway.protocols import Bounds, Gate
from streamworker.gateway.resume import read_position
from streamworker.gateway.rights import Authorise
from streamworker.gateway.server import Server, configure, listen
from streamworker.messages import ProgressEvent
from tests.flows.hand_made import HandMade
from tests.gateway.conftest import settings_for

PATIENCE = 20.0
Frame = dict[str, Any]


class Socket:
    """A WebSocket client of the test."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def frame(self) -> Frame:
        """The next frame that is no heartbeat."""
        async with asyncio.timeout(PATIENCE):
            while True:
                found: Frame = json.loads(await self.connection.recv())
                if found["type"] != "ping":
                    return found

    async def until(self, kind: str) -> list[Frame]:
        """The frames up to the first of a kind, with it."""
        found = [await self.frame()]
        while found[-1]["type"] != kind:
            found.append(await self.frame())
        return found

    async def event(self) -> Frame:
        """The next frame, which must tell an event or a snapshot."""
        found = await self.frame()
        assert found["type"] in ("event", "snapshot"), found
        return found

    async def say(self, **request: Any) -> None:
        """Send a request."""
        await self.connection.send(json.dumps(request))

    async def code(self) -> int:
        """The code with which the gateway closes, whatever comes before."""
        try:
            while True:
                await asyncio.wait_for(self.connection.recv(), PATIENCE)
        except websockets.ConnectionClosed:
            assert self.connection.close_code is not None
            return self.connection.close_code


async def _lines(response: httpx.Response) -> AsyncIterator[str]:
    """Lines as browsers see them: those of Python's `splitlines` end at U+2028, too."""
    rest = ""
    async for text in response.aiter_text():
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            yield line.removesuffix("\r")


class Events:
    """A client of the event stream."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = _lines(response)
        self.last_id = ""

    async def frame(self) -> Frame | None:
        """The next frame that is no heartbeat; None at the end of the stream."""
        async with asyncio.timeout(PATIENCE):
            while (fields := await self._fields()) is not None:
                self.last_id = fields.get("id", self.last_id)
                if fields.get("event", "ping") != "ping":
                    found: Frame = json.loads(fields["data"])
                    assert found["type"] == fields["event"]
                    return found
        return None

    async def _fields(self) -> dict[str, str] | None:
        fields: dict[str, str] = {}
        try:
            while line := await anext(self._lines):
                name, _, value = line.partition(": ")
                fields[name] = value
        except StopAsyncIteration:
            return None
        return fields

    async def rest(self) -> list[Frame]:
        """All frames up to the end of the stream."""
        found = []
        while (frame := await self.frame()) is not None:
            found.append(frame)
        return found


class LiveScene(HandMade):
    """A gateway, and a batch."""

    def __init__(self, port: int, hub: Hub, connection: asyncpg.Connection, broker: redis.asyncio.Redis, batch_id: UUID) -> None:
        super().__init__(connection, broker, batch_id)
        self.port = port
        self.hub = hub
        self.stop: Callable[[], Awaitable[None]]

    async def submit(self, items: int = 10) -> HandMade:
        """One more batch."""
        return HandMade(self.connection, self.broker, await submit(self.connection, items))

    async def caught_up(self) -> None:
        """Return when the gateway has read all that stands in the stream."""
        newest = read_position((await self.broker.xinfo_stream("progress"))["last-generated-id"])
        async with asyncio.timeout(PATIENCE):
            while self.hub._stream.history.newest < newest:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    def hold_postgres(self, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
        """Let no answer of Postgres about a single batch through until the event is set."""
        read, answered = self.hub._reader.read, asyncio.Event()

        async def read_late(batch_id: str) -> ProgressEvent:
            found = await read(batch_id)
            await answered.wait()
            return found

        monkeypatch.setattr(self.hub._reader, "read", read_late)
        return answered

    @asynccontextmanager
    async def socket(self, *ids: object, greeted: bool = True, **query: object) -> AsyncIterator[Socket]:
        """A WebSocket that watches these batches, past its greeting."""
        words = [("batch_id", str(id)) for id in ids] + [(name, str(value)) for name, value in query.items()]
        url = f"ws://127.0.0.1:{self.port}/ws?{httpx.QueryParams(words)}"
        options: Any = {"origin": f"http://127.0.0.1:{self.port}", "compression": None, "max_queue": None, "ping_interval": None}
        async with websockets.connect(url, **options) as connection:
            client = Socket(connection)
            if greeted:
                assert (await client.frame())["type"] == "hello"
            yield client

    @asynccontextmanager
    async def events(self, *ids: object, last_id: str = "", **query: object) -> AsyncIterator[Events]:
        """An event stream, past its greeting."""
        words = [("batch_id", str(id)) for id in ids] + [(name, str(value)) for name, value in query.items()]
        headers = {"Last-Event-ID": last_id} if last_id else {}
        async with (
            httpx.AsyncClient(timeout=PATIENCE) as client,
            client.stream("GET", f"http://127.0.0.1:{self.port}/events", params=words, headers=headers) as response,
        ):
            assert response.status_code == 200, await response.aread()
            stream = Events(response)
            hello = await stream.frame()
            assert hello is not None
            assert hello["type"] == "hello"
            yield stream

    async def get(self, query: str, **headers: str) -> httpx.Response:
        """A plain GET of the event stream that has no stream for an answer."""
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            return await client.get(f"http://127.0.0.1:{self.port}/events?{query}", headers=headers)

    async def raw(self, path: str) -> socket.socket:
        """A bare socket that has asked for a WebSocket and reads nothing."""
        return await self._send(self.handshake(path))

    async def raw_get(self, path: str) -> socket.socket:
        """A bare socket that has asked for a page, or a stream, and reads nothing."""
        return await self._send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode())

    async def _send(self, head: bytes) -> socket.socket:
        found = socket.socket()
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        found.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(found, ("127.0.0.1", self.port))
        await loop.sock_sendall(found, head)
        return found

    def handshake(self, path: str) -> bytes:
        """What a browser sends to open a WebSocket."""
        place, key = f"127.0.0.1:{self.port}", base64.b64encode(os.urandom(16)).decode()
        lines = (
            f"GET {path} HTTP/1.1", f"Host: {place}", f"Origin: http://{place}", "Upgrade: websocket", "Connection: Upgrade",
            "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", "", "",
        )  # fmt: skip
        return "\r\n".join(lines).encode()


async def submit(connection: asyncpg.Connection, items: int = 10) -> UUID:
    """Submit a batch by SQL."""
    batch_id = uuid4()
    await connection.execute("SELECT streamworker.submit($1, $2)", json.dumps([str(number) for number in range(items)]), batch_id)
    return batch_id


@asynccontextmanager
async def gateway_on(
    redis_url: str, database_url: str, authorise: Authorise | None = None, port: int = 0, plain: bool = False, **settings: str
) -> AsyncIterator[tuple[int, Hub]]:
    """A gateway on a port of its own, served by uvicorn as the command serves it; `plain`: as it comes."""
    app = build(settings_for(redis_url, database_url, **settings), authorise)
    with listen("127.0.0.1", port) as listener:
        listening = asyncio.Event()
        config = uvicorn.Config(app, lifespan="off", log_config=None) if plain else configure(app, Gate(Bounds()))
        server = Server(config, app.state.running, listening.set)
        async with app.router.lifespan_context(app):
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            await listening.wait()
            try:
                yield listener.getsockname()[1], (await app.state.running.services()).hub
            finally:
                server.should_exit = True
                await serving


@asynccontextmanager
async def live_scene_on(
    redis_url: str, database_url: str, authorise: Authorise | None = None, *, plain: bool = False, **settings: str
) -> AsyncIterator[LiveScene]:
    """A gateway with a batch on these servers."""
    async with AsyncExitStack() as stack:
        connection = await asyncpg.connect(database_url, timeout=20)
        stack.push_async_callback(connection.close, timeout=5)
        broker = redis.asyncio.Redis.from_url(redis_url)
        stack.push_async_callback(broker.aclose)
        gateway = await stack.enter_async_context(AsyncExitStack())
        port, hub = await gateway.enter_async_context(gateway_on(redis_url, database_url, authorise, plain=plain, **settings))
        scene = LiveScene(port, hub, connection, broker, await submit(connection))
        scene.stop = gateway.aclose
        yield scene
