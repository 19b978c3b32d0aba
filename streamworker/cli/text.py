"""Text for a terminal: data never gets to control it; times, durations and columns."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

_ENCODER = msgspec.json.Encoder(decimal_format="number")


def escape(text: str, limit: int | None = None) -> str:
    """Make data fit for one line of a terminal: control characters, ESC and direction marks are spelt out, the rest stays."""
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(_spell(character) for character in text)


def _spell(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")


def json_text(value: Any) -> str:
    """JSON for machines that is harmless on a terminal, too: what is not printable is escaped inside its strings."""
    text = _ENCODER.encode(value).decode()
    return text if text.isprintable() else "".join(map(_json_spell, text))


def _json_spell(character: str) -> str:
    return character if character.isprintable() else json.dumps(character)[1:-1]


def print_array(rows: Iterable[Any]) -> None:
    """A JSON array, one element a line."""
    lead = "["
    for row in rows:
        print(f"{lead}{json_text(row)}", end="")
        lead = ",\n "
    print("[]" if lead == "[" else "]")


def moment(at: datetime | None) -> str:
    """A point in time: UTC, to the second."""
    return "" if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def duration(seconds: float) -> str:
    """A duration as people write it: `8.2s`, `5m10s`, `3h04m`, `2d11h`."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns under headings: a drawn table on a terminal where rich is installed, plain text elsewhere."""
    cells = [[escape(cell) for cell in row] for row in rows]
    if not (sys.stdout.isatty() and _print_rich_table(headings, cells)):
        _print_plain_table(headings, cells)


def _print_rich_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    try:
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415
    except ImportError:
        return False
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: data is never read as rich's markup
    Console().print(table)
    return True


def _print_plain_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [list(headings), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
