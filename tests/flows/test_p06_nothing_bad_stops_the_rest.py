"""P6: a bad item never stops a batch, a bad batch never a worker, and a bad message lands on the dead stream with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest

from tests.flows.processors import act, hold
from tests.flows.scene import DEAD, STREAM, Scene
from tests.flows.workers import WorkerProcess

Pair = tuple[bytes, bytes]
LIMIT = 1024 * 1024
UNSTARTABLE = "tests.flows.processors:Unstartable"
NOBODY = UUID("123e4567-e89b-42d3-a456-426614174000")
ID = (b"batch_id", str(NOBODY).encode())
ITEMS = (b"items", b'["a"]')


@dataclass(frozen=True)
class Running:
    """What goes on beside all tests of this file: a good batch in mid-run, and an entry whose batch never comes."""

    worker: WorkerProcess
    batch_id: UUID
    orphan: str


@pytest.fixture(scope="module", autouse=True)
def running(module_scene: Scene) -> Running:
    processors = f"tests.flows.processors:work,{UNSTARTABLE}"
    worker = module_scene.start_worker(processor=processors, batch_concurrency="2", max_message_bytes=str(LIMIT))
    orphan = module_scene.xadd(batch_id=NOBODY)
    batch_id = module_scene.job(["a", hold("the good batch"), "c"])
    module_scene.wait_start(batch_id, 1)
    return Running(worker, batch_id, orphan)


def send(scene: Scene, pairs: Sequence[Pair]) -> str:
    """XADD fields in this order, names twice too."""
    return scene.redis.execute_command("XADD", STREAM, "*", *(part for pair in pairs for part in pair)).decode()


def wait_letter(scene: Scene, entry_id: str, seconds: float = 20.0) -> tuple[list[Pair], dict[bytes, bytes]]:
    """Wait for the dead letter of an entry; returns the fields as they were sent, and what was added."""

    def found() -> list[list[bytes]]:
        letters = scene.redis.eval("return redis.call('XRANGE', KEYS[1], '-', '+')", 1, DEAD)  # names twice survive only like this
        return [fields for _, fields in letters if entry_id.encode() in fields]

    (fields,) = scene.wait(found, seconds, f"the dead letter of entry {entry_id}")
    pairs = list(zip(fields[::2], fields[1::2], strict=True))
    scene.wait(lambda: not scene.redis.xrange(STREAM, entry_id, entry_id), 10, f"entry {entry_id} to be acknowledged")
    return pairs[:-4], dict(pairs[-4:])


def check_dead(scene: Scene, pairs: Sequence[Pair], reason: str) -> str:
    """Send it: it lands on the dead stream as it was, nothing came of it, and the next job runs; returns the detail."""
    entry_id = send(scene, pairs)
    fields, added = wait_letter(scene, entry_id)
    assert fields == list(pairs)
    assert set(added) == {b"reason", b"detail", b"source_id", b"died_at"}
    assert (added[b"reason"].decode(), added[b"source_id"].decode()) == (reason, entry_id)
    assert scene.database.rows("SELECT FROM streamworker.batches WHERE id = $1", NOBODY) == []
    scene.wait_end(scene.job(["the next"]))
    detail = added[b"detail"].decode()
    assert detail.isprintable()
    assert len(detail) < 300
    return detail


BAD_FIELDS: dict[str, tuple[list[Pair], str]] = {
    "no field known": ([(b"a", b"b")], "'a': unknown field"),
    "an unknown field": ([ID, ITEMS, (b"prio", b"1")], "'prio': unknown field"),
    "a field in other case": ([ID, (b"Items", b'["a"]')], "'Items': unknown field"),
    "a field in binary": ([ID, (b"\xff\x00\r\n", b"\x00")], "unknown field"),
    "100,000 fields": ([ID, *[(b"f%d" % number, b"") for number in range(100_000)]], "'f0': unknown field"),
    "no batch_id": ([ITEMS], "batch_id: expected this field"),
    "an empty batch_id": ([(b"batch_id", b""), ITEMS], "batch_id: expected a UUID"),
    "a batch_id that is none": ([(b"batch_id", b"42"), ITEMS], "batch_id: expected a UUID"),
    "a batch_id with a newline": ([(b"batch_id", ID[1] + b"\n"), ITEMS], "batch_id: expected a UUID"),
    "a batch_id twice": ([ID, ID, ITEMS], "batch_id: expected this field once"),
    "items twice": ([ID, ITEMS, ITEMS], "items: expected this field once"),
    "max_attempts 0": ([ID, ITEMS, (b"max_attempts", b"0")], "max_attempts: expected a whole number"),
    "max_attempts in words": ([ID, ITEMS, (b"max_attempts", b"two")], "max_attempts: expected a whole number"),
    "max_failures negative": ([ID, ITEMS, (b"max_failures", b"-1")], "max_failures: expected a whole number"),
    "an empty processor": ([ID, ITEMS, (b"processor", b"")], "processor: expected a name"),
    "a processor with NUL": ([ID, ITEMS, (b"processor", b"a\0b")], "processor: expected text that Postgres can store"),
    "metadata that is an array": ([ID, ITEMS, (b"metadata", b"[]")], "metadata: expected a JSON object, found an array"),
    "metadata that is a string": ([ID, ITEMS, (b"metadata", b'"x"')], "metadata: expected a JSON object, found a string"),
    "metadata with NUL": ([ID, ITEMS, (b"metadata", b'{"a": "\\u0000"}')], "metadata"),
    "metadata too long": ([ID, ITEMS, (b"metadata", b'{"a": "%s"}' % (b"x" * 300_000))], "metadata: expected at most"),
}


@pytest.mark.parametrize("name", BAD_FIELDS)
def test_bad_fields(shared: Scene, name: str) -> None:
    pairs, words = BAD_FIELDS[name]
    assert words in check_dead(shared, pairs, "invalid_message")


BAD_ITEMS: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"a.jpg", "items"),
    "nothing": (b"", "items"),
    "null": (b"null", "items: expected"),
    "an object": (b"{}", "items: expected"),
    "no element": (b"[]", "items: expected at least one element"),
    "a number": (b"[1]", "items[0]: expected a string or an object"),
    "null among good ones": (b'["a", "b", null]', "items[2]: expected a string or an object"),
    "no payload": (b'["a", {"key": "b"}]', "items[1].payload: expected any JSON value"),
    "an unknown name": (b'[{"payload": 1, "x": 1}]', "items[0]: expected only payload and key, found 'x'"),
    "a key that is a number": (b'[{"payload": 1, "key": 7}]', "items[0].key: expected a string"),
    "a key of 513 characters": (
        b'[{"payload": 1, "key": "%s"}]' % (b"k" * 513),
        "items[0].key: expected at most 512 characters, found 513",
    ),
    "a string of 513 characters": (b'["%s"]' % (b"k" * 513), "items[0]: expected a string of at most 512 characters, found 513"),
    "trailing bytes": (b'["a"] x', "items"),
    "cut short": (b'["a", "b', "items"),
    "a byte order mark": (b'\xef\xbb\xbf["a"]', "items"),
    "invalid UTF-8": (b'["a", "\xff"]', "items"),
    "a lone surrogate": (b'["a", "\\ud800"]', "items[1]"),
    "NUL in a payload": (b'["a", {"payload": {"deep": ["\\u0000"]}}]', "items[1]"),
    "NUL in a key": (b'[{"payload": 1, "key": "a\\u0000"}]', "items[0]"),
    "NaN": (b'["a", {"payload": NaN}]', "items[1]"),
    "Infinity": (b'[{"payload": -Infinity}]', "items[0]"),
    "1e400": (b'[{"payload": 1}, {"payload": 1e400}]', "items[1]"),
    "a number of 5,000 digits": (b'[{"payload": %s}]' % (b"9" * 5000), "items[0]"),
    "65 levels": (b'["a", {"payload": %s}]' % (b"[" * 65 + b"]" * 65), "items[1].payload: expected at most 64 levels of nesting"),
    "100,000 open brackets": (b"[" * 100_000, "items"),
}


@pytest.mark.parametrize("name", BAD_ITEMS)
def test_bad_items(shared: Scene, name: str) -> None:
    items, words = BAD_ITEMS[name]
    assert check_dead(shared, [ID, (b"items", items)], "invalid_message").startswith(words)


def test_a_message_of_the_greatest_size_runs_and_one_byte_more_is_dead(shared: Scene) -> None:
    frame = sum(len(part) for part in (*ID, b"items", b'[{"payload":""}]'))
    text = "x" * (LIMIT - frame)
    batch_id = uuid4()
    shared.xadd(batch_id=batch_id, items=f'[{{"payload":"{text}"}}]')
    shared.wait_end(batch_id)
    assert shared.items(batch_id)[0]["payload"] == text
    detail = check_dead(shared, [ID, (b"items", f'[{{"payload":"{text}x"}}]'.encode())], "message_too_large")
    assert detail == "expected a message of at most 1,048,576 bytes, found 1,048,577"


@pytest.mark.parametrize(
    "name", ["nowhere", "os:system", "a.b:c()", "__main__:x", "this:d", "../../x", "tests.flows.processors:quiet", "x" * 10_000]
)
def test_a_processor_that_the_worker_was_not_given(shared: Scene, running: Running, name: str) -> None:
    detail = check_dead(shared, [ID, ITEMS, (b"processor", name.encode())], "unknown_processor")
    assert detail.startswith("processor: expected ")
    assert "Zen of Python" not in running.worker.text(), "importing `this` prints it"


def test_a_submitted_batch_that_names_an_unknown_processor_fails_with_the_reason(shared: Scene, running: Running) -> None:
    batch_id = shared.submit(["a", "b"], processor="this:d")
    row = shared.wait_end(batch_id, "failed")
    assert row["error"].startswith("processor: expected one that this worker was given (tests.flows.processors:work, ")
    assert row["error"].endswith(", got 'this:d'")
    assert shared.statuses(batch_id) == ["cancelled", "cancelled"]
    assert shared.starts(batch_id) == []
    shared.wait_announced(batch_id)
    assert shared.letters()[-1][b"batch_id"] == str(batch_id).encode()
    assert shared.letters()[-1][b"reason"] == b"unknown_processor"
    assert "Zen of Python" not in running.worker.text()


def test_a_processor_that_cannot_start_fails_its_batch_alone(shared: Scene, running: Running) -> None:
    batch_id = shared.job(["a", "b"], processor=UNSTARTABLE)
    row = shared.wait_end(batch_id, "failed")
    assert "FileNotFoundError: no model at model.bin" in row["error"]
    assert shared.statuses(batch_id) == ["cancelled", "cancelled"]
    shared.wait_announced(batch_id)
    shared.wait_end(shared.job(["the next"]))
    assert running.worker.lives


def test_bad_items_do_not_stop_their_batch(shared: Scene) -> None:
    bad = [act("fail"), act("fail", times=1), act("permanent"), act("return", what="nan"), act("raise", what="system exit")]
    batch_id = shared.job(["a", *bad, "g"])
    row = shared.wait_end(batch_id)
    assert (row["total"], row["succeeded"], row["failed"], row["error"]) == (7, 3, 4, None)
    assert shared.statuses(batch_id) == ["completed", "failed", "completed", "failed", "failed", "failed", "completed"]
    assert shared.attempts(batch_id) == [1, 2, 2, 1, 2, 2, 1]
    errors = [item["error"] for item in shared.items(batch_id)]
    assert errors[1] == "item 1 fails on attempt 2"
    assert errors[3] == "no use in trying again"
    assert "result cannot be stored" in errors[4]
    assert [errors[position] for position in (0, 2, 6)] == [None] * 3
    shared.wait_announced(batch_id)


def test_more_failures_than_allowed_end_the_batch(shared: Scene) -> None:
    batch_id = shared.job([act("fail"), "b", act("fail"), "d", "e"], max_failures=1, max_attempts=1)
    row = shared.wait_end(batch_id, "failed")
    assert row["error"] == "2 items failed, more than max_failures allows (1)"
    assert shared.statuses(batch_id) == ["failed", "completed", "failed", "cancelled", "cancelled"]
    assert (row["succeeded"], row["failed"]) == (1, 2)
    shared.wait_announced(batch_id)


def test_as_many_failures_as_allowed_do_not(shared: Scene) -> None:
    batch_id = shared.job([act("fail"), "b", act("fail"), "d"], max_failures=2, max_attempts=1)
    assert shared.wait_end(batch_id)["failed"] == 2


def test_after_all_that_the_good_batch_ends_and_the_orphan_is_dead(shared: Scene, running: Running) -> None:
    fields, added = wait_letter(shared, running.orphan, seconds=60)
    assert fields == [ID]
    assert added[b"reason"] == b"batch_not_found"
    assert added[b"detail"].decode() == f"batch_id: expected a batch that is in Postgres, {NOBODY} was not after 30 s"
    letters = shared.redis.xrange(DEAD)
    died, sent = (int(entry.split(b"-")[0]) for entry in (letters[-1][0], running.orphan.encode()))
    assert 29_000 < died - sent < 40_000
    shared.open("the good batch")
    shared.wait_end(running.batch_id)
    assert shared.starts(running.batch_id) == [(0, 1), (1, 1), (2, 1)]
    assert running.worker.lives
