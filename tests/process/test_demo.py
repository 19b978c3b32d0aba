"""The demo as a process: a worker dies, every file is accounted for, and nothing is left behind however it ends."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from streamworker.cli.demo_files import draw_demo_files
from tests.servers import process_lives, wait_for

FILES = ("letter-en.png", "note.txt", "letter-de.png", "cut-off.png", "invoice-en-1.png", "letter-fr.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few of the demo's files, some of them in a folder below."""
    drawn, folder = tmp_path_factory.mktemp("drawn"), tmp_path_factory.mktemp("files of mine")
    draw_demo_files(drawn)
    (folder / "below").mkdir()
    for number, name in enumerate(FILES):
        shutil.copy(drawn / name, folder / "below" if number % 2 else folder)
    return folder


class Demo:
    """A running demo and what it has printed."""

    def __init__(self, folder: Path, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streamworker", "demo", str(folder)],
            env=environment | {"STREAMWORKER_HOME": str(home)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.lines: list[str] = []

    def read_until(self, pattern: str) -> str:
        """Read lines until one matches."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if re.search(pattern, line):
                return line
        raise AssertionError(f"ended without {pattern}: {self.lines}")

    @property
    def page(self) -> str:
        """The address of the live page."""
        return next(line.removeprefix("live page: ") for line in self.lines if line.startswith("live page: "))

    def end(self) -> int:
        """Read the rest; returns the exit code."""
        out, _ = self.process.communicate(timeout=110)
        self.lines += out.splitlines()
        return self.process.returncode

    @property
    def workers(self) -> list[int]:
        return [int(pid) for line in self.lines for pid in re.findall(r"^worker (\d+) started", line)]

    @property
    def servers(self) -> list[int]:
        """Processes that run in the demo's home."""
        found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _mentions(entry, self.home)]
        return [pid for pid in found if pid not in (os.getpid(), self.process.pid)]


def answers(page: str) -> bool:
    """Whether the live page is up."""
    try:
        with urlopen(page.partition("#")[0] + "healthz", timeout=10) as answer:
            return bool(answer.read() == b"ok")
    except OSError:
        return False


def _mentions(process: Path, home: Path) -> bool:
    try:
        return bytes(home) in (process / "cmdline").read_bytes() or os.readlink(process / "cwd").startswith(str(home))
    except OSError:
        return False


@pytest.fixture
def demo(folder: Path, tmp_short: Path, clean_environment: dict[str, str]) -> Iterator[Demo]:
    demo = Demo(folder, tmp_short / "home", clean_environment)
    yield demo
    demo.process.kill()
    demo.process.communicate()
    for pid in [*demo.workers, *demo.servers]:
        if process_lives(pid):
            os.kill(pid, signal.SIGKILL)


def test_a_worker_is_killed_and_every_file_accounted_for(demo: Demo) -> None:
    assert demo.end() == 0
    text = "\n".join(demo.lines)
    first, second = demo.workers
    assert f"worker {first} killed (SIGKILL) in the middle of " in text
    assert "every file is accounted for: 5 completed, 1 failed, of 6" in text
    assert re.search(r"^failed: (below/)?cut-off\.png: .* truncated", text, re.MULTILINE)
    rows = [re.split(r"\s{2,}", line) for line in demo.lines[demo.lines.index("") + 2 :][: len(FILES)]]
    assert {name.removeprefix("below/") for name, *_ in rows} == set(FILES)
    assert sorted(attempts for *_, attempts in rows) == ["1", "1", "1", "1", "1", "2"]
    assert not any(map(process_lives, (first, second)))
    assert demo.servers == []
    assert not answers(demo.page)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_leaves_nothing_behind(demo: Demo, number: int, code: int) -> None:
    demo.read_until("^worker .* started")
    demo.read_until("processing")
    assert answers(demo.page)
    demo.process.send_signal(number)
    assert demo.end() == code
    assert not process_lives(demo.workers[0])
    assert not answers(demo.page)
    assert demo.servers == []


def test_the_worker_of_a_killed_demo_dies_with_it(demo: Demo) -> None:
    demo.read_until("^worker .* started")
    demo.read_until("processing")
    demo.process.kill()
    wait_for(lambda: not process_lives(demo.workers[0]), about="the end of the worker")
    wait_for(lambda: not answers(demo.page), about="the end of the live page")


@pytest.mark.parametrize(("key", "code"), [(b" ", 0), (b"\x03", 130)], ids=["a key", "Ctrl-C"])
def test_on_a_terminal_the_live_page_stays_until_a_key_is_pressed(
    tmp_path: Path, tmp_short: Path, clean_environment: dict[str, str], key: bytes, code: int
) -> None:
    (tmp_path / "note.txt").write_text("The harbour office opens at eight.")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "streamworker", "demo", str(tmp_path)],
        env=clean_environment | {"STREAMWORKER_HOME": str(tmp_short / "home"), "TERM": "dumb", "COLUMNS": "200"},
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=_take_terminal,
    )  # fmt: skip
    os.close(theirs)
    text = ""
    try:
        while "any key ends the demo" not in text:
            text += os.read(ours, 4096).decode()
        page = re.search(r"stays up: (\S+)", text)
        assert page is not None
        assert answers(page[1])
        os.write(ours, key)
        assert process.wait(40) == code
        assert not answers(page[1])
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_folder_without_files_is_refused(tmp_path: Path, clean_environment: dict[str, str], tmp_short: Path) -> None:
    demo = Demo(tmp_path, tmp_short / "home", clean_environment)
    assert demo.end() == 2
    assert demo.lines == [f"streamworker: {tmp_path}: expected a folder with files in it, found none"]
