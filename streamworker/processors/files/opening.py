"""Opens a file that a payload names: inside the allowed folder, a regular file, not too large; anything else is refused for good."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from streamworker.processors.api import Permanent

_CHUNK = 1 << 20
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_REFUSED = {
    errno.ENOENT: "there is no file {}",
    errno.ENOTDIR: "{} goes on below something that is not a folder",
    errno.ELOOP: "{} is a symbolic link that leads in a circle",
    errno.EACCES: "{} may not be read by this worker",
    errno.EPERM: "{} may not be read by this worker",
    errno.ENAMETOOLONG: "{} is longer than a path may be",
    errno.EINVAL: "{} is not a path",
}
# Folders are opened only to look further from them; Linux can do that without the right to list them.
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class FileChanged(Exception):
    """The file was written to while it was read: another attempt may find it at rest."""


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A regular file inside the allowed folder; `name` is its path below that folder, as it was asked for."""

    name: str
    stream: BinaryIO
    size: int
    _before: os.stat_result

    def sha256(self) -> str:
        """The hexadecimal SHA-256 of the content, read piece by piece."""
        digest, left = hashlib.sha256(), self.size
        self.stream.seek(0)
        while piece := self.stream.read(_CHUNK):
            left -= len(piece)
            if left < 0:
                raise FileChanged(f"{shown(self.name)} grew while it was being read")
            digest.update(piece)
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Raise FileChanged if the file is not what it was when it was opened."""
        now = os.fstat(self.stream.fileno())
        if (now.st_size, now.st_mtime_ns) != (self._before.st_size, self._before.st_mtime_ns):
            raise FileChanged(f"{shown(self.name)} changed while it was being read")


def path_of(payload: Any) -> str:
    """The path in a payload: the payload itself, or its `path`."""
    path = payload.get("path") if isinstance(payload, dict) else payload
    if not isinstance(path, str):
        raise Permanent(f'the payload must be a path, or an object with a "path" that is text, not {_kind_of_json(payload)}')
    if not path or "\0" in path:
        raise Permanent("the path is empty" if not path else f"{shown(path)} is not a path")
    return path


@contextmanager
def opened(root: Path, path: str, max_bytes: int) -> Iterator[OpenedFile]:
    """Open `path` below `root` for reading.

    Symbolic links are followed as long as they end inside `root`. Raises Permanent for whatever no retry can help.
    """
    real_root = Path(os.path.realpath(root, strict=True))  # gone, or not mounted: an OSError, which is retried
    with _refusals(path):
        name = _below(path, root, real_root)
        target = _resolved(real_root, name, path)
        descriptor = _open(real_root, target.relative_to(real_root).parts, path)
    with open(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        _check_regular(status, path)
        if status.st_size > max_bytes:
            raise Permanent(
                f"{shown(path)} has {status.st_size:,} bytes, more than the {max_bytes:,} allowed (STREAMWORKER_DOCUMENTS_MAX_BYTES)"
            )
        yield OpenedFile(name, stream, status.st_size, status)


def begins_with(stream: BinaryIO, *signatures: bytes) -> bool:
    """Whether the content starts with one of these bytes."""
    stream.seek(0)
    return stream.read(16).startswith(signatures)


def shown(path: str) -> str:
    """The path as it stands in messages: quoted, unprintable characters escaped, not endlessly long."""
    return repr(path if len(path) <= 200 else f"{path[:100]}…{path[-100:]}")


def _below(path: str, root: Path, real_root: Path) -> str:
    # On the text alone, before anything is looked up: a refused path must not tell what exists out there.
    parts = Path(path).parts
    if ".." in parts:
        raise Permanent(f"{shown(path)} contains '..', which is not allowed")
    if not os.path.isabs(path):
        return str(Path(path))
    for base in (real_root, Path(os.path.abspath(root))):
        if Path(path).is_relative_to(base):
            return str(Path(path).relative_to(base))
    raise Permanent(f"{shown(path)} is outside of the allowed folder (STREAMWORKER_DOCUMENTS_ROOT)")


def _resolved(real_root: Path, name: str, path: str) -> Path:
    target = Path(os.path.realpath(real_root / name))
    if not target.is_relative_to(real_root):
        raise Permanent(f"{shown(path)} is a symbolic link out of the allowed folder (STREAMWORKER_DOCUMENTS_ROOT)")
    return Path(os.path.realpath(target, strict=True))


def _open(real_root: Path, parts: tuple[str, ...], path: str) -> int:
    # Step by step and without following links: who swaps a folder for a link after the check above gets a refusal, not a way out.
    folder = os.open(real_root, _FOLDER)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        last = parts[-1] if parts else "."
        # Looking before opening: the mere opening of a device can do something.
        _check_regular(os.stat(last, dir_fd=folder, follow_symlinks=False), path)
        return os.open(last, _FILE, dir_fd=folder)
    finally:
        os.close(folder)


def _check_regular(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((text for is_kind, text in _KINDS if is_kind(status.st_mode)), "something else")
        raise Permanent(f"{shown(path)} is {kind}, not a file")


@contextmanager
def _refusals(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise  # a full table of open files, a broken disk: the next attempt may have better luck
        raise Permanent(_REFUSED[error.errno].format(shown(path))) from error
    except ValueError as error:
        raise Permanent(f"{shown(path)} is not a path") from error


def _kind_of_json(payload: Any) -> str:
    if isinstance(payload, dict):
        return f'an object whose "path" is {_kind_of_json(payload["path"])}' if "path" in payload else 'an object without a "path"'
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", list: "an array", str: "text"}
    return names.get(type(payload), type(payload).__name__)
