"""The REST API for batches: pages of them, one of them, its items, and what one may do to it."""

from __future__ import annotations

import base64
import binascii
import re

from starlette.requests import Request
from starlette.responses import Response

from streamworker.gateway import parameters
from streamworker.gateway.answers import Refusal, reply
from streamworker.gateway.endpoints import route, services_of
from streamworker.gateway.rights import only_allowed, require
from streamworker.store import browsing, catalog

_PICTURE = re.compile(r"data:(image/(?:jpeg|png|webp));base64,([A-Za-z0-9+/]+={0,2})")


async def list_batches(request: Request) -> Response:
    """A page of batches, the newest first."""
    given = parameters.query_parameters(request, ("status", "limit", "before"))
    status, limit = parameters.status(given.get("status")), parameters.limit_of(given)
    before = parameters.place(given["before"], "before") if "before" in given else None
    await require(request, None)
    services = await services_of(request)
    batches, following = await browsing.page_batches(services.pool, status, limit, before)
    allowed = await only_allowed(request, batches, lambda batch: batch.id)
    return reply({"batches": allowed, "next": following and parameters.named_place(*following)})


async def show_batch(request: Request) -> Response:
    """One batch."""
    parameters.query_parameters(request, ())
    batch_id = parameters.batch_id(request.path_params["id"])
    await require(request, batch_id)
    services = await services_of(request)
    return reply(await catalog.read_batch(services.pool, batch_id))


async def list_items(request: Request) -> Response:
    """A page of a batch's items, in order."""
    given = parameters.query_parameters(request, ("status", "limit", "after"))
    batch_id, status, limit = (
        parameters.batch_id(request.path_params["id"]),
        parameters.status(given.get("status")),
        parameters.limit_of(given),
    )
    after = parameters.whole("after", given.get("after"), 0, parameters.LARGEST_POSITION, -1)
    await require(request, batch_id)
    services = await services_of(request)
    items, following = await browsing.page_items(services.pool, batch_id, status, after, limit)
    return reply({"items": items, "next": following})


async def show_item(request: Request) -> Response:
    """One item in full."""
    parameters.query_parameters(request, ())
    batch_id, position = parameters.batch_id(request.path_params["id"]), parameters.position(request.path_params["position"])
    await require(request, batch_id)
    services = await services_of(request)
    item = await browsing.read_item(services.pool, batch_id, position)
    if item is None:
        raise Refusal(404, f"batch {batch_id}: there is no item at position {position}")
    return reply(item)


async def show_thumbnail(request: Request) -> Response:
    """The picture in an item's result."""
    parameters.query_parameters(request, ())
    batch_id, position = parameters.batch_id(request.path_params["id"]), parameters.position(request.path_params["position"])
    await require(request, batch_id)
    services = await services_of(request)
    match = _PICTURE.fullmatch(await browsing.read_thumbnail(services.pool, batch_id, position) or "")
    try:
        picture = base64.b64decode(match[2], validate=True) if match else b""
    except binascii.Error:
        picture = b""
    if match is None or not picture:
        raise Refusal(404, f"batch {batch_id}: there is no thumbnail (JPEG, PNG or WebP) at position {position}")
    return Response(picture, media_type=match[1], headers={"Cache-Control": "private, max-age=60"})


async def list_failures(request: Request) -> Response:
    """Failed items, grouped by their error."""
    parameters.query_parameters(request, ())
    batch_id = parameters.batch_id(request.path_params["id"])
    await require(request, batch_id)
    services = await services_of(request)
    groups = await browsing.group_failures(services.pool, batch_id)
    return reply({"groups": groups})


async def show_history(request: Request) -> Response:
    """How a batch got on, as far as this gateway has seen it."""
    parameters.query_parameters(request, ())
    batch_id = parameters.batch_id(request.path_params["id"])
    await require(request, batch_id)
    services = await services_of(request)
    samples = services.chronicle.samples(str(batch_id))
    if not samples:
        await catalog.read_batch(services.pool, batch_id)  # 404 where there is none
    return reply({"samples": samples})


ROUTES = (
    route("/api/batches", list_batches),
    route("/api/batches/{id}", show_batch),
    route("/api/batches/{id}/items", list_items),
    route("/api/batches/{id}/items/{position}", show_item),
    route("/api/batches/{id}/items/{position}/thumbnail", show_thumbnail),
    route("/api/batches/{id}/failures", list_failures),
    route("/api/batches/{id}/history", show_history),
)
