"""What we write as JSON can be stored and read by everybody, or is refused with the place and the reason."""

from __future__ import annotations

import json
import math
import string
from collections import OrderedDict
from datetime import UTC, datetime
from enum import IntEnum, StrEnum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamworker.messages import MAX_JSON_BYTES, clean_text, decode_job, to_json


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    BIG = 7


class TestToJson:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (None, "null"),
            (True, "true"),
            (2**200, str(2**200)),
            (1.5, "1.5"),
            (0.1, "0.1"),
            ("é😀\n\x7f", '"é😀\\n\x7f"'),
            ((1, [2, (3,)]), "[1,[2,[3]]]"),
            ({"a": {"b": None}}, '{"a":{"b":null}}'),
            (OrderedDict(b=1, a=Colour.RED), '{"b":1,"a":"red"}'),
            (Size.BIG, "7"),
            ("\\u0000", '"\\\\u0000"'),
            ({}, "{}"),
        ],
        ids=lambda value: f"{len(value)}-long" if isinstance(value, str) and len(value) > 60 else None,
    )
    def test_values(self, value: object, text: str) -> None:
        assert to_json(value) == text

    def test_depth(self) -> None:
        assert to_json(json.loads(nested(64))) == nested(64)
        with pytest.raises(ValueError, match="nested deeper than 64 levels"):
            to_json(json.loads(nested(65)))

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (math.nan, r"^\$: nan is not JSON$"),
            ({"a": [1, {"b c": -math.inf}]}, r"^\$\.a\[1\]\.b c: -inf is not JSON$"),
            (b"x", "bytes is not JSON; expected dict, list"),
            ([{1, 2}], r"^\$\[0\]: set is not JSON"),
            (datetime(2026, 1, 1, tzinfo=UTC), "datetime is not JSON"),
            ({1: 2}, r"^\$: a key is int, expected str$"),
            ({"a": {None: 2}}, r"^\$\.a: a key is NoneType"),
            ("a\0", "NUL"),
            ({"a\0": 1}, "NUL"),
            (["\ud800"], r"^\$\[0\]: text with half of a surrogate pair"),
            ("x" * (MAX_JSON_BYTES + 1), "more than 16,777,216 bytes"),
            ("é" * (MAX_JSON_BYTES // 2), "more than 16,777,216 bytes"),
            ("\n" * (MAX_JSON_BYTES // 2), "more than 16,777,216 bytes"),
            ([10**4300], r"^\$\[0\]: an integer of more than 4,300 digits"),
            (object, "type is not JSON"),
        ],
        ids=lambda value: f"{len(value)}-long" if isinstance(value, str) and len(value) > 60 else None,
    )
    def test_refused(self, value: object, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            to_json(value)

    def test_a_cycle(self) -> None:
        cycle: list[object] = []
        cycle.append({"again": cycle})
        with pytest.raises(ValueError, match="contains itself"):
            to_json(cycle)

    def test_a_value_that_grows_by_sharing_its_parts(self) -> None:
        value: list[object] = ["x" * 1000]
        for _ in range(60):
            value = [value, value]
        with pytest.raises(ValueError, match="more than 16,777,216 bytes"):
            to_json(value)

    def test_a_depth_that_would_exhaust_the_stack(self) -> None:
        value: list[object] = []
        for _ in range(20_000):
            value = [value]
        with pytest.raises(ValueError, match="64 levels"):
            to_json(value)

    def test_a_dict_that_misbehaves(self) -> None:
        class Odd(dict[str, int]):
            def items(self) -> object:  # type: ignore[override]
                raise RuntimeError("dictionary changed size during iteration")

        with pytest.raises(ValueError, match="RuntimeError while it was read: dictionary changed size"):
            to_json(Odd(a=1))


def test_clean_text() -> None:
    assert clean_text("a\0b\ud800c😀") == "a\ufffdb\ufffdc😀"
    assert clean_text("x" * 10_000_000) == "x" * 2000
    assert clean_text("abc", 2) == "ab"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(string.printable, max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(JSON, min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_fuzz_what_we_write_is_what_we_take(values: list[object]) -> None:
    items = "[" + ",".join(f'{{"payload":{to_json(value)}}}' for value in values) + "]"
    fields = [(b"batch_id", b"123e4567-e89b-42d3-a456-426614174000"), (b"items", items.encode())]
    assert decode_job(fields, 1_000_000).items == items
    assert [element["payload"] for element in json.loads(items)] == values


@given(st.text(st.characters()))
@settings(max_examples=300)
def test_fuzz_clean_text(text: str) -> None:
    assert "\0" not in clean_text(text)
    clean_text(text).encode()
