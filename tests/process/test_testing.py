"""What authors get for their tests, used as they would: `streamworker new`, its test, and a real worker by the fixture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from streamworker.cli import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_pytest(folder: Path, environment: dict[str, str]) -> str:
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", str(folder)]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_new_writes_a_processor_with_a_test_that_passes(
    here: Path, clean_environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "count_words"]) == 0
    assert sorted(path.name for path in here.iterdir()) == ["count_words.py", "test_count_words.py"]
    assert "python -m streamworker --processor count_words:count_words" in capsys.readouterr().out
    assert "3 passed" in run_pytest(here, clean_environment)
    clean = subprocess.run([sys.executable, "-m", "ruff", "check", "--isolated", str(here)], capture_output=True, text=True)
    assert clean.returncode == 0, clean.stdout


def test_a_name_that_the_test_itself_uses_does_no_harm(here: Path, clean_environment: dict[str, str]) -> None:
    names = ("first", "second", "bad", "good", "run", "run_processor", "processor", "item", "context", "testing")
    for name in names:
        assert main(["new", name]) == 0
    assert f"{3 * len(names)} passed" in run_pytest(here, clean_environment)


@pytest.mark.parametrize("name", ["", "a b", "1st", "../up", "class", "größe", "a.b", "__main__", "x" * 500 + "-"])
def test_new_refuses_a_name_that_no_module_can_have(here: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", name]) == 2
    assert "NAME: expected a name that a Python module can have, such as describe" in capsys.readouterr().err
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("len", "that is none of Python's or streamworker's own, got 'len'"),
        ("Permanent", "that is none of Python's or streamworker's own, got 'Permanent'"),
        ("test_mine", "whose file pytest does not take for a test, got 'test_mine'"),
        ("json", "that no other module has, which the new file would hide, got 'json'"),
        ("streamworker", "that no other module has, which the new file would hide, got 'streamworker'"),
        ("redis", "that no other module has, which the new file would hide, got 'redis'"),
        ("pytest", "that no other module has, which the new file would hide, got 'pytest'"),
    ],
)
def test_new_refuses_a_name_that_is_taken(here: Path, name: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", name]) == 2
    assert f"NAME: expected a name {told}" in capsys.readouterr().err
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("there", ["mine", "test_mine"])
def test_new_refuses_the_name_of_a_folder(here: Path, there: str, capsys: pytest.CaptureFixture[str]) -> None:
    (here / there).mkdir()
    assert main(["new", "mine"]) == 2
    assert f"{there}: there is such a folder already, and Python would mistake it for the new file" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == [there]


@pytest.mark.parametrize("there", ["mine.py", "test_mine.py"])
def test_new_overwrites_nothing(here: Path, there: str, capsys: pytest.CaptureFixture[str]) -> None:
    (here / there).write_text("mine")
    assert main(["new", "mine"]) == 2
    assert f"{there}: there is such a file already, and it is left as it is" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in here.iterdir()] == [(there, "mine")]


CONFTEST = 'pytest_plugins = ["streamworker.testing.pytest_plugin"]\n'
PROCESSOR = """
import asyncio

async def slow(item, context):
    if item.payload == "wait" and item.checkpoint is None:
        await context.checkpoint("half")
        await asyncio.Event().wait()
    return [item.payload, item.checkpoint]
"""
TESTS = """
import pathlib, time

def test_a_batch(real_worker):
    items = real_worker.run("mine:slow", ["a", {"key": "k", "payload": 5}], item_timeout="20s")
    assert [(item.key, item.status, item.result) for item in items] == [
        ("a", "completed", ["a", None]), ("k", "completed", [5, None])]

def test_a_death(real_worker):
    real_worker.start("mine:slow")
    batch_id = real_worker.submit(["a", "wait", "b"], metadata={"by": "me"})
    assert real_worker.wait_checkpoint(batch_id, 1) == "half"
    real_worker.kill()
    real_worker.start("mine:slow")
    batch = real_worker.wait(batch_id)
    assert (batch.status, batch.succeeded, batch.metadata) == ("completed", 3, {"by": "me"})
    assert [item.result for item in real_worker.items(batch_id)] == [["a", None], ["wait", "half"], ["b", None]]
    assert "worker started" in real_worker.log()
"""


def test_the_fixture_starts_a_real_worker(here: Path, clean_environment: dict[str, str]) -> None:
    (here / "conftest.py").write_text(CONFTEST)
    (here / "mine.py").write_text(PROCESSOR)
    (here / "test_mine.py").write_text(TESTS)
    assert "2 passed" in run_pytest(here, clean_environment)
