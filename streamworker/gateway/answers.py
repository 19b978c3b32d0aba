"""What goes back to the client: JSON, and refusals of one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

JSON = "application/json"
PROTOCOL = "streamworker.v1"
_ENCODER = msgspec.json.Encoder(decimal_format="number")


class Refusal(HTTPException):
    """A request that is not carried out; the sentence names the thing, the value and what was expected."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, sentence, headers)


def reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as JSON."""
    return Response(_ENCODER.encode(value), status, headers, JSON)


def refused(_request: Request, error: Exception) -> Response:
    """The answer to an HTTPException, whoever raised it."""
    assert isinstance(error, HTTPException)
    return reply({"error": error.detail}, error.status_code, error.headers)


def not_found(_request: Request, error: Exception) -> Response:
    """The answer to BatchNotFound."""
    return reply({"error": str(error)}, 404)


async def refuse(scope: Scope, receive: Receive, send: Send, status: int, sentence: str) -> None:
    """Refuse a request, or a WebSocket, before anything else has seen it.

    A browser does not tell a page why a handshake failed. So who has no right any more is let in, told, and shown out with 4401:
    then the page asks for a token and does not come back on its own. Strangers get no further than the handshake.
    """
    if scope["type"] == "websocket" and status == 401:
        await receive()
        offered = PROTOCOL if PROTOCOL in scope.get("subprotocols", ()) else None
        await send({"type": "websocket.accept", "subprotocol": offered})
        await send({"type": "websocket.close", "code": 4401, "reason": "no or bad token"})
        return
    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "60"}, 503: {"Retry-After": "5"}}.get(status)
    answer = reply({"error": sentence}, status, headers)
    if scope["type"] == "http":
        await answer(scope, receive, send)
    elif "websocket.http.response" in scope.get("extensions", {}):
        await answer(scope, receive, send)  # starlette sends it as the answer to the handshake
    else:
        await send({"type": "websocket.close", "code": 4403})
