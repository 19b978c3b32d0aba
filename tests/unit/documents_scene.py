"""The scene of the tests of `documents`: one open processor, a folder of files, and things to put into it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import shutil
import socket
import struct
import tempfile
import zlib
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from PIL import Image, ImageDraw, ImageFont

from streamworker.cli.demo_files import draw_demo_files
from streamworker.messages import to_json
from streamworker.processors.api import BatchInfo, Done, Item
from streamworker.processors.documents import Documents

KEYS = {
    "path", "size", "sha256", "type", "image", "pdf", "duplicate_of", "near_duplicate_of", "text", "text_source", "text_truncated",
    "encoding", "ocr", "language", "notes",
}  # fmt: skip


class RecordingContext:
    """A Context for one item that keeps what it is told."""

    def __init__(self, batch_id: UUID) -> None:
        self.batch = BatchInfo(batch_id, 1)
        self.log = logging.LoggerAdapter(logging.getLogger("test"))
        self.cancelled = False
        self.told: list[tuple[float | None, str | None, str | None]] = []

    def progress(self, percent: float | None = None, stage: str | None = None, message: str | None = None) -> Awaitable[None]:
        self.told.append((percent, stage, message))
        return Done()

    def checkpoint(self, state: Any) -> Awaitable[None]:
        return Done()


class Desk:
    """A folder of files below the root, and a batch that examines them one after another."""

    def __init__(self, root: Path, documents: Documents) -> None:
        self.root, self.documents = root, documents
        self.batch, self.position = uuid4(), 0

    def write(self, name: str, content: bytes | str | Image.Image, **options: Any) -> str:
        path = self.root / name
        if isinstance(content, Image.Image):
            content.save(path, **options)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return f"{self.root.name}/{name}"

    def examine(self, payload: Any, context: RecordingContext | None = None) -> dict[str, Any]:
        key = payload if isinstance(payload, str) else "key"
        item = Item(self.batch, self.position, key, payload, attempt=1)
        self.position += 1
        found = self.documents.process(item, context or RecordingContext(self.batch))
        assert set(found) == KEYS
        assert json.loads(to_json(found)) == found
        return found

    def put(self, name: str, content: bytes | str | Image.Image, **options: Any) -> dict[str, Any]:
        return self.examine(self.write(name, content, **options))


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Documents]:
    """One open processor, as a worker has it: the models are loaded once, and never from the network."""

    def refuse(*_arguments: object) -> None:
        raise AssertionError("the network was used")

    documents = Documents(tmp_path_factory.mktemp("root"), max_bytes=5_000_000, home=tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        asyncio.run(documents.__aenter__())
        yield documents
        asyncio.run(documents.__aexit__(None, None, None))


@pytest.fixture
def desk(worker: Documents) -> Iterator[Desk]:
    root = Path(tempfile.mkdtemp(prefix="desk-", dir=worker.limits.root))
    yield Desk(root, worker)
    shutil.rmtree(root)


def page(text: str, width: int = 640, height: int = 300) -> Image.Image:
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).multiline_text((30, 30), text, fill="black", font=ImageFont.load_default(size=24), spacing=14)
    return image


def png_head(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the demo."""
    folder = tmp_path_factory.mktemp("demo")
    draw_demo_files(folder)
    return folder
