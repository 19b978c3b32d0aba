"""P11: a terminal batch never changes again, except by an explicit retry; and what cancel and retry do."""

from __future__ import annotations

import time
from contextlib import nullcontext
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.flows.processors import act, hold
from tests.flows.scene import STREAM, Scene

GATES = count(1)


@pytest.fixture(scope="module", autouse=True)
def _worker(module_scene: Scene) -> None:
    module_scene.start_worker(batch_concurrency="2")


@pytest.fixture(scope="module")
def ended(module_scene: Scene) -> dict[str, UUID]:
    """One batch of each way to end, by its status; position 0 is an item that ended as the batch did, as far as there is one."""
    held = Held(module_scene)
    cancel(module_scene, held.id)
    batches = {
        "completed": module_scene.job(["a", act("permanent")]),
        "failed": module_scene.job([act("permanent"), "b"], max_failures=0),
        "cancelled": held.id,
    }
    for status, batch_id in batches.items():
        module_scene.wait_end(batch_id, status)
        module_scene.wait_announced(batch_id)
    return batches


class Held:
    """A batch that stands at its second item until `go_on`."""

    def __init__(self, scene: Scene, first: Any = "a", **options: Any) -> None:
        self.scene, self.gate = scene, f"{next(GATES)}"
        self.id = scene.job([first, hold(self.gate), "c", "d"], **options)
        scene.wait_start(self.id, 1)

    def go_on(self, status: str = "completed") -> asyncpg.Record:
        self.scene.open(self.gate)
        return self.scene.wait_end(self.id, status)


def cancel(scene: Scene, batch_id: UUID) -> bool:
    found: bool = scene.database.value("SELECT streamworker.cancel($1)", batch_id)
    return found


def retry(scene: Scene, batch_id: UUID) -> int:
    reopened: int = scene.database.value("SELECT streamworker.retry($1)", batch_id)
    return reopened


def rows(scene: Scene, batch_id: UUID) -> list[tuple[Any, ...]]:
    """Everything that is known of a batch."""
    return [tuple(row) for row in (scene.batch(batch_id), *scene.items(batch_id))]


def counters(row: asyncpg.Record) -> tuple[int, int, int, int]:
    return row["total"], row["processed"], row["succeeded"], row["failed"]


# --- raw SQL ------------------------------------------------------------------------------------------------------------------

CHANGES = [
    "UPDATE streamworker.batches SET status = 'pending', finished_at = NULL WHERE id = $1",
    "UPDATE streamworker.batches SET status = 'processing', finished_at = NULL WHERE id = $1",
    "UPDATE streamworker.batches SET finished_at = now() WHERE id = $1",
    "UPDATE streamworker.batches SET succeeded = succeeded + 1, processed = processed + 1 WHERE id = $1",
    "UPDATE streamworker.batches SET total = total + 1 WHERE id = $1",
    "UPDATE streamworker.batches SET error = 'another' WHERE id = $1",
    "UPDATE streamworker.batches SET metadata = '{\"a\": 1}' WHERE id = $1",
    "UPDATE streamworker.batches SET revision = revision + 1 WHERE id = $1",
    "UPDATE streamworker.batches SET epoch = epoch + 1, worker = 'x', lease_expires_at = now() WHERE id = $1",
    "UPDATE streamworker.batches SET created_at = now() WHERE id = $1",
    "UPDATE streamworker.items SET status = 'pending', finished_at = NULL WHERE batch_id = $1",
    "UPDATE streamworker.items SET result = '1' WHERE batch_id = $1",
    "UPDATE streamworker.items SET error = 'another' WHERE batch_id = $1",
    "UPDATE streamworker.items SET attempts = 0 WHERE batch_id = $1",
    "UPDATE streamworker.items SET payload = '1', key = 'x' WHERE batch_id = $1",
    "UPDATE streamworker.items SET finished_at = now() WHERE batch_id = $1",
    "UPDATE streamworker.items SET position = position + 10 WHERE batch_id = $1",
    "INSERT INTO streamworker.items (batch_id, position, key, payload) VALUES ($1, 99, 'x', '1')",
    "INSERT INTO streamworker.items (batch_id, position, key, payload, status, finished_at) VALUES ($1, 99, 'x', '1', 'completed', now())",
    "DELETE FROM streamworker.items WHERE batch_id = $1",
    "DELETE FROM streamworker.items WHERE batch_id = $1 AND position = 1",
]


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
@pytest.mark.parametrize("change", CHANGES)
def test_raw_sql_changes_nothing_that_has_ended(shared: Scene, ended: dict[str, UUID], status: str, change: str) -> None:
    before = rows(shared, ended[status])
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match=str(ended[status])):
        shared.database.rows(change, ended[status])
    assert rows(shared, ended[status]) == before


# Another value for a column of each type; a column of a new type wants a line here.
ANOTHER = {
    "uuid": "gen_random_uuid()",
    "text": "coalesce({0}, '') || 'x'",
    "jsonb": "{0} || jsonb_build_object('another', 1)",
    "integer": "coalesce({0}, 0) + 1",
    "bigint": "coalesce({0}, 0) + 1",
    "boolean": "NOT {0}",
    "timestamp with time zone": "coalesce({0}, now()) + interval '1 s'",
}


def test_of_an_ended_batch_only_what_tells_that_it_was_told_may_change(shared: Scene) -> None:
    batch_id = shared.job(["a"])
    shared.wait_announced(batch_id)
    columns = shared.database.rows(
        "SELECT column_name::text AS name, data_type::text AS type FROM information_schema.columns "
        "WHERE table_schema = 'streamworker' AND table_name = 'batches'"
    )
    free = {"announced_at", "entry_id"}
    assert free < {name for name, _ in columns}
    for name, kind in columns:
        change = f"UPDATE streamworker.batches SET {name} = {ANOTHER[kind].format(name)} WHERE id = $1"
        with nullcontext() if name in free else pytest.raises(asyncpg.IntegrityConstraintViolationError, match="changes no more"):
            shared.database.rows(change, batch_id)


def test_no_item_of_another_batch_is_moved_in(shared: Scene, ended: dict[str, UUID]) -> None:
    held = Held(shared)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="batch_id and position stay"):
        shared.database.rows(
            "UPDATE streamworker.items SET batch_id = $1, position = 50 WHERE batch_id = $2 AND position = 3", ended["completed"], held.id
        )
    held.go_on()


def test_an_ended_item_of_a_running_batch_is_ended_too(shared: Scene) -> None:
    held = Held(shared)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="is completed and changes no more"):
        shared.database.rows(
            "UPDATE streamworker.items SET status = 'pending', finished_at = NULL WHERE batch_id = $1 AND position = 0", held.id
        )
    held.go_on()
    assert shared.starts(held.id) == [(0, 1), (1, 1), (2, 1), (3, 1)]


def test_a_whole_batch_may_be_deleted(shared: Scene) -> None:
    batch_id = shared.job(["a"])
    shared.wait_announced(batch_id)
    shared.wait(lambda: shared.redis.xlen(STREAM) == 0, 10, "the acknowledgement")
    shared.database.rows("DELETE FROM streamworker.batches WHERE id = $1", batch_id)
    assert shared.items(batch_id) == []


def test_what_retry_may_is_over_with_its_call(shared: Scene) -> None:
    batch_id = shared.job(["a", act("permanent")])
    shared.wait_announced(batch_id)
    there = shared.background.run
    connection = there(asyncpg.connect(shared.database_url, timeout=10))
    there(connection.execute("BEGIN"))
    assert there(connection.fetchval("SELECT streamworker.retry($1)", batch_id)) == 1
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="is completed and changes no more"):
        there(connection.execute("UPDATE streamworker.items SET result = '1' WHERE batch_id = $1 AND position = 0", batch_id))
    there(connection.close())
    assert shared.statuses(batch_id) == ["completed", "failed"]


# --- cancel -------------------------------------------------------------------------------------------------------------------


class TestCancel:
    def test_a_running_batch_stops_at_once(self, shared: Scene) -> None:
        held = Held(shared)
        asked_at = time.monotonic()
        assert cancel(shared, held.id) is True
        row = shared.wait_end(held.id, "cancelled")
        shared.wait(lambda: len(shared.log(held.id)) == 4, 10, "the item in flight to be interrupted")
        end = shared.log(held.id)[-1]
        assert (end.edge, end.position, end.outcome) == ("end", 1, "CancelledError")
        assert end.at - asked_at < 1
        assert counters(row) == (4, 1, 1, 0)
        assert shared.statuses(held.id) == ["completed", "cancelled", "cancelled", "cancelled"]
        assert shared.wait_announced(held.id).status == "cancelled"
        shared.wait(lambda: shared.redis.xlen(STREAM) == 0, 10, "the acknowledgement")
        assert shared.starts(held.id) == [(0, 1), (1, 1)]

    def test_a_failed_item_stays_failed(self, shared: Scene) -> None:
        held = Held(shared, act("permanent"))
        assert cancel(shared, held.id) is True
        assert counters(shared.wait_end(held.id, "cancelled")) == (4, 1, 0, 1)
        assert shared.statuses(held.id) == ["failed", "cancelled", "cancelled", "cancelled"]
        shared.wait_announced(held.id)

    def test_one_that_nobody_has_begun(self, shared: Scene) -> None:
        slots = [Held(shared), Held(shared)]
        batch_id = shared.submit(["a", "b"])
        assert cancel(shared, batch_id) is True
        shared.wait_announced(batch_id)  # though no worker is free
        for slot in slots:
            slot.go_on()
        assert shared.statuses(batch_id) == ["cancelled", "cancelled"]
        assert shared.starts(batch_id) == []

    def test_one_that_has_ended(self, shared: Scene, ended: dict[str, UUID]) -> None:
        for batch_id in ended.values():
            before = rows(shared, batch_id)
            assert cancel(shared, batch_id) is False
            assert rows(shared, batch_id) == before

    def test_one_that_nobody_knows(self, shared: Scene) -> None:
        assert cancel(shared, uuid4()) is False
        assert shared.database.value("SELECT streamworker.cancel(NULL)") is False

    def test_in_a_transaction_that_is_rolled_back_it_never_happened(self, shared: Scene) -> None:
        held = Held(shared)
        there = shared.background.run
        connection = there(asyncpg.connect(shared.database_url, timeout=10))
        there(connection.execute("BEGIN"))
        assert there(connection.fetchval("SELECT streamworker.cancel($1)", held.id)) is True
        there(connection.execute("ROLLBACK"))
        there(connection.close())
        assert counters(held.go_on()) == (4, 4, 4, 0)
        assert shared.starts(held.id) == [(0, 1), (1, 1), (2, 1), (3, 1)]

    def test_others_go_on(self, shared: Scene) -> None:
        other, held = Held(shared), Held(shared)
        cancel(shared, held.id)
        shared.wait_announced(held.id)
        other.go_on()
        assert shared.starts(other.id) == [(0, 1), (1, 1), (2, 1), (3, 1)]


# --- retry --------------------------------------------------------------------------------------------------------------------


class TestRetry:
    def test_only_what_failed_runs_again_with_fresh_attempts(self, shared: Scene) -> None:
        batch_id = shared.job(["a", act("fail"), "c", act("permanent")])
        before = shared.wait_announced(batch_id)
        assert retry(shared, batch_id) == 2
        row = shared.wait_end(batch_id)
        assert counters(row) == (4, 4, 2, 2)
        assert sorted(shared.starts(batch_id)) == [(0, 1), *[(1, 1)] * 2, *[(1, 2)] * 2, (2, 1), *[(3, 1)] * 2]
        assert shared.attempts(batch_id) == [1, 2, 1, 1]
        shared.wait(lambda: shared.events(batch_id)[-1].revision == row["revision"], 10, "the second end")
        assert shared.events(batch_id)[-1].status == "completed"
        assert row["revision"] > before.revision

    def test_what_was_cancelled_runs_to_its_end(self, shared: Scene) -> None:
        held = Held(shared)
        cancel(shared, held.id)
        shared.wait_announced(held.id)
        shared.open(held.gate)
        assert retry(shared, held.id) == 3
        assert counters(shared.wait_end(held.id)) == (4, 4, 4, 0)
        assert shared.starts(held.id) == [(0, 1), (1, 1), (1, 1), (2, 1), (3, 1)]

    def test_a_failed_batch_gets_its_max_failures_anew(self, shared: Scene) -> None:
        batch_id = shared.job(["a", act("permanent"), "c"], max_failures=0, max_attempts=1)
        assert shared.wait_end(batch_id, "failed")["error"] == "1 items failed, more than max_failures allows (0)"
        shared.wait_announced(batch_id)
        assert retry(shared, batch_id) == 2
        shared.wait(lambda: len(shared.starts(batch_id)) == 3, 10, "the second start of the bad item")
        assert counters(shared.wait_end(batch_id, "failed")) == (3, 2, 1, 1)
        assert shared.statuses(batch_id) == ["completed", "failed", "cancelled"]

    def test_the_counters_are_right_the_moment_it_is_open_again(self, shared: Scene) -> None:
        batch_id = shared.job(["a", act("fail"), "c", act("permanent")])
        shared.wait_announced(batch_id)
        there = shared.background.run
        connection = there(asyncpg.connect(shared.database_url, timeout=10))
        there(connection.execute("BEGIN"))
        assert there(connection.fetchval("SELECT streamworker.retry($1)", batch_id)) == 2
        row = there(connection.fetchrow("SELECT * FROM streamworker.batches WHERE id = $1", batch_id))
        items = there(connection.fetch("SELECT * FROM streamworker.items WHERE batch_id = $1 ORDER BY position", batch_id))
        assert there(connection.fetchval("SELECT streamworker.retry($1)", batch_id)) == 0, "it is open already"
        there(connection.execute("ROLLBACK"))
        there(connection.close())
        assert (row["status"], row["error"], row["finished_at"], row["worker"]) == ("pending", None, None, None)
        assert counters(row) == (4, 2, 2, 0)
        found = [(item["status"], item["attempts"], item["error"], item["finished_at"] is None) for item in items]
        assert found == [("completed", 1, None, False), ("pending", 0, None, True)] * 2

    def test_the_items_may_be_changed_before_they_run_again(self, shared: Scene) -> None:
        batch_id = shared.job(["a", act("permanent")])
        shared.wait_announced(batch_id)
        there = shared.background.run
        connection = there(asyncpg.connect(shared.database_url, timeout=10))
        there(connection.execute("BEGIN"))
        there(connection.fetchval("SELECT streamworker.retry($1)", batch_id))
        there(connection.execute("UPDATE streamworker.items SET payload = '\"corrected\"' WHERE batch_id = $1 AND position = 1", batch_id))
        there(connection.execute("COMMIT"))
        there(connection.close())
        assert counters(shared.wait_end(batch_id)) == (2, 2, 2, 0)

    def test_one_that_runs(self, shared: Scene) -> None:
        held = Held(shared, act("permanent"))
        assert retry(shared, held.id) == 0
        assert counters(held.go_on()) == (4, 4, 3, 1)

    def test_one_without_failures(self, shared: Scene) -> None:
        batch_id = shared.job(["a"])
        shared.wait_announced(batch_id)
        shared.wait(lambda: shared.redis.xlen(STREAM) == 0, 10, "the acknowledgement")
        before = rows(shared, batch_id)
        assert retry(shared, batch_id) == 0
        assert rows(shared, batch_id) == before

    def test_one_that_nobody_knows(self, shared: Scene) -> None:
        assert retry(shared, uuid4()) == 0
        assert shared.database.value("SELECT streamworker.retry(NULL)") == 0


def retry_one(scene: Scene, batch_id: UUID, position: int | None) -> int:
    reopened: int = scene.database.value("SELECT streamworker.retry($1, $2)", batch_id, position)
    return reopened


class TestRetryOfOne:
    def test_it_alone_runs_again_with_fresh_attempts(self, shared: Scene) -> None:
        batch_id = shared.job(["a", act("fail"), act("permanent")])
        before = shared.wait_announced(batch_id)
        assert retry_one(shared, batch_id, 1) == 1
        row = shared.wait_end(batch_id)
        assert counters(row) == (3, 3, 1, 2)
        assert sorted(shared.starts(batch_id)) == [(0, 1), *[(1, 1)] * 2, *[(1, 2)] * 2, (2, 1)]
        shared.wait(lambda: shared.events(batch_id)[-1].revision == row["revision"], 10, "the second end")
        assert row["revision"] > before.revision

    def test_of_a_cancelled_batch_the_others_stay_cancelled(self, shared: Scene) -> None:
        held = Held(shared)
        cancel(shared, held.id)
        shared.wait_announced(held.id)
        shared.open(held.gate)
        assert retry_one(shared, held.id, 3) == 1
        assert counters(shared.wait_end(held.id)) == (4, 2, 2, 0)
        assert shared.statuses(held.id) == ["completed", "cancelled", "cancelled", "completed"]
        assert retry(shared, held.id) == 2
        shared.wait(lambda: shared.statuses(held.id) == ["completed"] * 4, 10, "the rest")
        assert counters(shared.wait_end(held.id)) == (4, 4, 4, 0)

    def test_the_counters_are_right_the_moment_it_is_open_again(self, shared: Scene) -> None:
        batch_id = shared.job(["a", act("permanent"), act("permanent")])
        shared.wait_announced(batch_id)
        there = shared.background.run
        connection = there(asyncpg.connect(shared.database_url, timeout=10))
        there(connection.execute("BEGIN"))
        assert there(connection.fetchval("SELECT streamworker.retry($1, 2)", batch_id)) == 1
        row = there(connection.fetchrow("SELECT * FROM streamworker.batches WHERE id = $1", batch_id))
        assert there(connection.fetchval("SELECT streamworker.retry($1, 1)", batch_id)) == 0, "it is open already"
        assert (
            there(connection.fetchval("SELECT status FROM streamworker.items WHERE batch_id = $1 AND position = 1", batch_id)) == "failed"
        )
        there(connection.execute("ROLLBACK"))
        there(connection.close())
        assert (row["status"], row["finished_at"], row["worker"], row["announced_at"]) == ("pending", None, None, None)
        assert counters(row) == (3, 2, 1, 1)

    def test_what_it_may_is_over_with_its_call(self, shared: Scene) -> None:
        batch_id = shared.job(["a", act("permanent")])
        shared.wait_announced(batch_id)
        there = shared.background.run
        connection = there(asyncpg.connect(shared.database_url, timeout=10))
        there(connection.execute("BEGIN"))
        assert there(connection.fetchval("SELECT streamworker.retry($1, 1)", batch_id)) == 1
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="is completed and changes no more"):
            there(connection.execute("UPDATE streamworker.items SET result = '1' WHERE batch_id = $1 AND position = 0", batch_id))
        there(connection.close())

    def test_among_more_failures_than_are_allowed_it_would_not_even_start(self, shared: Scene) -> None:
        batch_id = shared.job([act("permanent"), act("permanent"), act("permanent"), hold(f"{next(GATES)}")], max_failures=3)
        shared.wait_start(batch_id, 3)
        shared.wait(lambda: shared.batch(batch_id)["failed"] == 3, 10, "the failures to be recorded")
        shared.database.rows("UPDATE streamworker.batches SET max_failures = 1 WHERE id = $1", batch_id)
        cancel(shared, batch_id)
        shared.wait_announced(batch_id)
        shared.wait(lambda: shared.redis.xlen(STREAM) == 0, 10, "the acknowledgement")
        before = rows(shared, batch_id)
        assert retry_one(shared, batch_id, 0) == 0
        assert rows(shared, batch_id) == before

    def test_what_cannot_be_retried(self, shared: Scene) -> None:
        batch_id = shared.job(["a", act("permanent")])
        shared.wait_announced(batch_id)
        shared.wait(lambda: shared.redis.xlen(STREAM) == 0, 10, "the acknowledgement")
        before = rows(shared, batch_id)
        assert [retry_one(shared, batch_id, position) for position in (0, 2, -1, None)] == [0, 0, 0, 0]
        assert rows(shared, batch_id) == before
        assert retry_one(shared, uuid4(), 0) == 0

    def test_one_of_a_batch_that_runs(self, shared: Scene) -> None:
        held = Held(shared, act("permanent"))
        assert retry_one(shared, held.id, 0) == 0
        assert counters(held.go_on()) == (4, 4, 3, 1)
