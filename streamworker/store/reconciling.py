"""What Postgres knows and the stream perhaps does not: open batches that nobody works on, ends that nobody announced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from streamworker.store.batches import BatchState, Connection
from streamworker.store.sql import query

RECONCILER_LOCK = (0x5357, 2)


@dataclass(frozen=True, slots=True)
class Undispatched:
    """An open batch without an owner; `entry_id` is the stream entry that should stand for it."""

    batch_id: UUID
    entry_id: str | None
    created_at: datetime


BEGINNING = Undispatched(UUID(int=0), None, datetime(1970, 1, 1, tzinfo=UTC))


async def find_undispatched(connection: Connection, after: Undispatched, limit: int) -> list[Undispatched]:
    """The next open batches without an owner, oldest first."""
    rows = await connection.fetch(query("find_undispatched"), after.created_at, after.batch_id, limit)
    return [Undispatched(row["id"], row["entry_id"], row["created_at"]) for row in rows]


async def find_unregistered(connection: Connection, limit: int) -> list[Undispatched]:
    """The oldest open batches that were never put on the stream."""
    rows = await connection.fetch(query("find_unregistered"), limit)
    return [Undispatched(row["id"], row["entry_id"], row["created_at"]) for row in rows]


async def find_unlocked(connection: Connection, batch_ids: Sequence[UUID]) -> set[UUID]:
    """Those of the batches whose row nobody holds just now."""
    return {row["id"] for row in await connection.fetch(query("find_unlocked"), batch_ids)}


async def register_entry(connection: Connection, batch_id: UUID, before: str | None, entry_id: str) -> bool:
    """Let a new stream entry stand for the batch; False when somebody was faster, or the batch has ended."""
    return await connection.fetchval(query("register_entry"), batch_id, before, entry_id) is not None


async def find_unannounced(connection: Connection, limit: int) -> list[BatchState]:
    """Batches that have ended and whose terminal event was perhaps never published."""
    rows = await connection.fetch(query("find_unannounced"), limit)
    return [
        BatchState(
            row["id"], row["status"], row["total"], row["succeeded"], row["failed"],
            row["revision"], row["epoch"], row["worker"], row["error"], row["updated_at"],
        )
        for row in rows
    ]  # fmt: skip


async def mark_announced(connection: Connection, states: Sequence[BatchState]) -> None:
    """The terminal events of these states are published."""
    await connection.execute(query("mark_announced"), [state.id for state in states], [state.revision for state in states])


async def existing(connection: Connection, batch_ids: Sequence[UUID]) -> set[UUID]:
    """Those of `batch_ids` that Postgres knows."""
    return {row["id"] for row in await connection.fetch(query("existing_batches"), batch_ids)}
