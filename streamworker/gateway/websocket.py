"""`/ws`: frames as text messages; clients subscribe and unsubscribe."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect

from streamworker.gateway.asking import ABORT, DIRECT, MOST_BATCHES, Allowed, Asked, asker, may_see, read_batch_id, read_query
from streamworker.gateway.connection import Connection
from streamworker.gateway.frames import ALL, MAX_FRAME, PING, PROTOCOL, Complaint, Ping, Subscribe, Unsubscribe, frame, read_request
from streamworker.gateway.hub import Hub
from streamworker.gateway.resume import read_since

MOST_MESSAGES, MINUTE = 100, 60.0
BURST = 2 * (MOST_BATCHES + 1)  # whoever comes back asks for all its batches at once
LONGEST_NAMED = 100  # characters of what is no id, in the answer to it
BAD, UNKNOWN, FORBIDDEN, FULL = 4400, 4404, 4403, 4503
NOT_TEXT, POLICY, TOO_LARGE = 1003, 1008, 1009


async def serve_websocket(websocket: WebSocket, hub: Hub, allowed: Allowed = None, role: str = "operator") -> None:
    """Serve one client until it leaves. Whether it may be here at all has been decided before."""
    await websocket.accept(PROTOCOL if PROTOCOL in websocket.scope.get("subprotocols", ()) else None)
    connection = hub.admit(role, asker(websocket, allowed))
    if connection is None:
        await websocket.close(FULL, "the gateway has no room for another client: come back later")
        return
    serving = asyncio.current_task()
    assert serving is not None
    cut = False

    def cut_off() -> None:
        nonlocal cut
        cut = True
        abort = websocket.scope.get("extensions", {}).get(ABORT)
        if abort is not None:
            abort()
        serving.cancel()

    connection.cut = cut_off
    connection.direct = websocket.scope.get("extensions", {}).get(DIRECT)
    sending = asyncio.create_task(_send(websocket, connection), name="gateway websocket")
    try:
        await _Session(websocket, hub, connection, allowed).run()
        if connection.closing is not None:
            await sending
    except asyncio.CancelledError:
        if not cut:
            raise
        serving.uncancel()
    finally:
        hub.leave(connection)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _send(websocket: WebSocket, connection: Connection) -> None:
    # A connection that is lost shows as a disconnect to whoever receives.
    with suppress(WebSocketDisconnect, RuntimeError, OSError):
        while (next_frame := await connection.next()) is not None:
            await websocket.send({"type": "websocket.send", "text": next_frame.text})
        assert connection.closing is not None
        code, reason = connection.closing
        await websocket.close(code, reason)


class _Session:
    """What one client says."""

    def __init__(self, websocket: WebSocket, hub: Hub, connection: Connection, allowed: Allowed) -> None:
        self._websocket = websocket
        self._hub = hub
        self._connection = connection
        self._allowed = allowed
        self._allowance, self._counted_at = float(BURST), time.monotonic()

    async def run(self) -> None:
        """Greet, then listen; returns when either side has ended the connection."""
        self._hub.greet(self._connection)
        try:
            asked = read_query(self._websocket)
        except ValueError as error:
            return self._end(BAD, str(error))
        if asked.ids and not await self._begin(asked):
            return
        while self._connection.closing is None:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            await self._hear(message.get("text"))

    async def _begin(self, asked: Asked) -> bool:
        for id in asked.ids:
            if not await may_see(self._websocket, self._allowed, id):
                self._end(UNKNOWN, f"batch {id}: there is no batch with this id")
                return False
        opening = self._hub.subscribe(self._connection, asked.ids, asked.since)
        opening.add_done_callback(lambda _: self._check(asked))
        return True

    def _check(self, asked: Asked) -> None:
        """A batch that is asked for in the URL and is not there ends the connection."""
        if any(id != ALL and id not in self._connection.wanted for id in asked.ids):
            self._connection.close(UNKNOWN, "there is no batch with this id")

    async def _hear(self, text: str | None) -> None:
        if not self._take_allowance():
            return self._connection.close(POLICY, f"more than {MOST_MESSAGES} messages a minute")
        if text is None:
            return self._connection.close(NOT_TEXT, "expected text, got a binary message")
        if len(text) > MAX_FRAME:
            return self._connection.close(TOO_LARGE, f"expected at most {MAX_FRAME} bytes")
        about: str | None = None
        try:
            request = read_request(text)
            match request:
                case Ping():
                    self._connection.offer(PING)
                case Unsubscribe(about):
                    self._hub.unsubscribe(self._connection, read_batch_id(about))
                case Subscribe(about):
                    await self._subscribe(request)
        except ValueError as error:
            self._connection.offer(frame(Complaint(BAD, str(error), about and about[:LONGEST_NAMED])))

    def _take_allowance(self) -> bool:
        now = time.monotonic()
        gained = (now - self._counted_at) * MOST_MESSAGES / MINUTE
        self._allowance, self._counted_at = min(BURST, self._allowance + gained) - 1, now
        return self._allowance >= 0

    async def _subscribe(self, request: Subscribe) -> None:
        id, since = read_batch_id(request.batch_id), read_since(request.since)
        if not await may_see(self._websocket, self._allowed, id):
            told = f"batch {id}: there is no batch with this id" if id != ALL else "this client may not see all batches"
            self._connection.offer(frame(Complaint(UNKNOWN if id != ALL else FORBIDDEN, told, request.batch_id)))
        elif id != ALL and id not in self._connection.wanted and len(self._connection.wanted) >= MOST_BATCHES:
            raise ValueError(f"batch_id: expected at most {MOST_BATCHES} of them; watch all (*), or unsubscribe some")
        else:
            self._hub.subscribe(self._connection, [id], since)

    def _end(self, code: int, reason: str) -> None:
        self._connection.offer(frame(Complaint(code, reason)))
        self._connection.close(code, reason)
