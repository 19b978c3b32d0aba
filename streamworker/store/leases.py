"""Keeping leases alive, and the session lock that shows whether their owner lives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias
from uuid import UUID

import asyncpg

from streamworker.store.sql import query

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def lock_session(connection: Connection, key: int) -> bool:
    """Take the session lock `key` for as long as this connection lives.

    False behind a pooler that shares server sessions between clients: a lock would belong to nobody there.
    """
    if await connection.fetchval("SELECT pg_backend_pid()") != connection.get_server_pid():
        return False
    await connection.execute("SELECT pg_advisory_lock($1)", key)
    return True


async def renew(connection: Connection, held: Sequence[tuple[UUID, int]], ttl: float, number: int) -> list[UUID]:
    """Renew the leases on (batch, epoch) pairs; returns the batches on which it still held."""
    ids, epochs = zip(*held, strict=True)
    rows = await connection.fetch(query("renew_leases"), ids, epochs, ttl, number)
    return [row["id"] for row in rows]


async def check(connection: Connection, batch_ids: Sequence[UUID]) -> dict[UUID, tuple[int, str]]:
    """(epoch, status) of each batch that exists."""
    rows = await connection.fetch(query("check_leases"), batch_ids)
    return {row["id"]: (row["epoch"], row["status"]) for row in rows}


async def try_lock(connection: Connection, keys: tuple[int, int]) -> bool:
    """Try to take a session lock that one worker at a time holds."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", *keys))


async def end_when_silent(connection: Connection, seconds: float) -> None:
    """Have Postgres end this session, and with it its locks, when nothing is asked of it for so long: its process stands still."""
    await connection.execute("SELECT set_config('idle_session_timeout', $1, false)", str(round(seconds * 1000)))


async def lock_to_end_of(connection: Connection, batch_id: UUID, epoch: int) -> tuple[int, int] | None:
    """Lock the batch row in the caller's transaction; returns (revision, frontier), or None when the epoch is no longer ours."""
    row = await connection.fetchrow(query("lock_epoch"), batch_id, epoch)
    return None if row is None else (row["revision"], row["frontier"])
