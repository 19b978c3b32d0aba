"""The dead letter: a job that could not be run, byte for byte as it came, and why."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from streamworker.errors import InvalidMessage

ADDED = (b"reason", b"detail", b"source_id", b"died_at")


class DeadLetter(msgspec.Struct, frozen=True):
    """An entry of the dead stream: `fields` as they were sent, and what was added to them."""

    fields: list[tuple[bytes, bytes]]
    reason: str
    detail: str
    source_id: str
    died_at: str


def dead_letter(
    fields: Sequence[tuple[bytes, bytes]], reason: str, detail: str, source_id: bytes | str, died_at: str
) -> list[tuple[bytes, bytes]]:
    """The fields of the entry on the dead stream: the original ones, then the four of our own."""
    source_id = source_id.decode("ascii", "replace") if isinstance(source_id, bytes) else source_id
    values = (text.encode("utf-8", "backslashreplace") for text in (reason, detail, source_id, died_at))
    return [*fields, *zip(ADDED, values, strict=True)]


def read_dead_letter(fields: Sequence[tuple[bytes, bytes]]) -> DeadLetter:
    """Tell what was added from what was sent (a sender may have used the same names); raises `InvalidMessage`."""
    if tuple(name for name, _ in fields[-len(ADDED) :]) != ADDED:
        raise InvalidMessage("dead letter: expected reason, detail, source_id and died_at as the last fields")
    added = [value.decode("utf-8", "replace") for _, value in fields[-len(ADDED) :]]
    return DeadLetter(list(fields[: -len(ADDED)]), *added)
