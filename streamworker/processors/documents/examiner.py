"""Examines one file after another: the steps from the opened file to the result."""

from __future__ import annotations

import logging
import sqlite3
import warnings
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from PIL import Image

from streamworker.processors.api import Context, Item
from streamworker.processors.documents.hashing import perceptual_hash
from streamworker.processors.documents.ocr import Line, Ocr, confidence
from streamworker.processors.documents.pdf import read_pdf
from streamworker.processors.documents.seen import Seen
from streamworker.processors.documents.steps import Steps
from streamworker.processors.documents.text import MAX_TEXT, Languages, read_text, seems_text, storable
from streamworker.processors.files.limits import Limits
from streamworker.processors.files.opening import OpenedFile, begins_with
from streamworker.processors.files.pdf_pages import is_pdf
from streamworker.processors.files.pictures import Picture, open_picture, thumbnail

MAX_PAGES = 20
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8")
_READABLE = {"png", "jpeg", "gif", "bmp", "tiff", "webp", "jp2", "avif"}


class _Kind(NamedTuple):
    label: str
    mime: str
    group: str
    description: str
    is_text: bool
    confidence: float | None


class Examiner:
    """What a worker needs to examine files, loaded once.

    The result of an item, all keys always there:
    `path`, `size`, `sha256`, `type` {label, mime, group, description, confidence},
    `image` {width, height, format, pages, phash, thumbnail} or null, `pdf` {pages, scans, thumbnail} or null,
    `duplicate_of` {position, key} or null, `near_duplicate_of` {position, key, distance} or null,
    `text` or null, `text_source` ("ocr", "file", "pdf") or null, `text_truncated`, `encoding` or null,
    `ocr` {confidence, turned, lines [{text, confidence}]} or null, `language` {code, confidence} or null, `notes` [sentences].
    """

    def __init__(self, limits: Limits, home: Path) -> None:
        from magika import Magika  # noqa: PLC0415

        _quiet()
        self._limits = limits
        self._magika = Magika()
        self._languages = Languages()
        self._ocr = Ocr()
        self._seen = Seen(home / "documents.sqlite3")

    def close(self) -> None:
        """Close the record of what was seen."""
        self._seen.close()

    def examine(self, item: Item, context: Context) -> dict[str, Any]:
        """Examine the file that the item names; raises Permanent where no retry can help."""
        steps = Steps(context)
        with self._limits.open(item.payload) as file:
            steps(0, "reading", f"Reading {file.name}, {file.size:,} bytes")
            found = self._examined(file, item, steps)
            file.check_unchanged()
            return found

    def _examined(self, file: OpenedFile, item: Item, steps: Steps) -> dict[str, Any]:
        steps(5, "type", "Looking at the content")
        kind = self._kind(file.stream)
        found = _empty_result(file, kind)
        steps(15, "hashing", "Computing SHA-256 and perceptual hash")
        found["sha256"] = file.sha256()
        picture = self._picture(file, kind)
        page = picture.page(0) if picture else None
        phash = perceptual_hash(page) if page else None
        self._compare(found, item, phash if picture and picture.pages == 1 else None)
        if picture and page:
            steps(25, "thumbnail", "Drawing a thumbnail")
            found["image"] = _image_of(picture, phash, page)
            self._read_picture(found, picture, page, steps)
        elif kind.label == "pdf" or is_pdf(file.stream):
            self._read_pdf(found, file, steps)
        elif kind.is_text or (kind.label == "unknown" and seems_text(file.stream)):
            self._read_text(found, file, steps)
        elif kind.label != "empty":
            found["notes"].append(f"no text is read from files of the type {kind.label}")
        steps(95, "language", "Telling the language")
        found["language"] = self._languages.tell(found["text"] or "")
        return found

    def _kind(self, stream: BinaryIO) -> _Kind:
        stream.seek(0)
        guess = self._magika.identify_stream(stream)
        kind = guess.output
        # The score is that of the model's own guess, which gives way to a general type where it is too low.
        sure = round(float(guess.score), 4) if guess.dl.label in (kind.label, "undefined") else None
        return _Kind(str(kind.label), kind.mime_type, kind.group, kind.description, kind.is_text, sure)

    def _picture(self, file: OpenedFile, kind: _Kind) -> Picture | None:
        if kind.is_text or kind.label in ("pdf", "empty"):
            return None
        # Not every picture is told to be one: the rarer formats pass for films, and damaged ones for nothing known.
        return open_picture(file.stream, file.name, kind.label in _READABLE or begins_with(file.stream, *_PICTURES))

    def _compare(self, found: dict[str, Any], item: Item, phash: str | None) -> None:
        try:
            same, alike = self._seen.record(item.batch_id, item.position, item.key, found["sha256"], phash)
        except sqlite3.Error as error:
            found["notes"].append(f"duplicates were not looked up: {error}")
            return
        found["duplicate_of"] = {"position": same.position, "key": same.key} if same else None
        found["near_duplicate_of"] = alike._asdict() if alike else None

    def _read_picture(self, found: dict[str, Any], picture: Picture, first: Image.Image, steps: Steps) -> None:
        reading = _OcrReading(self._ocr)
        read = min(picture.pages, MAX_PAGES)
        for number in range(read):
            steps(30 + 60 * number / read, "ocr", f"Reading the text of page {number + 1} of {read}" if read > 1 else "Reading the text")
            reading.add(picture.page(number) if number else first)
        if read < picture.pages:
            found["notes"].append(f"only the first {read} of {picture.pages} pages were read")
        found["ocr"] = reading.summary()
        _set_text(found, "\n\n".join(reading.texts), "ocr")

    def _read_pdf(self, found: dict[str, Any], file: OpenedFile, steps: Steps) -> None:
        reading = _OcrReading(self._ocr)

        def read_scan(number: int, picture: Image.Image) -> str:
            steps(30 + min(60, 3 * number), "ocr", f"Reading the scan on page {number + 1}")
            return reading.add(picture)

        steps(30, "text", "Reading the text of the PDF")
        pdf = read_pdf(file.stream, file.name, read_scan)
        found["pdf"] = {"pages": pdf.pages, "scans": pdf.scans, "thumbnail": pdf.thumbnail}
        found["notes"] += pdf.notes
        found["ocr"] = reading.summary() if pdf.scans else None
        _set_text(found, "\n\n".join(pdf.texts), "pdf")

    def _read_text(self, found: dict[str, Any], file: OpenedFile, steps: Steps) -> None:
        steps(30, "text", "Decoding the text")
        decoded = read_text(file.stream, self._languages.classify)
        found["encoding"] = decoded.encoding
        if decoded.guessed:
            found["notes"].append(f"the character set {decoded.encoding} is a guess")
        _set_text(found, decoded.text, "file", decoded.cut)


class _OcrReading:
    """Collects what OCR reads from the pages of one file."""

    def __init__(self, ocr: Ocr) -> None:
        self._ocr = ocr
        self.texts: list[str] = []
        self._lines: list[Line] = []
        self._turned = 0

    def add(self, page: Image.Image) -> str:
        """Read a page and return its text."""
        read = self._ocr.read(page)
        self._turned = read.turned if not self.texts else self._turned
        self.texts.append(read.text)
        self._lines += read.lines
        return read.text

    def summary(self) -> dict[str, Any]:
        """What stands under `ocr` in the result; `turned` is that of the first page."""
        lines = [{"text": line.text, "confidence": round(line.confidence, 4)} for line in self._lines]
        return {"confidence": confidence(self._lines), "turned": self._turned, "lines": lines}


def _empty_result(file: OpenedFile, kind: _Kind) -> dict[str, Any]:
    return {
        "path": file.name,
        "size": file.size,
        "sha256": None,
        "type": {key: value for key, value in kind._asdict().items() if key != "is_text"},
        "image": None,
        "pdf": None,
        "duplicate_of": None,
        "near_duplicate_of": None,
        "text": None,
        "text_source": None,
        "text_truncated": False,
        "encoding": None,
        "ocr": None,
        "language": None,
        "notes": [],
    }


def _image_of(picture: Picture, phash: str | None, page: Image.Image) -> dict[str, Any]:
    return {
        "width": picture.width,
        "height": picture.height,
        "format": picture.format,
        "pages": picture.pages,
        "phash": phash,
        "thumbnail": thumbnail(page),
    }


def _set_text(found: dict[str, Any], text: str, source: str, cut: bool = False) -> None:
    found["text"], found["text_source"] = storable(text[:MAX_TEXT]), source
    if cut or len(text) > MAX_TEXT:
        found["text_truncated"] = True
        found["notes"].append(f"the text was cut to {MAX_TEXT:,} characters")


def _quiet() -> None:
    import onnxruntime  # noqa: PLC0415

    # Their remarks on damaged files go to stderr, unasked; what matters of them stands in the item's error or notes.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    logging.getLogger("PIL").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"PIL\..*")
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # smaller ones are refused by our own limit
    onnxruntime.set_default_logger_severity(3)
