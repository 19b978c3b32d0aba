"""uvicorn's protocols, so that the app can cut a connection whose client reads nothing: a plain close would wait for it for ever."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from streamworker.gateway.asking import ABORT


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """WebSockets that can be cut."""

    async def run_asgi(self) -> None:
        """Run the app, which finds how to cut its connection in the scope."""
        extensions: Any = self.scope.setdefault("extensions", {})
        extensions[ABORT] = self.transport.abort
        await super().run_asgi()


class HttpProtocol(H11Protocol):
    """Requests that can be cut."""

    def handle_events(self) -> None:
        """Read what has come; each request's scope says how to cut its connection."""
        super().handle_events()
        scope: Any = self.scope
        if scope is not None:
            scope.setdefault("extensions", {})[ABORT] = self.transport.abort
