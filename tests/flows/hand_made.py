"""A batch whose rows and events the test makes, as a worker would."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
import redis.asyncio

from streamworker.messages import ItemEvent, ProgressEvent, encode_event


class HandMade:
    """A batch of ten items."""

    def __init__(self, connection: asyncpg.Connection, broker: redis.asyncio.Redis, batch_id: UUID) -> None:
        self.connection, self.broker, self.batch_id = connection, broker, batch_id

    async def record(self, revision: int, status: str = "processing", **columns: Any) -> None:
        """Bring the batch row to a revision; as many items are done as the revision says."""
        names = "".join(f", {name} = ${number}" for number, name in enumerate(columns, 4))
        await self.connection.execute(
            "UPDATE streamworker.batches SET revision = $2::int, status = $3::text, processed = $2, succeeded = $2, started_at = now(), "
            f"finished_at = CASE WHEN $3 IN ('completed', 'failed', 'cancelled') THEN now() END{names} WHERE id = $1",
            self.batch_id, revision, status, *columns.values(),
        )  # fmt: skip

    def event(self, revision: int, status: str = "processing", items: list[ItemEvent] | None = None, **fields: Any) -> ProgressEvent:
        """An event of the batch as a worker would publish it."""
        own = {
            "v": 1, "batch_id": str(self.batch_id), "revision": revision, "at": "2026-01-01T00:00:00.000Z", "status": status, "total": 10,
            "processed": revision, "succeeded": revision, "failed": 0, "percent": revision * 10.0, "eta_seconds": None, "worker": "w",
            "epoch": 1, "error": None, "items": [ItemEvent(revision - 1, str(revision - 1), "completed", 1)] if items is None else items,
        }  # fmt: skip
        return ProgressEvent(**(own | fields))

    async def publish(self, event: ProgressEvent) -> ProgressEvent:
        """Put an event on the progress stream."""
        await self.broker.xadd("progress", {"batch_id": event.batch_id, "event": encode_event(event)})
        return event

    async def step(self, revision: int, status: str = "processing", **more: Any) -> ProgressEvent:
        """Change the row and tell it, as a worker does."""
        await self.record(revision, status)
        return await self.publish(self.event(revision, status, **more))
