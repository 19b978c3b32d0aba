"""What the tests of the embedded servers work with: a folder, processes that use it, and what is left of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import redis

from tests.servers import process_lives, run_async, wait_for

ROOT = Path(__file__).parents[2]
# An ordinary user on the same files, whoever runs the tests: root outside is somebody else inside.
ORDINARY = ["unshare", "--user", "--map-user=65534", "--map-group=65534", "--"] if os.geteuid() == 0 else []


class User:
    """A process that uses the servers of a folder."""

    def __init__(self, home: Path, environment: dict[str, str], prefix: list[str] | None = None, python: list[str] | None = None) -> None:
        self.home = home
        line = [*(prefix or []), *(python or [sys.executable]), "-m", "tests.process.embedded_user", str(home)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            line, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=environment, start_new_session=True
        )
        self._urls: dict[str, str] | None = None

    def urls(self) -> dict[str, str]:
        """Where the servers are, once they are there."""
        if self._urls is None:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            assert line, self.process.communicate()[1]
            self._urls = json.loads(line)
        return self._urls

    def leave(self) -> str:
        """End in good order; returns what it logged."""
        _, log = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, log
        return log

    def end_by(self, number: signal.Signals) -> str:
        """Send a signal and wait for a good end; returns what it logged."""
        self.process.send_signal(number)
        return self.leave()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def refused(self) -> str:
        """The one sentence on which it ended with exit code 2."""
        _, complaint = self.process.communicate(timeout=60)
        assert self.process.returncode == 2, complaint
        assert "Traceback" not in complaint
        lines = [line for line in complaint.splitlines() if not line.startswith(("started", "joined", "stopped"))]
        assert len(lines) == 1, complaint
        return lines[0]

    def redis(self, *command: str) -> Any:
        """Run a command on the embedded Valkey."""
        with redis.Redis.from_url(self.urls()["redis_url"], decode_responses=True) as client:
            return client.execute_command(*command)

    def sql(self, statement: str) -> Any:
        """Run a statement on the embedded Postgres; returns the first value of the first row."""

        async def run() -> Any:
            connection = await asyncpg.connect(self.urls()["database_url"], timeout=20)
            try:
                return await connection.fetchval(statement)
            finally:
                await connection.close()

        return run_async(run())

    def servers(self) -> tuple[int, int]:
        """The processes of Valkey and Postgres."""
        self.urls()
        postmaster = (self.home / "postgres/data/postmaster.pid").read_text().split()[0]
        return int(self.redis("INFO", "server")["process_id"]), int(postmaster)


def processes_in(folder: Path) -> list[int]:
    """All processes that work in a folder: each embedded server does so in its own."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str((entry / "cwd").readlink()).startswith(str(folder)) and process_lives(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            continue  # gone meanwhile, or not ours
    return found


def nothing_runs(folder: Path) -> None:
    """Wait until no server of the folder is left."""
    wait_for(lambda: not processes_in(folder), about=f"the end of all servers in {folder}")


def happens(event: Callable[[], bool]) -> bool:
    """Tell whether something happens within 10 s."""
    with suppress(AssertionError):
        return wait_for(event, 10)
    return False


def end_all(users: list[User], folder: Path) -> None:
    """Leave nothing behind, whatever the test came to."""
    for user in users:
        try:
            user.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            user.kill()
    for number in (signal.SIGINT, signal.SIGKILL):  # the first lets Postgres give its shared memory back
        for pid in processes_in(folder):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        if happens(lambda: not processes_in(folder)):
            return
    raise AssertionError(f"{processes_in(folder)} do not end")
