"""What the model gets to see of a file: a picture, the first pages of a PDF or a TIFF, or a few frames of a video."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from streamworker.processors.api import Permanent
from streamworker.processors.files.limits import Limits
from streamworker.processors.files.opening import OpenedFile, shown
from streamworker.processors.files.pdf_pages import PdfPages, is_pdf
from streamworker.processors.files.pictures import jpeg, open_picture, thumbnail
from streamworker.processors.files.video import container_of, draw_frames

MAX_PAGES = 3
SIDE = 1024  # pixels: models scale larger pictures down themselves


@dataclass(frozen=True, slots=True)
class Seen:
    """`kind` is image, pdf or video, `path` the one below the root, `images` are JPEGs in base64; width and height those of an image."""

    kind: str
    path: str
    thumbnail: str
    images: tuple[str, ...]
    width: int | None = None
    height: int | None = None


async def look_at(limits: Limits, payload: Any) -> Seen:
    """Open the file that a payload names and see it; decoding happens in a thread. Raises Permanent for what cannot be seen."""
    seen = await asyncio.to_thread(_look, limits, payload)
    if isinstance(seen, Seen):
        return seen
    with limits.open(payload) as file:
        frames = await draw_frames(file.stream, file.name, seen)
        return await asyncio.to_thread(_seen, "video", file, frames)


def _look(limits: Limits, payload: Any) -> Seen | str:
    """What a file looks like; of a video its container, since ffmpeg is not run in a thread that nobody could interrupt."""
    with limits.open(payload) as file:
        if is_pdf(file.stream):
            with PdfPages(file.stream, file.name) as pages:
                seen: Seen | str = _seen("pdf", file, map(pages.picture, range(min(pages.count, MAX_PAGES))))
        elif picture := open_picture(file.stream, file.name, expected=False):
            pages_of_it = map(picture.page, range(min(picture.pages, MAX_PAGES)))
            seen = _seen("image", file, pages_of_it, picture.width, picture.height)
        else:
            seen = _container(file)
        file.check_unchanged()
        return seen


def _seen(kind: str, file: OpenedFile, pages: Iterable[Image.Image], width: int | None = None, height: int | None = None) -> Seen:
    drawn = iter(pages)  # one page at a time in memory
    first = next(drawn, None)
    if first is None:
        raise Permanent(f"{shown(file.name)} has no pages")
    images = tuple(jpeg(page, SIDE) for page in itertools.chain([first], drawn))
    return Seen(kind, file.name, thumbnail(first), images, width, height)


def _container(file: OpenedFile) -> str:
    container = container_of(file.stream)
    if container is None:
        raise Permanent(f"{shown(file.name)} is neither a picture nor a PDF nor a video that can be read")
    return container
