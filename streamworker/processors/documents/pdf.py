"""Reads a PDF: the text of its pages, and the pictures of pages that are scans."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image

from streamworker.processors.api import Permanent
from streamworker.processors.documents.files import shown
from streamworker.processors.documents.images import MAX_PIXELS, decoded
from streamworker.processors.documents.text import MAX_TEXT

if TYPE_CHECKING:
    from pypdf import PdfReader

MAX_PAGES = 500
MAX_SCANS = 20


@dataclass(slots=True)
class PdfText:
    """What was read from a PDF; `scans` counts the pictures that were read by OCR, `skipped` the pages whose pictures were not."""

    pages: int
    texts: list[str] = field(default_factory=list)
    scans: int = 0
    skipped: int = 0
    notes: list[str] = field(default_factory=list)


def read_pdf(stream: BinaryIO, name: str, read_scan: Callable[[int, Image.Image], str]) -> PdfText:
    """Read page after page until there is text enough; `read_scan(page number, picture)` gives the text of a picture."""
    stream.seek(0)
    reader = _opened(stream, name)
    found = PdfText(_count(reader, name))
    for number in range(min(found.pages, MAX_PAGES)):
        try:
            found.texts.append(_page_text(reader, number, found, read_scan))
        except (Permanent, MemoryError):
            raise
        except Exception as error:  # pypdf raises nearly anything on damaged pages; the other pages may be good
            found.notes.append(f"page {number + 1} cannot be read: {str(error)[:200] or type(error).__name__}")
        if sum(map(len, found.texts)) > MAX_TEXT:
            break
    if found.pages and len(found.notes) == found.pages:
        raise Permanent(f"{shown(name)} cannot be read as a PDF: {found.notes[0]}")
    if found.pages > MAX_PAGES:
        found.notes.append(f"only the first {MAX_PAGES} of {found.pages} pages were read")
    if found.skipped:
        found.notes.append(f"{found.skipped} pages are pictures and were not read: {MAX_SCANS} pictures of a PDF are")
    return found


def _opened(stream: BinaryIO, name: str) -> PdfReader:
    from pypdf import PdfReader  # noqa: PLC0415

    with _Reading(name):
        reader = PdfReader(stream)
        if reader.is_encrypted and not _unlocked(reader):
            raise Permanent(f"{shown(name)} is an encrypted PDF and cannot be read without its password")
        return reader


def _count(reader: PdfReader, name: str) -> int:
    with _Reading(name):
        return len(reader.pages)


def _unlocked(reader: PdfReader) -> bool:
    # Many PDFs are encrypted with an empty password: only printing or copying is restricted then.
    try:
        return bool(reader.decrypt(""))
    except Exception:  # the ciphers that need a further package, and damaged keys
        return False


def _page_text(reader: PdfReader, number: int, found: PdfText, read_scan: Callable[[int, Image.Image], str]) -> str:
    page = reader.pages[number]
    text = page.extract_text()
    if text.strip():
        return text
    pictures = []
    for picture in _pictures(page):
        if found.scans == MAX_SCANS:
            found.skipped += 1
            break
        found.scans += 1
        pictures.append(read_scan(number, picture))
    return "\n".join(pictures)


def _pictures(page: Any) -> Iterator[Image.Image]:
    objects = page.get("/Resources", {}).get("/XObject", {})
    for name in page.images.keys():  # noqa: SIM118 (iterating would decode them all)
        head = objects.get(name, {}) if isinstance(name, str) else {}
        if int(head.get("/Width", 0)) * int(head.get("/Height", 0)) > MAX_PIXELS:
            raise ValueError(f"its picture has more than {MAX_PIXELS:,} pixels")
        image = page.images[name].image
        if image is not None and min(image.size) >= 32:
            yield decoded(image)


class _Reading:
    """Turns what pypdf raises on damaged files into Permanent."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, Permanent | MemoryError):
            raise Permanent(f"{shown(self._name)} cannot be read as a PDF: {str(error)[:200] or type(error).__name__}") from error
