"""What a page shows of batches and items: a page at a time, each bounded in rows, bytes and time, however large the batch."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from streamworker.messages import TERMINAL
from streamworker.store.catalog import batch_row, not_found
from streamworker.store.pool import Pool
from streamworker.store.rows import Batch, ItemDetail, ItemLine
from streamworker.store.sql import query

LINE_BYTES = 4096
DETAIL_BYTES = 1_000_000
THUMBNAIL_CHARACTERS = 1_000_000
FAILURES_READ, GROUPS = 10_000, 50
WINDOW = 20_000  # rows looked at in one statement
PATIENCE = 1.0  # seconds that one page may take to find rows of its status
LEASES = 1000
LAST_POSITION = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Failures:
    """Failed items with the same error: how many, and the first positions."""

    error: str
    count: int
    positions: list[int]


Place = tuple[datetime, UUID]


async def page_batches(pool: Pool, status: str | None, limit: int, before: Place | None) -> tuple[list[Batch], Place | None]:
    """The newest batches first, those after a place in that order, and the place to go on from."""
    created_at, batch_id = before or (None, None)
    rows = await pool.fetch(query("page_batches"), status, created_at, batch_id, limit + 1)
    batches = [batch_row(row) for row in rows[:limit]]
    return batches, (batches[-1].created_at, batches[-1].id) if len(rows) > limit else None


async def page_items(pool: Pool, batch_id: UUID, status: str | None, after: int, limit: int) -> tuple[list[ItemLine], int | None]:
    """Items in order from behind `after`, and the position to go on from.

    A page may be short, even empty, and yet not be the last: looking for rare items ends after a second.
    """
    batch = await pool.fetchrow(query("count_of_batch"), batch_id)
    if batch is None:
        raise not_found(batch_id)
    end = await pool.fetchval(query("last_position"), batch_id)
    if end is None or (status is not None and not _may_have(batch, status)):
        return [], None
    statement, window = _scan(status)
    loop, lines = asyncio.get_running_loop(), list[ItemLine]()
    deadline = loop.time() + PATIENCE
    while after < end and len(lines) <= limit and loop.time() < deadline:
        upto = min(after + window, end)
        rows = await pool.fetch(query(statement), batch_id, after, upto, status, limit + 1 - len(lines), LINE_BYTES)
        lines += [_line(row) for row in rows]
        after = upto
    if len(lines) > limit:
        return lines[:limit], lines[limit - 1].position
    return lines, after if after < end else None


def _may_have(batch: asyncpg.Record, status: str) -> bool:
    """Whether the counters leave room for items of this status: often enough no row need be looked at."""
    unfinished = batch["total"] - batch["processed"]
    match status:
        case "completed":
            return bool(batch["succeeded"])
        case "failed":
            return bool(batch["failed"])
        case "cancelled":
            return bool(unfinished)  # an open batch has some where a single item is retried
        case _:
            return batch["status"] not in TERMINAL and bool(unfinished)


def _scan(status: str | None) -> tuple[str, int]:
    """Failed items have an index; for the others the batch is gone through, a window at a time."""
    if status == "failed":
        return "browse_failed_items", LAST_POSITION
    return "browse_items", WINDOW


async def read_item(pool: Pool, batch_id: UUID, position: int) -> ItemDetail | None:
    """One item whole, but for values of more than a million bytes; None when there is none at this position."""
    row = await pool.fetchrow(query("read_item"), batch_id, position, DETAIL_BYTES)
    if row is None:
        if not await pool.fetchval(query("batch_exists"), batch_id):
            raise not_found(batch_id)
        return None
    columns = dict(row)
    sizes = {name: columns.pop(f"{name}_bytes") or 0 for name in ("payload", "result", "checkpoint")}
    columns |= {name: _raw(columns[name]) for name in sizes}
    left_out = {
        name: f"{name}: {size:,} bytes of JSON, more than the {DETAIL_BYTES:,} shown here; `streamworker status ID --items` has it"
        for name, size in sizes.items()
        if size > DETAIL_BYTES
    }
    return ItemDetail(**columns, left_out=left_out)


async def read_thumbnail(pool: Pool, batch_id: UUID, position: int) -> str | None:
    """The text in the result's `thumbnail`, if there is one of a reasonable size."""
    found: str | None = await pool.fetchval(query("read_thumbnail"), batch_id, position, THUMBNAIL_CHARACTERS)
    return found


async def group_failures(pool: Pool, batch_id: UUID) -> list[Failures]:
    """The first 10,000 failed items by their error, the most frequent first, at most 50 groups."""
    rows = await pool.fetch(query("group_failures"), batch_id, FAILURES_READ, GROUPS)
    if not rows and not await pool.fetchval(query("batch_exists"), batch_id):
        raise not_found(batch_id)
    return [Failures(row["error"], row["count"], row["positions"]) for row in rows]


async def list_leases(pool: Pool) -> list[asyncpg.Record]:
    """The batches that workers hold now, the oldest first, at most a thousand."""
    return await pool.fetch(query("list_leases"), LEASES)


def _line(row: asyncpg.Record) -> ItemLine:
    columns = dict(row)
    there = {"payload": True, "result": columns.pop("has_result"), "checkpoint": columns.pop("has_checkpoint")}
    truncated = any(is_there and columns[name] is None for name, is_there in there.items())
    columns |= {name: _raw(columns[name]) for name in there}
    return ItemLine(**columns, truncated=truncated)


def _raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text)
