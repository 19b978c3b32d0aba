"""The two live endpoints: which hub, which client, and what it may see."""

from __future__ import annotations

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from streamworker.errors import ConfigurationError, SchemaError
from streamworker.gateway.access import visitor_of
from streamworker.gateway.asking import Allowed
from streamworker.gateway.hub import Hub
from streamworker.gateway.rights import is_allowed
from streamworker.gateway.services import Services
from streamworker.gateway.sse import serve_events
from streamworker.gateway.websocket import serve_websocket


async def open_websocket(websocket: WebSocket) -> None:
    """`/ws`."""
    try:
        hub = await _hub_of(websocket)
    except (ConfigurationError, ConnectionError, SchemaError):
        return await websocket.send_denial_response(JSONResponse({"error": "Postgres does not answer: come back later"}, 503))
    await serve_websocket(websocket, hub, _question(websocket), _role(websocket))


async def show_events(request: Request) -> Response:
    """`/events`."""
    return await serve_events(request, await _hub_of(request), _question(request), _role(request))


async def _hub_of(connection: HTTPConnection) -> Hub:
    services: Services = await connection.app.state.running.services()
    return services.hub


def _question(connection: HTTPConnection) -> Allowed:
    return None if connection.app.state.authorise is None else is_allowed


def _role(connection: HTTPConnection) -> str:
    return visitor_of(connection.scope).role or "read"


ROUTES = (
    Route("/events", show_events),
    WebSocketRoute("/ws", open_websocket),
)
