"""The item rows: loading what is open, recording what has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from asyncpg.transaction import Transaction

from streamworker.errors import LeaseLost
from streamworker.store.batches import BatchState, Connection
from streamworker.store.sql import query

# Of so few rows the index is asked one by one, however far apart they are; of more, all between the first and the last are read.
FEW = 32
WIDEST_SPAN = 5_000
RECORD_FEW = query("record").replace("BETWEEN $14 AND $15", "= ANY ($7) AND $14::int <= $15::int")


class OpenItem(msgspec.Struct, frozen=True):
    """A row that still has work in it; `delay` (seconds) is left of a delayed retry.

    `away_after`: it has met an outage, for the first time when so many items of its batch had succeeded.
    """

    position: int
    key: str
    payload: str
    attempts: int
    checkpoint: str | None
    delay: float
    away_after: int | None = None


class ItemRecord(msgspec.Struct, eq=False):
    """What is to be written on one item row. `delay` and `seconds` (how long it ran) are durations; Postgres adds its clock."""

    position: int
    key: str
    status: str
    attempts: int
    result: str | None = None
    error: str | None = None
    delay: float | None = None
    seconds: float | None = None
    write: Callable[[Any], Awaitable[Any]] | None = None
    progressed: bool = True  # False: only the mark that a retry starts, or that a start is taken back
    away: str | None = None  # why it is taken back: what the processor needs is not there


@dataclass(frozen=True, slots=True)
class Fence:
    """The right to write: one batch, one epoch, one revision. Zero rows under it mean that the lease is lost."""

    batch_id: UUID
    epoch: int
    revision: int


async def load_open(connection: Connection, batch_id: UUID, position: int, limit: int) -> list[OpenItem]:
    """The next open items from `position` on, in order, but for those that have met an outage."""
    rows = await connection.fetch(query("load_items"), batch_id, position, limit)
    return [OpenItem(*row) for row in rows]


async def load_away(connection: Connection, batch_id: UUID, limit: int) -> list[OpenItem]:
    """Those that have: the one that waits longest first."""
    return [OpenItem(*row) for row in await connection.fetch(query("load_away_items"), batch_id, limit)]


async def lock(connection: Connection, fence: Fence) -> None:
    """Lock the batch row under the fence; LeaseLost when it does not hold any more."""
    if await connection.fetchrow(query("fence_batch"), fence.batch_id, fence.epoch, fence.revision) is None:
        raise LeaseLost(f"batch {fence.batch_id}: epoch {fence.epoch}, revision {fence.revision} are no longer current")


def parts_of(rows: list[ItemRecord]) -> list[list[ItemRecord]]:
    """The rows in parts that `record` can write well: many near each other, or few; what comes first of an item stays first."""
    positions = [row.position for row in rows]
    if len(rows) <= FEW or max(positions) - min(positions) < WIDEST_SPAN:
        return [rows]
    regions: dict[int, list[ItemRecord]] = {}
    for row in rows:
        regions.setdefault(row.position // WIDEST_SPAN, []).append(row)
    crowds = [region for region in regions.values() if len(region) > FEW]
    few = [row for region in regions.values() if len(region) <= FEW for row in region]
    return [few[first : first + FEW] for first in range(0, len(few), FEW)] + crowds


async def record(
    connection: Connection,
    fence: Fence,
    rows: Sequence[ItemRecord],
    checkpoints: Mapping[int, str],
    frontier: int,
    lease_ttl: float,
    worker: str,
    complete: bool,
) -> BatchState:
    """Write outcomes, counters, frontier and lease in one statement, fenced; with checkpoints, or to `complete`, inside a transaction.

    The rows are `parts_of` what is to be written, or few. With `complete` the batch ends as completed in the same transaction
    if no item is open.
    """
    progressed = any(row.progressed for row in rows)
    positions = [row.position for row in rows]
    batch = await connection.fetchrow(
        RECORD_FEW if len(rows) <= FEW else query("record"), fence.batch_id, fence.epoch, fence.revision, frontier, progressed, lease_ttl,
        positions,
        _unless_all([row.status for row in rows], "completed"),
        _unless_all([row.attempts for row in rows], 1),
        _unless_all([row.result for row in rows], None),
        _unless_all([row.error for row in rows], None),
        _unless_all([row.delay for row in rows], None),
        [row.seconds for row in rows],
        min(positions, default=0),
        max(positions, default=-1),
    )  # fmt: skip
    if batch is None:
        raise LeaseLost(f"batch {fence.batch_id}: epoch {fence.epoch}, revision {fence.revision} are no longer current")
    noted = list(checkpoints)
    for part in (noted[first : first + FEW] for first in range(0, len(noted), FEW)):
        await connection.execute(query("record_checkpoints"), fence.batch_id, part, [checkpoints[position] for position in part])
    status = "processing"
    if complete and (ended := await connection.fetchrow(query("complete_batch"), fence.batch_id)) is not None:
        batch, status = ended, "completed"
    return BatchState(
        fence.batch_id, status, batch["total"], batch["succeeded"], batch["failed"],
        fence.revision + 1, fence.epoch, worker, None, batch["updated_at"],
    )  # fmt: skip


def _unless_all(values: list[Any], usual: Any) -> list[Any] | None:
    """The values, or None where each is the usual one: the driver and Postgres are spared an array."""
    return None if values.count(usual) == len(values) else values


class WriteBroke(Exception):
    """A `Result.write` took the connection down with it, or ended the transaction itself: nothing more can be done in it."""

    def __init__(self, row: ItemRecord, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.row = row
        self.cause = cause


async def write_effects(connection: Connection, rows: Sequence[ItemRecord], patience: float) -> list[tuple[ItemRecord, BaseException]]:
    """Run the `Result.write` of each row in a savepoint of its own, for at most `patience` seconds; returns those that raised.

    Constraints are made immediate meanwhile, so that one bad write cannot fail the commit of its neighbours.
    """
    failures: list[tuple[ItemRecord, BaseException]] = []
    for row in rows:
        if row.write is None:
            continue
        savepoint = connection.transaction()
        await savepoint.start()
        try:
            async with asyncio.timeout(patience):
                await row.write(connection)
                await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        except BaseException as error:  # user code: a CancelledError or a SystemExit of its own is a failed attempt too
            failures.append((row, await _undo(savepoint, row, error)))
        else:
            await _keep(savepoint, row)
    return failures


async def _keep(savepoint: Transaction, row: ItemRecord) -> None:
    try:
        await savepoint.commit()
    except (asyncpg.InvalidTransactionStateError, asyncpg.SavepointError) as cause:  # what it has committed itself cannot be taken back
        error = RuntimeError("write: expected the transaction that it was called in to be open still, and it was ended")
        raise WriteBroke(row, error) from cause


async def _undo(savepoint: Transaction, row: ItemRecord, error: BaseException) -> BaseException:
    if isinstance(error, TimeoutError):
        error = TimeoutError(f"write: {str(error) or 'it did not end in time'}")
    try:
        await savepoint.rollback()
    except Exception as cause:
        if isinstance(cause, asyncpg.InterfaceError):
            error = ConnectionError(f"write: the connection is closed: {error}")
        raise WriteBroke(row, error) from cause
    return error
