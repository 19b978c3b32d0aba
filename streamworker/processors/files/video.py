"""A few frames of a video, drawn by ffmpeg where it is installed."""

from __future__ import annotations

import asyncio
import io
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO

from PIL import Image

from streamworker.messages import clean_text
from streamworker.processors.api import Permanent
from streamworker.processors.files.opening import shown
from streamworker.processors.files.pictures import MAX_PIXELS, open_picture

FRAMES = 4
_PATIENCE = 60.0  # seconds for one run of ffmpeg
_LARGEST_FRAME = 16 * 1024 * 1024
_LONGEST_COMPLAINT = 64 * 1024
_SIDE = 1024
# The content decides how ffmpeg is to read it: left to guess, it would also follow play lists to other files.
_CONTAINERS = (
    ("mov", re.compile(rb"....ftyp", re.DOTALL)),
    ("matroska", re.compile(rb"\x1a\x45\xdf\xa3")),
    ("avi", re.compile(rb"RIFF....AVI ", re.DOTALL)),
    ("mpegts", re.compile(rb"\x47.{187}\x47", re.DOTALL)),
    ("mpeg", re.compile(rb"\x00\x00\x01[\xba\xb3]")),
    ("ogg", re.compile(rb"OggS")),
    ("flv", re.compile(rb"FLV\x01")),
    ("asf", re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11")),
)


def container_of(stream: BinaryIO) -> str | None:
    """What sort of video the content is, in ffmpeg's words; None for anything else."""
    stream.seek(0)
    head = stream.read(256)
    return next((name for name, signature in _CONTAINERS if signature.match(head)), None)


async def draw_frames(stream: BinaryIO, name: str, container: str) -> list[Image.Image]:
    """At most FRAMES frames, spread over the length; Permanent where ffmpeg is missing, or none can be decoded."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise Permanent(f"{shown(name)} is a video, and ffmpeg, which draws frames of videos, is not installed here")
    opening = ["-protocol_whitelist", "file", "-f", container, "-i", "/dev/stdin"]
    _, told = await _run(program, stream, *opening)
    frames, complaint = [], told
    for second in _moments(told):
        drawing = ["-max_pixels", str(MAX_PIXELS), "-ss", f"{second:.3f}", *opening, "-an", "-sn", "-dn"]
        scaled = ["-frames:v", "1", "-vf", f"scale='min({_SIDE},iw)':-2", "-f", "image2pipe", "-c:v", "png", "pipe:1"]
        drawn, told = await _run(program, stream, "-loglevel", "error", *drawing, *scaled)
        complaint = told or complaint
        if drawn and (picture := await asyncio.to_thread(_decoded, drawn, name)):
            frames.append(picture)
    if not frames:
        raise Permanent(f"{shown(name)} is a video of which no frame can be decoded: {_last_line(complaint)}")
    return frames


def _moments(told: str) -> list[float]:
    """The seconds to look at, given what ffmpeg says of the file."""
    match = re.search(r"Duration: (\d+):(\d\d):(\d\d\.\d+)", told)
    length = int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else 0.0
    return [length * (number + 0.5) / FRAMES for number in range(FRAMES)] if length >= 1 else [0.0]


def _decoded(drawn: bytes, name: str) -> Image.Image | None:
    picture = open_picture(io.BytesIO(drawn), name, expected=False)
    return picture.page(0) if picture else None


def _last_line(complaint: str) -> str:
    lines = [line for line in complaint.splitlines() if line.strip()]
    return clean_text(lines[-1], 200) if lines else "ffmpeg does not say why"


async def _run(program: str, stream: BinaryIO, *arguments: str) -> tuple[bytes, str]:
    """One run of ffmpeg on an open file; what it drew and what it said, both bounded."""
    os.lseek(stream.fileno(), 0, os.SEEK_SET)
    async with _started(program, stream, *arguments) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        try:
            async with asyncio.timeout(_PATIENCE):
                drawn, told = await asyncio.gather(_read(running.stdout, _LARGEST_FRAME), _read(running.stderr, _LONGEST_COMPLAINT))
        except TimeoutError:
            return b"", f"ffmpeg did not end within {_PATIENCE:g} s"
    return drawn, told.decode("utf-8", "replace")


@asynccontextmanager
async def _started(program: str, stream: BinaryIO, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    # No path on its command line, no secrets in its environment; killed at the end, whatever the end is, and by its own limit (of CPU time,
    # in seconds) should this process be killed before.
    line = [program, "-nostdin", "-hide_banner", "-timelimit", "60", *arguments]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    pipe = asyncio.subprocess.PIPE
    running = await asyncio.create_subprocess_exec(*line, stdin=stream.fileno(), stdout=pipe, stderr=pipe, env=environment)
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


async def _read(pipe: asyncio.StreamReader, limit: int) -> bytes:
    found = b""
    while len(found) < limit and (piece := await pipe.read(min(1 << 16, limit - len(found)))):
        found += piece
    return found
