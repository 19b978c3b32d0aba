"""Rows that someone else wrote, changed or took away: refused, or that batch alone ends with a reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.flows.processors import hold
from tests.flows.scene import STREAM, Scene
from tests.flows.workers import WorkerProcess


@pytest.fixture(scope="module", autouse=True)
def worker(module_scene: Scene) -> WorkerProcess:
    return module_scene.start_worker()


BAD_SUBMISSIONS = {
    "submit(NULL)": "items: expected a JSON array, got NULL",
    "submit('null')": "items: expected a JSON array, got null",
    "submit('{}')": "items: expected a JSON array, got object",
    "submit('\"a\"')": "items: expected a JSON array, got string",
    "submit('[]')": "items: expected at least one element, got an empty array",
    "submit('[1]')": "items[0]: expected a string or an object with payload, got number",
    "submit('[\"a\", null, 1]')": "items[1]: expected a string or an object with payload, got null",
    'submit(\'["a", ["b"]]\')': "items[1]: expected a string or an object with payload, got array",
    'submit(\'[{"key": "a"}]\')': "items[0]: expected an object with payload, which is missing",
    'submit(\'["a", {"payload": 1, "x": 1}]\')': "items[1]: expected only payload and key, got also x",
    'submit(\'[{"payload": 1, "key": 7}]\')': "items[0]: key: expected a string, got number",
    'submit(\'[{"payload": 1, "key": null}]\')': "items[0]: key: expected a string, got null",
    "submit(jsonb_build_array(repeat('k', 513)))": "items[0]: expected a string of at most 512 characters, got 513",
    "submit(jsonb_build_array('a', jsonb_build_object('payload', 1, 'key', repeat('k', 513))))": (
        "items[1]: key: expected at most 512 characters, got 513"
    ),
    "submit(('[{\"payload\": ' || repeat('[', 65) || repeat(']', 65) || '}]')::jsonb)": "items[0]: payload: nested deeper than 64 levels",
    "submit('[\"a\"]', metadata => '[]')": "metadata: expected a JSON object, got array",
    "submit('[\"a\"]', metadata => NULL)": "metadata: expected a JSON object, got NULL",
    "submit('[\"a\"]', max_attempts => 0)": "max_attempts: expected a whole number from 1, got 0",
    "submit('[\"a\"]', max_attempts => NULL)": "max_attempts: expected a whole number from 1, got NULL",
    "submit('[\"a\"]', max_failures => -1)": "max_failures: expected a whole number from 0 or NULL, got -1",
    "submit('[\"a\"]', processor => repeat('p', 513))": "processor: expected at most 512 characters, got 513",
}


@pytest.mark.parametrize("call", BAD_SUBMISSIONS)
def test_a_bad_submission_is_refused_with_a_sentence(shared: Scene, call: str) -> None:
    before = shared.database.value("SELECT count(*) FROM streamworker.batches")
    with pytest.raises(asyncpg.InvalidParameterValueError) as refused:
        shared.database.rows(f"SELECT streamworker.{call}")
    assert (refused.value.sqlstate, refused.value.message) == ("22023", BAD_SUBMISSIONS[call])
    assert shared.database.value("SELECT count(*) FROM streamworker.batches") == before


def test_text_that_postgres_cannot_hold_is_refused_by_postgres(shared: Scene) -> None:
    with pytest.raises(asyncpg.UntranslatableCharacterError):
        shared.database.rows('SELECT streamworker.submit(\'[{"payload": "\\u0000"}]\')')


def test_the_same_id_twice_is_one_batch(shared: Scene) -> None:
    batch_id = shared.submit(["a"])
    assert shared.submit(["b", "c"], batch_id=batch_id) == batch_id
    assert shared.wait_end(batch_id)["total"] == 1
    assert shared.submit(["d"], batch_id=batch_id) == batch_id
    assert shared.starts(batch_id) == [(0, 1)]


def test_64_levels_and_all_options_are_taken(shared: Scene) -> None:
    deep = "('[{\"payload\": ' || repeat('[', 64) || repeat(']', 64) || '}]')::jsonb"
    batch_id = shared.database.value(f"SELECT streamworker.submit({deep}, NULL, NULL, '{{\"a\": 1}}', 5, 0)")
    row = shared.wait_end(batch_id)
    assert (row["metadata"], row["max_attempts"], row["max_failures"]) == ({"a": 1}, 5, 0)


# --- rows that the schema refuses -------------------------------------------------------------------------------------------


BAD_CHANGES = [
    "UPDATE streamworker.batches SET status = 'foo'",
    "UPDATE streamworker.batches SET status = 'completed'",
    "UPDATE streamworker.batches SET finished_at = now()",
    "UPDATE streamworker.batches SET processed = 1",
    "UPDATE streamworker.batches SET succeeded = -1, processed = -1",
    "UPDATE streamworker.batches SET total = -1",
    "UPDATE streamworker.batches SET metadata = '[]'",
    "UPDATE streamworker.batches SET metadata = NULL",
    "UPDATE streamworker.batches SET max_attempts = 0",
    "UPDATE streamworker.batches SET max_failures = -1",
    "UPDATE streamworker.batches SET epoch = epoch - 1",
    "UPDATE streamworker.batches SET revision = revision - 1",
    "UPDATE streamworker.batches SET id = gen_random_uuid()",
    "UPDATE streamworker.batches SET lease_expires_at = '9999-01-01'",
    "INSERT INTO streamworker.batches (id, lease_expires_at) SELECT gen_random_uuid(), '9999-01-01' FROM streamworker.batches",
    "INSERT INTO streamworker.batches (id) SELECT id FROM streamworker.batches",
    "UPDATE streamworker.items SET status = 'foo'",
    "UPDATE streamworker.items SET status = 'completed'",
    "UPDATE streamworker.items SET attempts = -1",
    "UPDATE streamworker.items SET payload = NULL",
    "UPDATE streamworker.items SET key = NULL",
    "UPDATE streamworker.items SET key = repeat('k', 513)",
    "UPDATE streamworker.items SET position = -1",
    "UPDATE streamworker.items SET batch_id = gen_random_uuid()",
    "UPDATE streamworker.items SET position = 5",
    "INSERT INTO streamworker.items (batch_id, position, key, payload) SELECT batch_id, position, 'x', '1' FROM streamworker.items",
    "INSERT INTO streamworker.items (batch_id, position, key, payload) SELECT batch_id, 2000000001, 'x', '1' FROM streamworker.items",
]


@pytest.mark.parametrize("number", range(len(BAD_CHANGES)), ids=BAD_CHANGES)
def test_the_schema_refuses_impossible_rows(shared: Scene, number: int) -> None:
    batch_id = shared.job([hold(f"constraint {number}"), "b"])
    shared.wait_start(batch_id, 0)
    change = BAD_CHANGES[number]
    condition = "batch_id = $1 AND position = 1" if "items" in change else "id = $1"
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        shared.database.rows(f"{change} WHERE {condition}", batch_id)
    shared.open(f"constraint {number}")
    shared.wait_end(batch_id)
    assert shared.starts(batch_id) == [(0, 1), (1, 1)]


# --- rows that somebody else wrote ------------------------------------------------------------------------------------------


def insert(scene: Scene, positions: list[int], **columns: object) -> UUID:
    """Write a batch without the function, as one statement."""
    batch_id = uuid4()
    names = "".join(f", {name}" for name in columns)
    values = "".join(f", ${number}" for number, _ in enumerate(columns, 3))
    scene.database.rows(
        f"WITH b AS (INSERT INTO streamworker.batches (id{names}) VALUES ($1{values})) "
        "INSERT INTO streamworker.items (batch_id, position, key, payload) SELECT $1, p, p::text, 'null' FROM unnest($2::int[]) AS p",
        batch_id, positions, *columns.values(),
    )  # fmt: skip
    return batch_id


@pytest.mark.parametrize("total", [0, 1, 7])
def test_where_total_and_rows_differ_the_rows_win(shared: Scene, worker: WorkerProcess, total: int) -> None:
    batch_id = insert(shared, [0, 1, 2], total=total)
    row = shared.wait_end(batch_id)
    assert (row["total"], row["succeeded"]) == (3, 3)
    worker.wait_logged(f"batch {batch_id}: total says {total}, but there are 3 items: the rows win")
    assert shared.wait_announced(batch_id).percent == 100


def test_gaps_in_the_positions_are_passed_over(shared: Scene) -> None:
    batch_id = insert(shared, [3, 70_000, 2_000_000_000], total=3)
    assert shared.wait_end(batch_id)["succeeded"] == 3
    assert [position for position, _ in shared.starts(batch_id)] == [3, 70_000, 2_000_000_000]


def test_counters_that_lie_are_counted_again(shared: Scene) -> None:
    batch_id = insert(shared, [0, 1], total=2, processed=9, succeeded=5, failed=4)
    row = shared.wait_end(batch_id)
    assert (row["total"], row["processed"], row["succeeded"], row["failed"]) == (2, 2, 2, 0)
    shared.wait_announced(batch_id)


def test_a_batch_in_processing_that_nobody_owns_is_taken(shared: Scene) -> None:
    batch_id = insert(shared, [0], total=1, status="processing", worker="nobody", worker_number=4711, frontier=0)
    shared.wait_end(batch_id)


def test_a_batch_without_items_fails_with_the_reason(shared: Scene) -> None:
    batch_id = insert(shared, [])
    assert shared.wait_end(batch_id, "failed")["error"] == "the batch has no items"
    assert shared.wait_announced(batch_id).percent == 0


def test_a_batch_whose_items_are_taken_away_before_it_starts_fails_with_the_reason(shared: Scene) -> None:
    before = shared.job([hold("the slot")])
    shared.wait_start(before, 0)
    batch_id = shared.submit(["a", "b"])
    shared.database.rows("DELETE FROM streamworker.items WHERE batch_id = $1", batch_id)
    shared.open("the slot")
    assert shared.wait_end(batch_id, "failed")["error"] == "the batch has no items"


# --- rows that change under the worker ----------------------------------------------------------------------------------------


class Held:
    """A batch that stands at its second item until `go_on`."""

    def __init__(self, scene: Scene, gate: str, items: int = 4) -> None:
        self.scene, self.gate = scene, gate
        self.id = scene.job(["a", hold(gate), *["c"] * (items - 2)])
        scene.wait_start(self.id, 1)

    def change(self, change: str) -> None:
        self.scene.database.rows(change, self.id)

    def go_on(self) -> asyncpg.Record:
        """Open the gate; returns the batch when it is completed and told, and another one after it."""
        self.scene.open(self.gate)
        row = self.scene.wait_end(self.id)
        last = self.scene.wait(lambda: [event for event in self.scene.events(self.id) if event.status == "completed"], 10, "its end")[-1]
        assert (last.revision, last.total, last.processed) == (row["revision"], row["total"], row["processed"])
        self.scene.wait_end(self.scene.job(["the next"]))
        return row


@pytest.mark.parametrize("condition", ["position > 2", "position > 1", "position = 0", "position = 1", "position < 3"])
def test_items_are_deleted_while_the_batch_runs(shared: Scene, condition: str) -> None:
    held = Held(shared, f"deleted {condition}")
    held.change(f"DELETE FROM streamworker.items WHERE batch_id = $1 AND {condition}")
    left = len(shared.items(held.id))
    row = held.go_on()
    assert (row["total"], row["processed"], row["succeeded"]) == (left, left, left)


def test_many_items_are_deleted_that_are_not_loaded_yet(shared: Scene) -> None:
    held = Held(shared, "deleted ahead", items=20_000)
    held.change("DELETE FROM streamworker.items WHERE batch_id = $1 AND position > 1")
    row = held.go_on()
    assert (row["total"], row["processed"]) == (2, 2)


def test_all_items_are_deleted_while_the_batch_runs(shared: Scene) -> None:
    held = Held(shared, "deleted all")
    held.change("DELETE FROM streamworker.items WHERE batch_id = $1")
    row = held.go_on()
    assert (row["total"], row["processed"]) == (0, 0)


def test_items_are_added_while_the_batch_runs(shared: Scene) -> None:
    held = Held(shared, "added")
    held.change("INSERT INTO streamworker.items (batch_id, position, key, payload) VALUES ($1, 9, 'late', '1')")
    row = held.go_on()
    assert (row["total"], row["processed"]) == (5, 5)
    assert shared.starts(held.id)[-1] == (9, 1)


def test_an_item_is_ended_by_hand_while_the_batch_runs(shared: Scene) -> None:
    held = Held(shared, "ended by hand")
    held.change(
        "UPDATE streamworker.items SET status = 'failed', error = 'by hand', finished_at = now() WHERE batch_id = $1 AND position = 1"
    )
    row = held.go_on()
    assert (row["total"], row["succeeded"], row["failed"]) == (4, 3, 1)
    assert shared.items(held.id)[1]["error"] == "by hand"


def test_the_batch_is_deleted_while_it_runs(shared: Scene, worker: WorkerProcess) -> None:
    held = Held(shared, "the deleted batch")
    held.change("DELETE FROM streamworker.batches WHERE id = $1")
    shared.wait(lambda: [line for line in shared.log(held.id) if line.outcome == "CancelledError"], 10, "the item to be interrupted")
    shared.wait_end(shared.job(["the next"]))
    shared.wait(lambda: shared.redis.xlen(STREAM) == 0, 10, "its entry to be gone")
    assert shared.database.rows("SELECT FROM streamworker.batches WHERE id = $1", held.id) == [], "it came back"
    letter = shared.letters()[-1]
    assert (letter[b"batch_id"], letter[b"reason"]) == (str(held.id).encode(), b"batch_not_found")
    assert letter[b"detail"].decode() == f"batch_id: expected a batch that is in Postgres, {held.id} was deleted while it ran"
    assert len(shared.starts(held.id)) == 2
    assert worker.lives


@pytest.mark.parametrize(
    "change",
    [
        "status = 'pending'",
        "epoch = epoch + 1",
        "revision = revision + 7",
        "worker = NULL",
        "worker = 'somebody', worker_number = 4711",
        "lease_expires_at = NULL",
        "frontier = 0",
        "total = 99",
        "succeeded = 0, processed = 0",
    ],
)
def test_the_batch_is_changed_while_it_runs(shared: Scene, change: str) -> None:
    held = Held(shared, f"changed {re.sub('[^a-z]', '', change)}")
    held.change(f"UPDATE streamworker.batches SET {change} WHERE id = $1")
    row = held.go_on()
    assert (row["total"], row["succeeded"], row["failed"]) == (4, 4, 0)
    assert max(shared.attempts(held.id)) <= 2


# --- a database that is not as it should be ---------------------------------------------------------------------------------------

POOR = "streamworker_poor"
RIGHTS = [
    "SELECT, INSERT, UPDATE ON streamworker.batches",
    "SELECT, INSERT, UPDATE ON streamworker.items",
    "SELECT ON streamworker.migrations",
]


@pytest.fixture
def poor_url(own_redis_scene: Scene) -> Iterator[str]:
    """The URL of the scene's database for a role that may do nothing but connect."""
    database = own_redis_scene.database
    database.rows(f"CREATE ROLE {POOR} LOGIN")
    yield own_redis_scene.database_url.replace("postgres@", f"{POOR}@")
    for worker in own_redis_scene.workers:
        assert worker.end() == 0, worker.tail()
    database.rows(f"DROP OWNED BY {POOR}")
    database.rows(f"DROP ROLE {POOR}")


def outages(worker: WorkerProcess) -> list[str]:
    return [line["error"] for line in worker.lines() if line["message"] == "server away, trying again"]


@pytest.mark.parametrize("missing", range(-1, 3), ids=["USAGE ON SCHEMA streamworker", *RIGHTS])
def test_a_missing_right_is_one_line_and_no_crash(own_redis_scene: Scene, poor_url: str, missing: int) -> None:
    scene = own_redis_scene
    grants = ["USAGE ON SCHEMA streamworker", *RIGHTS]
    withheld = grants.pop(missing + 1)
    for grant in grants:
        scene.database.rows(f"GRANT {grant} TO {POOR}")
    batch_id = scene.job(["a"])
    worker = scene.begin_worker(database_url=poor_url, migrate="1")
    worker.wait_logged("permission denied for")
    worker.wait_logged(withheld.split("streamworker")[1].strip(".") or "schema streamworker")
    assert worker.lives
    scene.database.rows(f"GRANT {withheld} TO {POOR}")
    scene.wait_end(batch_id)
    assert scene.starts(batch_id) == [(0, 1)]
    assert len(outages(worker)) == 1, outages(worker)


def test_a_missing_function_is_one_line_and_no_crash(own_redis_scene: Scene) -> None:
    scene = own_redis_scene
    worker = scene.start_worker()
    scene.database.rows("ALTER FUNCTION streamworker.submit RENAME TO gone")
    batch_id = scene.job(["a"])
    worker.wait_logged("function streamworker.submit(")
    scene.database.rows("ALTER FUNCTION streamworker.gone RENAME TO submit")
    scene.wait_end(batch_id)
    assert len(outages(worker)) == 1, outages(worker)


@pytest.mark.parametrize("migrate", ["0", "1"])
def test_a_schema_newer_than_the_program_ends_the_worker(own_redis_scene: Scene, migrate: str) -> None:
    scene = own_redis_scene
    scene.database.rows("INSERT INTO streamworker.migrations (version, name, checksum) VALUES (9999, '9999_future.sql', 'x')")
    worker = scene.begin_worker(migrate=migrate)
    assert worker.wait_ended() == 2
    (line,) = worker.text().splitlines()
    assert line.startswith("streamworker: the database is newer than this program: it has migration 9999_future.sql, known is 0")
