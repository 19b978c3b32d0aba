"""`/events`: the same frames as server-sent events."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from streamworker.gateway.asking import ABORT, Allowed, Asked, asker, may_see, read_query
from streamworker.gateway.connection import Connection
from streamworker.gateway.frames import ALL
from streamworker.gateway.hub import Hub
from streamworker.gateway.resume import read_since

FIRST_LOOK = 2.0  # seconds for Postgres to say whether the batch exists; after that the stream begins without knowing
RETRY = (1_000, 5_000)  # milliseconds until a browser comes back: not all of them at once
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def serve_events(request: Request, hub: Hub, allowed: Allowed = None, role: str = "operator") -> Response:
    """The stream of one client. Whether it may be here at all has been decided before."""
    try:
        asked = read_query(request)
        since = read_since(request.headers.get("last-event-id")) or asked.since
    except ValueError as error:
        return _refuse(400, str(error))
    asked = Asked(asked.ids or [ALL], since)
    for id in asked.ids:
        if not await may_see(request, allowed, id):
            return _refuse(404, f"batch {id}: there is no batch with this id") if id != ALL else _refuse(403, "not all batches may be seen")
    with suppress(TimeoutError):
        async with asyncio.timeout(FIRST_LOOK):
            if (answer := await _look(hub, asked)) is not None:
                return answer
    connection = hub.admit(role, asker(request, allowed))
    if connection is None:
        return _refuse(503, "the gateway has no room for another client: come back later")
    return _EventStream(hub, connection, asked)


async def _look(hub: Hub, asked: Asked) -> Response | None:
    """An answer without a stream: there is no such batch, or nothing more to come of it."""
    for id in asked.ids:
        if id != ALL and not await hub.exists(id):
            return _refuse(404, f"batch {id}: there is no batch with this id")
    token = None if asked.since is None else asked.since.token
    if len(asked.ids) == 1 and asked.ids[0] != ALL and token is not None and await hub.ended(asked.ids[0], token):
        return Response(status_code=204)  # a browser stops coming back at that
    return None


def _refuse(status: int, sentence: str) -> Response:
    return JSONResponse({"error": sentence}, status, {"Retry-After": "5"} if status == 503 else None)


class _EventStream(Response):
    """Frames until either side ends."""

    media_type = "text/event-stream"

    def __init__(self, hub: Hub, connection: Connection, asked: Asked) -> None:
        super().__init__(None, 200, HEADERS)
        del self.headers["content-length"]
        self._hub = hub
        self._connection = connection
        self._asked = asked
        self._over = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what the hub has for this client."""
        if scope["method"] == "HEAD":
            self._hub.leave(self._connection)
            return await super().__call__(scope, receive, send)
        serving = asyncio.current_task()
        assert serving is not None

        def end() -> None:
            if not self._over:
                self._over = True
                serving.cancel()

        def cut_off() -> None:
            abort = scope.get("extensions", {}).get(ABORT)
            if abort is not None:
                abort()
            end()

        self._connection.cut = cut_off
        listening = asyncio.create_task(_wait_gone(receive), name="gateway events")
        listening.add_done_callback(lambda _: end())
        try:
            await self._run(send)
        except asyncio.CancelledError:
            if not self._over:
                raise
            serving.uncancel()
        finally:
            self._over = True
            self._hub.leave(self._connection)
            listening.cancel()

    async def _run(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send(_part(b"retry: %d\n\n" % random.randint(*RETRY)))  # noqa: S311
        self._hub.greet(self._connection)
        self._hub.subscribe(self._connection, self._asked.ids, self._asked.since)
        single = len(self._asked.ids) == 1 and self._asked.ids[0] != ALL
        while (next_frame := await self._connection.next()) is not None:
            await send(_part(next_frame.stream))
            if single and next_frame.kind in ("end", "error"):
                break
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _wait_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}
