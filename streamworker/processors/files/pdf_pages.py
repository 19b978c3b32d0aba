"""Draws the pages of a PDF as pictures, within the limits of all pictures."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from PIL import Image

from streamworker.processors.api import Permanent
from streamworker.processors.files.opening import begins_with, shown
from streamworker.processors.files.pictures import MAX_AREA, MAX_PIXELS, MAX_SIDE

_SCALE = 130 / 72  # of points (1/72 inch) to pixels: what OCR needs, and enough for a model
# PDFium keeps its state for the whole process, and two threads may not be inside of it at once.
_alone = threading.Lock()


class PdfPages:
    """An open PDF, seen as pictures: `with PdfPages(stream, name) as pages: pages.picture(0)`; `count` tells how many there are."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        import pypdfium2  # noqa: PLC0415

        self._name = name
        self._images = pypdfium2.raw.FPDF_PAGEOBJ_IMAGE
        with reading_pdf(name), _alone:
            self._document: Any = pypdfium2.PdfDocument(stream)
            self.count = len(self._document)

    def __enter__(self) -> PdfPages:
        return self

    def __exit__(self, *_exception: object) -> None:
        with _alone:
            self._document.close()

    def picture(self, number: int) -> Image.Image:
        """Draw a page (from 0): RGB on white. Permanent where it cannot be drawn, or holds a picture too large to decode."""
        with reading_pdf(self._name), _alone:
            page = self._document[number]
            try:
                self._check(page)
                return page.render(scale=_scale(*page.get_size())).to_pil().convert("RGB")  # type: ignore[no-any-return]
            finally:
                page.close()

    def _check(self, page: Any) -> None:
        # Their heads tell the sizes; nothing is decoded before it is known to fit.
        for image in page.get_objects(filter=[self._images]):
            width, height = image.get_px_size()
            if width * height > MAX_PIXELS:
                raise Permanent(f"its picture has more than {MAX_PIXELS:,} pixels")


def is_pdf(stream: BinaryIO) -> bool:
    """Whether the content says that it is a PDF."""
    return begins_with(stream, b"%PDF-")


@contextmanager
def reading_pdf(name: str) -> Iterator[None]:
    """Turn what the readers of PDF raise on damaged files, which is nearly anything, into Permanent."""
    try:
        yield
    except (Permanent, MemoryError):
        raise
    except Exception as error:
        raise Permanent(f"{shown(name)} cannot be read as a PDF: {str(error)[:200] or type(error).__name__}") from error


def _scale(width: float, height: float) -> float:
    if not (width > 0 and height > 0):
        raise Permanent("a page has no size")
    return min(_SCALE, math.sqrt(MAX_AREA / (width * height)), MAX_SIDE / max(width, height))
