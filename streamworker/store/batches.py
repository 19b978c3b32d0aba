"""The batch row: who may write on it, and how it ends. Each function runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import msgspec
from asyncpg.pool import PoolConnectionProxy

from streamworker.messages import TERMINAL
from streamworker.store.pool import LONGEST_STATEMENT
from streamworker.store.sql import query

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

MAX_DEATHS = 5
DIED = "worker died while processing"


class BatchState(msgspec.Struct, frozen=True):
    """What a progress event tells of a batch."""

    id: UUID
    status: str
    total: int
    succeeded: int
    failed: int
    revision: int
    epoch: int
    worker: str | None
    error: str | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """Who asks for a batch, and on which terms (seconds). A negative `number` says that no session lock is held.

    `width` items may start without another commit.
    """

    worker: str
    number: int
    entry_id: str | None
    lease_ttl: float
    batch_timeout: float
    width: int = 1


@dataclass(frozen=True, slots=True)
class ChargedItem:
    """An item that was in flight when its worker died."""

    position: int
    key: str
    status: str
    attempts: int


class Acquired(msgspec.Struct, frozen=True):
    """The batch is ours under `state.epoch`, until the lease ends."""

    state: BatchState
    processor: str | None
    metadata: str
    max_attempts: int
    max_failures: int | None
    frontier: int
    careful_until: int
    seconds_left: float
    taken_from: str | None
    declared_total: int
    charged: list[ChargedItem] = []
    outage: float | None = None  # seconds since it was first paused, where nothing got through since
    was_paused: bool = False  # some of its items may have met an outage


class Ended(msgspec.Struct, frozen=True):
    """The batch is terminal: its end is announced again, nothing runs.

    `fresh` if it was ended just now, as hopeless, and `charged` what was charged before that.
    """

    state: BatchState
    fresh: bool = False
    charged: Sequence[ChargedItem] = ()


@dataclass(frozen=True, slots=True)
class Foreign:
    """A live worker owns the batch, for `seconds` more unless it renews; `entry_id` is the entry that stands for it."""

    worker: str
    number: int
    entry_id: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Paused:
    """What the batch's processor needs is away: nobody may take the batch for so many seconds."""

    seconds: float
    processor: str | None


@dataclass(frozen=True, slots=True)
class Missing:
    """Postgres knows no such batch (yet)."""


async def acquire(connection: Connection, batch_id: UUID, claim: Claim) -> Acquired | Ended | Foreign | Missing | Paused:
    """Take the batch if it is free, its lease has expired, or its owner's session is dead."""
    row = await connection.fetchrow(query("lock_batch"), batch_id)
    if row is None:
        return Missing()
    if row["status"] in TERMINAL:
        return Ended(state_of(batch_id, row))
    if (row["pause_seconds"] or 0.0) > 0:
        return Paused(row["pause_seconds"], row["processor"])
    if row["worker"] is not None and row["worker_number"] != claim.number and await _owner_lives(connection, row):
        return Foreign(row["worker"], row["worker_number"] or 0, row["entry_id"], row["lease_seconds"])
    charged, careful_until, deaths = await _settle_suspects(connection, batch_id, row, claim)
    items = await connection.fetchrow(query("count_items"), batch_id)
    assert items is not None
    if charged:
        deaths = 0  # an attempt is used up: that is progress, and max_attempts bounds it
    if complaint := _hopeless(row, items, deaths, claim):
        await connection.fetchrow(query("correct_counters"), batch_id)  # an item may have been charged just now
        return Ended(await fail(connection, batch_id, complaint, claim.worker), fresh=True, charged=charged)
    return await _claim(connection, batch_id, row, items, claim, charged, careful_until, deaths)


async def _owner_lives(connection: Connection, row: asyncpg.Record) -> bool:
    if not row["lease_live"]:
        return False
    number = row["worker_number"]
    return not (number is not None and number > 0 and await connection.fetchval(query("owner_is_dead"), number))


async def _settle_suspects(connection: Connection, batch_id: UUID, row: asyncpg.Record, claim: Claim) -> tuple[list[ChargedItem], int, int]:
    """Find what the last owner had in flight; returns the charged items, and the new careful_until and deaths."""
    careful_until, deaths = row["careful_until"], row["deaths"]
    if row["worker"] is None:
        return [], careful_until, deaths  # released cleanly: nobody is a suspect
    died = row["worker_number"] != claim.number
    suspects = await connection.fetch(query("find_suspects"), batch_id, row["frontier"])
    once_only = row["max_attempts"] == 1
    if once_only or (died and len(suspects) == 1 and not row["together"]):
        charged = [_charge(suspect, row["max_attempts"]) for suspect in suspects]
        await _write_charges(connection, batch_id, charged)
    else:
        charged = []
        await connection.execute(query("unmark_retries"), batch_id)
        if died and suspects:
            careful_until = max(careful_until, suspects[-1]["position"] + 1)
    return charged, careful_until, deaths + died


def _charge(suspect: asyncpg.Record, max_attempts: int) -> ChargedItem:
    attempts = suspect["attempts"] if suspect["status"] == "processing" else 1
    return ChargedItem(suspect["position"], suspect["key"], "failed" if attempts >= max_attempts else "pending", attempts)


async def _write_charges(connection: Connection, batch_id: UUID, charged: list[ChargedItem]) -> None:
    await connection.execute(
        query("charge_suspects"),
        batch_id,
        [item.position for item in charged],
        [item.attempts for item in charged],
        [item.status for item in charged],
        DIED,
    )


def _hopeless(row: asyncpg.Record, items: asyncpg.Record, deaths: int, claim: Claim) -> str | None:
    if items["total"] == 0:
        return "the batch has no items"
    if deaths > MAX_DEATHS:
        return f"no progress after {MAX_DEATHS} worker deaths"
    if row["age_seconds"] is not None and row["age_seconds"] > claim.batch_timeout:
        return timed_out(claim.batch_timeout)
    return too_many_failures(items["failed"], row["max_failures"])


def timed_out(limit: float) -> str:
    """The error of a batch that ran longer than BATCH_TIMEOUT (seconds)."""
    return f"the batch's time limit of {limit:g} s passed"


def too_many_failures(failed: int, allowed: int | None) -> str | None:
    """The error of a batch with more failed items than `max_failures` allows, else None."""
    if allowed is None or failed <= allowed:
        return None
    return f"{failed} items failed, more than max_failures allows ({allowed})"


async def _claim(
    connection: Connection,
    batch_id: UUID,
    row: asyncpg.Record,
    items: asyncpg.Record,
    claim: Claim,
    charged: list[ChargedItem],
    careful_until: int,
    deaths: int,
) -> Acquired:
    first_open = items["total"] if items["first_open"] is None else items["first_open"]
    frontier = first_open + (min(1, claim.width) if first_open < careful_until else claim.width)
    claimed = await connection.fetchrow(
        query("claim_batch"), batch_id, claim.worker, claim.number, claim.lease_ttl, claim.entry_id,
        items["total"], items["succeeded"], items["failed"], frontier, careful_until, deaths,
    )  # fmt: skip
    assert claimed is not None
    was_paused = row["pauses"] > 0
    if was_paused and row["status"] == "pending":  # a retry begins anew
        await connection.execute(query("forget_outages"), batch_id)
        was_paused = False
    state = BatchState(
        batch_id, "processing", items["total"], items["succeeded"], items["failed"],
        claimed["revision"], claimed["epoch"], claim.worker, None, claimed["updated_at"],
    )  # fmt: skip
    return Acquired(
        state,
        row["processor"],
        row["metadata"],
        row["max_attempts"],
        row["max_failures"],
        frontier,
        careful_until,
        seconds_left=claim.batch_timeout - (row["age_seconds"] or 0.0),
        taken_from=row["worker"],
        declared_total=row["total"],
        charged=charged,
        outage=row["outage_seconds"],
        was_paused=was_paused,
    )


async def fail(connection: Connection, batch_id: UUID, error: str, taken_by: str | None = None) -> BatchState:
    """End an open batch as failed; what did not finish is cancelled. The caller holds the row's lock.

    `taken_by` is a worker that ends what another one owned: a take-over, with an epoch of its own.
    """
    row = await connection.fetchrow(query("fail_batch"), batch_id, error, taken_by)
    assert row is not None
    await connection.execute(query("take_time"), True)
    await connection.execute(query("cancel_open_items"), batch_id, timeout=LONGEST_STATEMENT)
    fresh = await read_state(connection, batch_id)
    assert fresh is not None
    return fresh


async def fail_epoch(connection: Connection, batch_id: UUID, epoch: int, error: str) -> BatchState | None:
    """End our own batch as failed; None when it is ours no longer."""
    if await connection.fetchval(query("lock_epoch"), batch_id, epoch) is None:
        return None
    return await fail(connection, batch_id, error)


async def release(connection: Connection, batch_id: UUID, epoch: int) -> BatchState | None:
    """Hand the batch over cleanly: no attempt is charged to anybody. None when it was ours no longer."""
    row = await connection.fetchrow(query("release_batch"), batch_id, epoch)
    if row is None:
        return None
    await connection.execute(query("unmark_retries"), batch_id)
    return BatchState(
        batch_id, "processing", row["total"], row["succeeded"], row["failed"], row["revision"], epoch, None, None, row["updated_at"]
    )


async def read_state(connection: Connection, batch_id: UUID) -> BatchState | None:
    """What Postgres says of the batch now, or None."""
    row = await connection.fetchrow(query("read_fence"), batch_id)
    return None if row is None else state_of(batch_id, row)


async def is_current(connection: Connection, state: BatchState) -> bool:
    """Whether the batch is still exactly as `state` says: the same owner's, and nothing written since."""
    now = await read_state(connection, state.id)
    return now is not None and (now.epoch, now.revision, now.status) == (state.epoch, state.revision, state.status)


def state_of(batch_id: UUID, row: Any) -> BatchState:
    """The state that a row tells."""
    return BatchState(
        batch_id, row["status"], row["total"], row["succeeded"], row["failed"],
        row["revision"], row["epoch"], row["worker"], row["error"], row["updated_at"],
    )  # fmt: skip
