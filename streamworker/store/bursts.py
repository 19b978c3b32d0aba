"""Small batches, several at a time: claimed, recorded and given up in one statement each, every one under its own fence."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec

from streamworker.messages import Job
from streamworker.store.batches import Acquired, BatchState, Claim, Connection, state_of
from streamworker.store.items import ItemRecord, OpenItem
from streamworker.store.sql import query


class Wanted(msgspec.Struct, frozen=True):
    """A job to be claimed, and the entry that brought it; `max_attempts` is what holds where the job does not say."""

    job: Job
    entry_id: str
    max_attempts: int


async def claim(
    connection: Connection, wanted: Sequence[Wanted], claim: Claim, largest: int, longest: int
) -> dict[UUID, tuple[Acquired, list[OpenItem]]]:
    """Create or take those of the batches that nobody ever worked on, of at most `largest` items and `longest` bytes.

    All their items count as started. Of several, none is to blame alone if the worker dies.
    """
    jobs = [one.job for one in wanted]
    rows = await connection.fetch(
        query("claim_burst"),
        [job.batch_id for job in jobs],
        [one.entry_id for one in wanted],
        [job.items for job in jobs],
        [job.processor for job in jobs],
        [job.metadata for job in jobs],
        [one.max_attempts for one in wanted],
        [job.max_failures for job in jobs],
        claim.worker, claim.number, claim.lease_ttl, len(wanted) > 1, largest, longest,
    )  # fmt: skip
    claimed = {}
    for row in rows:
        places = zip(row["positions"] or (), row["keys"] or (), row["payloads"] or (), strict=True)
        items = [OpenItem(position, key, payload, 0, None, 0.0) for position, key, payload in places]
        state = BatchState(row["id"], "processing", row["total"], 0, 0, row["revision"], 1, claim.worker, None, row["updated_at"])
        grant = Acquired(
            state, row["processor"], row["metadata"], row["max_attempts"], row["max_failures"], row["total"], 0,
            seconds_left=claim.batch_timeout, taken_from=None, declared_total=row["total"],
        )  # fmt: skip
        claimed[state.id] = (grant, items)
    return claimed


async def record(
    connection: Connection, states: Sequence[BatchState], rows: Sequence[tuple[UUID, ItemRecord]], lease_ttl: float
) -> dict[UUID, BatchState]:
    """Write what the items of these batches ended as, and complete the batches; those whose lease is lost are missing from the answer."""
    records = [row for _, row in rows]
    found = await connection.fetch(
        query("record_burst"),
        [state.id for state in states],
        [state.epoch for state in states],
        [state.revision for state in states],
        [batch_id for batch_id, _ in rows],
        [row.position for row in records],
        [row.status for row in records],
        [row.attempts for row in records],
        [row.result for row in records],
        [row.error for row in records],
        [row.seconds for row in records],
        lease_ttl,
    )
    return {row["id"]: state_of(row["id"], row) for row in found}


async def read_states(connection: Connection, batch_ids: Sequence[UUID]) -> dict[UUID, BatchState]:
    """What Postgres says of these batches now."""
    return {row["id"]: state_of(row["id"], row) for row in await connection.fetch(query("read_states"), batch_ids)}


async def release(connection: Connection, states: Sequence[BatchState], worker: str) -> None:
    """Give up batches of which nothing has started."""
    await connection.execute(query("release_burst"), [state.id for state in states], [state.epoch for state in states], worker)


async def single_out(connection: Connection, state: BatchState, frontier: int) -> None:
    """From now on only this batch's items below `frontier` are suspects if the worker dies."""
    await connection.execute(query("single_out"), state.id, state.epoch, state.revision, frontier)
