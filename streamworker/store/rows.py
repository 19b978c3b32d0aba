"""What readers get: one batch row, one item row, as the contract names their columns."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as Postgres has it; times are aware datetimes, `percent` is 0 to 100."""

    id: UUID
    status: str
    processor: str | None
    metadata: dict[str, Any]
    total: int
    processed: int
    succeeded: int
    failed: int
    percent: float
    max_attempts: int
    max_failures: int | None
    revision: int
    epoch: int
    worker: str | None
    lease_expires_at: datetime | None
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime


class ItemRow(msgspec.Struct, frozen=True, kw_only=True):
    """An item as Postgres has it; `payload`, `result` and `checkpoint` are JSON values."""

    position: int
    key: str
    payload: Any
    status: str
    attempts: int
    result: Any
    error: str | None
    checkpoint: Any
    started_at: datetime | None
    finished_at: datetime | None


class ItemLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An item as a table shows it: values of more than 4 kB are None and `truncated` is true; `thumbnail`: its result has a picture."""

    position: int
    key: str
    status: str
    attempts: int
    error: str | None
    started_at: datetime | None
    finished_at: datetime | None
    payload: msgspec.Raw | None
    result: msgspec.Raw | None
    checkpoint: msgspec.Raw | None
    thumbnail: bool
    truncated: bool = False


class ItemDetail(msgspec.Struct, frozen=True, kw_only=True):
    """An item in full; a value that is too large is None, and `left_out` has a sentence under its name."""

    position: int
    key: str
    status: str
    attempts: int
    error: str | None
    started_at: datetime | None
    finished_at: datetime | None
    payload: msgspec.Raw | None
    result: msgspec.Raw | None
    checkpoint: msgspec.Raw | None
    thumbnail: bool
    left_out: dict[str, str]


def percent(processed: int, total: int) -> float:
    """How much of a batch is done, 0 to 100, to two places."""
    return round(100.0 * processed / total, 2) if total else 0.0
