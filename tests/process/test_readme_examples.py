"""The examples of the README, taken out of it and run: each does what is said of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from streamworker.testing import run_processor
from tests.model_server import Handler, ModelServer, status
from tests.process.test_testing import CONFTEST, run_pytest

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))


ISOLATED = """
def test_a_model_in_a_process(real_worker):
    items = real_worker.run("language:Language", ["This is a letter about an invoice."] * 3, isolation="process")
    assert [item.result["language"] for item in items] == ["en"] * 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with all examples in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in EXAMPLES.items():
        (tmp_path / name).write_text(text)
    yield tmp_path
    for name in EXAMPLES:
        sys.modules.pop(name.removesuffix(".py"), None)


def test_images_are_resized_and_an_item_may_run_twice(here: Path) -> None:
    Image.new("RGBA", (1000, 500), "red").save(here / "a.png")
    good, bad = run_processor("thumbnails:thumbnail", ["a.png", "missing.png"], crash_at=0)
    assert (good.status, good.attempts, bad.status, bad.attempts) == ("completed", 2, "failed", 2)
    assert good.progress == ((30.0, "resizing", "1000 x 500 pixels"),)
    (written,) = (here / "thumbnails").iterdir()
    assert good.result == {"thumbnail": f"thumbnails/{written.name}"}
    with Image.open(written) as image:
        assert image.size == (256, 128)


def weather(handler: Handler) -> None:
    handler.reply(200, {"city": handler.path.rpartition("=")[2], "degrees": 21})


def test_an_api_is_called_and_its_errors_are_told_apart(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ModelServer()
    monkeypatch.setenv("WEATHER_URL", server.url)
    server.then("/now?city=rome", status(500, b""), weather)
    server.then("/now?city=oslo", status(429, b"", **{"Retry-After": "7"}), weather)
    server.then("/now?city=atlantis", status(404, b""))
    server.then("/now?city=%2F..%2F%3F", weather)
    rome, oslo, atlantis, odd = run_processor("weather:Weather", ["rome", "oslo", "atlantis", "/../?"])
    assert (rome.status, rome.attempts, rome.result) == ("completed", 2, {"city": "rome", "degrees": 21})
    assert (oslo.status, oslo.attempts, oslo.error) == ("completed", 2, "retry after 7 s")
    assert (atlantis.status, atlantis.attempts, atlantis.error) == ("failed", 1, "no such city: atlantis")
    assert odd.status == "completed"
    server.close()
    (away,) = run_processor("weather:Weather", ["rome"])
    assert "the weather service is away" in (away.error or "")


def test_a_model_is_loaded_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from py3langid.langid import LanguageIdentifier

    loaded: list[Any] = []
    load = LanguageIdentifier.from_model_file
    monkeypatch.setattr(LanguageIdentifier, "from_model_file", lambda *words, **named: loaded.append(words) or load(*words, **named))
    runs = run_processor("language:Language", ["This is a letter about an invoice.", "Das ist ein Brief über eine Rechnung."] * 3)
    assert [run.result["language"] for run in runs] == ["en", "de"] * 3
    assert len(loaded) == 1


def test_the_examples_of_tests_pass(here: Path, clean_environment: dict[str, str]) -> None:
    (here / "conftest.py").write_text(CONFTEST)
    (here / "test_isolated.py").write_text(ISOLATED)
    assert "4 passed" in run_pytest(here, clean_environment)
