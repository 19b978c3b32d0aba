"""The one place that knows the shapes in which stream entries come over the wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """One stream entry: its id and its fields in order, names repeated where the sender repeated them.

    Without fields it was deleted while it was pending.
    """

    id: bytes
    fields: tuple[tuple[bytes, bytes], ...]


def read_entries(reply: Any) -> list[tuple[bytes, list[Entry]]]:
    """The answer of XREAD or XREADGROUP: (stream, entries) pairs; nothing read is an empty list."""
    if not reply:
        return []
    pairs = reply.items() if isinstance(reply, Mapping) else reply
    return [(stream, entries(_flat(found))) for stream, found in pairs]


def entries(reply: Any) -> list[Entry]:
    """The answer of XRANGE, XCLAIM, or the middle part of XAUTOCLAIM's; holes (deleted entries on Redis 6.2) are left out."""
    return [Entry(row[0], _pairs(row[1])) for row in reply or () if row is not None and row[0] is not None]


def _flat(found: Any) -> Any:
    # Some RESP3 shapes wrap the entries of a stream in one more list: an entry begins with its id, a wrapper with an entry.
    return found[0] if len(found) == 1 and found[0] and not isinstance(found[0][0], bytes) else found


def _pairs(fields: Mapping[bytes, bytes] | Sequence[bytes] | Iterable[tuple[bytes, bytes]] | None) -> tuple[tuple[bytes, bytes], ...]:
    if not fields:
        return ()
    if type(fields) is list and len(fields) == 4 and type(fields[0]) is bytes:  # as progress and most jobs come
        return (fields[0], fields[1]), (fields[2], fields[3])
    if isinstance(fields, Mapping):
        return tuple(fields.items())
    listed = list(fields)
    if isinstance(listed[0], list | tuple):
        return tuple((name, value) for name, value in listed)  # type: ignore[misc]
    return tuple(zip(listed[::2], listed[1::2], strict=True))  # type: ignore[arg-type]
