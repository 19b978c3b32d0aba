"""Reads the text on a page: which way up it is, its lines in reading order, and how sure each one is."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from PIL import Image

from streamworker.errors import ConfigurationError

_SURE = 0.9  # Below this mean confidence, the page may be upside down: it is read the other way round too.
_SHORT_SIDE = 480  # Smaller pages are scaled up to it by the detector.


class Line(NamedTuple):
    """A piece of text on one line: where its middle is, how tall it is, and its slope."""

    text: str
    confidence: float
    x: float
    y: float
    width: float
    height: float
    angle: float


class PageText(NamedTuple):
    """What was read: `rows` from top to bottom, each from left to right; `turned`: degrees the page was turned clockwise to be upright."""

    rows: list[list[Line]]
    turned: int

    @property
    def lines(self) -> list[Line]:
        """All pieces in reading order."""
        return [line for row in self.rows for line in row]

    @property
    def text(self) -> str:
        """The page as text, a line a row."""
        return "\n".join("  ".join(line.text for line in row) for row in self.rows)


class Ocr:
    """RapidOCR with the models of its wheel, loaded at the first page; never more pages at once than there are cores for."""

    def __init__(self) -> None:
        self._loading = threading.Lock()
        self._pages = threading.BoundedSemaphore(max(1, cores() // _threads()))
        self._engine: Any = None

    def read(self, page: Image.Image) -> PageText:
        """Read an RGB page."""
        with self._loading:
            if self._engine is None:
                self._engine = _load_engine()
        with self._pages:
            page = _padded(page)
            best, turned = self._lines(page), 0
            if _sideways(best):
                # The engine turned each line anticlockwise: if that made sense the page needs the same, else the opposite.
                turned = 270 if _score(best) >= _SURE else 90
                best = self._lines(_turn(page, turned))
            if best and _score(best) < _SURE:
                other = self._lines(_turn(page, turned + 180))
                if _weight(other) > _weight(best):
                    best, turned = other, (turned + 180) % 360
        return PageText(_rows(best), turned)

    def _lines(self, page: Image.Image) -> list[Line]:
        import numpy  # noqa: PLC0415

        found = self._engine(numpy.asarray(page)[:, :, ::-1])
        texts = getattr(found, "txts", None)  # where nothing was recognised, it answers with another type
        if not texts:
            return []
        return [_line(box, text, float(score)) for box, text, score in zip(found.boxes.tolist(), texts, found.scores, strict=True)]


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> int:
    # On a machine with other work to do (the databases, another worker), a second thread costs more time than it saves.
    return max(1, min(4, cores() // 2))


def _load_engine() -> Any:
    import cv2  # noqa: PLC0415
    import rapidocr  # noqa: PLC0415

    models = Path(rapidocr.__file__).parent / "models"
    params: dict[str, Any] = {
        "Global.log_level": "critical",
        "Global.use_cls": False,
        "Global.max_side_len": 10_000,  # pages come here scaled already
        "Det.limit_side_len": _SHORT_SIDE,
        "Rec.rec_batch_num": 1,  # several lines at once are not faster, and take twice the memory
        # The library's own default is the number of the machine's cores, whatever this process may use.
        "EngineConfig.onnxruntime.intra_op_num_threads": _threads(),
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    for step in ("det", "rec"):
        # Named files are used as they are; without a name the library would fetch a missing one from the network.
        found = sorted(models.glob(f"*_{step}_*.onnx"))
        if not found:
            raise ConfigurationError(f"rapidocr came without its model for {step!r}: pip install --force-reinstall rapidocr")
        params[f"{step.capitalize()}.model_path"] = str(found[0])
    cv2.setNumThreads(_threads())
    return rapidocr.RapidOCR(params=params)


def _padded(page: Image.Image) -> Image.Image:
    # The detector scales by the short side alone: without a margin, a narrow strip would become gigantic.
    shortest = min(_SHORT_SIDE, -(-max(page.size) // 2))
    if min(page.size) >= shortest:
        return page
    wide = Image.new("RGB", (max(page.width, shortest), max(page.height, shortest)), "white")
    wide.paste(page)
    return wide


def _turn(page: Image.Image, degrees: int) -> Image.Image:
    return page.rotate(-degrees % 360, expand=True)


def _line(box: list[list[float]], text: str, confidence: float) -> Line:
    (x1, y1), (x2, y2), (x3, y3), (x4, y4) = box
    width, height = math.dist((x1, y1), (x2, y2)), math.dist((x1, y1), (x4, y4))
    return Line(text, confidence, (x1 + x2 + x3 + x4) / 4, (y1 + y2 + y3 + y4) / 4, width, height, math.atan2(y2 - y1, x2 - x1))


def _sideways(lines: list[Line]) -> bool:
    long = [line for line in lines if len(line.text) >= 4]
    return bool(long) and sum(line.height > 1.5 * line.width for line in long) > len(long) / 2


def _weight(lines: list[Line]) -> float:
    return sum(line.confidence**2 * len(line.text) for line in lines)


def _score(lines: list[Line]) -> float:
    """The mean confidence, letter by letter."""
    letters = sum(len(line.text) for line in lines)
    return sum(line.confidence * len(line.text) for line in lines) / letters if letters else 0.0


def confidence(lines: list[Line]) -> float:
    """How sure the reading of all these lines is, from 0 to 1."""
    return round(_score(lines), 4)


def _rows(lines: list[Line]) -> list[list[Line]]:
    """Group the pieces that stand side by side, also on a page that lies at a slant."""
    slope = median(line.angle for line in lines if line.width >= line.height) if any(x.width >= x.height for x in lines) else 0.0
    height = {id(line): line.y * math.cos(slope) - line.x * math.sin(slope) for line in lines}
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: height[id(line)]):
        if rows and height[id(line)] - height[id(rows[-1][0])] < 0.5 * min(line.height, rows[-1][0].height):
            rows[-1].append(line)
        else:
            rows.append([line])
    return [sorted(row, key=lambda line: line.x) for row in rows]
