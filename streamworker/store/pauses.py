"""Batches that wait for what their processor needs: how long it has been away, and until when nobody takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from streamworker.store.batches import BatchState, Connection, fail, state_of
from streamworker.store.sql import query

# A try that went on for longer (seconds), from the claim on, has met another outage than the one before it.
SAME_OUTAGE = 600.0


@dataclass(frozen=True, slots=True)
class Outage:
    """What Postgres knows of the outage that a batch of ours meets: `pauses` so far, the first of them `seconds` ago.

    `age` (seconds) is how long the batch has been worked on. With `is_paused` we have paused it already.
    """

    state: BatchState
    pauses: int
    seconds: float
    age: float

    @property
    def is_paused(self) -> bool:
        """Whether nobody owns it any more, under our own epoch."""
        return self.state.worker is None


async def look(connection: Connection, batch_id: UUID, epoch: int) -> Outage | None:
    """Lock our own batch and look; None when it is ours no longer, or has ended."""
    row = await connection.fetchrow(query("look_at_outage"), batch_id, epoch, SAME_OUTAGE)
    if row is None:
        return None
    return Outage(state_of(batch_id, row), row["pauses"], row["seconds"] if row["pauses"] else 0.0, row["age_seconds"])


async def pause(connection: Connection, outage: Outage, error: str, seconds: float, met: Sequence[int]) -> BatchState:
    """Give the batch that was looked at back, for nobody to take before so many seconds have passed; no attempt is charged to anybody.

    `met` are the positions of the items that met the outage: they come last when it goes on.
    """
    state = outage.state
    row = await connection.fetchrow(query("pause_batch"), state.id, state.epoch, error, seconds, outage.pauses + 1)
    assert row is not None
    await connection.execute(query("unmark_retries"), state.id)
    if met:
        await connection.execute(query("mark_away"), state.id, met, state.succeeded)
    return state_of(state.id, row)


async def give_up(connection: Connection, outage: Outage, error: str) -> BatchState:
    """End the batch that was looked at as failed; the try that met the outage is charged to nobody."""
    await connection.execute(query("unmark_retries"), outage.state.id)
    return await fail(connection, outage.state.id, error)


async def find_paused(connection: Connection, batch_ids: Sequence[UUID]) -> dict[UUID, float]:
    """Those of `batch_ids` that nobody may take yet, and the seconds until then."""
    return {row["id"]: row["seconds"] for row in await connection.fetch(query("find_paused"), batch_ids)}
