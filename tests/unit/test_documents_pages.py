"""What the processor `documents` reads from pictures and PDFs."""

# ruff: noqa: F811 (a fixture is named where it comes from and where it is used)

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont
from pypdf import PdfReader, PdfWriter
from pypdf.generic import DecodedStreamObject, NameObject

from streamworker.cli.demo_pages import invoice, letter
from streamworker.processors.api import Permanent
from streamworker.processors.documents.steps import Stopped
from tests.unit.documents_scene import Desk, RecordingContext, demo, desk, encoded, page, png_head, worker  # noqa: F401


def test_ocr_reads_an_invoice(desk: Desk) -> None:
    context = RecordingContext(desk.batch)
    found = desk.examine({"path": desk.write("invoice.png", invoice(random.Random(5), "INV-2026-4711")), "note": "mine"}, context)
    assert "INV-2026-4711" in found["text"]
    assert [stage for _, stage, _ in context.told] == ["reading", "type", "hashing", "thumbnail", "ocr", "language"]
    percents = [percent for percent, _, _ in context.told if percent is not None]
    assert percents == sorted(percents)
    assert (found["image"]["width"], found["image"]["height"], found["image"]["format"]) == (720, 1000, "PNG")
    assert found["image"]["thumbnail"].startswith("data:image/jpeg;base64,")
    assert found["ocr"]["confidence"] > 0.9
    assert {"text", "confidence"} == set(found["ocr"]["lines"][0])
    assert found["language"]["code"] == "en"
    assert found["text_source"] == "ocr"


def test_ocr_reads_accents_and_joins_what_stands_on_one_line(desk: Desk) -> None:
    assert "Göran Sjöström" in desk.put("sv.png", letter(random.Random(3), "sv"))["text"]
    picture = page("Apples\nBread")
    ImageDraw.Draw(picture).multiline_text((500, 30), "1.20\n3.40", fill="black", font=ImageFont.load_default(size=24), spacing=14)
    assert desk.put("table.png", picture)["text"] == "Apples  1.20\nBread  3.40"


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_ocr_turns_pages_upright(desk: Desk, degrees: int) -> None:
    text = "The harbour office opens at eight\nand closes again at four.\nParcel number 20267781."
    found = desk.put("turned.png", page(text).rotate(degrees, expand=True))
    assert (found["text"], found["ocr"]["turned"]) == (text, degrees)


def test_all_pages_of_a_fax_are_read(desk: Desk) -> None:
    first, second = (page(f"This is page {number} of the fax").convert("1") for number in ("one", "two"))
    found = desk.put("fax.tif", first, save_all=True, append_images=[second], compression="group4")
    assert found["image"]["pages"] == 2
    assert found["text"] == "This is page one of the fax\n\nThis is page two of the fax"


@pytest.mark.parametrize("mode", ["1", "LA", "P", "CMYK", "I;16", "F"])
def test_every_kind_of_pixel_is_read(desk: Desk, mode: str) -> None:
    picture = page("Reference 55120")
    picture = picture.convert("L").point(lambda value: value * 257, "I").convert(mode) if mode == "I;16" else picture.convert(mode)
    assert desk.put("x.tif", picture)["text"] == "Reference 55120"


def test_text_on_nothing_is_read_as_on_paper(desk: Desk) -> None:
    clear = Image.new("RGBA", (500, 200))
    ImageDraw.Draw(clear).text((20, 80), "Clear 8812", fill=(0, 0, 0, 255), font=ImageFont.load_default(size=30))
    assert desk.put("clear.png", clear)["text"] == "Clear 8812"


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (9000, 1), (60, 2000)])
def test_odd_sizes_are_no_trouble(desk: Desk, size: tuple[int, int]) -> None:
    found = desk.put("odd.png", Image.new("RGB", size, "white"))
    assert (found["image"]["width"], found["image"]["height"], found["text"], found["image"]["phash"]) == (*size, "", None)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("cut.png", encoded(page("cut off"))[:900], "cannot be read as an image: image file is truncated"),
        ("cut.jpg", encoded(page("cut off"), "JPEG")[:4000], "cannot be read as an image: image file is truncated"),
        ("cut.gif", encoded(page("cut off"), "GIF")[:1500], "cannot be read as an image"),
        ("cut.webp", encoded(page("cut off"), "WEBP")[:300], "cannot be read as an image"),
        ("cut.tif", encoded(page("cut off"), "TIFF")[:5000], "cannot be read as an image"),
        ("noise.png", b"\x89PNG\r\n\x1a\n" + random.Random(2).randbytes(3000), "cannot be read as an image: its head is damaged"),
        ("hollow.png", png_head(100, 100), "cannot be read as an image"),
        ("bomb.png", png_head(50_000, 50_000), "is an image of more than the 64,000,000 pixels that are decoded"),
        ("large.png", png_head(9_000, 8_000), "is an image of 9,000 x 8,000 pixels, more than the 64,000,000 that are decoded"),
    ],
)
def test_damaged_and_gigantic_pictures_are_refused_for_good(desk: Desk, name: str, content: bytes, told: str) -> None:
    with pytest.raises(Permanent, match=told) as refused:
        desk.put(name, content)
    assert name in str(refused.value)


def test_work_stops_when_nobody_wants_the_result(desk: Desk) -> None:
    context = RecordingContext(desk.batch)
    context.cancelled = True
    with pytest.raises(Stopped):
        desk.examine(desk.write("a.txt", "hello"), context)


def test_the_text_of_a_pdf_is_read_directly(desk: Desk, demo: Path) -> None:
    found = desk.put("a.pdf", (demo / "agreement.pdf").read_bytes())
    assert (found["type"]["label"], found["text_source"]) == ("pdf", "pdf")
    assert (found["pdf"]["pages"], found["pdf"]["scans"]) == (1, 0)
    assert found["pdf"]["thumbnail"].startswith("data:image/jpeg;base64,")
    assert "Agreement 4711" in found["text"]
    assert found["language"]["code"] == "en"
    assert found["ocr"] is None


def test_scanned_pages_of_a_pdf_are_read_by_ocr(desk: Desk, demo: Path) -> None:
    writer = PdfWriter()
    for name in ("agreement.pdf", "scanned.pdf"):
        writer.add_page(PdfReader(demo / name).pages[0])
    out = io.BytesIO()
    writer.write(out)
    found = desk.put("mixed.pdf", out.getvalue())
    assert "Agreement 4711" in found["text"]
    assert "INV-2026-3001" in found["text"]
    assert (found["pdf"]["pages"], found["pdf"]["scans"]) == (2, 1)
    assert found["ocr"]["confidence"] > 0.9


def drawn_text(*lines: str) -> bytes:
    """A PDF whose letters are drawn as lines: nothing in it is text, and nothing a picture."""
    strokes = []
    for row, line in enumerate(lines):
        for column, glyph in enumerate(line):
            for x, y, width in GLYPHS[glyph]:
                strokes.append(f"{60 + 40 * column + x} {700 - 70 * row + y} {width} {3 if width > 3 else 30} re")
    content = "\n".join(strokes) + "\nf\n"
    writer, out = PdfWriter(), io.BytesIO()
    stream = DecodedStreamObject()
    stream.set_data(content.encode())
    writer.add_blank_page(595, 842)[NameObject("/Contents")] = writer._add_object(stream)
    writer.write(out)
    return out.getvalue()


GLYPHS = {
    "H": ((0, 0, 3), (21, 0, 3), (0, 14, 24)), "I": ((10, 0, 3),), "L": ((0, 0, 3), (0, 0, 24)), "T": ((10, 0, 3), (0, 27, 24)),
    "E": ((0, 0, 3), (0, 0, 24), (0, 14, 20), (0, 27, 24)), "F": ((0, 0, 3), (0, 14, 20), (0, 27, 24)),
}  # fmt: skip


def test_a_page_of_drawn_letters_is_read_as_it_looks(desk: Desk) -> None:
    found = desk.put("drawn.pdf", drawn_text("FILE", "HILT"))
    assert found["pdf"]["scans"] == 1
    assert found["text"] == "FILE\nHILT"


def test_an_empty_page_is_not_sent_to_ocr(desk: Desk) -> None:
    writer, out = PdfWriter(), io.BytesIO()
    writer.add_blank_page(595, 842)
    writer.write(out)
    found = desk.put("empty.pdf", out.getvalue())
    assert (found["pdf"]["scans"], found["text"]) == (0, "")


def locked(source: bytes, password: str) -> bytes:
    writer, out = PdfWriter(clone_from=io.BytesIO(source)), io.BytesIO()
    writer.encrypt(password, "owner", algorithm="RC4-128")
    writer.write(out)
    return out.getvalue()


def test_encrypted_and_broken_pdfs_are_refused_for_good(desk: Desk, demo: Path) -> None:
    good, scan = (demo / "agreement.pdf").read_bytes(), (demo / "scanned.pdf").read_bytes()
    gigantic = scan.replace(b"/Width 720", b"/Width 99999").replace(b"/Height 1000", b"/Height 9999")
    for content, told in (
        (locked(good, "secret"), "is an encrypted PDF and cannot be read without its password"),
        (good[:400], "cannot be read as a PDF"),
        (b"%PDF-1.7\n" + random.Random(4).randbytes(2000), "cannot be read as a PDF"),
        (gigantic, "more than 64,000,000 pixels"),
    ):
        with pytest.raises(Permanent, match=told):
            desk.put("bad.pdf", content)


def test_a_pdf_with_an_empty_password_is_read(desk: Desk, demo: Path) -> None:
    assert "Agreement 4711" in desk.put("open.pdf", locked((demo / "agreement.pdf").read_bytes(), ""))["text"]
