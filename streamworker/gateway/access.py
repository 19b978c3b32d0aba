"""The door: every request passes it, whatever its path. Host, Origin, then who it is, then what that role may do.

Nothing is open by being overlooked: only the paths named here are, and they are compared after the same decoding that routing does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from starlette._utils import get_route_path  # what is checked must be what is routed
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from streamworker.gateway.addresses import Addresses, cookie_name, header
from streamworker.gateway.answers import JSON, refuse
from streamworker.gateway.lasting import Lasting
from streamworker.gateway.limits import Rate, client_of, is_from_this_machine
from streamworker.gateway.sessions import NOBODY, OPERATOR, READ, Keys, Visitor, read_subprotocol

log = logging.getLogger("streamworker.gateway")

VISITOR = "streamworker.visitor"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
SESSION = "/api/session"
PAGE = "/"
OPEN = frozenset({PAGE, "/healthz", SESSION})
OPEN_FOLDER = "/static/"

NOT_OURS = "Host: expected a name of this gateway (STREAMWORKER_GATEWAY_HOSTS adds some), got another one"
NOT_OUR_PAGE = "Origin: expected that of the gateway's own page (STREAMWORKER_GATEWAY_ORIGINS adds others), or a Bearer token without one"
NOT_JSON = "Content-Type: expected application/json"
WHO = "expected a token: Authorization: Bearer ..., or a session of the page"
ELSEWHERE = (
    "expected a client on this machine: others may come once there is a STREAMWORKER_GATEWAY_TOKEN, or authorise says who may see what"
)
READ_ONLY = "the read-only token may not do this: expected the operator's"
TOO_MANY_TRIES = "too many wrong tokens from this address: wait a minute"


def visitor_of(scope: Scope) -> Visitor:
    """Who sent this request, as the door has found."""
    visitor: Visitor = scope["state"][VISITOR]
    return visitor


def note(connection: HTTPConnection, what: str, **fields: object) -> None:
    """Log what somebody has done: who, from where."""
    log.info(what, extra={**fields, "role": visitor_of(connection.scope).role, "address": client_of(connection.scope)})


class Access:
    """ASGI middleware that lets through what may pass. `asks`: the user's own hook decides who may see what, also without any token."""

    def __init__(self, app: ASGIApp, addresses: Addresses, keys: Keys, lasting: Lasting, wrong_tokens: Rate, asks: bool) -> None:
        self._app = app
        self._addresses = addresses
        self._keys = keys
        self._lasting = lasting
        self._wrong_tokens = wrong_tokens
        self._asks = asks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        host = self._addresses.host(scope)
        if host is None:
            return await refuse(scope, receive, send, 421, NOT_OURS)
        path = get_route_path(scope)
        if self._is_elsewhere(scope, host, path):
            return await refuse(scope, receive, send, 403, NOT_OUR_PAGE)
        credential = _credential(scope)
        if credential is not None and self._keys.required and self._wrong_tokens.is_spent(client_of(scope)):
            return await refuse(scope, receive, send, 429, TOO_MANY_TRIES)
        visitor = self._identify(scope, credential)
        if _needs_origin(scope) and not (visitor.by_token or self._addresses.allows_origin(scope, host)):
            return await refuse(scope, receive, send, 403, NOT_OUR_PAGE)
        if scope.get("method") in ("POST", "PUT", "PATCH") and not _is_json(scope):
            return await refuse(scope, receive, send, 415, NOT_JSON)
        if not _is_open(path) and (complaint := self._missing_right(scope, visitor)):
            return await refuse(scope, receive, send, *complaint)
        scope.setdefault("state", {})[VISITOR] = visitor
        return await self._lasting.run(self._app, scope, receive, send, visitor)

    def _is_elsewhere(self, scope: Scope, host: str, path: str) -> bool:
        """Whether a browser says that the request is another site's; following a link to the page is fine."""
        if any(key == b"origin" for key, _ in scope["headers"]):
            return not self._addresses.allows_origin(scope, host)
        return header(scope, b"sec-fetch-site") in ("cross-site", "same-site") and not (path == PAGE and scope.get("method") in SAFE)

    def _identify(self, scope: Scope, credential: str | None) -> Visitor:
        if not self._keys.required:
            # Mounted in another app we cannot know what that listens on, and a Host is easily forged where no browser sends it.
            return Visitor(OPERATOR) if self._asks or is_from_this_machine(scope) else NOBODY
        if credential is not None:
            visitor = self._keys.by_token(credential)
            if visitor.role is None:
                self._wrong_tokens.take(client_of(scope))
                log.warning("a wrong token was given", extra={"address": client_of(scope)})
            return visitor
        found = (self._keys.by_cookie(text) for text in _cookies(scope))
        return next((visitor for visitor in found if visitor.role is not None), NOBODY)

    def _missing_right(self, scope: Scope, visitor: Visitor) -> tuple[int, str] | None:
        if visitor.role is None:
            return (401, WHO) if self._keys.required else (403, ELSEWHERE)
        if visitor.role == READ and scope.get("method", "GET") not in SAFE:
            return 403, READ_ONLY
        return None


def _needs_origin(scope: Scope) -> bool:
    return scope["type"] == "websocket" or scope["method"] not in SAFE


def _credential(scope: Scope) -> str | None:
    """The token that a request carries, if it carries one."""
    given = [value.decode("latin-1").partition(" ") for key, value in scope["headers"] if key == b"authorization"]
    # Another scheme is between the browser and a proxy.
    if tokens := [token.strip() for scheme, _, token in given if scheme.lower() == "bearer"]:
        return tokens[0] if len(tokens) == 1 else ""
    for name in scope.get("subprotocols", ()):
        if (token := read_subprotocol(name)) is not None:
            return token
    return None


def _cookies(scope: Scope) -> Iterator[str]:
    """All cookies of our name: another path, or a gateway that was here before, may have left one."""
    ours = cookie_name(scope)
    for key, value in scope["headers"]:
        if key == b"cookie":
            for pair in value.decode("latin-1").split(";"):
                name, _, text = pair.strip().partition("=")
                if name == ours:
                    yield text


def _is_json(scope: Scope) -> bool:
    return (header(scope, b"content-type") or "").partition(";")[0].strip().lower() == JSON


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(OPEN_FOLDER)
