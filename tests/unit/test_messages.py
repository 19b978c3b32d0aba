"""Jobs: any bytes at all become a job, or a sentence that says why not."""

from __future__ import annotations

import json
import logging
import sys
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamworker.errors import InvalidMessage
from streamworker.messages import Job, decode_job

ID = "123e4567-e89b-42d3-a456-426614174000"
MIB = 1024**2
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def decode(*pairs: tuple[bytes, bytes], max_bytes: int = 16 * MIB, **fields: bytes) -> Job:
    own = [] if pairs else [(b"batch_id", ID.encode())]
    return decode_job([*pairs, *own, *((name.encode(), value) for name, value in fields.items())], max_bytes)


def refused(*pairs: tuple[bytes, bytes], reason: str = "invalid_message", max_bytes: int = 16 * MIB, **fields: bytes) -> str:
    with pytest.raises(InvalidMessage) as caught:
        decode(*pairs, max_bytes=max_bytes, **fields)
    assert caught.value.reason == reason
    assert caught.value.detail.isprintable()
    assert len(caught.value.detail) < 300
    return caught.value.detail


def short(value: object) -> str | None:
    """The id of a parameter that is too long to be its own."""
    return f"{len(value)}-long" if isinstance(value, str | bytes) and len(value) > 60 else None


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


class TestFields:
    def test_the_id_alone_is_a_job(self) -> None:
        assert decode() == Job(batch_id=UUID(ID))

    def test_all_fields(self) -> None:
        job = decode(
            items=b'["a.jpg"]',
            processor=b"ocr",
            metadata=b'{"a": 1}',
            max_attempts=b"3",
            max_failures=b"0",
            traceparent=TRACE,
            tracestate=b"k=v",
        )
        assert (job.items, job.item_count, job.processor, job.metadata) == ('["a.jpg"]', 1, "ocr", '{"a": 1}')
        assert (job.max_attempts, job.max_failures, job.traceparent, job.tracestate) == (3, 0, TRACE.decode(), "k=v")

    def test_upper_case_is_the_same_batch(self) -> None:
        assert decode((b"batch_id", ID.upper().encode())).batch_id == UUID(ID)

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "x",
            ID + "\n",
            " " + ID,
            ID.replace("-", ""),
            "{" + ID + "}",
            "urn:uuid:" + ID,
            ID[:-1],
            ID + "0",
            ID.replace("1", "١"),
            ID.replace("a", "g"),
            "\0",
            "x" * 10_000,
        ],
        ids=short,
    )
    def test_what_is_no_id(self, value: str) -> None:
        assert refused((b"batch_id", value.encode())).startswith("batch_id: expected a UUID such as ")

    def test_the_id_is_missing(self) -> None:
        assert refused((b"items", b'["a"]')) == "batch_id: expected this field, found none"

    def test_no_field_is_known(self) -> None:
        assert refused((b"a", b"b")).startswith("'a': unknown field; expected only batch_id, items")

    def test_no_field_at_all(self) -> None:
        with pytest.raises(InvalidMessage, match="batch_id"):
            decode_job([], MIB)

    @pytest.mark.parametrize(
        "name", [b"extra", b"BATCH_ID", b"Items", b"batch_id ", b"", b"\xff\x00\r\n\x1b[31m", "\u202ex".encode(), b"x" * 100_000], ids=short
    )
    def test_an_unknown_field_is_named(self, name: bytes) -> None:
        assert "unknown field" in refused((b"batch_id", ID.encode()), (name, b"1"))

    @pytest.mark.parametrize("name", [b"batch_id", b"items", b"traceparent"])
    def test_a_field_sent_twice(self, name: bytes) -> None:
        value = {b"batch_id": ID.encode(), b"items": b'["a"]', b"traceparent": TRACE}[name]
        assert refused((name, value), (name, value)) == f"{name.decode()}: expected this field once, found it twice"

    def test_a_hundred_thousand_fields(self) -> None:
        refused((b"batch_id", ID.encode()), *((b"f%d" % n, b"") for n in range(100_000)))

    @pytest.mark.parametrize(
        "value", ["", "0", "-1", "1.0", "1e3", "x", " 2", "2\n", "٢", "1000001", "9" * 5000, "+1", "0x1", "null"], ids=short
    )
    def test_max_attempts(self, value: str) -> None:
        assert refused(max_attempts=value.encode()).startswith("max_attempts: expected a whole number from 1 to 1,000,000, found ")

    @pytest.mark.parametrize("value", ["", "-1", "2147483648", "1.5", "none"])
    def test_max_failures(self, value: str) -> None:
        assert refused(max_failures=value.encode()).startswith("max_failures: expected a whole number from 0 to 2,147,483,647, found ")

    def test_the_limits_themselves(self) -> None:
        job = decode(max_attempts=b"1000000", max_failures=b"2147483647")
        assert (job.max_attempts, job.max_failures) == (1_000_000, 2**31 - 1)

    @pytest.mark.parametrize("name", ["os:system", "a.b:c()", "__main__:x", "x" * 512, "größe", "../../x"], ids=short)
    def test_any_short_processor_name_is_only_a_name(self, name: str) -> None:
        assert decode(processor=name.encode()).processor == name

    def test_a_processor_name_that_nobody_can_serve(self) -> None:
        refused(processor=b"x" * 10_000, reason="unknown_processor")

    @pytest.mark.parametrize("name", [b"", b"a\x00b", b"\xff", b"\xed\xa0\x80"], ids=short)
    def test_a_processor_name_that_is_none(self, name: bytes) -> None:
        assert refused(processor=name).startswith("processor: expected ")


class TestSize:
    @pytest.mark.parametrize("over", [0, 1])
    def test_sixteen_mebibytes_and_one_byte_more(self, over: int) -> None:
        frame = len("batch_id") + len(ID) + len("items") + len('[{"payload":""}]')
        items = b'[{"payload":"' + b"x" * (16 * MIB - frame + over) + b'"}]'
        if over:
            assert "16,777,217" in refused(items=items, reason="message_too_large")
        else:
            assert decode(items=items).item_count == 1

    def test_names_count_too(self) -> None:
        refused((b"x" * 100, b""), max_bytes=99, reason="message_too_large")

    def test_a_million_items(self) -> None:
        items = b"[" + b",".join(b'"f%d"' % n for n in range(1_000_000)) + b"]"
        assert decode(items=items).item_count == 1_000_000


class TestItems:
    @pytest.mark.parametrize(
        "text",
        [
            '["a"]',
            '[""]',
            '[{"payload":null}]',
            ' [ {"key" : "k", "payload" : {"a":[1,2.50,1e5,-0]}} , "b" ]\n',
            '[{"payload":1,"payload":2}]',
            '[{"payload":9223372036854775808}]',
            '[{"payload":' + "9" * 4300 + "}]",
            '[{"payload":1E+308},{"payload":1e-999},{"payload":0.1000}]',
            r'["\ud83d\ude00", "\\u0000", "\\\\u0000", "\\ud800", "\/\b\f\n\r\t\"\\"]',
            '["😀", "\u202e", "\x7f", "\u2028", "../../etc/passwd"]',
            json.dumps(["x" * 512, {"payload": 1, "key": "😀" * 512}, *["same"] * 1000]),
        ],
        ids=short,
    )
    def test_the_text_goes_on_exactly_as_sent(self, text: str) -> None:
        job = decode(items=text.encode())
        assert job.items == text
        assert job.item_count == len(json.loads(text))

    @pytest.mark.parametrize(
        ("items", "place", "words"),
        [
            (b"", "items:", "expected JSON, found the end of the text"),
            (b"   ", "items:", "expected JSON"),
            (b"null", "items:", "expected a JSON array, found null"),
            (b"{}", "items:", "expected a JSON array, found an object"),
            (b'"a"', "items:", "expected a JSON array, found a string"),
            (b"1e3", "items:", "expected a JSON array, found a number"),
            (b"nonsense", "items:", "expected JSON, found 'nonsense' at character 0"),
            (b"[]", "items:", "at least one element, found an empty array"),
            (b"[ ]", "items:", "at least one element"),
            (b"[", "items[0]:", "expected JSON, found the end"),
            (b'["a"', "items:", "expected a comma or ], found the end"),
            (b'["a" "b"]', "items:", "expected a comma or ], found '\"b\"]'"),
            (b'["a",]', "items[1]:", "expected JSON, found ']'"),
            (b'["a"]]', "items:", "expected the end, found ']'"),
            (b'["a"] x', "items:", "expected the end, found 'x' at character 6"),
            (b"[]x", "items:", "expected the end"),
            (b"[1]", "items[0]:", 'expected a string or an object {"payload": …, "key": …}, found a number'),
            (b'["a",true]', "items[1]:", "found a boolean"),
            (b'["a",null]', "items[1]:", "found null"),
            (b'["a",[]]', "items[1]:", "found an array"),
            (b'["a",{}]', "items[1].payload:", "found none"),
            (b'[{"key":"a"}]', "items[0].payload:", "found none"),
            (b'["a","b",{"payload":1,"x":1}]', "items[2]:", "expected only payload and key, found 'x'"),
            (b'[{"payload":1,"Key":"a"}]', "items[0]:", "found 'Key'"),
            (b'[{"payload":1,"\\u001b[31m\\r\\n":1}]', "items[0]:", "found '\\x1b[31m\\r\\n'"),
            (b'[{"payload":1,"key":1}]', "items[0].key:", "expected a string, found a number"),
            (b'[{"payload":1,"key":null}]', "items[0].key:", "expected a string, found null"),
            (b'[{"payload":1,"key":"' + b"x" * 513 + b'"}]', "items[0].key:", "at most 512 characters, found 513"),
            (b'["' + b"x" * 513 + b'"]', "items[0]:", "at most 512 characters, found 513"),
            (b'\xef\xbb\xbf["a"]', "items:", "byte order mark"),
            (b'["a","\xff"]', "items:", "expected UTF-8, found byte 0xff at offset 6"),
            (b'["\xed\xa0\x80"]', "items:", "expected UTF-8"),
            (b'["a\x00"]', "items[0]:", "invalid control character"),
            (b'["a\nb"]', "items[0]:", "invalid control character"),
            (b'["\\x"]', "items[0]:", "expected JSON"),
            (b"[01]", "items[0]:", "found a number"),
            (b'[{"payload":NaN}]', "items[0]:", "found NaN, which JSON does not know"),
            (b'["a",{"payload":-Infinity}]', "items[1]:", "found -Infinity"),
            (b'[{"payload":1e400}]', "items[0]:", "within the range of a double, found '1e400'"),
            (b'[{"payload":-1.5e309}]', "items[0]:", "within the range of a double"),
            (b'[{"payload":1e-1000}]', "items[0]:", "within the range of a double"),
            (b'[{"payload":0e99999999999}]', "items[0]:", "within the range of a double"),
            (b'[{"payload":' + b"9" * 5000 + b"}]", "items[0]:", "at most 4,300 digits"),
            (b'[{"payload":0.' + b"9" * 5000 + b"}]", "items[0]:", "at most 4,300 digits"),
            (b'[{"payload":1e' + b"9" * 5000 + b"}]", "items[0]:", "at most 4,300 digits"),
            (b'[{"payload":' + b"9" * 5000 + b',"payload":1}]', "items[0]:", "at most 4,300 digits"),
            (b'["a","\\u0000"]', "items[1]:", "a NUL character (\\u0000)"),
            (b'[{"payload":{"\\u0000":1}}]', "items[0]:", "a NUL character"),
            (b'[{"payload":1,"key":"\\\\\\u0000"}]', "items[0]:", "a NUL character"),
            (b'["\\ud800"]', "items[0]:", "half of a surrogate pair (\\ud800)"),
            (b'["\\udc00"]', "items[0]:", "half of a surrogate pair"),
            (b'["\\ud800\\ud800"]', "items[0]:", "half of a surrogate pair"),
            (b'["\\ude00\\ud83d"]', "items[0]:", "half of a surrogate pair"),
            (b'["\\\\ud83d\\ude00"]', "items[0]:", "half of a surrogate pair (\\ude00)"),
            (b"[" * 100_000, "items[0]:", "at most 64 levels of nesting, found many more"),
            (b'["a",' + nested(100_000) + b"]", "items[1]:", "at most 64 levels"),
            (b'[{"payload":' + b'{"a":' * 100_000, "items[0]:", "at most 64 levels"),
        ],
        ids=short,
    )
    def test_what_is_refused_and_how(self, items: bytes, place: str, words: str) -> None:
        detail = refused(items=items)
        assert detail.startswith(place), detail
        assert words in detail

    def test_long_numbers_are_refused_also_where_python_would_read_them(self) -> None:
        before = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(0)
        try:
            assert "at most 4,300 digits" in refused(items=b'[{"payload":' + b"9" * 8_000_000 + b"}]")
        finally:
            sys.set_int_max_str_digits(before)

    @pytest.mark.parametrize("around", [b"%s", b'{"a":1,"b":%s}'])
    def test_a_payload_may_be_nested_64_levels(self, around: bytes) -> None:
        levels = 64 - (around != b"%s")
        assert decode(items=b'["x",{"payload":%s}]' % (around % nested(levels))).item_count == 2
        detail = refused(items=b'["x",{"payload":%s}]' % (around % nested(levels + 1)))
        assert detail == "items[1].payload: expected at most 64 levels of nesting, found more"

    def test_a_small_message_cannot_become_gigabytes_of_digits(self) -> None:
        assert "written out" in refused(items=b'[{"payload":[' + b"1e308," * 300_000 + b"1]}]")

    @pytest.mark.parametrize(
        "text",
        [b'["' + b'\\"' * 4_000_000, b'["' + b"\\\\" * 4_000_000 + b'u0000"]', b"[" + b" " * 8_000_000, b'["\\u00e9' * 1_000_000],
        ids=short,
    )
    def test_hostile_text_ends(self, text: bytes) -> None:
        refused(items=text)


class TestMetadata:
    @pytest.mark.parametrize(
        "text", ["{}", ' {"a": {"a": 1, "a": 2.50}} ', '{"n":9223372036854775808}', '{"a":' + nested(63).decode() + "}"], ids=short
    )
    def test_taken_as_sent(self, text: str) -> None:
        assert decode(metadata=text.encode()).metadata == text

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (b"", "expected JSON"),
            (b"[]", "expected a JSON object, found an array"),
            (b'"x"', "expected a JSON object, found a string"),
            (b"null", "found null"),
            (b"{} x", "expected the end"),
            (b'{"a":"\\u0000"}', "NUL"),
            (b'{"\\ud800":1}', "surrogate"),
            (b'{"a":NaN}', "NaN"),
            (b"\xff", "UTF-8"),
            (b'{"a":%s}' % nested(64), "64 levels"),
            (b"[" * 100_000, "64 levels"),
            (b'{"a":"' + b"x" * MIB + b'"}', "at most 262,144 bytes"),
        ],
        ids=short,
    )
    def test_refused(self, text: bytes, words: str) -> None:
        detail = refused(metadata=text)
        assert detail.startswith("metadata: expected ")
        assert words in detail


class TestTrace:
    @pytest.mark.parametrize(
        "value",
        [
            b"x",
            b"\xff",
            b"00-" + b"0" * 32 + TRACE[35:],
            b"ff" + TRACE[2:],
            TRACE.upper(),
            TRACE + b"-x",
            TRACE + b"\n",
            b"01" + TRACE[2:] + b"x",
        ],
        ids=short,
    )
    def test_a_bad_one_is_dropped_with_a_warning(self, value: bytes, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "streamworker.messages"):
            job = decode(traceparent=value, tracestate=b"k=v")
        assert (job.traceparent, job.tracestate) == (None, None)
        assert "traceparent" in caplog.text

    def test_a_later_version_may_say_more(self) -> None:
        assert decode(traceparent=b"01" + TRACE[2:] + b"-more").traceparent == "01" + TRACE[2:].decode()

    def test_a_bad_tracestate_is_dropped_alone(self) -> None:
        job = decode(traceparent=TRACE, tracestate=b"a\nb")
        assert (job.traceparent, job.tracestate) == (TRACE.decode(), None)


# Bytes near what a job is made of find more than bytes of any kind.
PIECES = st.sampled_from(
    [
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b":",
        b'"',
        b"\\",
        b"\\u0000",
        b"\\ud83d",
        b"\\ude00",
        b'"payload":',
        b'"key":',
        b'"a"',
        b"1",
        b"1e5",
        b"NaN",
        b"-",
        b" ",
        b"\xff",
        b"\x00",
    ]
)
TEXTS = st.one_of(
    st.binary(max_size=30),
    st.lists(PIECES, max_size=25).map(b"".join),
    st.lists(PIECES, max_size=12).map(lambda p: b'[{"payload":' + b"".join(p) + b"}]"),
)
FIELD_NAMES = st.one_of(
    st.sampled_from([b"items", b"metadata", b"processor", b"max_attempts", b"max_failures", b"traceparent", b"tracestate"]),
    st.binary(max_size=5),
)


@given(st.lists(st.tuples(FIELD_NAMES, TEXTS), max_size=4), st.booleans())
@settings(max_examples=500, deadline=None)
def test_fuzz_decode_job(fields: list[tuple[bytes, bytes]], with_id: bool) -> None:
    detail = ""
    try:
        job = decode_job([(b"batch_id", ID.encode())] * with_id + fields, 1000)
        assert job.items is None or len(json.loads(job.items)) == job.item_count > 0
    except InvalidMessage as error:
        detail = error.detail
    assert detail.isprintable()
