"""A process of the demo: started, killed and started again, with its log in a file; it never outlives the demo."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from pathlib import Path

GRACE = 20.0  # seconds for a good end, before it is killed
# Ends a process whose demo has died: the pipe that `read` waits on closes with it.
GUARD = 'read -r _; kill -9 "$0" 2>/dev/null'


class DemoProcess:
    """`streamworker` with these arguments, one process at a time, on the embedded servers in `home`."""

    def __init__(self, home: Path, name: str, arguments: Sequence[str], settings: Mapping[str, str]) -> None:
        self._arguments = arguments
        self._settings = {"STREAMWORKER_HOME": str(home), **settings}
        self._process: Process | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self.log = home / f"{name}.log"
        self.log.unlink(missing_ok=True)

    @property
    def pid(self) -> int:
        """The process number."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start a process."""
        command = [sys.executable, "-m", "streamworker", *self._arguments, "--log-format", "console"]
        with self.log.open("ab") as log:
            # In a session of its own: Ctrl-C is for the demo, which then ends its processes in good order.
            self._process = await asyncio.create_subprocess_exec(
                *command, env=self._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        guard = ["/bin/sh", "-c", GUARD, str(self.pid)]
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)  # noqa: ASYNC220, S603

    async def kill(self) -> int:
        """SIGKILL it and wait until it is gone; returns its number."""
        process = self._take()
        assert process is not None
        process.kill()
        await process.wait()
        return process.pid

    async def stop(self) -> None:
        """End it in good order, or else by force."""
        process = self._take()
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(GRACE):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def ended(self) -> int:
        """Wait until a process has ended that nobody ended; returns its exit code."""
        while True:
            process = self._process
            if process is None:
                await asyncio.sleep(0.05)
                continue
            code = await process.wait()
            if process is self._process:
                return code

    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.text().splitlines()
        return lines[-1][:500] if lines else "it said nothing"

    def _take(self) -> Process | None:
        process, self._process = self._process, None
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
            guard.communicate()
        return process

    def _environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("STREAMWORKER_")}
        for name in ("REDIS_URL", "DATABASE_URL"):
            own.pop(name, None)
        return own | self._settings
