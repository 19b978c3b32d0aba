"""The folder of the embedded servers: made, checked, locked, and reachable by an address that is short enough for a socket."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import pwd
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamworker.errors import ConfigurationError

ELSEWHERE = "set STREAMWORKER_HOME to another folder, or REDIS_URL and DATABASE_URL to servers of your own"
_LONGEST_SOCKET = "/.s.PGSQL.5432"
_ADDRESS_BYTES = 103  # a socket's address holds 107 on Linux, 103 on macOS
_REMEDIES = {
    errno.ENOSPC: "free some space, or ",
    errno.EDQUOT: "free some space, or ",
    errno.EACCES: "make it writable for this user, or ",
    errno.EMFILE: "allow more open files (ulimit -n), or ",
    errno.EPERM: "make it writable for this user, or ",
}


@contextmanager
def explained(home: Path) -> Iterator[None]:
    """Turn an error of the operating system into one sentence that names the folder and the remedy."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename and Path(os.fsdecode(error.filename)) != home else ""
        remedy = _REMEDIES.get(error.errno or 0, "") + ELSEWHERE
        raise ConfigurationError(f"STREAMWORKER_HOME {home} cannot be used: {error.strerror or error}{where}; {remedy}") from error


def open_folder(home: Path) -> None:
    """Make the folder if it is missing, private to this user; refuse one that is not a folder or belongs to somebody else."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigurationError(f"STREAMWORKER_HOME {home}: expected a folder, found a file in its place; {ELSEWHERE}") from error
    owner = home.stat().st_uid
    if owner != os.geteuid():
        raise ConfigurationError(
            f"STREAMWORKER_HOME {home} belongs to the user {account(owner)}, this process runs as {account(os.geteuid())}: "
            f"run it as {account(owner)}, or {ELSEWHERE}"
        )
    if not any(home.iterdir()):
        (home / ".gitignore").write_text("*\n")  # in a folder of its own only: elsewhere it would hide the user's files
    for name in ("valkey", "postgres"):
        (home / name).mkdir(mode=0o700, exist_ok=True)


def socket_folder(home: Path) -> Path:
    """The folder of the sockets, made if it is missing; to be called by one process at a time.

    Its name is its own: servers of a folder that was removed, and made again, unlink their sockets by name when they end.
    """
    for found in home.glob("run-*"):
        return found
    return Path(tempfile.mkdtemp(prefix="run-", dir=home))


def account(uid: int) -> str:
    """Name a user, by number where it has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def open_lock(path: Path) -> int:
    """Open a file to lock; children do not inherit it."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(file: int, kind: int) -> bool:
    """Take the lock (fcntl.LOCK_SH or LOCK_EX) without waiting; false when it is held against us."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def address(sockets: Path) -> Path:
    """Find a path to the folder of sockets that fits into a socket's address and needs no quoting in a URL.

    That is the folder itself, else a symbolic link to it in a private folder for temporary files, the same for every process.
    """
    if _fits(sockets):
        return sockets
    name = hashlib.sha256(os.fsencode(sockets)).hexdigest()[:12]
    for base in dict.fromkeys((tempfile.gettempdir(), "/tmp")):  # noqa: S108 - private inside, checked
        alias = Path(base) / f"streamworker-{os.geteuid()}" / name
        if _fits(alias):
            _make_private(alias.parent)
            _point(alias, sockets)
            return alias
    raise ConfigurationError(f"STREAMWORKER_HOME {sockets.parent}: its path is too long for a socket, and so is TMPDIR; {ELSEWHERE}")


def _fits(folder: Path) -> bool:
    return re.fullmatch(r"[A-Za-z0-9/._-]+", str(folder)) is not None and len(str(folder) + _LONGEST_SOCKET) <= _ADDRESS_BYTES


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise ConfigurationError(
                f"{folder}: expected a folder of this user with mode 0700, for sockets whose path is too long otherwise; "
                f"remove it, set TMPDIR to another folder, or set STREAMWORKER_HOME to a shorter path"
            ) from None


def _point(alias: Path, sockets: Path) -> None:
    try:
        alias.symlink_to(sockets)
    except FileExistsError:
        if alias.readlink() != sockets:
            alias.unlink()
            alias.symlink_to(sockets)
