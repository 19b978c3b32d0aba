"""The demo's worker: a process that is started, killed and started again, and never outlives the demo."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import Process
from pathlib import Path

GRACE = 20.0  # seconds for a good end, before it is killed
# Ends a worker whose demo has died: the pipe that `read` waits on closes with it.
GUARD = 'read -r _; kill -9 "$0" 2>/dev/null'


class DemoWorker:
    """One worker at a time, with its log in `home`; it may read the files of `folder`."""

    def __init__(self, home: Path, folder: Path) -> None:
        self._home = home
        self._folder = folder
        self._process: Process | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self.log = home / "worker.log"
        self.log.unlink(missing_ok=True)

    @property
    def pid(self) -> int:
        """The process number of the worker."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start a worker."""
        command = [sys.executable, "-m", "streamworker", "run", "--processor", "documents", "--log-format", "console"]
        with self.log.open("ab") as log:
            # In a session of its own: Ctrl-C is for the demo, which then ends its worker in good order.
            self._process = await asyncio.create_subprocess_exec(
                *command, env=self._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        guard = ["/bin/sh", "-c", GUARD, str(self.pid)]
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)  # noqa: ASYNC220, S603

    async def kill(self) -> int:
        """SIGKILL the worker and wait until it is gone; returns its number."""
        process = self._take()
        assert process is not None
        process.kill()
        await process.wait()
        return process.pid

    async def stop(self) -> None:
        """End the worker in good order, or else by force."""
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

    async def broken(self) -> str:
        """Wait until a worker has ended that nobody ended; returns a sentence about it."""
        while True:
            process = self._process
            if process is None:
                await asyncio.sleep(0.05)
                continue
            code = await process.wait()
            if process is self._process:
                return f"the demo's worker ended by itself with exit code {code}: {self._last_words()} (its log: {self.log})"

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
        return own | {"STREAMWORKER_HOME": str(self._home), "STREAMWORKER_DOCUMENTS_ROOT": str(self._folder)}

    def _last_words(self) -> str:
        lines = self.log.read_text("utf-8", "replace").splitlines()
        return lines[-1][:500] if lines else "it said nothing"
