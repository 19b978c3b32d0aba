"""What `submit` reads: files and folders, lists of paths, JSON Lines; one item at a time, every mistake with its place."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import msgspec

from streamworker.errors import InvalidSubmission
from streamworker.messages import MAX_KEY

LONGEST_LINE = 16 * 1024 * 1024
STANDARD_INPUT = "-"


class Source:
    """Items to submit, and the place (`file:line`) of the one given last, for complaints."""

    def __init__(self) -> None:
        self.place = ""

    def json_lines(self, path: str) -> Iterator[Any]:
        """The items of a JSON Lines file, or of standard input (`-`).

        An object with `payload`, and at most `key` besides, is an item; any other JSON value is the payload of one.
        A short string is then its own key. Blank lines are skipped.
        """
        with open_lines(path) as lines:
            for line in self._lines(lines, _name(path)):
                if not line.isspace():
                    yield _item(_decode(line, self.place))
        self.place = ""

    def paths(self, arguments: Iterable[str]) -> Iterator[dict[str, str]]:
        """An item for each file: files, the files below folders in order of their names, and `-` for a list on standard input.

        The payload is the absolute path, links not followed; the key is the path as given, in a folder from the folder's name on.
        """
        for argument in arguments:
            if argument == STANDARD_INPUT:
                with open_lines(argument) as lines:
                    for line in self._lines(lines, _name(argument)):
                        if path := line.rstrip(b"\r\n"):
                            yield from self._files(os.fsdecode(path), f"{self.place}: ")
            else:
                yield from self._files(argument, "")
        self.place = ""

    def _lines(self, lines: BinaryIO, name: str) -> Iterator[bytes]:
        number = 0
        while line := lines.readline(LONGEST_LINE + 2):
            number += 1
            self.place = f"{name}:{number}"
            if len(line) > LONGEST_LINE:
                raise InvalidSubmission(f"{self.place}: expected lines of at most {LONGEST_LINE:,} bytes, got a longer one")
            yield line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line

    def _files(self, path: str, place: str) -> Iterator[dict[str, str]]:
        mode = _mode(path, place)
        if stat.S_ISREG(mode):
            yield _file(path, os.path.normpath(path))
        elif stat.S_ISDIR(mode):
            yield from _folder(path, place)
        else:
            raise InvalidSubmission(f"{place}{_shown(path)}: expected a file or a folder, got {_sort(mode)}")


def open_lines(path: str) -> BinaryIO:
    """Open a file of lines; InvalidSubmission for anything else than a regular file or standard input."""
    if path == STANDARD_INPUT:
        if sys.stdin is None:
            raise InvalidSubmission("standard input: expected lines, but it is closed")
        return open(os.dup(sys.stdin.fileno()), "rb")
    mode = _mode(path, "")
    if not stat.S_ISREG(mode):
        raise InvalidSubmission(f"{_shown(path)}: expected a file, got {_sort(mode)} (`-` reads standard input)")
    try:
        return open(path, "rb")
    except OSError as error:
        raise InvalidSubmission(f"{_shown(path)}: {error.strerror}") from None


def _decode(line: bytes, place: str) -> Any:
    try:
        return msgspec.json.decode(line)
    except RecursionError:
        raise InvalidSubmission(f"{place}: expected at most 64 levels of nesting, got many more") from None
    except UnicodeDecodeError as error:
        raise InvalidSubmission(f"{place}: expected UTF-8, got byte 0x{error.object[error.start]:02x}") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidSubmission(f"{place}: expected one JSON value, got something else: {error}") from None


def _item(value: Any) -> Any:
    if isinstance(value, dict) and "payload" in value and value.keys() <= {"payload", "key"}:
        return value
    if isinstance(value, str) and len(value) <= MAX_KEY:
        return value
    return {"payload": value}


def _folder(folder: str, place: str) -> Iterator[dict[str, str]]:
    def refuse(error: OSError) -> None:
        raise InvalidSubmission(f"{place}{_shown(str(error.filename))}: {error.strerror}")

    parent = os.path.dirname(os.path.abspath(folder))
    found = False
    for directory, folders, names in os.walk(os.path.abspath(folder), onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(directory, name)
            if not name.startswith(".") and stat.S_ISREG(_mode_or_none(path)):
                found = True
                yield _file(path, os.path.relpath(path, parent))
    if not found:
        raise InvalidSubmission(f"{place}{_shown(folder)}: expected a folder with files in it, found none")


def _file(path: str, key: str) -> dict[str, str]:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InvalidSubmission(f"{_shown(path)}: expected a name in UTF-8, got other bytes; rename it") from None
    return {"payload": os.path.abspath(path), "key": key if len(key) <= MAX_KEY else "…" + key[1 - MAX_KEY :]}


def _mode(path: str, place: str) -> int:
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidSubmission(f"{place}{_shown(path)}: {reason}") from None


def _mode_or_none(path: str) -> int:
    try:
        return os.stat(path).st_mode
    except OSError:
        return 0  # a link to nowhere, or in a circle


def _sort(mode: int) -> str:
    tests = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"), (stat.S_ISREG, "a file"))
    return next((word for test, word in tests if test(mode)), "a device")


def _name(path: str) -> str:
    return "standard input" if path == STANDARD_INPUT else _shown(path)


def _shown(path: str) -> str:
    return path or "(an empty path)"
