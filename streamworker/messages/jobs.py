"""The job as it comes in from the stream: any bytes at all become a `Job`, or an `InvalidMessage` that says why not."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from streamworker.errors import InvalidMessage
from streamworker.messages.json_text import MAX_DEPTH, MAX_KEY, BadJSON, Reader, kind, too_deep

MAX_METADATA_BYTES = 256 * 1024  # it travels with every item that a processor sees
MAX_INT = 2**31 - 1
FIELDS = ("batch_id", "items", "processor", "metadata", "max_attempts", "max_failures", "traceparent", "tracestate")

_UUID = re.compile("[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_TRACEPARENT = re.compile("(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile("[ -~]{1,512}")
_log = logging.getLogger("streamworker.messages")
_T = TypeVar("_T")


class Job(msgspec.Struct, frozen=True):
    """A batch to run. `items` and `metadata` are JSON text, checked and otherwise just as it was sent.

    `items` is None for a batch that is in Postgres already. Where a JSON object names a key twice, the last one wins.
    """

    batch_id: UUID
    items: str | None = None
    item_count: int = 0
    processor: str | None = None
    metadata: str = "{}"
    max_attempts: int | None = None
    max_failures: int | None = None
    traceparent: str | None = None
    tracestate: str | None = None


def decode_job(fields: Sequence[tuple[bytes, bytes]], max_bytes: int) -> Job:
    """Read the fields of a stream entry; raises `InvalidMessage`, and nothing else, for whatever cannot be run.

    Takes about a second for a million items: call it in a thread where a pause would hurt.
    """
    size = sum(len(name) + len(value) for name, value in fields)
    if size > max_bytes:
        raise InvalidMessage(f"expected a message of at most {max_bytes:,} bytes, found {size:,}", "message_too_large")
    given = _by_name(fields)
    if "batch_id" not in given:
        raise InvalidMessage("batch_id: expected this field, found none")
    items, item_count = _items(given["items"]) if "items" in given else (None, 0)
    traceparent, tracestate = _trace(given)
    return Job(
        batch_id=_batch_id(given["batch_id"]),
        items=items,
        item_count=item_count,
        processor=_optional(given, "processor", _processor),
        metadata=_optional(given, "metadata", _metadata) or "{}",
        max_attempts=_optional(given, "max_attempts", lambda raw: _number("max_attempts", raw, 1, 1_000_000)),
        max_failures=_optional(given, "max_failures", lambda raw: _number("max_failures", raw, 0, MAX_INT)),
        traceparent=traceparent,
        tracestate=tracestate,
    )


def _by_name(fields: Sequence[tuple[bytes, bytes]]) -> dict[str, bytes]:
    given: dict[str, bytes] = {}
    for raw, value in fields:
        name = raw.decode("ascii", "replace")
        if name not in FIELDS:
            raise InvalidMessage(f"{_found(raw)}: unknown field; expected only {', '.join(FIELDS)}")
        if name in given:
            raise InvalidMessage(f"{name}: expected this field once, found it twice")
        given[name] = value
    return given


def _optional(given: dict[str, bytes], name: str, read: Callable[[bytes], _T]) -> _T | None:
    return read(given[name]) if name in given else None


def _found(raw: bytes) -> str:
    text = raw[:100].decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= 40 and len(raw) <= 100 else text[:40] + "…")


def _text(name: str, raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidMessage(f"{name}: expected UTF-8, found byte 0x{raw[error.start]:02x} at offset {error.start}") from None
    if "\0" in text:
        raise InvalidMessage(f"{name}: expected text that Postgres can store, found a NUL character in {_found(raw)}")
    return text


def _batch_id(raw: bytes) -> UUID:
    text = raw[:100].decode("ascii", "replace")
    if _UUID.fullmatch(text) is None:
        raise InvalidMessage(f"batch_id: expected a UUID such as 123e4567-e89b-42d3-a456-426614174000, found {_found(raw)}")
    return UUID(text)


def _processor(raw: bytes) -> str:
    name = _text("processor", raw)
    if not name:
        raise InvalidMessage("processor: expected a name (or no such field), found an empty text")
    if len(name) > MAX_KEY:  # no worker serves a name that long
        raise InvalidMessage(f"processor: expected a name of at most {MAX_KEY} characters, found {len(name):,}", "unknown_processor")
    return name


def _number(name: str, raw: bytes, low: int, high: int) -> int:
    if re.fullmatch(b"[0-9]{1,10}", raw) is None or not low <= int(raw) <= high:
        raise InvalidMessage(f"{name}: expected a whole number from {low:,} to {high:,}, found {_found(raw)}")
    return int(raw)


def _metadata(raw: bytes) -> str:
    if len(raw) > MAX_METADATA_BYTES:
        raise InvalidMessage(f"metadata: expected at most {MAX_METADATA_BYTES:,} bytes, found {len(raw):,}")
    try:
        reader = Reader(raw)
        value = reader.whole()
    except BadJSON as error:
        raise InvalidMessage(f"metadata: {error}") from None
    if not isinstance(value, dict):
        raise InvalidMessage(f"metadata: expected a JSON object, found {kind(value)}")
    if too_deep(value):
        raise InvalidMessage(f"metadata: expected at most {MAX_DEPTH} levels of nesting, found more")
    return reader.text


def _items(raw: bytes) -> tuple[str, int]:
    count = 0
    try:
        reader = Reader(raw)
        for element in reader.elements():
            complaint = _complaint(element)
            if complaint is not None:
                raise InvalidMessage(f"items[{count}]{complaint}")
            count += 1
    except BadJSON as error:
        place = "items" if error.index is None else f"items[{error.index}]"
        raise InvalidMessage(f"{place}: {error}") from None
    if count == 0:
        raise InvalidMessage("items: expected at least one element, found an empty array")
    return reader.text, count


def _complaint(element: Any) -> str | None:
    if isinstance(element, str):
        return None if len(element) <= MAX_KEY else f": expected a string of at most {MAX_KEY} characters, found {len(element):,}"
    if not isinstance(element, dict):
        return f': expected a string or an object {{"payload": …, "key": …}}, found {kind(element)}'
    if "payload" not in element:
        return ".payload: expected any JSON value, found none"
    if len(element) > 1 + ("key" in element):
        extra = next(name for name in element if name not in ("payload", "key"))
        return f": expected only payload and key, found {_found(extra.encode())}"
    key = element.get("key", "")
    if not isinstance(key, str):
        return f".key: expected a string, found {kind(key)}"
    if len(key) > MAX_KEY:
        return f".key: expected at most {MAX_KEY} characters, found {len(key):,}"
    return f".payload: expected at most {MAX_DEPTH} levels of nesting, found more" if too_deep(element["payload"]) else None


def _trace(given: dict[str, bytes]) -> tuple[str | None, str | None]:
    """A broken trace context is dropped, not refused: that is what W3C asks for."""
    parent, state = (given.get(name, b"").decode("ascii", "replace") for name in ("traceparent", "tracestate"))
    if not parent:
        return None, None
    known = parent[:55] if parent[55:56] == "-" and parent[:2] != "00" else parent  # later versions may say more
    if _TRACEPARENT.fullmatch(known) is None:
        _log.warning("traceparent %s is not of the W3C form and is ignored", _found(given["traceparent"]))
        return None, None
    return parent[:55], state if _TRACESTATE.fullmatch(state) else None
