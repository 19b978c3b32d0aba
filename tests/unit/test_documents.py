"""What the processor `documents` finds in files: types, texts, languages, pictures, PDFs; and how it opens."""

# ruff: noqa: F811 (a fixture is named where it comes from and where it is used)

from __future__ import annotations

import gzip
import random
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path

import msgspec
import pytest

from streamworker.errors import ConfigurationError
from streamworker.processors.api import Done
from streamworker.processors.documents import Documents
from streamworker.processors.documents.files import FileChanged
from tests.unit.documents_scene import Desk, RecordingContext, desk, worker  # noqa: F401

GERMAN = "Sehr geehrte Frau Müller, vielen Dank für Ihre schöne Postkarte aus Österreich.\n"
RUSSIAN = "Здравствуйте, это письмо о доставке вашего заказа.\n" * 3
GZIP = gzip.compress(bytes(5000), mtime=0)


@pytest.mark.parametrize(
    ("text", "encoding", "told", "language"),
    [
        (GERMAN, "utf-8", "utf-8", "de"), (GERMAN, "utf-8-sig", "utf-8-sig", "de"), (GERMAN, "utf-16", "utf-16", "de"),
        (GERMAN, "utf-16-le", "utf-16-le", "de"), (GERMAN, "utf-32", "utf-32", "de"), (GERMAN, "cp1252", "cp1252", "de"),
        ("Chère Hélène, merci à toi pour ta lettre, reçue hier à la fenêtre.\n", "cp1252", "cp1252", "fr"),
        ("Dziękujemy za przesłanie faktury, płatność zostanie zrealizowana.\n", "cp1250", "cp1250", "pl"),
        (RUSSIAN, "cp1251", "cp1251", "ru"), (RUSSIAN, "koi8-r", "koi8-r", "ru"),
        ("こんにちは、請求書をお送りいたします。ご確認ください。\n" * 3, "shift_jis", "shift_jis", "ja"),
        ("发票号码：请在三十天内付款，谢谢您的合作与支持。\n" * 3, "gb18030", "gb18030", "zh"),
    ],
)  # fmt: skip
def test_text_is_read_in_many_character_sets(desk: Desk, text: str, encoding: str, told: str, language: str) -> None:
    found = desk.put("letter.txt", text.encode(encoding))
    assert (found["text"], found["encoding"], found["text_source"]) == (text, told, "file")
    assert found["language"]["code"] == language
    assert found["language"]["confidence"] > 0.5


def test_a_text_named_like_a_picture_is_a_text(desk: Desk) -> None:
    found = desk.put("photo.jpg", "This is not a photograph at all, it is a note about one.\n")
    assert (found["type"]["label"], found["type"]["mime"], found["image"]) == ("txt", "text/plain", None)
    assert found["text"].startswith("This is not")


@pytest.mark.parametrize(
    ("name", "content", "label"),
    [("x", b'{"a": [1, 2, {"b": null}], "name": "value"}\n', "json"), ("x.txt", b"<!DOCTYPE html><html><p>Hi</p></html>\n", "html"),
     ("x.png", b"", "empty"), ("y", GZIP, "gzip"), ("z", random.Random(1).randbytes(5000), "unknown")],
)  # fmt: skip
def test_the_type_comes_from_the_content(desk: Desk, name: str, content: bytes, label: str) -> None:
    found = desk.put(name, content)
    assert (found["type"]["label"], found["size"]) == (label, len(content))


def test_long_texts_are_cut_and_say_so(desk: Desk) -> None:
    found = desk.put("long.txt", "größer " * 30_000)
    assert (len(found["text"]), found["text_truncated"]) == (100_000, True)
    assert found["notes"] == ["the text was cut to 100,000 characters"]
    assert not desk.put("just.txt", "größer. " * 12_500)["text_truncated"]


def test_what_a_database_cannot_hold_is_replaced(desk: Desk) -> None:
    found = desk.put("odd.txt", b"one line of plain text\nand a NUL \0 in the second line of it\n" * 5)
    assert "\0" not in found["text"]
    assert "NUL \ufffd in" in found["text"]


def test_a_few_letters_have_no_language(desk: Desk) -> None:
    assert desk.put("n.txt", "12.50\n13.70\nok\n")["language"] is None


def test_a_file_written_to_meanwhile_is_tried_again(desk: Desk, worker: Documents) -> None:
    name = desk.write("growing.txt", "first line of the text\n")

    class Writing(RecordingContext):
        def progress(self, percent: float | None = None, stage: str | None = None, message: str | None = None) -> Awaitable[None]:
            with (worker.root / name).open("a") as file:
                file.write("one more line\n")
            return Done()

    with pytest.raises(FileChanged):
        desk.examine(name, Writing(desk.batch))


@pytest.mark.parametrize("text", ["0", "-1", "10MB", "1e9", "٥", " 5", "5" * 30, "x" * 10_000])
def test_a_bad_limit_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("STREAMWORKER_DOCUMENTS_MAX_BYTES", text)
    with pytest.raises(ConfigurationError, match="STREAMWORKER_DOCUMENTS_MAX_BYTES: expected a number of bytes from 1 on") as refused:
        Documents()
    assert len(str(refused.value)) < 250


async def test_the_environment_names_root_and_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STREAMWORKER_DOCUMENTS_MAX_BYTES", "9")
    monkeypatch.setenv("STREAMWORKER_DOCUMENTS_ROOT", str(tmp_path))
    async with Documents() as documents:
        assert (documents.root, documents.max_bytes) == (tmp_path, 9)
    monkeypatch.setenv("STREAMWORKER_DOCUMENTS_ROOT", str(tmp_path / "missing"))
    with pytest.raises(ConfigurationError, match="STREAMWORKER_DOCUMENTS_ROOT: there is no folder"):
        await Documents().__aenter__()


def test_missing_parts_are_named_with_the_remedy(tmp_path: Path) -> None:
    # A Python that has the package but none of the extras: -S leaves the installed packages out, all but one that every user has.
    (tmp_path / "msgspec").symlink_to(Path(msgspec.__file__).parent)
    program = (
        "import asyncio, sys\n"
        f"sys.path.append({str(tmp_path)!r})\n"
        "bare = sys.modules['streamworker'] = type(sys)('streamworker')\n"
        "bare.__path__ = ['streamworker']\n"
        "from streamworker.processors.documents import Documents\n"
        "from streamworker.errors import ConfigurationError\n"
        "try: asyncio.run(Documents().__aenter__())\n"
        "except ConfigurationError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("the processor 'documents' needs PIL, magika,"), done.stderr
    assert "pip install 'streamworker[documents]'" in done.stdout
