"""What the clients of both live endpoints ask for in their URL, and who decides whether they may."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from starlette.requests import HTTPConnection

from streamworker.gateway.frames import ALL
from streamworker.gateway.resume import Since, read_since

MOST_BATCHES = 100
PARAMETERS = ("batch_id", "batch", "since")

# May this client see this batch, or the list of those it may see (None)? Where there is no such question, everybody may see all.
Allowed = Callable[[HTTPConnection, str | None], Awaitable[bool]] | None
# Extensions of the ASGI scope by our own server: to cut a connection, and to write a WebSocket's frame without waiting.
ABORT, DIRECT = "streamworker.abort", "streamworker.direct"


@dataclass(frozen=True, slots=True)
class Asked:
    """Batches by id or `*`, and from where on."""

    ids: list[str]
    since: Since | None


def read_query(connection: HTTPConnection) -> Asked:
    """Read the URL's query; ValueError says what was expected."""
    ids: list[str] = []
    sinces: list[str] = []
    for name, value in connection.query_params.multi_items():
        if name not in PARAMETERS:
            raise ValueError(f"parameter {shown(name)}: unknown; expected only batch_id and since")
        if name == "since":
            sinces.append(value)
        elif (id := read_batch_id(value)) not in ids:
            ids.append(id)
    if len(sinces) > 1:
        raise ValueError("since: expected once, got it twice")
    if len(ids) > MOST_BATCHES:
        raise ValueError(f"batch_id: expected at most {MOST_BATCHES} of them, got {len(ids)}")
    return Asked(ids, read_since(sinces[0]) if sinces else None)


def read_batch_id(text: str) -> str:
    """A batch id in the form in which events carry it, or `*`; ValueError says what was expected."""
    if text == ALL:
        return ALL
    try:
        if len(text) not in (32, 36):
            raise ValueError
        return str(UUID(text))
    except ValueError:
        raise ValueError(f"batch_id: expected a UUID, or * for all batches, got {shown(text)}") from None


def shown(text: str) -> str:
    """A value in a sentence: quoted, on one line, short."""
    return ascii(text if len(text) <= 60 else text[:60] + "...")


async def may_see(connection: HTTPConnection, allowed: Allowed, id: str) -> bool:
    """Whether this client may see a batch, or watch all (`*`)."""
    return allowed is None or await allowed(connection, None if id == ALL else id)


def asker(connection: HTTPConnection, allowed: Allowed) -> Callable[[str], Awaitable[bool]] | None:
    """What an outbox asks before it tells of a batch that nobody asked for by its id."""
    return None if allowed is None else lambda id: may_see(connection, allowed, id)
