"""Decodes text files whatever their character set, and tells the language of a text."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

MAX_TEXT = 100_000
_MIN_LETTERS = 20  # With fewer letters the guess at a language is a coin toss.
_SAMPLE = 10_000
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LATIN = ("cp1252", "cp1250", "iso8859-2")
_OTHERS = ("cp1251", "koi8-r", "cp1253", "shift_jis", "euc_jp", "gb18030", "euc_kr")


class Decoded(NamedTuple):
    """The text of a file, in which character set it is, whether that was guessed, and whether the text goes on in the file."""

    text: str
    encoding: str
    guessed: bool
    cut: bool


class Languages:
    """Language identification by py3langid, loaded once."""

    def __init__(self) -> None:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier  # noqa: PLC0415

        self._identifier: Any = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def classify(self, text: str) -> tuple[str, float]:
        """The most likely language (ISO 639) and how likely it is."""
        language, likelihood = self._identifier.classify(text[:_SAMPLE])
        return str(language), float(likelihood)

    def tell(self, text: str) -> dict[str, Any] | None:
        """The language as it stands in a result, or None where there is too little to go by."""
        if sum(map(str.isalpha, text[:_SAMPLE])) < _MIN_LETTERS:
            return None
        code, likelihood = self.classify(text)
        return {"code": code, "confidence": round(likelihood, 4)}


def storable(text: str) -> str:
    """The text without what JSON in a database cannot hold: NUL and lone surrogates become the replacement character."""
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def seems_text(stream: BinaryIO) -> bool:
    """Whether a file of unknown type may be text: it bears the mark of a character set, or holds no control characters."""
    stream.seek(0)
    head = stream.read(_SAMPLE)
    return any(head.startswith(mark) for mark, _ in _MARKS) or not any(byte < 32 and byte not in b"\t\n\r\f" for byte in head)


def read_text(stream: BinaryIO, classify: Callable[[str], tuple[str, float]]) -> Decoded:
    """Decode the first MAX_TEXT characters of a text file."""
    stream.seek(0)
    raw = stream.read(4 * MAX_TEXT + 4)
    cut = bool(stream.read(1))
    declared = _declared(raw, cut)
    encoding = declared or _guess(raw, cut, classify)
    text = _decode(raw, encoding, cut, "replace") or ""
    return Decoded(storable(text[:MAX_TEXT]), encoding, declared is None, cut or len(text) > MAX_TEXT)


def _declared(raw: bytes, cut: bool) -> str | None:
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return encoding
    for encoding, zeros in (("utf-16-le", raw[1:_SAMPLE:2]), ("utf-16-be", raw[0:_SAMPLE:2])):
        if zeros.count(0) > len(zeros) * 0.4 and _decode(raw, encoding, cut) is not None:
            return encoding
    return "utf-8" if _decode(raw, "utf-8", cut) is not None else None


def _guess(raw: bytes, cut: bool, classify: Callable[[str], tuple[str, float]]) -> str:
    """The character set in which the bytes look most like a language; western where nothing speaks against it."""
    best, best_score = "cp1252", 0.0
    for encoding in (*_LATIN, *_OTHERS):
        text = _decode(raw[:_SAMPLE], encoding, cut or len(raw) > _SAMPLE)
        if text is None or not _plausible(text, latin=encoding in _LATIN):
            continue
        score = classify(text)[1] * _share_of_letters(text)
        if score > best_score + 0.001:
            best, best_score = encoding, score
    return best


def _plausible(text: str, latin: bool) -> bool:
    if any(unicodedata.category(mark) in ("Cc", "Co", "Cn") and mark not in "\t\n\r\f" for mark in text):
        return False
    letters = [mark for mark in text if mark.isalpha()]
    # No language written in Latin letters has more accented ones than plain ones.
    return not latin or sum(mark > "\x7f" for mark in letters) <= 0.4 * len(letters)


def _share_of_letters(text: str) -> float:
    special = [mark for mark in text if mark > "\x7f"]
    fitting = sum(mark.isalpha() or mark in "€£§°«»„“”‘’–—…¿¡、。：，？！" for mark in special)
    return fitting / len(special) if special else 1.0


def _decode(raw: bytes, encoding: str, cut: bool, errors: str = "strict") -> str | None:
    try:
        return codecs.getincrementaldecoder(encoding)(errors).decode(raw, final=not cut)
    except UnicodeDecodeError:
        return None
