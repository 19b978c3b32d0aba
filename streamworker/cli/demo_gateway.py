"""The demo's live page: a gateway on this machine, which stays up until a key is pressed."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import socket
import sys
import termios
import tty
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from streamworker.cli.demo_process import DemoProcess

PATIENCE = 30.0  # seconds that it may take to start
NEEDS = ("starlette", "uvicorn", "websockets")
SERVES = re.compile(r"the gateway serves (http://\S+)")


@asynccontextmanager
async def live_page(home: Path, port: int) -> AsyncIterator[str | None]:
    """The address of the live page, while it is up; None where there can be none, which is said. Another port where this one is taken."""
    if any(importlib.util.find_spec(name) is None for name in NEEDS):
        print("without the live page: it needs pip install 'streamworker[gateway]'", flush=True)
        yield None
        return
    gateway = DemoProcess(home, "gateway", ("gateway", "--address", f"127.0.0.1:{port if _is_free(port) else 0}"), {})
    try:
        await gateway.start()
        where = await _started(gateway)
        if where is None:
            print(f"without the live page: {gateway.last_words()} (its log: {gateway.log})", flush=True)
        yield where
    finally:
        await gateway.stop()


def has_terminal() -> bool:
    """Whether there is somebody to press a key."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


async def key_pressed() -> None:
    """Wait for a key."""
    loop, pressed, keyboard = asyncio.get_running_loop(), asyncio.Event(), sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, pressed.set)
    try:
        await pressed.wait()
        os.read(keyboard, 1024)
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


async def _started(gateway: DemoProcess) -> str | None:
    ended = asyncio.create_task(gateway.ended())
    try:
        async with asyncio.timeout(PATIENCE):
            while not (found := SERVES.search(gateway.text())) and not ended.done():  # noqa: ASYNC110 its log is a file
                await asyncio.sleep(0.05)
    except TimeoutError:
        return None
    finally:
        ended.cancel()
    return found[1] if found else None


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
