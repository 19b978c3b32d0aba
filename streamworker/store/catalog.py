"""What there is: batches and items for readers, and the two things a reader may ask for, cancel and retry."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from streamworker.errors import BatchNotFound
from streamworker.messages import from_json
from streamworker.store.pool import LONGEST_STATEMENT, Pool
from streamworker.store.rows import Batch, ItemRow, percent
from streamworker.store.sql import query

STATUSES = ("pending", "processing", "completed", "failed", "cancelled")
FIRST_PAGE, LARGEST_PAGE, PAGE_CHARACTERS = 100, 1000, 4 * 1024 * 1024


async def read_batch(pool: Pool, batch_id: UUID) -> Batch:
    """The batch as it is now; BatchNotFound when there is none."""
    row = await pool.fetchrow(query("select_batch"), batch_id)
    if row is None:
        raise not_found(batch_id)
    return batch_row(row)


async def list_batches(pool: Pool, status: str | None, limit: int) -> list[Batch]:
    """The newest batches first, at most `limit`, of one status or of all."""
    _check_status(status)
    if not 1 <= limit <= 2**31 - 1:
        raise ValueError(f"limit: expected a whole number from 1, got {limit}")
    return [batch_row(row) for row in await pool.fetch(query("list_batches"), status, limit)]


async def read_items(pool: Pool, batch_id: UUID, status: str | None) -> AsyncGenerator[ItemRow, None]:
    """The items in order of position, page by page: the memory is a page's, whatever the batch."""
    _check_status(status)
    position, limit = -1, FIRST_PAGE
    while rows := await pool.fetch(query("page_items"), batch_id, position, status, limit):
        for row in rows:
            yield _item(row)
        position, limit = rows[-1]["position"], _next_limit(rows)
    if position < 0 and not await pool.fetchval(query("batch_exists"), batch_id):
        raise not_found(batch_id)


async def open_positions(pool: Pool, batch_id: UUID, positions: Sequence[int]) -> set[int]:
    """Those of the positions whose items have not ended."""
    return {row["position"] for row in await pool.fetch(query("open_positions"), batch_id, positions)}


async def cancel(pool: Pool, batch_id: UUID, begun: Callable[[], None] = lambda: None) -> bool:
    """Cancel what has not ended; False when the batch had ended already. `begun` is called when Postgres is at work on it."""
    row = await _act(pool, begun, "cancel_batch", batch_id)
    return bool(_known(row, batch_id)["cancelled"])


async def retry(pool: Pool, batch_id: UUID, position: int | None = None, begun: Callable[[], None] = lambda: None) -> int:
    """Put failed and cancelled items of an ended batch back to pending, all or the one at `position`; returns how many."""
    if position is None:
        row = await _act(pool, begun, "retry_batch", batch_id)
    else:
        row = await _act(pool, begun, "retry_item", batch_id, position)
    return int(_known(row, batch_id)["reopened"])


async def _act(pool: Pool, begun: Callable[[], None], name: str, *arguments: Any) -> asyncpg.Record | None:
    """Change a batch of any size in one statement, within the time that this takes; Postgres ends it also where nobody waits any more."""
    async with pool.acquire() as connection:
        await connection.execute(query("take_time"), False)
        begun()
        try:
            return await connection.fetchrow(query(name), *arguments, timeout=LONGEST_STATEMENT)
        finally:
            await connection.execute("RESET statement_timeout")


async def notify(pool: Pool) -> None:
    """Wake a worker through Postgres."""
    await pool.execute(query("notify_submit"))


def not_found(batch_id: UUID) -> BatchNotFound:
    """The error for an id that no batch has."""
    return BatchNotFound(f"batch {batch_id}: there is no batch with this id")


def _known(row: asyncpg.Record | None, batch_id: UUID) -> asyncpg.Record:
    if row is None or not row["known"]:
        raise not_found(batch_id)
    return row


def _check_status(status: str | None) -> None:
    if status is not None and status not in STATUSES:
        raise ValueError(f"status: expected one of {', '.join(STATUSES)}, got {status!r}")


def _next_limit(rows: list[asyncpg.Record]) -> int:
    characters = sum(len(row["payload"]) + len(row["result"] or "") + len(row["checkpoint"] or "") for row in rows)
    return max(1, min(LARGEST_PAGE, PAGE_CHARACTERS * len(rows) // max(characters, 1)))


def batch_row(row: asyncpg.Record) -> Batch:
    """A row of `batches` as readers get it."""
    columns: dict[str, Any] = dict(row)
    columns["id"] = UUID(int=row["id"].int)
    columns["metadata"] = from_json(row["metadata"])
    return Batch(percent=percent(row["processed"], row["total"]), **columns)


def _item(row: asyncpg.Record) -> ItemRow:
    columns: dict[str, Any] = dict(row)
    for name in ("payload", "result", "checkpoint"):
        columns[name] = from_json(row[name])
    return ItemRow(**columns)
