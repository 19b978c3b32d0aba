"""uvicorn's protocols with bounds of ours: how many connections there may be, how long a request may take to say what it wants.

And the app can cut a connection whose client reads nothing: a plain close would wait for it for ever.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from streamworker.gateway.asking import ABORT, DIRECT
from streamworker.gateway.frames import Frame
from streamworker.gateway.limits import counted_as, is_this_machine

MOST_CONNECTIONS = 20_000
HEAD_SECONDS = 10.0  # for the head of a request, from its first byte; for the first one, from the connection
WRITE_SECONDS = 30.0  # that a client may take nothing of an answer
FRAMES, FRAMES_A_SECOND = 1_000, 10.0  # of any kind that a WebSocket client may send at once, and for ever
FRAGMENTS = 1_000  # of one message
PIECE = 2048  # bytes read at a time: the smallest frame has six
POLICY, NOT_UTF8 = 1008, 1007
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5\r\ncontent-length: 0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Connections in all, and of one address; this machine's own addresses are left alone, since a proxy on it speaks for many."""

    connections: int = MOST_CONNECTIONS
    of_one_address: int = 256
    head_seconds: float = HEAD_SECONDS
    loopback_too: bool = False


class Gate:
    """Counts the connections of a server: those that are there, and those that have `ended`."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.ended = 0
        self._inside: dict[asyncio.BaseTransport, str] = {}
        self._of_address: Counter[str] = Counter()

    def admit(self, transport: asyncio.BaseTransport, address: str) -> bool:
        """Let a connection in; False where there is no room for it."""
        address, exempt = counted_as(address), not self.bounds.loopback_too and is_this_machine(address)
        if len(self._inside) >= self.bounds.connections or (not exempt and self._of_address[address] >= self.bounds.of_one_address):
            return False
        self._inside[transport] = address
        self._of_address[address] += 1
        return True

    def leave(self, transport: asyncio.BaseTransport) -> None:
        """A connection has ended."""
        address = self._inside.pop(transport, None)
        if address is not None:
            self.ended += 1
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """WebSockets that can be cut, that take whole frames at once while their client keeps up, and that bear no flood of small ones.

    uvicorn reads whatever comes and answers each ping at once, whether the client takes the answers or not.
    """

    def __init__(self, *arguments: Any, gate: Gate, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._gate = gate
        self._allowance, self._counted_at = float(FRAMES), self.loop.time()
        self._late_pong = b""

    async def run_asgi(self) -> None:
        """Run the app, which finds how to cut its connection, and how to write to it, in the scope."""
        extensions: Any = self.scope.setdefault("extensions", {})
        extensions[ABORT], extensions[DIRECT] = self.transport.abort, self.write_frame
        await super().run_asgi()
        self.loop.call_later(self.close_timeout, self.transport.abort)  # who reads nothing would keep what is closed open

    def data_received(self, data: bytes) -> None:
        """Read what has come, a piece at a time, so that no more than a piece is read of what is too much."""
        for start in range(0, len(data), PIECE):
            if not self.transport.is_closing():
                super().data_received(data[start : start + PIECE])
        if not self.handshake_initiated:  # the head was there already: it is none
            self.transport.close()

    def handle_events(self) -> None:
        """Take the frames of a piece, if there are not too many of them."""
        now = self.loop.time()
        gained = (now - self._counted_at) * FRAMES_A_SECOND
        self._allowance, self._counted_at = min(FRAMES, self._allowance + gained) - len(self.conn.events), now
        if self._allowance < 0 or len(self.frames) > FRAGMENTS:
            self._fail(POLICY, "too many frames")
        else:
            super().handle_events()

    def handle_ping(self) -> None:
        """Answer, or where the client does not take what was written, later: then the latest one counts."""
        pongs = self.conn.data_to_send()
        if self.writable.is_set():
            self.transport.write(b"".join(pongs))
        elif pongs:
            self._late_pong = pongs[-1]

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self._late_pong and not (self.close_sent or self.transport.is_closing()):
            self.transport.write(self._late_pong)
        self._late_pong = b""

    def send_receive_event_to_app(self) -> None:
        """Hand a message to the app, if it is none that uvicorn would log a traceback for."""
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                return self._fail(NOT_UTF8, "expected UTF-8")
        return super().send_receive_event_to_app()

    def _fail(self, code: int, reason: str) -> None:
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.fail(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def write_frame(self, frame: Frame) -> bool:
        """Write a frame whose bytes many clients share; False where the client has not taken what was written before."""
        if self.disconnected or self.close_sent or not self.writable.is_set() or self.transport.is_closing():
            return False
        self.transport.write(frame.wire)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection, which came in as a request, has ended."""
        self._gate.leave(self.transport)
        super().connection_lost(exc)


class HttpProtocol(H11Protocol):
    """Requests that can be cut, and that are cut when they do not come to their point."""

    def __init__(self, *arguments: Any, gate: Gate, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._gate = gate
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let the connection in, or say that there is no room."""
        super().connection_made(transport)
        if self._gate.admit(transport, self.client[0] if self.client else ""):
            self._watch_head()
        else:
            transport.write(_FULL)
            transport.close()

    def handle_events(self) -> None:
        """Read what has come; each request's scope says how to cut its connection."""
        super().handle_events()
        scope: Any = self.scope
        if scope is not None:
            scope.setdefault("extensions", {})[ABORT] = self.transport.abort

    def data_received(self, data: bytes) -> None:
        """Take what came, and watch how long the rest takes of what nobody has begun to answer."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        answered = self.cycle is not None and self.cycle.response_complete
        if self.conn.their_state is h11.IDLE or (self.conn.their_state is h11.SEND_BODY and answered):
            if self._head_timer is None:
                self._watch_head()
        else:
            self._stop_watching_head()

    def send_400_response(self, msg: str) -> None:
        """Say that it was no request, unless an answer has begun: then nothing can be said any more."""
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            self.transport.close()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection over."""
        self._stop_watching_head()
        super().handle_websocket_upgrade(event)

    def pause_writing(self) -> None:
        """The client takes nothing at present."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._stop_watching_writes()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._stop_watching_head()
        self._stop_watching_writes()
        self._gate.leave(self.transport)
        super().connection_lost(exc)

    def _watch_head(self) -> None:
        self._head_timer = self.loop.call_later(self._gate.bounds.head_seconds, self.transport.abort)

    def _stop_watching_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_watching_writes(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
