"""The files that the demo draws."""

# ruff: noqa: F811 (a fixture is named where it comes from and where it is used)

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from streamworker.cli.demo_files import draw_demo_files
from streamworker.processors.api import Permanent
from tests.unit.documents_scene import Desk, demo, desk, worker  # noqa: F401


def test_the_demo_draws_the_same_files_every_time(demo: Path, tmp_path: Path) -> None:
    paths = draw_demo_files(tmp_path)
    assert 38 <= len(paths) <= 46
    assert {path.name for path in paths} == {path.name for path in demo.iterdir()}
    assert all(path.read_bytes() == (demo / path.name).read_bytes() for path in paths)
    assert draw_demo_files(tmp_path / "other", seed=2)[0].read_bytes() != paths[0].read_bytes()


def test_the_demo_holds_what_it_promises(demo: Path, desk: Desk) -> None:
    shutil.copytree(demo, desk.root, dirs_exist_ok=True)
    below = desk.root.name
    with pytest.raises(Permanent, match=r"cut-off\.png' cannot be read as an image: image file is truncated"):
        desk.examine(f"{below}/cut-off.png")
    assert desk.examine(f"{below}/holiday.jpg")["type"]["label"] == "txt"
    desk.examine(f"{below}/invoice-en-1.png")
    assert desk.examine(f"{below}/invoice-en-1 (copy).png")["duplicate_of"]["key"] == f"{below}/invoice-en-1.png"
    desk.examine(f"{below}/letter-de.png")
    assert desk.examine(f"{below}/letter-de-small.jpg")["near_duplicate_of"]["key"] == f"{below}/letter-de.png"
    assert desk.examine(f"{below}/lettre.txt")["encoding"] == "cp1252"
    assert desk.examine(f"{below}/sideways.jpg")["ocr"]["turned"] == 90
