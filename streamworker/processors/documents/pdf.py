"""Reads a PDF: the text of its pages, and by OCR the pages that hold none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image

from streamworker.processors.api import Permanent
from streamworker.processors.documents.steps import Stopped
from streamworker.processors.documents.text import MAX_TEXT
from streamworker.processors.files.opening import shown
from streamworker.processors.files.pdf_pages import PdfPages, reading_pdf
from streamworker.processors.files.pictures import thumbnail

if TYPE_CHECKING:
    from pypdf import PdfReader

MAX_PAGES = 500
MAX_SCANS = 20
ReadScan = Callable[[int, Image.Image], str]


@dataclass(slots=True)
class PdfText:
    """What was read from a PDF; `scans` counts the pages that were read by OCR, `skipped` those that were not."""

    pages: int
    thumbnail: str | None = None
    texts: list[str] = field(default_factory=list)
    scans: int = 0
    skipped: int = 0
    bad: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_pdf(stream: BinaryIO, name: str, read_scan: ReadScan) -> PdfText:
    """Read page after page until there is text enough; `read_scan(page number, picture)` gives the text of a page that holds none."""
    stream.seek(0)
    reader = _opened(stream, name)
    found = PdfText(_count(reader, name))
    with PdfPages(stream, name) as pages:
        found.thumbnail = _thumbnail(pages, found)
        for number in range(min(found.pages, MAX_PAGES)):
            try:
                found.texts.append(_page_text(reader, pages, number, found, read_scan))
            except (MemoryError, Stopped):
                raise
            except Exception as error:  # the readers raise nearly anything on damaged pages; the other pages may be good
                found.bad.append(f"page {number + 1} cannot be read: {str(error)[:200] or type(error).__name__}")
            if sum(map(len, found.texts)) > MAX_TEXT:
                break
    if found.pages and len(found.bad) == found.pages:
        raise Permanent(f"{shown(name)} cannot be read as a PDF: {found.bad[0]}")
    found.notes += found.bad
    if found.pages > MAX_PAGES:
        found.notes.append(f"only the first {MAX_PAGES} of {found.pages} pages were read")
    if found.skipped:
        found.notes.append(f"{found.skipped} pages are pictures and were not read: {MAX_SCANS} of a PDF are")
    return found


def _opened(stream: BinaryIO, name: str) -> PdfReader:
    from pypdf import PdfReader  # noqa: PLC0415

    with reading_pdf(name):
        reader = PdfReader(stream)
        if reader.is_encrypted and not _unlocked(reader):
            raise Permanent(f"{shown(name)} is an encrypted PDF and cannot be read without its password")
        return reader


def _count(reader: PdfReader, name: str) -> int:
    with reading_pdf(name):
        return len(reader.pages)


def _unlocked(reader: PdfReader) -> bool:
    # Many PDFs are encrypted with an empty password: only printing or copying is restricted then.
    try:
        return bool(reader.decrypt(""))
    except Exception:  # the ciphers that need a further package, and damaged keys
        return False


def _thumbnail(pages: PdfPages, found: PdfText) -> str | None:
    try:
        return thumbnail(pages.picture(0)) if pages.count else None
    except Permanent as error:  # the text may be readable nevertheless
        found.notes.append(f"no thumbnail was drawn: {error}")
        return None


def _page_text(reader: PdfReader, pages: PdfPages, number: int, found: PdfText, read_scan: ReadScan) -> str:
    text = reader.pages[number].extract_text()
    if text.strip():
        return text
    if found.scans == MAX_SCANS:
        found.skipped += 1
        return ""
    picture = pages.picture(number)
    if _is_blank(picture):
        return ""
    found.scans += 1
    return read_scan(number, picture)


def _is_blank(picture: Image.Image) -> bool:
    low, high = picture.convert("L").getextrema()
    return low == high
