"""Decodes pictures within limits, and makes small copies of them."""

from __future__ import annotations

import base64
import io
import math
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from streamworker.processors.api import Permanent
from streamworker.processors.files.opening import shown

MAX_PIXELS = 64_000_000  # A4 at 800 dpi; decoded, about 200 MB.
# What OCR gets: A4 at 130 dpi. More costs seconds and hundreds of megabytes, and reads nothing more from ordinary print.
MAX_AREA = 1_600_000
MAX_SIDE = 3840
_THUMBNAIL = 128
# Only these: some of Pillow's readers start other programs, others have no purpose here.
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")


class Picture:
    """A picture whose head was read: `width`, `height`, `format` and `pages` are known, the pixels are decoded page by page."""

    def __init__(self, image: Image.Image, name: str) -> None:
        self._image, self._name = image, name
        self.format = image.format or ""
        self.width, self.height = image.size
        with _Reading(name):
            # Only TIFF holds pages; in the other formats, more frames are an animation of the first.
            self.pages = int(getattr(image, "n_frames", 1)) if self.format == "TIFF" else 1

    def page(self, number: int) -> Image.Image:
        """Decode a page (from 0): upright, RGB on white, scaled down to what OCR needs."""
        with _Reading(self._name):
            if number:
                self._image.seek(number)
            _check_size(self._image, self._name)
            self._image.draft("RGB", _enough(self._image))
            return decoded(self._image)


def open_picture(stream: BinaryIO, name: str, expected: bool) -> Picture | None:
    """Read the head of a picture; None when no reader knows it and it was not `expected` that one does."""
    Image.init()
    stream.seek(0)
    with _Reading(name):
        try:
            image = Image.open(stream, formats=[name for name in _FORMATS if name in Image.OPEN])
        except UnidentifiedImageError:
            if expected:
                raise Permanent(f"{shown(name)} cannot be read as an image: its head is damaged") from None
            return None
    _check_size(image, name)
    return Picture(image, name)


def decoded(image: Image.Image) -> Image.Image:
    """The image upright, as RGB on white, scaled down to what OCR needs."""
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    if image.has_transparency_data:
        over = image.convert("RGBA")
        image = Image.new("RGB", over.size, "white")
        image.paste(over, mask=over.getchannel("A"))
    image = image.convert("RGB")
    image.thumbnail(_enough(image), Image.Resampling.LANCZOS)
    return image


def thumbnail(page: Image.Image) -> str:
    """A small JPEG as a data URI."""
    return "data:image/jpeg;base64," + jpeg(page, _THUMBNAIL, 70)


def jpeg(page: Image.Image, side: int, quality: int = 85) -> str:
    """A JPEG in base64, no side of it longer than `side` pixels."""
    small = page.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=quality, optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def _enough(image: Image.Image) -> tuple[int, int]:
    scale = min(1.0, math.sqrt(MAX_AREA / (image.width * image.height)), MAX_SIDE / max(image.size))
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width:,} x {image.height:,} pixels"
        raise Permanent(f"{shown(name)} is an image of {size}, more than the {MAX_PIXELS:,} that are decoded")


def _eight_bits(image: Image.Image) -> Image.Image:
    low, high = image.convert("F").getextrema()
    scale = 255 / ((high - low) or 1)  # type: ignore[operator]
    return image.convert("F").point(lambda value: value * scale - low * scale).convert("L")  # type: ignore[operator]


class _Reading:
    """Turns what Pillow's decoders raise on damaged files, which is nearly anything, into Permanent."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, Permanent | MemoryError):
            return
        if isinstance(error, OSError) and error.errno is not None:
            return  # the disk, not the file
        if isinstance(error, Image.DecompressionBombError):
            raise Permanent(f"{shown(self._name)} is an image of more than the {MAX_PIXELS:,} pixels that are decoded") from None
        raise Permanent(f"{shown(self._name)} cannot be read as an image: {error or type(error).__name__}") from error
