"""Progress events and dead letters: written as the contract says, and read back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamworker import messages
from streamworker.errors import InvalidMessage
from streamworker.messages import ItemEvent, ProgressEvent, dead_letter, decode_event, encode_event, read_dead_letter, timestamp

ID = "123e4567-e89b-42d3-a456-426614174000"


class TestEvents:
    EVENT = ProgressEvent(
        1, ID, 42, "2026-01-01T00:00:00.000Z", "processing", 100, 7, 6, 1, 7.0, 310.5, "host-4711-a1b2", 3, None,
        [ItemEvent(6, "cat.jpg", "processing", 1, 40.0, "vision_analysis", "Analyzing image")],
    )  # fmt: skip

    def test_it_looks_as_the_contract_says(self) -> None:
        assert encode_event(self.EVENT).decode() == (
            '{"v":1,"batch_id":"' + ID + '","revision":42,"at":"2026-01-01T00:00:00.000Z","status":"processing",'
            '"total":100,"processed":7,"succeeded":6,"failed":1,"percent":7.0,"eta_seconds":310.5,'
            '"worker":"host-4711-a1b2","epoch":3,"error":null,'
            '"items":[{"position":6,"key":"cat.jpg","status":"processing","attempt":1,"percent":40.0,'
            '"stage":"vision_analysis","message":"Analyzing image","error":null}]}'
        )

    def test_a_field_of_a_later_version_is_ignored(self) -> None:
        assert decode_event(encode_event(self.EVENT)[:-1] + b',"new":[1]}') == self.EVENT

    @pytest.mark.parametrize(
        "raw",
        [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, encode_event(EVENT).replace(b'"v":1', b'"v":2'), encode_event(EVENT)[:-1]],
        ids=["empty", "object", "array", "no UTF-8", "deep", "version 2", "cut"],
    )
    def test_what_is_no_event(self, raw: bytes) -> None:
        with pytest.raises(InvalidMessage, match="event: expected"):
            decode_event(raw)

    @pytest.mark.parametrize(("name", "number"), [("total", -1), ("processed", 2**31), ("revision", -1), ("epoch", 2**63)])
    def test_numbers_that_postgres_cannot_hold(self, name: str, number: int) -> None:
        with pytest.raises(InvalidMessage, match=name):
            decode_event(encode_event(msgspec.structs.replace(self.EVENT, **{name: number})))

    @pytest.mark.parametrize(
        "at",
        [
            datetime(2026, 1, 1, tzinfo=UTC),
            datetime(2026, 1, 1),
            datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))),
            datetime(2026, 1, 1, 0, 0, 0, 999, tzinfo=UTC),
        ],
    )
    def test_timestamps(self, at: datetime) -> None:
        assert timestamp(at) == "2026-01-01T00:00:00.000Z"

    def test_terminal(self) -> None:
        assert frozenset({"completed", "failed", "cancelled"}) == messages.TERMINAL


class TestDeadLetters:
    FIELDS = ((b"\xff\x00", b"\xfe"), (b"reason", b"mine"), (b"reason", b"again"))

    def test_the_original_stays_byte_for_byte(self) -> None:
        fields = dead_letter(self.FIELDS, "invalid_message", "a sentence \ud800 …", b"1-0", "2026-01-01T00:00:00.000Z")
        assert fields[:3] == list(self.FIELDS)
        assert [name for name, _ in fields[3:]] == [b"reason", b"detail", b"source_id", b"died_at"]
        letter = read_dead_letter(fields)
        assert (letter.fields, letter.reason, letter.source_id) == (list(self.FIELDS), "invalid_message", "1-0")

    def test_what_is_none(self) -> None:
        with pytest.raises(InvalidMessage):
            read_dead_letter(self.FIELDS)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ITEM_EVENTS = st.builds(
    ItemEvent, st.integers(0, 2**31), WORDS, WORDS, st.integers(0, 2**31), *[st.none() | NUMBERS], *[st.none() | WORDS] * 3
)
COUNTS = st.integers(0, 2**31 - 1)
EVENTS = st.builds(
    ProgressEvent,
    v=st.just(1),
    batch_id=WORDS,
    revision=st.integers(0, 2**63 - 1),
    at=WORDS,
    status=WORDS,
    total=COUNTS,
    processed=COUNTS,
    succeeded=COUNTS,
    failed=COUNTS,
    percent=NUMBERS,
    eta_seconds=st.none() | NUMBERS,
    worker=st.none() | WORDS,
    epoch=st.integers(0, 2**63 - 1),
    error=st.none() | WORDS,
    items=st.lists(ITEM_EVENTS, max_size=3),
)


@given(EVENTS)
@settings(max_examples=300, deadline=None)
def test_fuzz_event_round_trip(event: ProgressEvent) -> None:
    assert decode_event(encode_event(event)) == event


@given(st.one_of(st.binary(max_size=60), st.integers(0, 400).flatmap(lambda cut: st.just(encode_event(TestEvents.EVENT)[:cut]))))
@settings(max_examples=300)
def test_fuzz_decode_event(raw: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decode_event(raw)
