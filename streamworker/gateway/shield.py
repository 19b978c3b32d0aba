"""The outermost layer: headers that every answer carries, and what becomes of an error that nobody caught."""

from __future__ import annotations

import logging
import secrets
from collections.abc import MutableMapping
from typing import Any

from redis.exceptions import RedisError
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from streamworker.errors import ConfigurationError, SchemaError
from streamworker.gateway.answers import refuse
from streamworker.store.pool import OUTAGE_ERRORS

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; font-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
REDIS_AWAY = "Redis cannot be reached or does not answer: nothing is lost, try again in a moment"
POSTGRES_AWAY = "Postgres cannot be reached or does not answer: nothing is lost, try again in a moment"

log = logging.getLogger("streamworker.gateway")


class Shield:
    """ASGI middleware around all others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        begun = False

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            begun = True
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            status, sentence = _explain(error, scope)
            if not begun:
                await refuse(scope, receive, send_with_headers, status, sentence)
            elif scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 4500, "reason": "internal error"})


def _explain(error: Exception, scope: Scope) -> tuple[int, str]:
    """What the client is told; the log gets the rest."""
    match error:
        case SchemaError():
            log.warning("%s", error)
            return 503, str(error)
        case ConfigurationError():  # a URL that is found to be bad when it is used
            log.error("%s", error)
            return 503, POSTGRES_AWAY
        case RedisError():
            log.warning("a request fails: Redis: %s", error)
            return 503, REDIS_AWAY
        case _ if isinstance(error, OUTAGE_ERRORS):
            log.warning("a request fails: Postgres: %s", str(error) or type(error).__name__)
            return 503, POSTGRES_AWAY
    number = secrets.token_hex(4)
    log.error("internal error %s: %s %s", number, scope.get("method", "websocket"), scope["path"], exc_info=error)
    return 500, f"internal error {number}: the gateway's log says more under this number"
