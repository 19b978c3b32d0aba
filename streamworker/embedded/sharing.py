"""Who uses the servers of a folder: the first starts them, the last stops them, under a lock that one process holds at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TypeVar

from streamworker.embedded.folder import address, explained, open_folder, open_lock, socket_folder, try_lock
from streamworker.embedded.postgres import Postgres
from streamworker.embedded.server import Server
from streamworker.embedded.valkey import Valkey
from streamworker.embedded.waiting import wait_until

AnyServer = TypeVar("AnyServer", bound=Server)


@dataclass(frozen=True, slots=True)
class Urls:
    """Where the embedded servers are."""

    redis_url: str
    database_url: str


class Sharing:
    """One use of a folder's servers: `enter`, then `leave`, each once, in any thread.

    Locks on two files: `lock` is held by whoever starts or stops the servers, `users` shared by everyone who uses them. The system drops
    both when a process dies, however it dies.
    """

    def __init__(self, home: Path) -> None:
        self._home = Path(os.path.realpath(home))
        self._given_up = Event()
        self._servers: list[Server] = []
        self._open = ExitStack()
        self._lock: int | None = None
        self._users: int | None = None
        self._alias: Path | None = None

    def enter(self) -> Urls:
        """Start the servers or join them; raises ConfigurationError, one sentence with the remedy."""
        with explained(self._home):
            open_folder(self._home)
            self._lock, self._users = self._file("lock"), self._file("users")
            with self._alone(self._lock, self._given_up):
                fcntl.flock(self._users, fcntl.LOCK_SH)
                return self._start()

    def give_up(self) -> None:
        """Let `enter` end at once, in its error."""
        self._given_up.set()

    def leave(self) -> None:
        """Stop the servers if nobody else uses them; also after an `enter` that failed."""
        with self._open:
            if self._lock is None or self._users is None:
                return
            with self._alone(self._lock, Event()):
                fcntl.flock(self._users, fcntl.LOCK_UN)
                if try_lock(self._users, fcntl.LOCK_EX):
                    try:
                        self._stop()
                    finally:
                        fcntl.flock(self._users, fcntl.LOCK_UN)

    def _start(self) -> Urls:
        sockets = address(socket_folder(self._home))
        if sockets.is_symlink():
            self._alias = sockets
            # Cleaners of temporary files leave a folder alone while somebody holds a lock on it.
            folder = self._keep(os.open(sockets.parent, os.O_RDONLY | os.O_CLOEXEC))
            fcntl.flock(folder, fcntl.LOCK_SH)
        valkey = self._add(Valkey(self._home / "valkey", sockets))
        postgres = self._add(Postgres(self._home / "postgres", sockets))
        for server in self._servers:
            server.launch()
        for server in self._servers:
            server.wait_ready(self._given_up)
        return Urls(redis_url=valkey.url, database_url=postgres.url)

    def _stop(self) -> None:
        for server in self._servers:
            server.begin_stop()
        for server in self._servers:
            server.finish_stop()
        if self._alias is not None:
            self._alias.unlink(missing_ok=True)

    @contextmanager
    def _alone(self, lock: int, stop: Event) -> Iterator[None]:
        about = f"another process has been starting or stopping the embedded servers in {self._home}"
        wait_until(lambda: try_lock(lock, fcntl.LOCK_EX), stop, about)
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)

    def _add(self, server: AnyServer) -> AnyServer:
        self._open.callback(server.close)
        self._servers.append(server)
        return server

    def _file(self, name: str) -> int:
        return self._keep(open_lock(self._home / name))

    def _keep(self, file: int) -> int:
        self._open.callback(os.close, file)
        return file
