"""The user's own say in who may see a batch: the hook of a mounted gateway, asked for each batch on every route."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar
from uuid import UUID

from starlette.requests import HTTPConnection

from streamworker.gateway.answers import Refusal

Authorise = Callable[[Any, UUID | None], bool | Awaitable[bool]]
Row = TypeVar("Row")
AT_ONCE = 50


async def is_allowed(connection: HTTPConnection, batch_id: UUID | str | None) -> bool:
    """Whether this client may see, and by its role change, this batch; None stands for what belongs to no single one."""
    authorise: Authorise | None = connection.app.state.authorise
    if authorise is None:
        return True
    verdict = authorise(connection, UUID(batch_id) if isinstance(batch_id, str) else batch_id)
    return bool(await verdict if inspect.isawaitable(verdict) else verdict)


async def require(connection: HTTPConnection, batch_id: UUID | None) -> None:
    """Refuse who may not; the same for a batch that is not there, so that nobody learns which are."""
    if not await is_allowed(connection, batch_id):
        raise Refusal(403, "not allowed" if batch_id is None else f"batch {batch_id}: not allowed")


async def only_allowed(connection: HTTPConnection, rows: list[Row], id_of: Callable[[Row], UUID | str]) -> list[Row]:
    """Those rows whose batch this client may see."""
    kept: list[Row] = []
    for group in groups(rows):
        verdicts = await asyncio.gather(*(is_allowed(connection, id_of(row)) for row in group))
        kept += [row for row, allowed in zip(group, verdicts, strict=True) if allowed]
    return kept


def groups(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """The rows in portions of which the hook is asked at once: it may well ask a server itself."""
    return (rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE))
