"""JSON that Postgres can hold and every reader can read: checked when it comes in, made when it goes out."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import AsyncGenerator, Awaitable, Generator, Iterator
from decimal import Decimal
from typing import Any

import msgspec

MAX_DEPTH = 64
MAX_KEY = 512
MAX_DIGITS = 4300  # what Python itself reads as an integer
MAX_EXPONENT = 999
MAX_WRITTEN_OUT = 64 * 1024**2
MAX_JSON_BYTES = 16 * 1024**2

_SPACE = re.compile(r"[ \t\n\r]*")
_AFTER_ELEMENT = re.compile(r"[ \t\n\r]*([,\]]?)[ \t\n\r]*")
_ESCAPE = re.compile(r"\\(?:u(?:[dD][89abAB]..\\u[dD][c-fC-F]..|(0000|[dD][89a-fA-F]..)|....)|.)")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class BadJSON(ValueError):
    """A text that is not JSON, or JSON that cannot be stored; says what was expected and what was found.

    `index` is the element of the array that it is about, if it is about one.
    """

    index: int | None = None


def kind(value: object) -> str:
    """What a JSON value is called in a sentence."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
    return "an object"


class Reader:
    """Reads one JSON text piece by piece; only what is asked for is ever held as Python objects."""

    def __init__(self, raw: bytes) -> None:
        """Raises `BadJSON` where the bytes are not UTF-8, or begin with a byte order mark."""
        try:
            self.text = raw.decode()
        except UnicodeDecodeError as error:
            raise BadJSON(f"expected UTF-8, found byte 0x{raw[error.start]:02x} at offset {error.start}") from None
        if self.text.startswith("\ufeff"):
            raise BadJSON("expected JSON, found a byte order mark in front of it")
        self._escapes = "\\u" in self.text
        self._written_out = 0
        # Python's own limit is the fast way; a processor may have lifted it.
        integers = None if 0 < sys.get_int_max_str_digits() <= MAX_DIGITS else _check_integer
        self._decoder = json.JSONDecoder(parse_int=integers, parse_float=self._check_number, parse_constant=_refuse_constant)

    def whole(self) -> Any:
        """The value of the whole text (fractions as 0.0: the text is what counts)."""
        value, end = self._value(self._skip(0))
        if self._skip(end) != len(self.text):
            raise BadJSON(f"expected the end, found {self._excerpt(self._skip(end))}")
        return value

    def elements(self) -> Iterator[Any]:
        """The elements of the array that the text is, one at a time."""
        start = self._skip(0)
        if self.text[start : start + 1] != "[":
            raise BadJSON(f"expected a JSON array, found {kind(self.whole())}")
        position = self._skip(start + 1)
        after = "]" if self.text[position : position + 1] == "]" else ","
        position += after == "]"
        count = 0
        while after == ",":
            value, end = self._element(position, count)
            yield value
            count += 1
            match = _AFTER_ELEMENT.match(self.text, end)
            assert match is not None  # it matches the empty text
            after, position = match[1], match.end()
        position = self._skip(position)
        if after != "]" or position != len(self.text):
            raise BadJSON(f"expected {'the end' if after else 'a comma or ]'}, found {self._excerpt(position)}")

    def _element(self, start: int, index: int) -> tuple[Any, int]:
        try:
            return self._value(start)
        except BadJSON as error:
            error.index = index
            raise

    def _value(self, start: int) -> tuple[Any, int]:
        try:
            value, end = self._decoder.raw_decode(self.text, start)
        except json.JSONDecodeError as error:
            raise BadJSON(f"expected JSON, found {self._excerpt(error.pos)} ({error.msg.lower()})") from None
        except RecursionError:
            raise BadJSON(f"expected at most {MAX_DEPTH} levels of nesting, found many more") from None
        except BadJSON:
            raise
        except ValueError:  # int() of more digits than Python reads
            raise BadJSON(f"expected numbers of at most {MAX_DIGITS:,} digits, found a longer one") from None
        if self._escapes:
            self._check_escapes(start, end)
        return value, end

    def _check_number(self, text: str) -> float:
        """Every number with a point or an exponent comes by here, as it stands in the text."""
        exponent = text.lower().partition("e")[2]
        _check_integer(text)  # first: everything below takes longer the more digits there are
        if (exponent and abs(int(exponent)) > MAX_EXPONENT) or math.isinf(float(text)):
            raise BadJSON(f"expected numbers within the range of a double, found {_short(text)}")
        if exponent:
            # Postgres writes 1e-300 out in full: a small message must not become gigabytes there.
            self._written_out += abs(int(exponent))
            if self._written_out > MAX_WRITTEN_OUT:
                raise BadJSON(f"expected numbers that written out take at most {MAX_WRITTEN_OUT:,} digits, found more")
        return 0.0

    def _check_escapes(self, start: int, end: int) -> None:
        for match in _ESCAPE.finditer(self.text, start, end):
            if match[1] is not None:
                what = "a NUL character" if match[1] == "0000" else "half of a surrogate pair"
                raise BadJSON(f"expected text that Postgres can store, found {what} (\\u{match[1]})")

    def _skip(self, position: int) -> int:
        match = _SPACE.match(self.text, position)
        assert match is not None  # it matches the empty text
        return match.end()

    def _excerpt(self, position: int) -> str:
        return (
            f"{_short(self.text[position : position + 40])} at character {position}" if position < len(self.text) else "the end of the text"
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= 30 else text[:30] + "…")


def _check_integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise BadJSON(f"expected numbers of at most {MAX_DIGITS:,} digits, found a longer one")
    return 0


def _refuse_constant(word: str) -> float:
    raise BadJSON(f"expected JSON, found {word}, which JSON does not know")


def too_deep(value: object, limit: int = MAX_DEPTH) -> bool:
    """Whether arrays and objects are nested more than `limit` levels; `[]` is one level."""
    level: list[Any] = [value] if isinstance(value, list | dict) else []
    for _ in range(limit):
        if not level:
            return False
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node)
            if type(child) is list or type(child) is dict
        ]
    return bool(level)


def to_json(value: object) -> str:
    """Strict JSON text of a result, a checkpoint or a payload; tuples count as lists.

    Raises `ValueError` with a clause that names the place and what is wrong there, such as `$.pages[2]: NaN is not JSON`.
    """
    if value is None:
        return "null"
    try:
        _Measure().walk(value, 0)
        text = _ENCODER.encode(value)
    except _Unfit as unfit:
        raise ValueError(f"{unfit.place()}: {unfit}") from None
    except Exception as error:  # a dict or list subclass may do anything, and other threads may change the value meanwhile
        raise ValueError(f"{type(error).__name__} while it was read: {clean_text(_text_of(error), 200)}") from None
    if len(text) > MAX_JSON_BYTES // 4 and len(text.encode()) > MAX_JSON_BYTES:
        raise ValueError(f"more than {MAX_JSON_BYTES:,} bytes of JSON")
    return text


def from_json(text: str | None) -> Any:
    """The value of JSON text that Postgres gave out. A number that neither int nor float can hold comes as a Decimal.

    Raises ValueError or RecursionError where Python cannot read it.
    """
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return json.loads(text, parse_int=_whole, parse_float=_broken)


def _whole(digits: str) -> int | Decimal:
    return int(digits) if len(digits) < 4000 else Decimal(digits)  # Python itself refuses to read longer ones as int


def _broken(digits: str) -> float | Decimal:
    number = float(digits)
    return Decimal(digits) if math.isinf(number) else number


_TOO_LONG = 10**MAX_DIGITS
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))


class _Unfit(Exception):
    """Something that JSON or Postgres cannot hold; the way to it is gathered while the walk unwinds."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.steps: list[str | int] = []

    def place(self) -> str:
        steps = reversed(self.steps[-8:])
        return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{clean_text(step, 40)}" for step in steps)


class _Measure:
    """Looks at every part before it is encoded: a value may be endless, by a cycle or by sharing parts of itself."""

    def __init__(self) -> None:
        self.left = MAX_JSON_BYTES

    def walk(self, value: object, depth: int) -> None:
        self._spend(1)
        if isinstance(value, str):
            self._check_text(value)
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise _Unfit(f"{float(value)!r} is not JSON")
        elif isinstance(value, dict | list | tuple):
            if depth == MAX_DEPTH:
                raise _Unfit(f"nested deeper than {MAX_DEPTH} levels, or contains itself")
            self._walk_parts(value, depth + 1)
        elif isinstance(value, int):
            self._spend(value.bit_length() // 4)
            if value.bit_length() > 14_000 and abs(value) >= _TOO_LONG:
                raise _Unfit(f"an integer of more than {MAX_DIGITS:,} digits")
        elif value is not None:
            raise _Unfit(f"{type(value).__name__} is not JSON; expected {_expected_for(value)}")

    def _walk_parts(self, value: dict[object, object] | list[object] | tuple[object, ...], depth: int) -> None:
        keyed = isinstance(value, dict)
        for step, part in value.items() if isinstance(value, dict) else enumerate(value):
            if keyed and not isinstance(step, str):
                raise _Unfit(f"a key is {type(step).__name__}, expected str")
            try:
                if isinstance(step, str):
                    self._check_text(step)
                self.walk(part, depth)
            except _Unfit as unfit:
                unfit.steps.append(step if isinstance(step, str | int) else "?")
                raise

    def _check_text(self, text: str) -> None:
        self._spend(len(text) + 2)
        if "\0" in text:
            raise _Unfit("text with a NUL character, which Postgres cannot store")
        if not text.isascii() and _LONE_SURROGATE.search(text):
            raise _Unfit("text with half of a surrogate pair, which is not Unicode")

    def _spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise _Unfit(f"more than {MAX_JSON_BYTES:,} bytes of JSON")


def _expected_for(value: object) -> str:
    """What should stand in the place of a value that is not JSON."""
    if isinstance(value, Awaitable):
        return "what it gives when it is awaited, in an async function"
    if isinstance(value, Generator | AsyncGenerator):
        return "a list of what it yields"
    return "dict, list, str, int, float, bool or None"


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "no text"


def clean_text(text: str, limit: int = 2000) -> str:
    """Make text fit for Postgres: cut to `limit` characters, NUL and halves of surrogate pairs replaced by U+FFFD."""
    text = text[:limit].replace("\0", "\ufffd")
    return text if text.isascii() else _LONE_SURROGATE.sub("\ufffd", text)
