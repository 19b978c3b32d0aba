"""The whole way of a folder of pictures: embedded servers, real workers, a model server, a kill, and the search at the end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flows.workers import WorkerProcess
from tests.model_server import COLOURS, REFUSAL, Gate, ModelServer, answers, model_server, picture_of, says, status
from tests.process.embedded_scene import User, end_all, nothing_runs


@pytest.fixture
def models() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, colour in enumerate(sorted(COLOURS)):
        picture_of(colour).save(folder / f"{number} {colour}.png")
    (folder / "9 cut.png").write_bytes((folder / "0 black.png").read_bytes()[:200])
    return folder


class Place:
    """A folder in which all commands and workers share the embedded servers."""

    def __init__(self, home: Path, environment: dict[str, str], logs: Path) -> None:
        self.home, self.environment, self._logs = home, environment, logs
        self.workers: list[WorkerProcess] = []

    def worker(self, **settings: str) -> WorkerProcess:
        """Start a worker and wait until it looks for work."""
        named = {f"STREAMWORKER_{name.upper()}": value for name, value in settings.items()}
        self.workers.append(WorkerProcess(self.environment | named, self._logs / f"worker-{len(self.workers)}.log"))
        return self.workers[-1].wait_started()

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """A command, to its end."""
        line = [sys.executable, "-m", "streamworker", *map(str, words)]
        return subprocess.run(line, env=self.environment, capture_output=True, text=True, timeout=60)


@pytest.fixture
def place(tmp_short: Path, tmp_path: Path, photos: Path, models: ModelServer, clean_environment: dict[str, str]) -> Iterator[Place]:
    home = tmp_short / "home"
    settings = {"HOME": str(home), "LOG_FORMAT": "json", "DOCUMENTS_ROOT": str(photos), "OLLAMA_HOST": models.url, "SHUTDOWN_TIMEOUT": "2s"}
    found = Place(home, clean_environment | {f"STREAMWORKER_{name}": value for name, value in settings.items()}, tmp_path)
    keeper = User(home, clean_environment)  # the servers stay while workers die
    keeper.urls()
    yield found
    for worker in found.workers:
        worker.discard()
    end_all([keeper], tmp_short)
    nothing_runs(home)


def rows(place: Place, batch_id: str) -> list[Any]:
    """The descriptions in the database."""
    found = json.loads(place.run("search", "circle", "--limit", "1000", "--json").stdout)
    return sorted((row for row in found if row["batch_id"] == batch_id), key=lambda row: row["position"])


def test_a_folder_is_described_through_a_kill_and_found_again(place: Place, photos: Path, models: ModelServer) -> None:
    gate = Gate()
    models.then("/api/chat", answers, says(REFUSAL), answers, gate, status(503, b"busy"))
    first = place.worker(processor="ollama,documents")
    submitted = place.run("submit", photos, "--processor", "ollama", "--json")
    batch_id = json.loads(submitted.stdout)["batch_id"]
    assert gate.arrived.wait(60), first.tail()
    first.kill()
    second = place.worker(processor="ollama")
    gate.open.set()
    watched = place.run("watch", batch_id)
    assert watched.returncode == 0, watched.stderr

    items = [json.loads(line) for line in place.run("status", batch_id, "--items", "--json").stdout.splitlines()]
    assert [item["status"] for item in items] == ["completed"] * 8 + ["failed"]
    assert [item["attempts"] for item in items] == [1, 1, 2, 1, 1, 1, 1, 1, 1], "the death counts, the server that was away does not"
    assert second.messages().count("batch paused: what its processor needs is away, trying again") == 1
    assert "cannot be read as an image" in items[8]["error"]
    results = [item["result"] for item in items[:8]]
    assert [result["asked"] for result in results] == [1, 2, 1, 1, 1, 1, 1, 1]
    assert {result["score"] for result in results} == {100}

    found = rows(place, batch_id)
    assert [(row["position"], row["description"]) for row in found] == list(enumerate(result["description"] for result in results))
    best = json.loads(place.run("search", "something purple", "--limit", "1", "--json").stdout)
    assert [Path(row["path"]).name for row in best] == ["4 purple.png"]
    printed = place.run("search", "something purple").stdout.splitlines()
    assert "4 purple.png" in printed[1]
    assert second.end() == 0
    assert second.errors() == []


def test_stages_are_told_and_a_retry_replaces_nothing(place: Place, photos: Path, models: ModelServer) -> None:
    gate = Gate(then=answers)
    models.then("/api/chat", gate)
    place.worker(processor="ollama", isolation="process")
    line = [sys.executable, "-m", "streamworker", "submit", str(photos), "--processor", "ollama", "--watch", "--json"]
    with subprocess.Popen(line, env=place.environment, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        for text in watching.stdout:
            event = json.loads(text)
            if any((item.get("stage"), item.get("percent")) == ("vision_analysis", 10.0) for item in event["items"]):
                gate.open.set()
    assert (watching.returncode, gate.open.is_set()) == (0, True)
    batch_id = event["batch_id"]
    before = rows(place, batch_id)
    picture_of("red").save(photos / "9 cut.png")
    assert place.run("retry", batch_id).returncode == 0
    assert place.run("watch", batch_id).returncode == 0
    after = rows(place, batch_id)
    assert after[:8] == before
    assert "red circle" in after[8]["description"]
