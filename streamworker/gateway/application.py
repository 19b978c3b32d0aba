"""The ASGI app: its routes, what surrounds them, and its life."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from streamworker.errors import BatchNotFound
from streamworker.gateway import api, page
from streamworker.gateway.answers import not_found, refused
from streamworker.gateway.services import Running
from streamworker.settings import Settings


def app(redis_url: str | None = None, database_url: str | None = None, *, settings: Settings | None = None) -> Starlette:
    """The gateway as an ASGI app, to be served as it is or mounted in another one."""
    return build(settings or Settings.load())


def build(settings: Settings) -> Starlette:
    """The app for these settings."""
    running = Running(settings)

    @asynccontextmanager
    async def life(_app: Starlette) -> AsyncIterator[None]:
        await running.services()
        try:
            yield
        finally:
            await running.close()

    built = Starlette(
        routes=[*page.ROUTES, *api.ROUTES, Route("/healthz", show_health)],
        exception_handlers={HTTPException: refused, BatchNotFound: not_found},
        lifespan=life,
    )
    built.router.redirect_slashes = False  # a redirect would leave the prefix, or lead to another host for `//host/`
    built.state.running, built.state.files = running, page.load_files()
    return built


async def show_health(_request: Request) -> Response:
    """That this process answers, and nothing else."""
    return PlainTextResponse("ok")
