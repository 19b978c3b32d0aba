"""Draws the demo's batch: about forty document images and text files, the same ones for the same seed."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from streamworker.cli.demo_pages import Image, invoice, landscape, letter, receipt
from streamworker.cli.demo_texts import LANGUAGES, PEOPLE, WARES

_PDF_DATE = time.gmtime(1767225600)  # Pillow would write the present time, and no two runs would be equal.


def draw_demo_files(folder: Path, seed: int = 1) -> list[Path]:
    """Write the demo's files into `folder` and return their paths in the order of the batch.

    Most are good; one PNG is cut off half-way (it must fail), one text is named `.jpg`, one invoice is there twice
    and one letter again in a smaller, recompressed copy.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in _files(Random(seed)):  # noqa: S311 (repeatable on purpose)
        path = folder / name
        path.write_bytes(content)
        paths.append(path)
    return paths


def _files(rng: Random) -> Iterator[tuple[str, bytes]]:
    pages = _good_pages(rng)
    first_invoice, german_letter = pages["invoice-en-1.png"], pages["letter-de.png"]
    drawn = {name: _encode(page, name) for name, page in pages.items()}
    drawn["invoice-en-1 (copy).png"] = drawn["invoice-en-1.png"]
    drawn["letter-de-small.jpg"] = _encode(german_letter.resize((608, 720), Image.Resampling.LANCZOS), ".jpg", quality=45)
    drawn["cut-off.png"] = _encode(first_invoice, ".png")[:9000]
    drawn["fax.tif"] = _fax(rng)
    drawn["scanned.pdf"] = _scan(rng)
    drawn["agreement.pdf"] = _text_pdf("Agreement 4711", *LANGUAGES["en"].letter)
    drawn |= _texts(rng)
    names = list(drawn)
    rng.shuffle(names)
    # A copy follows its original, so that it is the copy which is reported.
    for copy, original in (("invoice-en-1 (copy).png", "invoice-en-1.png"), ("letter-de-small.jpg", "letter-de.png")):
        names.remove(copy)
        names.insert(names.index(original) + 3, copy)
    yield from ((name, drawn[name]) for name in names)


def _good_pages(rng: Random) -> dict[str, Image.Image]:
    pages: dict[str, Image.Image] = {}
    for order, language in enumerate(("en", "en", "en", "de", "de", "fr", "es", "it", "pt")):
        count = 1 + sum(name.startswith(f"invoice-{language}") for name in pages)
        pages[f"invoice-{language}-{count}.png"] = invoice(rng, f"INV-2026-{1041 + 7 * order}", language)
    pages |= {f"letter-{language}.png": letter(rng, language) for language in LANGUAGES}
    pages |= {f"receipt-{number}.jpg": receipt(rng) for number in range(1, 7)}
    pages["delivery-note.webp"] = invoice(rng, "LS-88012", "nl")
    pages["sideways.jpg"] = invoice(rng, "INV-2026-2001").rotate(90, expand=True)
    pages["tilted.jpg"] = letter(rng, "en").rotate(4, Image.Resampling.BICUBIC, expand=True, fillcolor=(255, 255, 255))
    pages["upside-down.png"] = receipt(rng).rotate(180)
    pages["noisy.png"] = _noisy(rng, receipt(rng))
    pages["faded.jpg"] = invoice(rng, "INV-2026-2002", "fr").point(lambda value: 170 + value // 4)
    pages["hills.jpg"] = landscape(rng)
    return pages


def _texts(rng: Random) -> dict[str, bytes]:
    orders = [f"{number},{rng.choice(PEOPLE)},{rng.choice(WARES)},{rng.randint(1, 20)}" for number in range(1, 41)]
    return {
        "note.txt": _body("en").encode(),
        "brief.txt": _body("de").encode("utf-8-sig"),
        "lettre.txt": _body("fr").encode("cp1252"),
        "carta.txt": _body("es").encode("utf-16"),
        "minutes.md": b"# Minutes\n\n- The harbour office opens at eight.\n- **Anna** writes to the bakery about the bread.\n",
        "orders.csv": "\n".join(["order,customer,ware,pieces", *orders, ""]).encode(),
        "shop.json": json.dumps({"shop": "Harbour Cafe", "opens": "08:00", "wares": list(WARES)}, indent=2).encode(),
        "holiday.jpg": ("This is a plain text that somebody gave the name of a picture.\n" + _body("it")).encode(),
    }


def _body(language: str) -> str:
    words = LANGUAGES[language]
    return "\n".join((*words.letter, "", words.terms, "")) + "\n"


def _encode(image: Image.Image, name: str, quality: int = 88) -> bytes:
    kinds = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
    out = io.BytesIO()
    image.save(out, kinds[name.rpartition(".")[2]], quality=quality)
    return out.getvalue()


def _noisy(rng: Random, page: Image.Image) -> Image.Image:
    noise = Image.frombytes("L", page.size, rng.randbytes(page.width * page.height)).convert("RGB")
    return Image.blend(page, noise, 0.3)


def _fax(rng: Random) -> bytes:
    pages = [letter(rng, language).convert("1") for language in ("en", "nl")]
    out = io.BytesIO()
    pages[0].save(out, "TIFF", save_all=True, append_images=pages[1:], compression="group4")
    return out.getvalue()


def _scan(rng: Random) -> bytes:
    out = io.BytesIO()
    invoice(rng, "INV-2026-3001", "de").save(out, "PDF", resolution=90, creationDate=_PDF_DATE, modDate=_PDF_DATE)
    return out.getvalue()


def _text_pdf(*lines: str) -> bytes:
    """A PDF of one page whose text can be read without OCR, put together by hand."""
    shown = " T* ".join(f"({line}) Tj" for line in lines)
    stream = f"BT /F1 11 Tf 60 780 Td 18 TL {shown} ET".encode("cp1252")
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%b\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    ]
    out, starts = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        starts.append(len(out))
        out += b"%d 0 obj%b\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % start for start in starts)
    xref = b"xref\n0 %d\n0000000000 65535 f \n%b" % (len(objects) + 1, table)
    return out + xref + b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(out))
