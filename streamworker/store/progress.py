"""Batches in the form of progress events: what a reader of the progress stream compares it with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

import asyncpg

from streamworker.messages import ItemEvent, ProgressEvent, timestamp
from streamworker.store.batches import Connection
from streamworker.store.catalog import not_found
from streamworker.store.pool import Pool
from streamworker.store.rows import percent
from streamworker.store.sql import query


async def read_snapshot(pool: Pool, batch_id: UUID) -> ProgressEvent:
    """The present state of one, without items; BatchNotFound when there is none."""
    row = await pool.fetchrow(query("snapshot_batches"), [batch_id])
    if row is None:
        raise not_found(batch_id)
    return _event(row)


async def read_snapshots(pool: Pool, ids: Sequence[UUID]) -> dict[str, ProgressEvent]:
    """The present state of those batches that are there; the items are those in flight, at most 100 a batch."""
    found = {str(row["id"]): _event(row) for row in await pool.fetch(query("snapshot_batches"), ids)}
    if any(event.status == "processing" for event in found.values()):
        for row in await pool.fetch(query("items_in_flight"), ids):
            item = ItemEvent(row["position"], row["key"], "processing", row["attempt"])
            if (event := found.get(str(row["batch_id"]))) is not None:
                event.items.append(item)
    return found


async def read_moved(pool: Pool, known: Mapping[str, int]) -> dict[str, ProgressEvent | None]:
    """Of the batches known at a revision, those that are at another one in Postgres; None for a batch that is no more."""
    rows = await pool.fetch(query("moved_batches"), [UUID(id) for id in known], list(known.values()))
    return {str(row["known_id"]): None if row["id"] is None else _event(row) for row in rows}


async def read_overview(pool: Pool, newest: int, open: int) -> list[ProgressEvent]:
    """The newest batches and the oldest open ones, at most so many of each, the newest first."""
    return [_event(row) for row in await pool.fetch(query("overview_batches"), newest, open)]


async def read_cut_off(connection: Connection, batch_id: UUID, width: int, most: int) -> list[ItemEvent]:
    """What the end of this batch has cancelled, at most so many items: what was under way, within so many positions, comes first."""
    return [
        ItemEvent(row["position"], row["key"], row["status"], row["attempts"], error=row["error"])
        for row in await connection.fetch(query("items_cut_off"), batch_id, width, most)
    ]


def _event(row: asyncpg.Record) -> ProgressEvent:
    return ProgressEvent(
        v=1,
        batch_id=str(row["id"]),
        revision=row["revision"],
        at=timestamp(row["updated_at"]),
        status=row["status"],
        total=row["total"],
        processed=row["processed"],
        succeeded=row["succeeded"],
        failed=row["failed"],
        percent=percent(row["processed"], row["total"]),
        eta_seconds=row["eta_seconds"],
        worker=row["worker"],
        epoch=row["epoch"],
        error=row["error"],
        items=[],
    )
