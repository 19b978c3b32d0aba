"""Processors for the flow tests: the payload says what to do, the item log tells what was done.

Each start and each end is one line, written by one O_APPEND write. An item that waits, waits for a gate: a file that the test makes.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from streamworker import Context, Item, Permanent, Result, RetryAfter

FOLDER = "TEST_OF_STREAMWORKER_FOLDER"
FOREVER = 3600
TICK = 0.005


# --- what a test says -----------------------------------------------------------------------------------------------------


def act(do: str, **terms: Any) -> dict[str, Any]:
    """An item that does `do`, on the first `times` attempts if that is given."""
    return {"payload": {"do": do, **terms}}


def sleep(ms: int) -> dict[str, Any]:
    """An item that takes so long."""
    return act("sleep", ms=ms)


def hold(gate: str, attempt: int | None = None) -> dict[str, Any]:
    """An item that waits until the test opens the gate; only on one attempt if that is given."""
    return act("hold", gate=gate, attempt=attempt)


def gate_file(folder: Path, name: str) -> Path:
    """The file that opens a gate."""
    return folder / f"gate-{name}"


# --- what the worker does ---------------------------------------------------------------------------------------------------


def write_line(edge: str, item: Item | None = None, **more: Any) -> None:
    """Add a line to the item log."""
    line: dict[str, Any] = {"at": time.monotonic(), "edge": edge, "pid": os.getpid(), **more}
    if item is not None:
        line |= {"batch": str(item.batch_id), "position": item.position, "attempt": item.attempt}
    file = os.open(Path(os.environ[FOLDER]) / "items.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")
    finally:
        os.close(file)


@contextmanager
def logged(item: Item) -> Iterator[None]:
    """Write the start, and the end with what it ended as."""
    write_line("start", item)
    outcome = "ok"
    try:
        yield
    except BaseException as error:
        outcome = type(error).__name__
        raise
    finally:
        write_line("end", item, outcome=outcome)


def _terms(item: Item) -> dict[str, Any]:
    return item.payload if isinstance(item.payload, dict) else {}


def _is_open(item: Item) -> bool:
    only = _terms(item).get("attempt")
    return only not in (None, item.attempt) or gate_file(Path(os.environ[FOLDER]), _terms(item)["gate"]).exists()


def _do(item: Item, context: Context) -> Any:
    """What needs no waiting; returns the result."""
    terms = _terms(item)
    if item.attempt > terms.get("times", item.attempt):
        return {"position": item.position, "attempt": item.attempt}
    match terms.get("do"):
        case "fail":
            raise ValueError(terms.get("text", f"item {item.position} fails on attempt {item.attempt}"))
        case "permanent":
            raise Permanent("no use in trying again")
        case "retry after":
            raise RetryAfter(terms["seconds"])
        case "fail then die" | "fail then hold" if item.attempt == 1:
            raise ValueError("the first time")
        case "die" | "fail then die" | "checkpoint and die":
            os._exit(1)
        case "block":
            while not _is_open(item):
                time.sleep(TICK)
        case "burn":
            while not _is_open(item):
                sum(range(10_000))
        case "crash":
            ctypes.string_at(0)
        case "fork":
            forked = os.fork()  # both come back
            return "from the wrong process" if forked == 0 else f"{os.waitpid(forked, 0)[1]}"
        case "keep the lock":
            ctypes.PyDLL(None).sleep(terms["seconds"])
        case "raise":
            raise _raised(terms["what"])
        case "return":
            return _returned(terms["what"])
        case "return hostile":
            return Hostile(what=terms["what"])
        case "effect":
            return Result({"position": item.position}, write=_effect(item))
        case "frames" if item.attempt == 1:
            for number in range(terms["frames"]):
                context.checkpoint({"frame": number}, wait=False)
            raise ValueError("at the last frame")
        case "frames":
            return item.checkpoint
        case "look":
            batch = context.batch
            context.log.info("looked at %s", item.key)
            found = {"id": str(batch.id), "total": batch.total, "metadata": batch.metadata, "cancelled": context.cancelled}
            found["left"] = context.deadline and context.deadline - time.monotonic()
            return found | {"key": item.key, "payload": terms, "attempt": item.attempt, "checkpoint": item.checkpoint}
    return {"position": item.position, "attempt": item.attempt}


async def work(item: Item, context: Context) -> Any:
    """The async one."""
    with logged(item):
        terms = _terms(item)
        match terms.get("do"):
            case "sleep":
                await asyncio.sleep(terms["ms"] / 1000)
            case "hold" | "fail then hold" if item.attempt > 1 or terms["do"] == "hold":
                while not _is_open(item):  # noqa: ASYNC110 the gate is a file
                    await asyncio.sleep(TICK)
            case "tell at the gate":
                for number in takewhile(lambda _: not _is_open(item), count()):
                    await context.progress(message=f"number {number}")
                    await asyncio.sleep(TICK)
            case "cancel itself":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(FOREVER)
            case "ignore cancel":
                while not _is_open(item):
                    with suppress(asyncio.CancelledError):
                        await asyncio.sleep(TICK)
            case "tell":
                for number in range(terms["times"]):
                    await context.progress(100 * number / terms["times"], stage="telling", message=f"number {number}")
                    await asyncio.sleep(terms.get("pause", 0))
                return None
            case "checkpoint" if item.attempt == 1:
                await context.checkpoint({"page": 7})
                raise ValueError("after the checkpoint")
            case "checkpoint":
                return item.checkpoint
            case "checkpoint and die":
                await context.checkpoint({"page": 7})
        return _do(item, context)


def work_in_thread(item: Item, context: Context) -> Any:
    """The plain one."""
    with logged(item):
        terms = _terms(item)
        match terms.get("do"):
            case "sleep":
                time.sleep(terms["ms"] / 1000)
            case "hold":
                while not _is_open(item) and not context.cancelled:
                    time.sleep(TICK)
            case "tell":
                for number in range(terms["times"]):
                    context.progress(100 * number / terms["times"], stage="telling", message=f"number {number}")
                return None
            case "checkpoint" if item.attempt == 1:
                context.checkpoint({"page": 7})
                raise ValueError("after the checkpoint")
            case "checkpoint":
                return item.checkpoint
        return _do(item, context)


async def quiet(item: Item, context: Context) -> Any:
    """Does nothing and writes nothing, as fast as it can."""
    return {"position": item.position}


def _effect(item: Item) -> Callable[[Any], Any]:
    bad = item.attempt <= _terms(item).get("bad_writes", 0)
    return partial(write_effect, batch=str(item.batch_id), position=item.position, bad=bad, after=_terms(item).get("after"))


async def write_effect(connection: Any, batch: str, position: int, bad: bool, after: str | None = None) -> None:
    """Add a row, and fail after it if it is to be a bad one; `after`: SQL to run then, or "close" the connection."""
    await connection.execute("INSERT INTO public.effects (batch, position) VALUES ($1, $2)", batch, position)
    if after is not None:
        await (connection.close() if after == "close" else connection.execute(after))
    if bad:
        raise ValueError("the write fails")


class Unspeakable(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Hostile(dict[str, Any]):
    """Raises when it is looked at."""

    def items(self) -> Any:
        raise _raised(self["what"])


def _raised(what: str) -> BaseException:
    if what == "postgres":
        import asyncpg  # only here: a child process that is started over and over again is there at once without it

        return asyncpg.ConnectionDoesNotExistError("of the processor's own connection")
    return {
        "system exit": SystemExit(3),
        "keyboard interrupt": KeyboardInterrupt(),
        "cancelled": asyncio.CancelledError(),
        "base": BaseException("from the very base"),
        "unspeakable": Unspeakable(),
        "long": ValueError("x" * 10_000_000),
        "nul": ValueError("before\0after"),
        "surrogate": ValueError("before\ud800after"),
        "empty": ValueError(),
        "timeout": TimeoutError("not ours"),
    }[what]


def _returned(what: str) -> Any:
    cycle: list[Any] = []
    cycle.append(cycle)
    deep: list[Any] = []
    for _ in range(20_000 if what == "deep" else 0):
        deep = [deep]
    return {
        "nan": lambda: {"score": float("nan")},
        "infinity": lambda: float("inf"),
        "bytes": lambda: b"bytes",
        "set": lambda: {"a", "b"},
        "object": lambda: object(),
        "cycle": lambda: cycle,
        "deep": lambda: deep,
        "nul": lambda: "before\0after",
        "surrogate": lambda: ["before\ud800after"],
        "large": lambda: "x" * (100 * 1024 * 1024),
        "number key": lambda: {1: "one"},
    }[what]()


# --- processors with a life of their own --------------------------------------------------------------------------------------


class Model:
    """Opened once for a worker, closed at its end."""

    async def __aenter__(self) -> Model:
        write_line("opened")
        return self

    async def __aexit__(self, *_: object) -> None:
        write_line("closed")

    async def process(self, item: Item, context: Context) -> Any:
        """As `work`."""
        return await work(item, context)


class Deadly:
    """Opening it kills the worker."""

    async def __aenter__(self) -> None:
        os._exit(3)

    async def process(self, item: Item, context: Context) -> None:
        """Never called."""


class Panic(BaseException):
    """What native code raises that has given up."""


class Opened:
    """Raises what its class says, when it is opened or when it is closed."""

    at_the_start: BaseException | None = None
    at_the_end: BaseException | None = None

    async def __aenter__(self) -> None:
        if self.at_the_start is not None:
            raise self.at_the_start

    async def __aexit__(self, *_: object) -> None:
        if self.at_the_end is not None:
            raise self.at_the_end

    async def process(self, item: Item, context: Context) -> Any:
        """The key."""
        return item.key


class Cancelling(Opened):
    """As a library that has lost its task."""

    at_the_start = asyncio.CancelledError()


class Panicking(Opened):
    """Its native code gives up."""

    at_the_start = Panic("no device")


class Interrupting(Opened):
    """Takes itself for a program."""

    at_the_start = KeyboardInterrupt()


class ClosesBadly(Opened):
    """Its native code gives up at the end."""

    at_the_end = Panic("the device is gone")


class Unstartable:
    """Its model is not there."""

    async def __aenter__(self) -> Unstartable:
        raise FileNotFoundError("no model at model.bin")

    async def process(self, item: Item, context: Context) -> Any:
        """Never called."""
        write_line("start", item)


def one_argument(item: Item) -> Any:
    """Not a processor."""
    logging.error("called with %s", item)
