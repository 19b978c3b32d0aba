"""Every form of job that must run, as XADD sends it."""

from __future__ import annotations

import json
import time
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.flows.processors import act, hold
from tests.flows.scene import DEAD, STREAM, Scene
from tests.flows.workers import WorkerProcess

QUIET = "tests.flows.processors:quiet"


@pytest.fixture(scope="module", autouse=True)
def worker(module_scene: Scene) -> WorkerProcess:
    return module_scene.start_worker(processor=f"tests.flows.processors:work,thread=tests.flows.processors:work_in_thread,{QUIET}")


def run(scene: Scene, items: str, **fields: Any) -> UUID:
    """Send a job with this very text of items, and wait for its end."""
    batch_id = uuid4()
    scene.xadd(batch_id=batch_id, items=items, **fields)
    scene.wait_end(batch_id)
    return batch_id


def keys(scene: Scene, batch_id: UUID) -> list[str]:
    return [item["key"] for item in scene.items(batch_id)]


def payloads(scene: Scene, batch_id: UUID) -> list[str]:
    """The payloads as Postgres writes them."""
    return scene.database.column("SELECT payload::text FROM streamworker.items WHERE batch_id = $1 ORDER BY position", batch_id)


def results(scene: Scene, batch_id: UUID) -> list[Any]:
    return [item["result"] for item in scene.items(batch_id)]


class TestItems:
    def test_strings(self, shared: Scene) -> None:
        batch_id = run(shared, ' ["a.jpg", "b.jpg",\n"" ] ')
        assert keys(shared, batch_id) == ["a.jpg", "b.jpg", ""]
        assert payloads(shared, batch_id) == ['"a.jpg"', '"b.jpg"', '""']
        assert shared.starts(batch_id) == [(0, 1), (1, 1), (2, 1)]

    def test_objects_beside_strings(self, shared: Scene) -> None:
        items = ["a", {"payload": {"b": [1]}, "key": "b"}, {"payload": [], "key": ""}, {"payload": "d"}]
        batch_id = run(shared, json.dumps(items))
        assert keys(shared, batch_id) == ["a", "b", "", "3"], "without a key it is the position"
        assert payloads(shared, batch_id) == ['"a"', '{"b": [1]}', "[]", '"d"']

    @pytest.mark.parametrize("payload", ["null", "true", "0", '""', "[]", "{}", '{"payload": null}'])
    def test_a_payload_may_be_any_json(self, shared: Scene, payload: str) -> None:
        batch_id = run(shared, f'[{{"payload": {payload}}}]')
        assert payloads(shared, batch_id) == [payload]

    @pytest.mark.parametrize(
        "number",
        [
            str(2**63),
            str(-(2**63) - 1),
            "9" * 400,
            "0.1234567890123456789012345678901234567890",
            "1.10",
            "-123456789012345678901234567890.000000000000000000000000000001",
        ],
    )
    def test_a_number_is_kept_to_the_last_digit(self, shared: Scene, number: str) -> None:
        assert payloads(shared, run(shared, f'[{{"payload": {number}}}]')) == [number]

    def test_the_processor_gets_great_integers_whole(self, shared: Scene) -> None:
        batch_id = run(shared, json.dumps([act("look", number=2**100)]))
        assert results(shared, batch_id)[0]["payload"]["number"] == 2**100

    @pytest.mark.parametrize("key", ["k" * 512, "😀" * 512, "\u202egpj.exe", "../../etc/passwd", "a\r\nb\x1b[31m", "' OR 1=1; --", " "])
    def test_any_text_is_a_key_and_only_a_key(self, shared: Scene, key: str) -> None:
        batch_id = run(shared, json.dumps([key, {"payload": 1, "key": key}], ensure_ascii=False))
        assert keys(shared, batch_id) == [key, key]
        shared.wait_announced(batch_id)
        assert [item.key for event in shared.events(batch_id) for item in event.items if item.status == "completed"] == [key, key]

    def test_a_thousand_equal_keys(self, shared: Scene) -> None:
        batch_id = run(shared, json.dumps(["same"] * 1000), processor=QUIET)
        assert shared.batch(batch_id)["succeeded"] == 1000

    def test_64_levels_of_nesting(self, shared: Scene) -> None:
        text = "[" * 64 + "]" * 64
        assert payloads(shared, run(shared, f'[{{"payload": {text}}}]')) == [text]

    def test_of_a_name_given_twice_the_last_counts(self, shared: Scene) -> None:
        batch_id = run(shared, '[{"payload": {"a": 1, "b": 2, "a": 3}}, {"payload": 1, "key": "x", "payload": 2, "key": "y"}]')
        assert payloads(shared, batch_id) == ['{"a": 3, "b": 2}', "2"]
        assert keys(shared, batch_id) == ["0", "y"]

    def test_escapes_are_read(self, shared: Scene) -> None:
        batch_id = run(shared, r'["\ud83d\ude00 \u00e9 \"\\ \/ \n"]')
        assert keys(shared, batch_id) == ['😀 é "\\ / \n']

    def test_a_hundred_thousand_in_one_message(self, shared: Scene) -> None:
        batch_id = uuid4()
        shared.xadd(batch_id=batch_id, items=json.dumps([f"{number}.jpg" for number in range(100_000)]), processor=QUIET)
        row = shared.wait_end(batch_id, seconds=90)
        assert (row["total"], row["succeeded"]) == (100_000, 100_000)
        found = "SELECT count(*), count(result), max(attempts) FROM streamworker.items WHERE batch_id = $1 AND key = position || '.jpg'"
        assert tuple(shared.database.row(found, batch_id)) == (100_000, 100_000, 1)
        shared.wait_announced(batch_id)


class TestOtherFields:
    def test_the_order_of_fields_is_of_no_account(self, shared: Scene) -> None:
        batch_id = uuid4()
        shared.xadd(max_attempts="1", items='["a"]', metadata="{}", batch_id=batch_id)
        assert shared.wait_end(batch_id)["max_attempts"] == 1

    def test_metadata_reaches_the_processor(self, shared: Scene) -> None:
        metadata = {"customer": "Ærø 😀", "deep": {"list": [1, None]}, "number": 2**70}
        batch_id = run(shared, json.dumps([act("look"), "b"]), metadata=json.dumps(metadata))
        found = results(shared, batch_id)[0]
        assert (found["metadata"], found["id"], found["total"]) == (metadata, str(batch_id), 2)
        assert shared.batch(batch_id)["metadata"] == metadata

    def test_the_first_processor_given_is_the_one_without_a_name(self, shared: Scene) -> None:
        batch_id = run(shared, '["a"]')
        assert results(shared, batch_id) == [{"position": 0, "attempt": 1}]
        assert shared.batch(batch_id)["processor"] is None

    @pytest.mark.parametrize(("name", "result"), [(QUIET, {"position": 0}), ("thread", {"position": 0, "attempt": 1})])
    def test_a_batch_chooses_its_processor_by_name(self, shared: Scene, name: str, result: dict[str, int]) -> None:
        batch_id = run(shared, '["a"]', processor=name)
        assert results(shared, batch_id) == [result]
        assert shared.batch(batch_id)["processor"] == name

    def test_max_attempts(self, shared: Scene) -> None:
        batch_id = run(shared, json.dumps([act("fail", times=3), act("fail", times=2), "c"]), max_attempts=3)
        assert shared.statuses(batch_id) == ["failed", "completed", "completed"]
        assert shared.attempts(batch_id) == [3, 3, 1]

    def test_two_attempts_are_the_default(self, shared: Scene) -> None:
        batch_id = run(shared, json.dumps([act("fail", times=1), act("fail", times=2)]))
        assert shared.statuses(batch_id) == ["completed", "failed"]
        assert shared.starts(batch_id) == [(0, 1), (0, 2), (1, 1), (1, 2)]

    def test_max_failures(self, shared: Scene) -> None:
        batch_id = run(shared, json.dumps([act("permanent"), "b"]), max_failures=1)
        assert shared.batch(batch_id)["max_failures"] == 1

    def test_trace_context(self, shared: Scene) -> None:
        run(shared, '["a"]', traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", tracestate="k=v")

    def test_a_broken_trace_context_is_dropped_with_a_warning(self, shared: Scene, worker: WorkerProcess) -> None:
        run(shared, '["a"]', traceparent="00-nonsense", tracestate="k=v")
        worker.wait_logged("traceparent '00-nonsense' is not of the W3C form and is ignored")


class TestTheSameBatchAgain:
    def test_upper_case_is_the_same_batch(self, shared: Scene) -> None:
        batch_id = uuid4()
        shared.xadd(batch_id=str(batch_id).upper(), items='["a"]')
        shared.wait_end(batch_id)
        shared.xadd(batch_id=str(batch_id), items='["b"]')
        shared.wait(lambda: shared.redis.xlen(STREAM) == 0, 10, "the second one to be acknowledged")
        assert keys(shared, batch_id) == ["a"]
        assert shared.starts(batch_id) == [(0, 1)]

    def test_a_job_for_what_postgres_knows(self, shared: Scene) -> None:
        batch_id = shared.submit(["a", "b"])
        shared.xadd(batch_id=batch_id)
        shared.wait_end(batch_id)
        assert shared.starts(batch_id) == [(0, 1), (1, 1)]

    def test_sent_twice_before_anybody_looked_the_first_wins(self, shared: Scene) -> None:
        before, batch_id = shared.job([hold("the slot")]), uuid4()
        shared.wait_start(before, 0)
        for items in ('["first"]', '["second", "third"]', '["first"]'):
            shared.xadd(batch_id=batch_id, items=items)
        shared.open("the slot")
        shared.wait_end(batch_id)
        shared.wait(lambda: shared.redis.xlen(STREAM) == 0, 10, "all of them to be acknowledged")
        assert keys(shared, batch_id) == ["first"]
        assert shared.starts(batch_id) == [(0, 1)]

    def test_an_ended_batch_is_told_again_and_runs_no_more(self, shared: Scene) -> None:
        batch_id = shared.job(["a", act("permanent")])
        end = shared.wait_announced(batch_id)
        shared.wait(lambda: shared.redis.xlen(STREAM) == 0, 10, "the acknowledgement")
        before = dict(shared.batch(batch_id))
        for times, fields in enumerate([{}, {"items": '["b"]'}, {"items": '["b"]', "processor": QUIET}], 2):
            shared.xadd(batch_id=batch_id, **fields)
            shared.wait(lambda: shared.redis.xlen(STREAM) == 0, 10, "the acknowledgement")
            ends = [event for event in shared.events(batch_id) if event.status == "completed"]
            assert len(ends) == times
            assert (ends[-1].revision, ends[-1].failed) == (end.revision, 1)
        after = dict(shared.batch(batch_id))
        assert {name for name in before if before[name] != after[name]} <= {"announced_at"}
        assert len(shared.starts(batch_id)) == 2
        assert not shared.redis.exists(DEAD)

    def test_a_cancelled_batch_does_not_run(self, shared: Scene) -> None:
        before = shared.job([hold("the cancelled one")])
        shared.wait_start(before, 0)
        batch_id = shared.submit(["a"])
        shared.database.value("SELECT streamworker.cancel($1)", batch_id)
        shared.xadd(batch_id=batch_id)
        shared.open("the cancelled one")
        shared.wait(lambda: shared.redis.xlen(STREAM) == 0, 10, "the acknowledgement")
        assert shared.wait_announced(batch_id).status == "cancelled"
        assert shared.starts(batch_id) == []


def test_a_job_sent_inside_the_producers_transaction_waits_for_its_commit(shared: Scene) -> None:
    batch_id, run_there = uuid4(), shared.background.run
    producer = run_there(asyncpg.connect(shared.database_url, timeout=10))
    run_there(producer.execute("BEGIN"))
    run_there(producer.execute("SELECT streamworker.submit('[\"a\"]', $1)", batch_id))
    shared.xadd(batch_id=batch_id)
    shared.wait(shared.pending, 10, "the entry to be taken")
    shared.wait_end(shared.job(["another one, which is not held up"]))
    run_there(producer.execute("COMMIT"))
    committed = time.monotonic()
    run_there(producer.close())
    assert shared.wait_start(batch_id, 0).at - committed < 2
    shared.wait_end(batch_id)
    assert shared.starts(batch_id) == [(0, 1)]
