"""The progress event: what is published after it became durable, and what every reader gets."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from streamworker.errors import InvalidMessage

VERSION = 1
TERMINAL = frozenset({"completed", "failed", "cancelled"})

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]  # of items: Postgres's integer
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # Postgres's bigint


class ItemEvent(msgspec.Struct):
    """What changed about one item; `percent`, `stage` and `message` are the processor's own words."""

    position: int
    key: str
    status: str
    attempt: int
    percent: float | None = None
    stage: str | None = None
    message: str | None = None
    error: str | None = None


class ProgressEvent(msgspec.Struct):
    """The state of a batch at one revision; `items` holds what changed since the event before."""

    v: int
    batch_id: str
    revision: Number
    at: str
    status: str
    total: Count
    processed: Count
    succeeded: Count
    failed: Count
    percent: float
    eta_seconds: float | None
    worker: str | None
    epoch: Number
    error: str | None
    items: list[ItemEvent]


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(ProgressEvent)


def encode_event(event: ProgressEvent) -> bytes:
    """The event as JSON in UTF-8; its texts must have passed `clean_text`, its numbers must be finite."""
    return _ENCODER.encode(event)


def decode_event(raw: bytes) -> ProgressEvent:
    """Read an event; fields of later versions are ignored, anything else that does not fit raises `InvalidMessage`."""
    try:
        event = _DECODER.decode(raw)
    except (ValueError, RecursionError) as error:  # msgspec.DecodeError and UnicodeDecodeError are both ValueErrors
        raise InvalidMessage(f"event: expected a progress event of version {VERSION}, found something else: {error}") from None
    if event.v != VERSION:
        raise InvalidMessage(f"event: expected version {VERSION}, found {event.v}")
    return event


def timestamp(at: datetime) -> str:
    """A moment as it stands in events and dead letters: `2026-01-01T00:00:00.000Z`; a time without a zone is UTC."""
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    return at.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
