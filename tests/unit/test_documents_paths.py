"""Which files the processor `documents` opens, and which it refuses for good (security row of file payloads)."""

# ruff: noqa: F811 (a fixture is named where it comes from and where it is used)

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamworker.processors.api import Permanent
from streamworker.processors.files import opening
from streamworker.processors.files.opening import opened
from tests.unit.documents_scene import Desk, desk, worker  # noqa: F401


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder `root` with good and bad things in it, beside a folder `outside`."""
    top = Path(tempfile.mkdtemp(prefix="place-"))
    root, outside = top / "root", top / "outside"
    for folder in (root / "sub", outside):
        folder.mkdir(parents=True)
    for file in (root / "a.txt", root / "sub" / "b.txt", root / "ü ñ.txt", root / "~", root / "-n", root / "a\\b", outside / "secret.txt"):
        file.write_text("hello")
    (root / "large.txt").write_bytes(b"x" * 1001)
    (top / "root-next").mkdir()
    (top / "root-next" / "near.txt").write_text("next door")
    links = {
        "inside": "a.txt", "inside-folder": "sub", "out": outside / "secret.txt", "out-folder": outside, "out-up": "../outside/secret.txt",
        "loop": "loop", "loop-a": "loop-b", "loop-b": "loop-a", "dangling": "nothing", "out-dangling": outside / "nothing",
        "device": "/dev/null", "chain": "out", "there-and-back": "../root/a.txt", "to-root": ".",
    }  # fmt: skip
    for name, target in links.items():
        (root / name).symlink_to(target)
    (top / "root-alias").symlink_to(root)
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
        yield top
    shutil.rmtree(top)


def content(root: Path, path: str) -> bytes:
    with opened(root, path, 1000) as file:
        return file.stream.read()


@pytest.mark.parametrize(
    "path",
    ["a.txt", "./a.txt", "sub/b.txt", "sub//b.txt", "sub/./b.txt", "ü ñ.txt", "~", "-n", "a\\b", "inside", "inside-folder/b.txt",
     "there-and-back", "to-root/to-root/a.txt", "{top}/root/a.txt"],
)  # fmt: skip
def test_files_inside_the_root_are_opened(place: Path, path: str) -> None:
    assert content(place / "root", path.format(top=place)) == b"hello"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing.txt", "there is no file 'missing.txt'"),
        ("sub/missing/x.txt", "there is no file"),
        ("dangling", "there is no file"),
        ("a.txt/b.txt", "goes on below something that is not a folder"),
        ("../outside/secret.txt", "contains '..'"),
        ("sub/../a.txt", "contains '..'"),
        ("..", "contains '..'"),
        ("sub/../../outside/secret.txt", "contains '..'"),
        ("/etc/passwd", "outside of the allowed folder"),
        ("/", "outside of the allowed folder"),
        ("//etc/passwd", "outside of the allowed folder"),
        ("/proc/self/environ", "outside of the allowed folder"),
        ("/proc/self/cwd/pyproject.toml", "outside of the allowed folder"),
        ("/nowhere/at/all", "outside of the allowed folder"),
        ("{top}/outside/secret.txt", "outside of the allowed folder"),
        ("{top}/root-next/near.txt", "outside of the allowed folder"),
        ("out", "symbolic link out of the allowed folder"),
        ("out-folder/secret.txt", "symbolic link out of the allowed folder"),
        ("out-up", "symbolic link out of the allowed folder"),
        ("out-dangling", "symbolic link out of the allowed folder"),
        ("chain", "symbolic link out of the allowed folder"),
        ("device", "symbolic link out of the allowed folder"),
        ("loop", "leads in a circle"),
        ("loop-a", "leads in a circle"),
        (".", "is a folder, not a file"),
        ("sub", "is a folder, not a file"),
        ("inside-folder/", "is a folder, not a file"),
        ("{top}/root", "is a folder, not a file"),
        ("fifo", "is a FIFO, not a file"),
        ("socket", "is a socket, not a file"),
        ("large.txt", "has 1,001 bytes, more than the 1,000 allowed"),
        ("x" * 300, "is longer than a path may be"),
        ("y/" * 5000 + "z", "there is no file"),
        ("a.txt\0.png", "is not a path"),
        ("\ud800", "is not a path"),
        ("http://127.0.0.1/a.txt", "there is no file"),
        ("file:///etc/passwd", "there is no file"),
        ("%2e%2e/outside/secret.txt", "there is no file"),
        ("a.txt\nb\x1b[31m\u202e", "there is no file"),
    ],
)
def test_everything_else_is_refused_for_good_in_one_sentence(place: Path, path: str, reason: str) -> None:
    with pytest.raises(Permanent, match=reason) as refused:
        content(place / "root", path.format(top=place))
    text = str(refused.value)
    assert len(text) < 400
    assert text.isprintable()


def test_a_device_is_not_opened() -> None:
    with pytest.raises(Permanent, match="is a device, not a file"):
        content(Path("/dev"), "null")


def test_a_root_that_is_itself_a_link_works_under_both_names(place: Path) -> None:
    alias = place / "root-alias"
    assert content(alias, "a.txt") == content(alias, str(alias / "a.txt")) == content(alias, str(place / "root" / "a.txt")) == b"hello"


@pytest.mark.parametrize("parts", [("out-folder", "secret.txt"), ("out",), ("inside",)])
def test_a_path_swapped_for_a_link_after_the_check_is_refused(place: Path, parts: tuple[str, ...]) -> None:
    with pytest.raises((Permanent, OSError)):
        opening._open(place / "root", parts, "/".join(parts))


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (None, "not null"), (5, "not a number"), (True, "not true or false"), ([], "not an array"), ({}, 'not an object without a "path"'),
        ({"path": 7}, 'not an object whose "path" is a number'), ({"path": None}, 'whose "path" is null'), ("", "the path is empty"),
    ],
)  # fmt: skip
def test_a_payload_that_is_no_path_is_refused(desk: Desk, payload: Any, told: str) -> None:
    with pytest.raises(Permanent, match=told):
        desk.examine(payload)


def test_a_missing_root_is_no_fault_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        content(tmp_path / "gone", "a.txt")


def test_no_file_stays_open(desk: Desk, place: Path) -> None:
    before = len(os.listdir("/dev/fd"))
    for path in ("a.txt", "missing.txt", "out", "out-folder/secret.txt", "fifo", "sub", "large.txt", "sub/b.txt"):
        try:
            content(place / "root", path)
        except Permanent:
            continue
    assert len(os.listdir("/dev/fd")) == before
