"""The REST API for workers and the queue: who is there, what each is at, and how much waits."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import Response

from streamworker.broker.inspection import Backlog, Reader
from streamworker.gateway import parameters
from streamworker.gateway.answers import reply
from streamworker.gateway.endpoints import route, services_of
from streamworker.gateway.rights import only_allowed, require
from streamworker.gateway.services import Services
from streamworker.messages import ItemEvent

LONG_GONE = 3600.0  # seconds without a word, after which a reader with nothing in hand is left out


async def list_workers(request: Request) -> Response:
    """Workers, by what Redis knows of readers and Postgres of leases; with Redis away those that hold a batch."""
    parameters.query_parameters(request, ())
    await require(request, None)
    services = await services_of(request)
    held: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for lease in await only_allowed(request, await services.leases.get(), lambda lease: lease["id"]):
        held[lease["worker"]].append(_held(lease, services.chronicle.in_flight(str(lease["id"]))))
    known = await _readers(services)
    seen = {reader.name: reader for reader in known or () if reader.idle_seconds < LONG_GONE or reader.pending or reader.name in held}
    workers = [
        {
            "worker": name,
            "idle_seconds": seen[name].idle_seconds if name in seen else None,
            "pending": seen[name].pending if name in seen else None,
            "batches": held.get(name, []),
        }
        for name in sorted(seen.keys() | held.keys())
    ]
    return reply({"workers": workers, "redis": known is not None})


async def show_queue(request: Request) -> Response:
    """The lengths of the streams; without numbers while Redis is away."""
    parameters.query_parameters(request, ())
    await require(request, None)
    services = await services_of(request)
    settings = services.settings
    try:
        now = await services.backlog.get()
    except (RedisError, OSError):
        return reply({"stream": settings.stream, **Backlog().numbers(), "redis": False})
    return reply({"stream": settings.stream, **now.numbers(), "redis": True})


async def _readers(services: Services) -> list[Reader] | None:
    try:
        return await services.readers.get()
    except (RedisError, OSError):
        return None


def _held(lease: Any, current: list[ItemEvent]) -> dict[str, Any]:
    return {
        "batch_id": str(lease["id"]),
        "lease_expires_at": lease["lease_expires_at"],
        "lease_seconds": round(lease["lease_seconds"], 1),
        "total": lease["total"],
        "processed": lease["processed"],
        "failed": lease["failed"],
        "current": current,
    }


ROUTES = (
    route("/api/workers", list_workers),
    route("/api/queue", show_queue),
)
