"""Processors whose service is away until the test opens a gate; they need nothing but this package, so that a child process starts fast."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path
from typing import Any

from streamworker import Context, Item, Result, Unavailable
from tests.flows.processors import FOLDER, TICK, gate_file, logged, work, write_line

REASON = "the model server does not answer"


def away(gate: str, **terms: Any) -> dict[str, Any]:
    """An item that needs what is behind the gate; with `fails` its first attempts fail before that."""
    return {"payload": {"do": "away", "gate": gate, **terms}}


def write_when_there(gate: str) -> dict[str, Any]:
    """An item whose write needs it."""
    return {"payload": {"do": "write", "gate": gate}}


def _is_there(gate: str) -> bool:
    return gate_file(Path(os.environ[FOLDER]), gate).exists()


def _ask(gate: str) -> None:
    if not _is_there(gate):
        raise Unavailable(REASON)


def _serve(item: Item) -> Any:
    terms = item.payload
    if item.attempt <= terms.get("fails", 0):
        raise ValueError("not at the first attempt")
    if terms["do"] == "write":
        return Result(item.position, write=partial(add_row, batch=str(item.batch_id), position=item.position, gate=terms["gate"]))
    _ask(terms["gate"])
    return item.position


async def serve(item: Item, context: Context) -> Any:
    """In the loop; what it does not know is for `processors.work`."""
    if not isinstance(item.payload, dict) or item.payload.get("do") not in ("away", "write"):
        return await work(item, context)
    with logged(item):
        return _serve(item)


def serve_in_thread(item: Item, context: Context) -> Any:
    """In a thread."""
    with logged(item):
        return _serve(item) if isinstance(item.payload, dict) else item.position


async def add_row(connection: Any, batch: str, position: int, gate: str) -> None:
    """Add a row, and only then see that something is missing."""
    await connection.execute("INSERT INTO public.effects (batch, position) VALUES ($1, $2)", batch, position)
    _ask(gate)


async def hesitate(item: Item, context: Context) -> Any:
    """Once the gate `slow` is open it takes until the gate `answer` is, to find whether what it needs is there."""
    with logged(item):
        while _is_there("slow") and not _is_there("answer"):  # noqa: ASYNC110 the gate is a file
            await asyncio.sleep(TICK)
        return _serve(item)


async def ask_in_group(item: Item, context: Context) -> Any:
    """Ask in a task of its own."""
    with logged(item):
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(asyncio.to_thread(_serve, item))
        return asked.result()


class Fragile:
    """Ends its process once; it cannot be opened again before the gate is open."""

    async def __aenter__(self) -> Fragile:
        if _is_there("ended"):
            _ask("fragile")
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def process(self, item: Item, context: Context) -> Any:
        """The position."""
        with logged(item):
            if item.payload == "die" and not _is_there("ended"):
                gate_file(Path(os.environ[FOLDER]), "ended").touch()
                os._exit(1)
            return item.position


class Needy:
    """Cannot be opened before the gate is."""

    async def __aenter__(self) -> None:
        write_line("opened")
        _ask("needy")

    async def process(self, item: Item, context: Context) -> Any:
        """The position."""
        with logged(item):
            return item.position
