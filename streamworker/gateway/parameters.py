"""What a request asks for, read and checked: each mistake is a 400 that names the thing, the value and what was expected."""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID

from starlette.requests import Request

from streamworker.gateway.answers import Refusal
from streamworker.store.catalog import STATUSES

PAGE, LARGEST_PAGE = 50, 200
LARGEST_POSITION = 2**31 - 1
_UUID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_PLACE = re.compile(r"[A-Za-z0-9_-]{32}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEY = secrets.token_bytes(32)
_ENTRY = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")


def shown(text: str) -> str:
    """A value in a sentence: quoted, on one line, short."""
    return ascii(text if len(text) <= 60 else text[:60] + "...")


def query_parameters(request: Request, allowed: Collection[str]) -> dict[str, str]:
    """The query's parameters; an unknown one or one given twice is refused."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in allowed:
            expected = f"expected only {', '.join(allowed)}" if allowed else "expected none"
            raise Refusal(400, f"parameter {shown(name)}: unknown; {expected}")
        if name in found:
            raise Refusal(400, f"{name}: expected once, got it twice")
        found[name] = value
    return found


def batch_id(text: str, name: str = "batch id") -> UUID:
    """A batch id, in either case, with hyphens or without."""
    if _UUID.fullmatch(text) is None:
        raise Refusal(400, f"{name}: expected a UUID such as 0b1f6a52-5e1c-4f5e-9a57-0d6f3f1f2a10, got {shown(text)}")
    return UUID(text)


def named_place(created_at: datetime, id: UUID) -> str:
    """A place in the list of batches, in a word that tells nobody the id: the batch there may be one that the client may not see.

    The key is this process's. To another one the word still tells the moment; the id only parts batches of the same microsecond.
    """
    moment = ((created_at - _EPOCH) // timedelta(microseconds=1)).to_bytes(8, "big", signed=True)
    return base64.urlsafe_b64encode(moment + _mask(moment, id.bytes)).decode()


def place(text: str, name: str) -> tuple[datetime, UUID]:
    """What such a word stands for."""
    try:
        if _PLACE.fullmatch(text) is None:
            raise ValueError
        raw = base64.urlsafe_b64decode(text)
        return _EPOCH + timedelta(microseconds=int.from_bytes(raw[:8], "big", signed=True)), UUID(bytes=_mask(raw[:8], raw[8:]))
    except (ValueError, OverflowError):
        raise Refusal(400, f"{name}: expected the next of the page before, got {shown(text)}") from None


def _mask(moment: bytes, id: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(id, hmac.digest(_KEY, moment, "sha256"), strict=False))


def whole(name: str, text: str | None, low: int, high: int, default: int) -> int:
    """A whole number in plain ASCII digits, between two limits."""
    if text is None:
        return default
    if re.fullmatch("[0-9]{1,12}", text) is None or not low <= int(text) <= high:
        raise Refusal(400, f"{name}: expected a whole number from {low:,} to {high:,}, got {shown(text)}")
    return int(text)


def limit_of(given: Mapping[str, str]) -> int:
    """How many rows a page has."""
    return whole("limit", given.get("limit"), 1, LARGEST_PAGE, PAGE)


def position(text: str) -> int:
    """The position of an item."""
    return whole("position", text, 0, LARGEST_POSITION, 0)


def status(text: str | None) -> str | None:
    """A status of a batch or an item, or none."""
    if text is not None and text not in STATUSES:
        raise Refusal(400, f"status: expected one of {', '.join(STATUSES)}, got {shown(text)}")
    return text


def entry_id(text: str, name: str = "id") -> str:
    """The id of a stream entry."""
    if _ENTRY.fullmatch(text) is None or any(int(part) >= 2**64 for part in text.split("-")):
        raise Refusal(400, f"{name}: expected the id of a dead letter such as 1767225600000-0, got {shown(text)}")
    return text
