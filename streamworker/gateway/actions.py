"""What an operator may do to a batch: cancel it, run its failures again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from streamworker.gateway import parameters
from streamworker.gateway.access import note
from streamworker.gateway.answers import reply
from streamworker.gateway.bodies import Nothing, Retry, read_object
from streamworker.gateway.endpoints import ANSWER_SECONDS, keep, route, services_of
from streamworker.gateway.rights import require
from streamworker.messages import TERMINAL
from streamworker.store import catalog
from streamworker.store.pool import Pool

log = logging.getLogger("streamworker.gateway")

LONGEST_WAIT = ANSWER_SECONDS - 2
AT_WORK = "the batch is large: Postgres is still at work on it, and goes on by itself"


async def cancel_batch(request: Request) -> Response:
    """No further item starts, the one in flight is interrupted."""
    batch_id = await _target(request)
    await read_object(request, Nothing)
    services = await services_of(request)

    async def cancel(begun: Callable[[], None]) -> Response:
        cancelled = await catalog.cancel(services.pool, batch_id, begun)
        if cancelled:
            services.hub.look_again(str(batch_id))
            note(request, "batch cancelled", batch_id=str(batch_id))
        return reply({"cancelled": cancelled})

    return await _answer_soon(request, cancel)


async def retry_batch(request: Request) -> Response:
    """Failed and cancelled items of an ended batch run again, all or one."""
    batch_id = await _target(request)
    wanted = await read_object(request, Retry)
    services = await services_of(request)

    async def retry(begun: Callable[[], None]) -> Response:
        retried = await catalog.retry(services.pool, batch_id, wanted.position, begun)
        if retried:
            services.hub.look_again(str(batch_id))
            note(request, "items put back to pending", batch_id=str(batch_id), items=retried)
            return reply({"retried": retried})
        return reply({"retried": 0, "reason": await _why_not(services.pool, batch_id, wanted.position)})

    return await _answer_soon(request, retry)


async def _answer_soon(request: Request, action: Callable[[Callable[[], None]], Coroutine[Any, Any, Response]]) -> Response:
    """What the action answers; or 202 where Postgres is at work on it for long: that goes on by itself."""
    begun = asyncio.Event()
    acting = keep(request, action(begun.set))
    done, _ = await asyncio.wait([acting], timeout=LONGEST_WAIT)
    if not done and begun.is_set():
        acting.add_done_callback(_tell_failure)
        return reply({"at_work": AT_WORK}, 202)
    return await asyncio.shield(acting)


def _tell_failure(acting: asyncio.Future[Response]) -> None:
    """Nobody waits for the answer any more."""
    if not acting.cancelled() and (error := acting.exception()) is not None:
        log.error("an action that was begun has failed: %s", error)


async def _why_not(pool: Pool, batch_id: UUID, position: int | None) -> str:
    batch = await catalog.read_batch(pool, batch_id)
    if batch.status not in TERMINAL:
        return f"batch {batch_id} is {batch.status}: what failed can be retried once it has ended"
    if position is not None and batch.max_failures is not None and batch.failed > batch.max_failures + 1:
        return f"{batch.failed} items failed, more than max_failures allows ({batch.max_failures}): retry all of them"
    return f"there is nothing to retry{'' if position is None else f' at position {position}'}: nothing failed or was cancelled"


async def _target(request: Request) -> UUID:
    parameters.query_parameters(request, ())
    batch_id = parameters.batch_id(request.path_params["id"])
    await require(request, batch_id)
    return batch_id


ROUTES = (
    route("/api/batches/{id}/cancel", cancel_batch, "POST"),
    route("/api/batches/{id}/retry", retry_batch, "POST"),
)
