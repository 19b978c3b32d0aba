"""How every route of the API runs: within a time, whatever the servers do."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route

from streamworker.gateway.services import Services

Endpoint = Callable[[Request], Awaitable[Response]]
ANSWER_SECONDS = 12.0


def route(path: str, endpoint: Endpoint, *methods: str) -> Route:
    """A route of the API; GET and HEAD unless methods are named."""
    return Route(path, _in_time(endpoint), methods=methods or ("GET",))


async def services_of(request: HTTPConnection) -> Services:
    """The services of the app that this request came to."""
    services: Services = await request.app.state.running.services()
    return services


def keep(request: HTTPConnection, work: Awaitable[Response]) -> asyncio.Future[Response]:
    """Let the work on an answer go on to its end, whoever waits for it."""
    working = asyncio.ensure_future(work)
    unfinished: set[asyncio.Future[Response]] = request.app.state.unfinished
    unfinished.add(working)
    working.add_done_callback(unfinished.discard)
    working.add_done_callback(_seen)
    return working


def _in_time(endpoint: Endpoint) -> Endpoint:
    @functools.wraps(endpoint)
    async def answer(request: Request) -> Response:
        # Not cancelled when its time is over: giving a connection back waits for a Postgres that does not answer. It ends by
        # itself, its own waits are bounded; and an action that was begun is either done or not, but not torn apart.
        working = keep(request, endpoint(request))
        done, _ = await asyncio.wait([working], timeout=ANSWER_SECONDS)
        if not done:
            raise TimeoutError(f"no answer within {ANSWER_SECONDS:g} s")
        return working.result()

    return answer


def _seen(working: asyncio.Future[Response]) -> None:
    if not working.cancelled():
        working.exception()
