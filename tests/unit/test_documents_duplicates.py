"""Exact and near duplicates: who is named, and that it is the same after a kill."""

# ruff: noqa: F811 (a fixture is named where it comes from and where it is used)

from __future__ import annotations

import asyncio
import io
import logging
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from PIL import Image

from streamworker.cli.demo_pages import invoice, letter
from streamworker.processors.api import Item
from streamworker.processors.documents import Documents
from streamworker.processors.documents.hashing import perceptual_hash
from streamworker.processors.documents.seen import Seen
from tests.unit.documents_scene import Desk, RecordingContext, desk, encoded, worker  # noqa: F401


def test_exact_and_near_duplicates_name_the_earlier_item(desk: Desk) -> None:
    original, other = letter(random.Random(7), "de"), letter(random.Random(7), "nl")
    first = desk.put("first.png", original)
    assert (first["duplicate_of"], first["near_duplicate_of"]) == (None, None)
    copy = desk.put("copy.png", original)
    assert copy["duplicate_of"] == {"position": 0, "key": f"{desk.root.name}/first.png"}
    assert (copy["near_duplicate_of"], copy["sha256"]) == (None, first["sha256"])
    small = desk.put("small.jpg", original.resize((608, 720)), quality=45)
    assert small["duplicate_of"] is None
    assert small["near_duplicate_of"]["key"] == f"{desk.root.name}/first.png"
    assert 0 < small["near_duplicate_of"]["distance"] <= 16
    assert desk.put("other.png", other)["near_duplicate_of"] is None


@pytest.mark.parametrize(
    "change",
    [lambda sheet: sheet.resize((360, 500)), lambda sheet: sheet.convert("L"), lambda sheet: sheet.point(lambda value: 60 + value // 2),
     lambda sheet: Image.open(io.BytesIO(encoded(sheet, "JPEG")))],
)  # fmt: skip
def test_the_perceptual_hash_survives_what_copies_suffer(change: Callable[[Image.Image], Image.Image]) -> None:
    pages = [invoice(random.Random(seed), f"INV-{seed}") for seed in range(6)]
    hashes = [int(perceptual_hash(page) or "0", 16) for page in pages]
    for number, (own, page) in enumerate(zip(hashes, pages, strict=True)):
        changed = int(perceptual_hash(change(page)) or "0", 16)
        distances = [(changed ^ other).bit_count() for other in hashes]
        assert distances[number] <= 16
        assert distances[number] == min(distances)
        assert own


def test_other_batches_do_not_count(desk: Desk, worker: Documents) -> None:
    name = desk.write("a.txt", "the same text in two batches\n")
    desk.examine(name)
    assert Desk(desk.root, worker).examine(name)["duplicate_of"] is None


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from uuid import UUID
from streamworker.processors.api import Item
from streamworker.processors.documents import Documents
from tests.unit.documents_scene import RecordingContext

root, home, batch = Path(sys.argv[1]), Path(sys.argv[2]), UUID(sys.argv[3])

class Killing(RecordingContext):
    def progress(self, percent=None, stage=None, message=None):
        if stage == "language":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().progress(percent, stage, message)

documents = Documents(root, home=home)
documents.process(Item(batch, 0, "a", "a.txt", 1), RecordingContext(batch))
documents.process(Item(batch, 1, "b", "b.txt", 1), Killing(batch))
"""


def test_after_a_kill_the_duplicates_are_the_same(tmp_path: Path) -> None:
    root, home, batch = tmp_path / "root", tmp_path / "home", uuid4()
    root.mkdir()
    for name in "abc":
        (root / f"{name}.txt").write_text("one text, three files, and a worker that dies between them\n")
    command = [sys.executable, "-c", KILLED, str(root), str(home), str(batch)]
    died = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=100, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr

    documents = Documents(root, home=home)
    results = [
        documents.process(Item(batch, number, key, f"{key}.txt", 2), RecordingContext(batch))
        for number, key in ((1, "b"), (2, "c"), (0, "a"))
    ]
    asyncio.run(documents.__aexit__(None, None, None))
    original = {"position": 0, "key": "a"}
    assert [found["duplicate_of"] for found in results] == [original, original, None]


def test_an_item_whose_file_changed_is_entered_anew(tmp_path: Path) -> None:
    seen, batch = Seen(tmp_path / "seen"), uuid4()
    assert seen.record(batch, 0, "a", "11", None) == (None, None)
    assert seen.record(batch, 1, "b", "22", None) == (None, None)
    assert seen.record(batch, 0, "a", "22", None)[0] == (1, "b", 0)
    assert seen.record(batch, 1, "b", "22", None) == (None, None)
    seen.close()


def test_the_nearest_is_named_and_the_earlier_of_two(tmp_path: Path) -> None:
    seen, batch = Seen(tmp_path / "seen"), uuid4()

    def record(position: int, phash: int) -> Any:
        return seen.record(batch, position, str(position), f"sha-{position}", f"{phash:0144x}")[1]

    base = (1 << 200) - 1
    assert record(0, base) is None
    assert record(1, base ^ (0b11111 << 300)) == (0, "0", 5)
    assert record(2, base ^ (0b11111 << 300) ^ 1) == (1, "1", 1)
    assert record(3, base ^ (0b11111 << 300)) == (1, "1", 0)
    assert record(4, base ^ ((1 << 17) - 1)) is None
    assert record(5, base ^ ((1 << 16) - 1)) in ((0, "0", 16), (4, "4", 1))
    seen.close()


def test_batches_long_past_are_forgotten(tmp_path: Path) -> None:
    seen, batch = Seen(tmp_path / "seen"), uuid4()
    seen.record(batch, 0, "a", "11", None)
    seen.close()
    with sqlite3.connect(tmp_path / "seen") as connection:
        connection.execute("UPDATE seen SET at = at - 31 * 86400")
    connection.close()
    seen = Seen(tmp_path / "seen")
    assert seen.record(batch, 1, "b", "11", None) == (None, None)
    seen.close()


def test_a_home_that_cannot_be_used_is_told_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "home").write_text("a file where a folder should be")
    (tmp_path / "a.txt").write_text("some text in a file\n")
    documents, batch = Documents(tmp_path, home=tmp_path / "home"), uuid4()
    with caplog.at_level(logging.WARNING, "streamworker.documents"):
        results = [documents.process(Item(batch, number, f"k{number}", "a.txt", 1), RecordingContext(batch)) for number in (0, 1)]
    asyncio.run(documents.__aexit__(None, None, None))
    assert results[1]["duplicate_of"] == {"position": 0, "key": "k0"}
    assert "duplicates are found only among what this worker sees" in caplog.text
