"""The page's session: a token is changed for a cookie that scripts cannot read, and that only our own page sends."""

from __future__ import annotations

import logging

from starlette.requests import Request
from starlette.responses import Response

from streamworker.gateway.access import TOO_MANY_TRIES, visitor_of
from streamworker.gateway.addresses import cookie_name
from streamworker.gateway.answers import Refusal, reply
from streamworker.gateway.bodies import Login, read_object
from streamworker.gateway.endpoints import route
from streamworker.gateway.limits import Rate, client_of
from streamworker.gateway.sessions import SESSION_SECONDS, Keys, Visitor

log = logging.getLogger("streamworker.gateway")


async def show_session(request: Request) -> Response:
    """What this client may do."""
    return reply(_told(request, visitor_of(request.scope)))


async def begin_session(request: Request) -> Response:
    """Change a token for a session."""
    keys: Keys = request.app.state.keys
    tries: Rate = request.app.state.wrong_tokens
    address = client_of(request.scope)
    if tries.is_spent(address):
        raise Refusal(429, TOO_MANY_TRIES, {"Retry-After": "60"})
    given = await read_object(request, Login)
    if not keys.required:
        return reply(_told(request, visitor_of(request.scope)))
    visitor = keys.by_token(given.token)
    if visitor.role is None:
        tries.take(address)
        log.warning("a wrong token was given", extra={"address": address})
        raise Refusal(401, "token: it is none of this gateway's")
    answer = reply(_told(request, visitor))
    _set_cookie(request, answer, keys.issue(visitor.role), SESSION_SECONDS)
    return answer


async def end_session(request: Request) -> Response:
    """Forget the session, and end the connections that it holds open."""
    visitor = visitor_of(request.scope)
    keys: Keys = request.app.state.keys
    keys.revoke(visitor)
    request.app.state.lasting.end(visitor)
    answer = reply(_told(request, Visitor(None) if keys.required else visitor))
    _set_cookie(request, answer, "", 0)
    return answer


def _told(request: Request, visitor: Visitor) -> dict[str, object]:
    return {"role": visitor.role, "token_required": request.app.state.keys.required}


def _set_cookie(request: Request, answer: Response, text: str, seconds: int) -> None:
    # Behind a proxy with TLS only the browser knows of it.
    secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
    answer.set_cookie(
        cookie_name(request.scope),
        text,
        max_age=seconds,
        path=f"{request.scope.get('root_path', '')}/",
        secure=secure,
        httponly=True,
        samesite="strict",
    )


ROUTES = (
    route("/api/session", show_session),
    route("/api/session", begin_session, "POST"),
    route("/api/session", end_session, "DELETE"),
)
