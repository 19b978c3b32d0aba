"""The demo's end: what became of each file, and how to go on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from streamworker.cli.batches import failure_line
from streamworker.cli.text import duration, print_table
from streamworker.client import Client
from streamworker.store.rows import Batch, ItemRow

WORDS_SHOWN = 48  # characters


async def report(client: Client, batch_id: UUID, files: int, home: Path, own_files: bool) -> int:
    """Print the results; 0 when every file is accounted for."""
    batch = await client.status(batch_id)
    items = [item async for item in client.items(batch_id)]
    print()
    print_table(("FILE", "TYPE", "LANGUAGE", "FIRST WORDS", "ATTEMPTS"), [_line(item) for item in items])
    print()
    for item in items:
        if item.status == "failed":
            print(failure_line(item.key, item.error, item.attempts))
    _print_sums(batch, items)
    accounted = batch.status == "completed" and batch.processed == len(items) == files
    told = "every file is accounted for" if accounted else "NOT every file is accounted for"
    print(f"{told}: {batch.succeeded} completed, {batch.failed} failed, of {files}")
    _print_how_to_go_on(batch_id, home, own_files)
    return 0 if accounted else 1


def _line(item: ItemRow) -> tuple[str, ...]:
    if item.status != "completed":
        return item.key, item.status, "", "", str(item.attempts)
    found: dict[str, Any] = item.result
    words = " ".join((_twin(found) + (found.get("text") or "")).split())
    shown = words if len(words) <= WORDS_SHOWN else words[: WORDS_SHOWN - 1] + "…"
    return item.key, _part(found, "type", "label"), _part(found, "language", "code"), shown, str(item.attempts)


def _part(found: dict[str, Any], name: str, inner: str) -> str:
    return str((found.get(name) or {}).get(inner) or "")


def _twin(found: dict[str, Any]) -> str:
    for name, told in (("duplicate_of", "same as"), ("near_duplicate_of", "nearly")):
        if found.get(name):
            return f"({told} {found[name]['key']}) "
    return ""


def _print_sums(batch: Batch, items: Sequence[ItemRow]) -> None:
    results = [item.result for item in items if item.status == "completed"]
    exact = sum(bool(result.get("duplicate_of")) for result in results)
    near = sum(bool(result.get("near_duplicate_of")) for result in results)
    twice = sum(item.attempts > 1 for item in items)
    assert batch.started_at is not None
    assert batch.finished_at is not None
    took = duration((batch.finished_at - batch.started_at).total_seconds())
    print(f"{len(items)} files in {took}: {exact} exact and {near} near duplicates, {twice} started more than once")


def _print_how_to_go_on(batch_id: UUID, home: Path, own_files: bool) -> None:
    shown = shlex.quote(str(home))
    print("\nall results:          ", f"streamworker status {batch_id} --items --json --home {shown}")
    if not own_files:
        print("the same on your files:", "scripts/demo FOLDER, or streamworker demo FOLDER")
    print("for good:              ", "streamworker run --processor documents   (one or more of it)")
    print("                       ", "streamworker submit FOLDER --watch")
