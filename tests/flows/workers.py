"""Worker processes of the tests: real ones, each leading a session of its own, with a log file, and never left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.servers import die_with_parent, process_lives, wait_for

ROOT = Path(__file__).parents[2]
PLAIN, FAILING = "streamworker", "tests.flows.failing_worker"
MARK = "TEST_OF_STREAMWORKER_WORKER"  # what the processes of a worker inherit, in whatever session they are


class WorkerProcess:
    """`python -m streamworker run`, or the test build of it; `killed_at` is the monotonic time of a SIGKILL by `kill`."""

    def __init__(self, environment: Mapping[str, str], log: Path, module: str = PLAIN) -> None:
        self._log = log
        self._mark = f"{MARK}={log}".encode()
        line = [sys.executable, "-m", module, "run"]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                line,
                cwd=ROOT,
                env={**environment, MARK: str(log)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self.pid = self._process.pid
        self.killed_at = 0.0

    @property
    def lives(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def kill(self) -> float:
        """SIGKILL; returns the monotonic time of it."""
        self.killed_at = time.monotonic()
        self._process.kill()
        self._process.wait()
        return self.killed_at

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; to one that has ended this does nothing."""
        if self.lives:
            self._process.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.signal(signal.SIGTERM)

    def stop(self) -> None:
        """SIGSTOP, and wait until it stands still."""
        self.signal(signal.SIGSTOP)
        self.wait_stopped()

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def wait_stopped(self, seconds: float = 30.0) -> None:
        """Wait until the process is stopped, by whomever."""
        wait_for(lambda: self.state == "T", seconds, f"worker {self.pid} to stop; {self.tail()}")

    @property
    def state(self) -> str:
        """The letter of its state in /proc; empty once it is gone."""
        with suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return ""

    @property
    def memory(self) -> int:
        """The greatest number of bytes that it has held so far."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    def wait_ended(self, seconds: float = 30.0) -> int:
        """Wait for its end; returns the exit code."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"worker {self.pid} did not end within {seconds:g} s; {self.tail()}") from None

    def wait_started(self, times: int = 1) -> WorkerProcess:
        """Wait until it looks for work, or does so again after it has replaced itself."""
        started = lambda: self.messages().count("worker started") >= times or not self.lives  # noqa: E731
        wait_for(started, 40, f"worker {self.pid} to start; {self.tail()}")
        assert self.lives, self.tail()
        return self

    def wait_logged(self, words: str, seconds: float = 30.0) -> None:
        """Wait until a line of its log holds these words."""
        wait_for(lambda: words in self.text(), seconds, f"{words!r} in the log; {self.tail()}")

    def text(self) -> str:
        """Its log so far."""
        return self._log.read_text("utf-8", "backslashreplace")

    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines of its log."""
        found = []
        for line in self.text().splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]

    def messages(self) -> list[str]:
        """The messages of its log."""
        return [str(line.get("message")) for line in self.lines()]

    def errors(self) -> list[str]:
        """What it logged as an error, and what it wrote without meaning to."""
        told = [f"{line['message']} {line.get('exception', '')}" for line in self.lines() if line.get("level") in ("error", "critical")]
        return told + [line for line in self.text().splitlines() if line.startswith("Traceback")]

    def tail(self) -> str:
        """The end of its log, for the text of a failed assertion."""
        return "its log ends with:\n" + "\n".join(self.text().splitlines()[-15:])

    def end(self) -> int:
        """SIGTERM, and wait for the end; returns the exit code."""
        self.begin_end()
        return self.wait_good_end()

    def begin_end(self) -> None:
        """SIGTERM, also to one that is stopped."""
        self.resume()
        self.terminate()

    def wait_good_end(self) -> int:
        """Wait for the end that `begin_end` asked for; returns the exit code, 0 for one that had not begun."""
        code = self.wait_ended(20)
        return 0 if code == -signal.SIGTERM and "worker started" not in self.messages() else code

    def discard(self) -> None:
        """Kill it and everything in its session, in whatever state it is."""
        for pid in [self.pid, *self.strays()]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def strays(self) -> list[int]:
        """Processes that it, or one of its own, has started, and that are there."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                pid = int(entry.name)
                if pid != self.pid and self._mark in (entry / "environ").read_bytes().split(b"\0") and process_lives(pid):
                    found.append(pid)
        return found
