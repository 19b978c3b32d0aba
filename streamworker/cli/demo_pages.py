"""Draws the demo's pages: invoices, receipts and letters, with Pillow and its built-in font only."""

from __future__ import annotations

import unicodedata
from random import Random
from typing import NamedTuple

from streamworker.cli.demo_texts import FIRMS, LANGUAGES, PEOPLE, SHOPS, STREETS, WARES

try:
    from PIL import Image, ImageDraw, ImageFont
except ImportError as missing:
    from streamworker.errors import ConfigurationError

    raise ConfigurationError("the demo needs Pillow to draw its files: pip install 'streamworker[documents]'") from missing

__all__ = ["Image", "invoice", "landscape", "letter", "receipt"]

INK = (25, 25, 30)
FAINT = (120, 120, 130)


class _Mark(NamedTuple):
    """An accent as strokes, in parts of the font's size, around the middle of its letter (y grows downwards)."""

    strokes: tuple[tuple[float, float, float, float], ...]
    below: bool = False
    ring: bool = False


_MARKS = {
    "\u0300": _Mark(((-0.12, -0.10, 0.06, 0.02),)),
    "\u0301": _Mark(((0.12, -0.10, -0.06, 0.02),)),
    "\u0302": _Mark(((-0.13, 0.02, 0.0, -0.10), (0.0, -0.10, 0.13, 0.02))),
    "\u0303": _Mark(((-0.17, 0.01, -0.08, -0.07), (-0.08, -0.07, 0.07, 0.0), (0.07, 0.0, 0.16, -0.08))),
    "\u0308": _Mark(((-0.15, -0.05, -0.10, -0.05), (0.10, -0.05, 0.15, -0.05))),
    "\u030a": _Mark(((-0.13, -0.21, 0.13, 0.05),), ring=True),
    "\u0327": _Mark(((0.0, 0.0, 0.04, 0.09), (0.04, 0.09, -0.06, 0.14)), below=True),
}
_FINE = 2  # Pages are drawn at twice their size and shrunk: smooth strokes, which OCR reads as it does real print.


class Page:
    """A white sheet that is written on from coordinates in pixels."""

    def __init__(self, width: int = 720, height: int = 1000, paper: tuple[int, int, int] = (255, 255, 255)) -> None:
        self.width, self.height = width, height
        self._sheet = Image.new("RGB", (width * _FINE, height * _FINE), paper)
        self._draw = ImageDraw.Draw(self._sheet)

    def image(self) -> Image.Image:
        """The finished page."""
        return self._sheet.resize((self.width, self.height), Image.Resampling.LANCZOS)

    def line(self, y: int, left: int = 50) -> None:
        """Draw a rule across the page."""
        self._draw.line((left * _FINE, y * _FINE, (self.width - left) * _FINE, y * _FINE), fill=FAINT, width=_FINE)

    def text(self, x: int, y: int, text: str, size: int = 18, bold: bool = False, right: bool = False) -> None:
        """Write `text` with its top left (or top right) corner at (x, y)."""
        font = ImageFont.load_default(size=size * _FINE)
        assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's own, as of 10.1, wherever FreeType is compiled in
        plain = "".join(mark for mark in unicodedata.normalize("NFD", text) if not unicodedata.combining(mark))
        left = x * _FINE - (font.getlength(plain) if right else 0)
        # Twice, a pixel apart: a stroke around the letters would swallow the dots of the i.
        for shift in range(1 + bold):
            self._draw.text((left + shift, y * _FINE), plain, fill=INK, font=font)
        self._accents(left, y * _FINE, unicodedata.normalize("NFC", text), font)

    def _accents(self, x: float, y: int, text: str, font: ImageFont.FreeTypeFont) -> None:
        # The built-in font is plain ASCII: accents are strokes over the letters, which readers and OCR take for the real ones.
        before = ""
        for letter in text:
            base, *marks = list(unicodedata.normalize("NFD", letter))
            left, top, right, bottom = font.getbbox(base)
            middle = x + font.getlength(before) + (left + right) / 2
            for mark in (_MARKS[m] for m in marks):
                self._mark(mark, middle, y + (bottom if mark.below else top - 0.06 * font.size), font.size)
            before += base

    def _mark(self, mark: _Mark, x: float, y: float, size: float) -> None:
        for x1, y1, x2, y2 in mark.strokes:
            ends = (x + x1 * size, y + y1 * size, x + x2 * size, y + y2 * size)
            if mark.ring:
                self._draw.ellipse(ends, outline=INK, width=round(size * 0.06))
            else:
                self._draw.line(ends, fill=INK, width=round(size * 0.085))


def invoice(rng: Random, number: str, language: str = "en") -> Image.Image:
    """An invoice with `number` on it, its goods and its total."""
    words, page = LANGUAGES[language], Page()
    page.text(50, 50, rng.choice(FIRMS), 30, bold=True)
    page.text(50, 95, f"{rng.choice(STREETS)}, {rng.randint(10000, 99999)} Portstead", 16)
    page.text(670, 140, f"{words.invoice} {number}", 24, bold=True, right=True)
    page.text(670, 180, f"{words.date}: {_date(rng)}", 17, right=True)
    page.text(50, 230, f"{words.customer}:", 17)
    page.text(50, 255, rng.choice(PEOPLE), 18)
    page.text(50, 280, f"{rng.choice(STREETS)}, {rng.randint(10000, 99999)} Millbrook", 18)
    page.line(340)
    y, total = 360, 0
    for name in rng.sample(words.goods, rng.randint(3, 5)):
        count, price = rng.randint(1, 9), rng.randint(300, 40000)
        total += count * price
        page.text(60, y, f"{count} x {name}", 19)
        page.text(660, y, _money(count * price), 19, right=True)
        y += 42
    page.line(y + 8)
    page.text(60, y + 28, words.total, 22, bold=True)
    page.text(660, y + 28, f"EUR {_money(total)}", 22, bold=True, right=True)
    page.text(50, 880, words.terms, 17)
    page.text(50, 910, f"IBAN XX{rng.randint(10, 99)} {rng.randint(1000, 9999)} {rng.randint(1000, 9999)} {rng.randint(1000, 9999)}", 17)
    return page.image()


def receipt(rng: Random) -> Image.Image:
    """A shop's narrow till receipt on greyish paper."""
    wares = rng.sample(WARES, rng.randint(4, 8))
    page = Page(400, 330 + 36 * len(wares), (246, 245, 238))
    page.text(30, 30, rng.choice(SHOPS), 26, bold=True)
    page.text(30, 72, rng.choice(STREETS), 16)
    page.text(30, 96, f"{_date(rng)}  {rng.randint(8, 19):02}:{rng.randint(0, 59):02}", 16)
    page.line(132, 30)
    y, total = 148, 0
    for name in wares:
        price = rng.randint(90, 2400)
        total += price
        page.text(30, y, name, 19)
        page.text(370, y, _money(price), 19, right=True)
        y += 36
    page.line(y + 4, 30)
    page.text(30, y + 20, "TOTAL", 24, bold=True)
    page.text(370, y + 20, _money(total), 24, bold=True, right=True)
    page.text(30, y + 72, f"Receipt no. {rng.randint(100000, 999999)}", 16)
    page.text(30, y + 98, f"Card **** {rng.randint(1000, 9999)}", 16)
    return page.image()


def letter(rng: Random, language: str) -> Image.Image:
    """A one-page business letter."""
    page, (salutation, *body, closing, name) = Page(760, 900), LANGUAGES[language].letter
    page.text(50, 50, rng.choice(FIRMS), 26, bold=True)
    page.text(710, 130, f"{LANGUAGES[language].date}: {_date(rng)}", 17, right=True)
    page.text(50, 210, salutation, 18)
    for row, line in enumerate(body):
        page.text(50, 260 + 32 * row, line, 17)
    page.text(50, 300 + 32 * len(body), closing, 18)
    page.text(50, 360 + 32 * len(body), name, 18)
    return page.image()


def landscape(rng: Random, width: int = 640, height: int = 420) -> Image.Image:
    """A picture without any text: sky, sun, hills."""
    sky = Image.linear_gradient("L").resize((width, height))
    image = Image.merge("RGB", (sky.point(lambda v: 120 + v // 3), sky.point(lambda v: 160 + v // 4), sky.point(lambda v: 235 - v // 8)))
    draw = ImageDraw.Draw(image)
    draw.ellipse((450, 50, 530, 130), fill=(250, 225, 120))
    for row, green in enumerate((150, 120, 90)):
        top = 220 + 60 * row
        hills = [(x, top + rng.randint(-35, 35)) for x in range(0, width + 80, 80)]
        draw.polygon([(0, height), *hills, (width, height)], fill=(60, green, 70))
    return image


def _date(rng: Random) -> str:
    return f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"
