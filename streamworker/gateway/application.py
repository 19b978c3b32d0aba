"""The ASGI app: its routes, what surrounds them, and its life."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from streamworker.errors import BatchNotFound
from streamworker.gateway import actions, api, dead_letters, live, page, session_api, workers
from streamworker.gateway.access import Access
from streamworker.gateway.addresses import Addresses
from streamworker.gateway.answers import not_found, refused
from streamworker.gateway.lasting import Lasting
from streamworker.gateway.limits import Limits, Rate, RequestBounds
from streamworker.gateway.rights import Authorise
from streamworker.gateway.services import Running
from streamworker.gateway.sessions import Keys
from streamworker.gateway.shield import Shield
from streamworker.settings import Settings


def app(
    redis_url: str | None = None, database_url: str | None = None, *, settings: Settings | None = None, authorise: Authorise | None = None
) -> Starlette:
    """The gateway as an ASGI app, to be served as it is or mounted in another one, under any prefix.

    Settings come from the environment unless given. `authorise(request_or_websocket, batch_id)` returns, or is awaited for, whether
    this client may see (and, by its role, change) this batch; None stands for what belongs to no single one: the list (which leaves
    out what may not be seen), the workers, the queue, the dead letters. It is asked for each batch on every route, for many at once.
    Connections are opened at the first request and closed when the event loop ends; where the parent's lifespan enters
    `app.router.lifespan_context(app)`, at its start and its end. Raises ConfigurationError.
    """
    if settings is None:
        flags = {name: url for name, url in (("redis_url", redis_url), ("database_url", database_url)) if url is not None}
        settings = Settings.load(flags)
    return build(settings, authorise)


def build(
    settings: Settings, authorise: Authorise | None = None, limits: Limits | None = None, clock: Callable[[], float] = time.time
) -> Starlette:
    """The app for these settings."""
    if authorise is None:
        settings.require_gateway_token()
    limits = limits or Limits()
    running, keys = Running(settings), Keys(settings, clock)
    lasting = Lasting(keys, asks_again=authorise is not None)
    wrong_tokens = Rate(limits.wrong_tokens_a_minute / 60, limits.wrong_tokens_a_minute, limits.loopback_too)
    requests = Rate(limits.requests_a_second, limits.burst, limits.loopback_too)

    @asynccontextmanager
    async def life(_app: Starlette) -> AsyncIterator[None]:
        await running.services()
        try:
            yield
        finally:
            await running.close()

    built = Starlette(
        routes=routes(),
        middleware=[
            Middleware(Shield),
            Middleware(RequestBounds, requests),
            Middleware(Access, Addresses(settings), keys, lasting, wrong_tokens, authorise is not None),
        ],
        exception_handlers={HTTPException: refused, BatchNotFound: not_found},
        lifespan=life,
    )
    built.router.redirect_slashes = False  # a redirect would leave the prefix, or lead to another host for `//host/`
    state = {
        "running": running, "files": page.load_files(), "authorise": authorise, "limits": limits,
        "keys": keys, "lasting": lasting, "wrong_tokens": wrong_tokens, "unfinished": set(),
    }  # fmt: skip
    for name, value in state.items():
        setattr(built.state, name, value)
    return built


def routes() -> list[BaseRoute]:
    """All routes."""
    return [Route("/healthz", show_health), *page.ROUTES, *(route for part in PARTS for route in part.ROUTES)]


PARTS = (api, actions, dead_letters, workers, session_api, live)


async def show_health(_request: Request) -> Response:
    """That this process answers, and nothing else."""
    return PlainTextResponse("ok")
