"""Clients of the gateway, many in one process: a bare WebSocket each, which notes how long ago an event was published.

python -m tests.bench.live_clients '{"port": 8080, "ids": "a file", "clients": 1000, "slow": 0, "seconds": 10}'
The ids stand in the file, one a line. The publisher puts CLOCK_MONOTONIC in `eta_seconds`.
Prints `ready` when all are live, at the end one line of JSON.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import datetime
from itertools import cycle
from pathlib import Path
from typing import cast

import uvloop

from tests.bench.figures import quantile

AT_ONCE = 100
MARK, LIVE, EVENT = b'"eta_seconds":', b'"type":"live"', b'{"type":"event"'
SMALL_BUFFER = 4096


def handshake(port: int, path: str) -> bytes:
    """What a browser sends to open a WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    place = f"127.0.0.1:{port}"
    lines = (
        f"GET {path} HTTP/1.1", f"Host: {place}", f"Origin: http://{place}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}",
    )  # fmt: skip
    return "\r\n".join((*lines, "", "")).encode()


class Watcher(asyncio.Protocol):
    """One client: reads frames, sends none after its handshake but the answers to pings."""

    def __init__(self, port: int, path: str, read: Callable[[bytes], float], late: list[float]) -> None:
        self._port = port
        self._path = path
        self._read = read
        self._late = late
        self._rest = b""
        self._greeted = False
        self.live: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(handshake(self._port, self._path))

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        place = 0
        if not self._greeted:
            place = data.find(b"\r\n\r\n") + 4
            if place < 4:
                self._rest = data
                return
            if not data.startswith(b"HTTP/1.1 101"):
                self.live.set_exception(ConnectionError(repr(data[:300])))
                return self.transport.abort()
            self._greeted = True
        while len(data) - place >= 4:
            size, start = data[place + 1], place + 2
            if size == 126:
                size, start = int.from_bytes(data[start : start + 2]), start + 2
            elif size == 127:
                size, start = int.from_bytes(data[start : start + 8]), start + 8
            if len(data) < start + size:
                break
            self._frame(data[place] & 15, data[start : start + size])
            place = start + size
        self._rest = data[place:]

    def _frame(self, kind: int, frame: bytes) -> None:
        if kind == 9:
            self.transport.write(b"\x8a" + bytes([0x80 | len(frame)]) + bytes(4) + frame)
        elif frame.startswith(EVENT):
            self._late.append(self._read(frame))
        elif LIVE in frame and not self.live.done():
            self.live.set_result(None)

    def connection_lost(self, _: Exception | None) -> None:
        self.lost = True
        if not self.live.done():
            self.live.set_exception(ConnectionError("the gateway has closed the connection"))


def since_published(frame: bytes) -> float:
    """Seconds since the publisher made the event."""
    place = frame.find(MARK) + len(MARK)
    return time.monotonic() - float(frame[place : frame.index(b",", place)])


def since_commit(frame: bytes) -> float:
    """Seconds since the row was written that the event tells; live events, which tell of no row, count as none."""
    event = json.loads(frame)["event"]
    if not any(item["status"] == "completed" for item in event["items"]):
        return -1.0
    return time.time() - datetime.fromisoformat(event["at"]).timestamp()


async def connect(port: int, path: str, read: Callable[[bytes], float], late: list[float]) -> Watcher:
    """A client that is live."""
    loop = asyncio.get_running_loop()
    _, watcher = await loop.create_connection(lambda: Watcher(port, path, read, late), "127.0.0.1", port)
    await asyncio.wait_for(watcher.live, 60)
    return watcher


async def connect_slow(port: int, path: str) -> socket.socket:
    """A client that asks and never reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", port))
    await loop.sock_sendall(sock, handshake(port, path))
    return sock


async def main(port: int, ids: str, clients: int, slow: int = 0, slow_ids: str = "", seconds: float = 0.0, commit: bool = False) -> None:
    """Connect, tell that all are live, watch for a time, tell what was seen.

    Of the slow ones each asks for all batches of `slow_ids`. `commit`: from the time in the event to its arrival.
    """
    late: list[float] = []
    read = since_commit if commit else since_published
    paths = cycle([f"/ws?batch_id={id}" for id in Path(ids).read_text().split()])
    watchers: list[Watcher] = []
    begun = time.monotonic()
    while len(watchers) < clients:
        watchers += await asyncio.gather(*(connect(port, next(paths), read, late) for _ in range(min(AT_ONCE, clients - len(watchers)))))
    all_of_them = "/ws?" + "&".join(f"batch_id={id}" for id in Path(slow_ids).read_text().split()) if slow else ""
    sleepers = [await connect_slow(port, all_of_them) for _ in range(slow)]
    connected = time.monotonic() - begun
    print("ready", flush=True)
    await asyncio.sleep(seconds)
    taken = late[:]
    lost = sum(watcher.lost for watcher in watchers)
    found = {f"p{share}": 1000 * quantile(taken, share / 100) for share in (50, 99)} if taken else {}
    commits = [one for one in taken if one >= 0] if commit else []
    print(json.dumps({"events": len(taken), "lost": lost, "connect": connected, "commits": commits, **found}), flush=True)
    for watcher in watchers:
        watcher.transport.abort()
    for sleeper in sleepers:
        sleeper.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(**json.loads(sys.argv[1])))
