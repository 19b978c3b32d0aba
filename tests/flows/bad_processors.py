"""Processors that misbehave as only native code, threads and processes can; the payload says how. For isolation `process`."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from streamworker import Context, Item, Result
from tests.flows.processors import FOLDER, TICK, gate_file, logged, write_effect, write_line

FOREVER = 3600
MEGABYTE = 1024 * 1024
KEPT: list[Any] = []


def bad(how: str, **terms: Any) -> dict[str, Any]:
    """An item that goes wrong in this way."""
    return {"payload": {"how": how, **terms}}


async def work(item: Item, context: Context) -> Any:
    """In the loop."""
    with logged(item):
        how = item.payload.get("how", "") if isinstance(item.payload, dict) else ""
        await asyncio.sleep(0)
        while how == "ignore its cancellation":
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(FOREVER)
        if how == "checkpoint then die" and item.checkpoint is None:
            await context.checkpoint({"page": 7})
            os._exit(1)
        return go_wrong(how, item, context)


def work_in_thread(item: Item, context: Context) -> Any:
    """In a thread."""
    with logged(item):
        how = item.payload.get("how", "") if isinstance(item.payload, dict) else ""
        if how == "checkpoint then die" and item.checkpoint is None:
            context.checkpoint({"page": 7})
            os._exit(1)
        return go_wrong(how, item, context)


def go_wrong(how: str, item: Item, context: Context) -> Any:
    """Do what is asked for; returns the result where that is not the end."""
    match how:
        case "exit":
            os._exit(item.payload.get("status", 1))
        case "signal":
            os.kill(os.getpid(), item.payload["number"])
            time.sleep(FOREVER)
        case "segfault":
            ctypes.string_at(0)
        case "exit in a thread":
            thread = threading.Thread(target=sys.exit, args=(3,))
            thread.start()
            thread.join()
        case "keep the lock":
            _keep_the_lock(item)
        case "hang with a child of its own":
            child = subprocess.Popen(["sleep", str(FOREVER)])
            write_line("child", item, outcome=str(child.pid))
            ctypes.PyDLL(None).sleep(FOREVER)
        case "fork and return":
            return _fork_and_return()
        case "fork and stay":
            if os.fork() == 0:
                time.sleep(FOREVER)
        case "garbage":
            _write_to_every_socket(bytes.fromhex(item.payload["hexadecimal"]))
            time.sleep(FOREVER)
        case "hang up":
            for number in _sockets():  # no more: a loop whose epoll descriptor is closed beside it aborts
                os.close(number)
            time.sleep(FOREVER)
        case "take memory":
            return len(bytearray(item.payload["megabytes"] * MEGABYTE)) // MEGABYTE
        case "leak":
            KEPT.append(bytearray(MEGABYTE))
        case "print":
            _print(item.payload["what"], item.payload.get("bytes", 0))
        case "log":
            _log(context)
        case "look":
            files = sorted(os.readlink(f"/proc/self/fd/{name}").split(":")[0] for name in os.listdir("/proc/self/fd") if _is_there(name))
            return {"environment": dict(os.environ), "files": files, "pid": os.getpid(), "group": os.getpgrp()}
        case "write":
            return Result("written", write=_write(item, item.payload["what"]))
    return os.getpid()


def _is_there(name: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{name}")


def _keep_the_lock(item: Item) -> None:
    """Hold the interpreter lock in native code, until the test writes into the pipe at the gate."""
    pipe = str(gate_file(Path(os.environ[FOLDER]), item.payload["gate"]))
    library = ctypes.PyDLL(None)
    file = library.open(pipe.encode(), os.O_RDONLY)
    library.read(file, ctypes.create_string_buffer(1), 1)
    library.close(file)


def _fork_and_return() -> Any:
    """Two processes come back from here; the first one to do so is the one that must not."""
    forked = os.fork()
    if forked == 0:
        return "from the wrong process"
    os.waitpid(forked, 0)
    return "from the right process"


def _write_to_every_socket(data: bytes) -> None:
    for number in _sockets():
        os.write(number, data)


def _sockets() -> list[int]:
    names = [name for name in os.listdir("/proc/self/fd") if _is_there(name)]
    return [int(name) for name in names if os.readlink(f"/proc/self/fd/{name}").startswith("socket:")]


def _print(what: str, size: int) -> None:
    match what:
        case "lines":
            print("to standard output")
            print("to standard error", file=sys.stderr)
            os.write(1, b"from native code\n")
            subprocess.run(["sh", "-c", "echo from its child"], check=True)
            print("without an end", end="")
        case "bytes":
            os.write(1, b"\xff\x00\xd8 and a \x1b[31mcolour\n")
        case "a long line":
            print("x" * 100_000)
        case "very much" | "very many":
            block = ("y" * 99 + "\n").encode() * 10_000 if what == "very much" else b"y\n" * 500_000
            for _ in range(size // len(block)):
                os.write(1, block)


def _log(context: Context) -> None:
    context.log.warning("beware of %s", "the dog")
    context.log.debug("not at this level")
    logging.getLogger("some.library").error("in a library", extra={"colour": "black"})
    try:
        raise ValueError("the reason")
    except ValueError:
        context.log.exception("told with its traceback")


async def module_level(connection: Any, text: str) -> None:
    """A write with a name, and with nothing to do."""


def _write(item: Item, what: str) -> Any:
    async def closure(connection: Any) -> None:
        await module_level(connection, item.key)

    foreign = asyncio.sleep  # a function of a module that has nothing to do with this one
    return {
        "named": partial(module_level, text="a"),
        "of the package": partial(write_effect, batch=str(item.batch_id), position=item.position, bad=False),
        "closure": closure,
        "lambda": lambda connection: module_level(connection, "b"),
        "method": KEPT.append,
        "foreign": partial(foreign, 0),
        "unfit arguments": partial(module_level, text=item.batch_id),
        "instance": Held(),
    }[what]


class Held:
    """Something that can be called and has no name of its own."""

    async def __call__(self, connection: Any) -> None:
        """Nothing."""


class Counted:
    """Tells when it is opened and closed, and by which process."""

    async def __aenter__(self) -> Counted:
        write_line("opened")
        return self

    async def __aexit__(self, *_: object) -> None:
        write_line("closed")

    async def process(self, item: Item, context: Context) -> Any:
        """As `work`, but an item waits at its gate if it names one."""
        gate = item.payload.get("gate") if isinstance(item.payload, dict) else None
        with logged(item):
            while gate is not None and not gate_file(Path(os.environ[FOLDER]), gate).exists():  # noqa: ASYNC110 the gate is a file
                await asyncio.sleep(TICK)
            return go_wrong(item.payload.get("how", "") if isinstance(item.payload, dict) else "", item, context)


class DiesOnce:
    """Opening it kills the process, the first time."""

    async def __aenter__(self) -> None:
        mark = Path(os.environ[FOLDER]) / "died-once"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    async def process(self, item: Item, context: Context) -> Any:
        """The key."""
        return item.key
