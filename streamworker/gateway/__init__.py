"""Progress for people: the live page, the REST API, WebSocket and SSE, as one ASGI app."""

from streamworker.gateway.application import app

__all__ = ["app"]
