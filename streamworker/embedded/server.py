"""One embedded server: is it running, start it, is it ready, stop it."""

from __future__ import annotations

import enum
import fcntl
import importlib.util
import logging
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event

from streamworker.embedded.folder import ELSEWHERE, open_lock, try_lock
from streamworker.embedded.waiting import happens_within, wait_until
from streamworker.errors import ConfigurationError

_logger = logging.getLogger("streamworker.embedded")
_SILENCE = 30.0
_LOG_BYTES = 1 << 20
_LOG_PREFIX = re.compile(r"^\S+ \S+ UTC \[\d+\] |^\d+:[A-Z] .{20,26} [*#.-] ")


class Answer(enum.Enum):
    """What a server said when it was called."""

    READY = enum.auto()
    STARTING = enum.auto()


class Server(ABC):
    """A server in its own folder, listening on a socket only.

    While any process of it lives, it holds a lock on the file `alive`: that, and no process id in a file, says whether it is running,
    so neither a reused id nor a container that numbers its processes differently leads to two servers on the same data.
    """

    name: str
    signals: Sequence[tuple[signal.Signals, float]]  # how to end it, and how long each is given

    def __init__(self, folder: Path, socket_path: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self._socket = socket_path
        self._alive = open_lock(folder / "alive")
        self.pid: int | None = None  # as seen at the last call
        self._log_start = 0
        self._started = False

    @abstractmethod
    def prepare(self, lock: int) -> None:
        """Make the data folder fit for a start; whatever it runs for that inherits `lock`."""

    @abstractmethod
    def command(self) -> list[str]:
        """The command line that runs the server in the foreground."""

    @abstractmethod
    def ask(self, connection: socket.socket) -> Answer | None:
        """Call it over a fresh connection; None when it says nothing."""

    def running(self) -> bool:
        """Tell whether any process of the server lives."""
        if try_lock(self._alive, fcntl.LOCK_SH):
            fcntl.flock(self._alive, fcntl.LOCK_UN)
            return False
        return True

    def launch(self) -> None:
        """Start it unless it is running; `wait_ready` says when it can be used."""
        lock = open_lock(self.folder / "alive")
        try:
            if not try_lock(lock, fcntl.LOCK_EX):
                return
            self.prepare(lock)
            self._rotate_log()
            with self.log.open("ab") as log:
                self._log_start = log.tell()
                spawn(self.command(), self.folder, log.fileno(), lock)
        finally:
            os.close(lock)  # not unlocked: the server's own copy holds it now
        self._started = True

    def wait_ready(self, stop: Event) -> None:
        """Return when the server can be used; raises ConfigurationError when it died or says nothing."""
        heard = time.monotonic()

        def ready() -> bool:
            nonlocal heard
            answer = self._call()
            if answer is not None:
                heard = time.monotonic()
            elif not self.running():
                self._relaunch()
                heard = time.monotonic()
            elif time.monotonic() - heard > _SILENCE:
                raise ConfigurationError(self._silent())
            return answer is Answer.READY

        wait_until(ready, stop, f"embedded {self.name} in {self.folder} has been starting")
        verb = "started" if self._started else "joined"
        _logger.info("%s embedded %s (process %s) in %s", verb, self.name, self.pid, self.folder)

    def begin_stop(self) -> None:
        """Ask it to end, without waiting for it."""
        # Called even where its process is known: somebody else may have restarted it. And a new one may not listen yet.
        happens_within(5, lambda: self._call() is not None or self.pid is not None or not self.running())
        self._signal(self.signals[0][0])

    def finish_stop(self) -> None:
        """Wait for its end, with more force when it takes too long."""
        for number, patience in self.signals:
            if number is not self.signals[0][0]:
                self._signal(number)
            if happens_within(patience, lambda: not self.running()):
                _logger.info("stopped embedded %s in %s", self.name, self.folder)
                return
        _logger.error("embedded %s (process %s) in %s does not end", self.name, self.pid, self.folder)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._alive)

    def fail(self, doing: str, output: str) -> ConfigurationError:
        """Make the sentence for a server that could not be started, out of what it said last."""
        reason = reason_of(output)
        remedy = "free some space, or " if "No space left" in reason else ""
        return ConfigurationError(f"embedded {self.name} could not {doing}: {reason.rstrip('.')}; {remedy}{ELSEWHERE}")

    def _relaunch(self) -> None:
        if self._started:
            with self.log.open("rb") as log:
                log.seek(self._log_start)
                raise self.fail(f"start (its log: {self.log})", log.read().decode(errors="replace"))
        self.launch()  # it was on its way out when we came, or a killed starter's initdb was

    def _call(self) -> Answer | None:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            connection.connect(str(self._socket))
            if self._in_place():
                self.pid = peer(connection) or self.pid
            return self.ask(connection)
        return None

    def _in_place(self) -> bool:
        """A folder that was removed and made again has other servers than the one we joined."""
        with suppress(OSError):
            return os.path.samestat(os.fstat(self._alive), (self.folder / "alive").stat())
        return False

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None and self.running():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, number)

    def _silent(self) -> str:
        end = f"end it with `kill -9 {self.pid}`" if self.pid else "end its processes"
        return f"embedded {self.name} in {self.folder} is running but has not answered for {_SILENCE:.0f} s; {end} (its log: {self.log})"

    def _rotate_log(self) -> None:
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.log.with_suffix(".old"))


def spawn(command: list[str], folder: Path, log: int, lock: int) -> None:
    """Run a command as nobody's child: it outlives us, and a terminal's Ctrl-C does not reach it."""
    detached = ["/bin/sh", "-c", '"$@" &', "sh", *command]
    subprocess.run(  # noqa: S603
        detached,
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=(lock,),
        start_new_session=True,
        check=True,
    )


def environment() -> dict[str, str]:
    """What a server gets to see: no secret, and no setting meant for another server."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def wheel(module: str, package: str, pattern: str) -> Path:
    """Find a file of an installed package, without importing it."""
    spec = importlib.util.find_spec(module)
    found = sorted(Path(spec.origin).parent.glob(pattern)) if spec is not None and spec.origin else []
    if not found:
        lacking = "is not installed" if spec is None else f"has no {pattern}"
        raise ConfigurationError(
            f"REDIS_URL and DATABASE_URL are not set, and the embedded servers cannot be used, since the package {package} {lacking}: "
            f"pip install 'streamworker[embedded]', or set both"
        )
    return found[0]


def reason_of(output: str) -> str:
    """Pick the line that says why, out of what a server or its tool printed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for mark in ("No space left", "FATAL", "PANIC", "rror:", "rror "):
        for line in reversed(lines):
            if mark in line:
                return _LOG_PREFIX.sub("", line)[:500]
    return _LOG_PREFIX.sub("", lines[-1])[:500] if lines else "it ended without a word"


def peer(connection: socket.socket) -> int | None:
    """The process that listens at the other end, in our own numbering; None where it cannot be seen."""
    if sys.platform == "darwin":
        return struct.unpack("i", connection.getsockopt(0, 2, 4))[0] or None  # LOCAL_PEERPID
    return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0] or None
