"""One process under measurement, with what it started itself: to be held still, looked at, and ended for sure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.servers import die_with_parent

ROOT = Path(__file__).parents[2]


class Spawned:
    """Leads a process group of its own, so that signals reach its children too and a terminal's Ctrl-C does not."""

    def __init__(self, line: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        self._line = " ".join(line)
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                list(line),
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self.pid = self._process.pid

    def check(self) -> None:
        """AssertionError with the end of its log if it has ended."""
        if self._process.poll() is not None:
            raise AssertionError(f"{self._line} ended with {self._process.returncode}: {self.tail()}")

    def answer(self, seconds: float) -> Any:
        """Wait for a good end; returns what its last line says, in JSON."""
        code = self._process.wait(seconds)
        if code != 0:
            raise AssertionError(f"{self._line} ended with {code}: {self.tail()}")
        return json.loads(self.written().splitlines()[-1])

    def written(self) -> str:
        """What it has written so far, in and beside its standard output."""
        return self._log.read_text("utf-8", "replace")

    def stop(self) -> None:
        """Hold it still."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """SIGTERM, a while later SIGKILL; none of its group is left."""
        self.resume()
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def memory(self) -> int:
        """The most bytes that it has held in memory so far."""
        return peak_memory(self.pid)

    def tail(self) -> str:
        """The end of its log."""
        return " / ".join(self.written().splitlines()[-6:])

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def peak_memory(pid: int | str = "self") -> int:
    """The greatest resident size of a process, in bytes (Linux).

    Not `getrusage`: what that tells of a child includes the parent's size at the fork.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
