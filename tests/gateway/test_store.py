"""What looking at batches costs the work on them: nothing; and large ones are looked at through an index."""

from __future__ import annotations

import asyncpg
import pytest

from streamworker.store import browsing
from streamworker.store.pool import open_pool
from streamworker.store.sql import query
from tests.gateway.conftest import end, submit

MANY = """INSERT INTO streamworker.items (batch_id, position, key, payload)
          SELECT $1, n, n::text, to_jsonb(n) FROM generate_series(3, $2::int) AS n"""


@pytest.fixture
async def pool(database_url: str):
    pool = await open_pool(database_url, size=2, application_name="the test")
    yield pool
    await pool.close()


async def test_an_item_that_completes_stays_a_heap_only_update(database: asyncpg.Connection) -> None:
    batch_id = await submit(database)
    await database.execute(MANY, batch_id, 499)
    await database.execute("UPDATE streamworker.batches SET status = 'processing', epoch = 1, worker = 'w',"
                           " lease_expires_at = clock_timestamp() + interval '1 h' WHERE id = $1", batch_id)  # fmt: skip
    positions = list(range(0, 500, 2))  # so that each page has room for the new ones
    statuses = ["failed" if position % 100 == 8 else "completed" for position in positions]
    errors = ["it broke" if status == "failed" else None for status in statuses]
    async with database.transaction():
        await database.fetchrow(
            query("record"), batch_id, 1, 0, 500, False, 60.0, positions, statuses, None, None, errors, None, None, 0, 498
        )
        heap_only = await database.fetchval("SELECT pg_stat_get_xact_tuples_hot_updated('streamworker.items'::regclass)")
    # All but the failed ones, whose error the index knows.
    assert heap_only == 245


async def test_failures_are_found_through_their_index(database: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    batch_id = await submit(database)
    await database.execute(MANY, batch_id, 20_000)
    async with pool.acquire() as connection:
        for name, arguments in [
            ("browse_failed_items", (batch_id, -1, 2**31 - 1, "failed", 51, 4096)),
            ("group_failures", (batch_id, 10_000, 50)),
            ("page_batches", ("failed", None, None, 51)),
            ("page_batches", (None, None, None, 51)),
        ]:
            plan = "\n".join(row[0] for row in await connection.fetch("EXPLAIN " + query(name), *arguments))
            expected = "items_with_error" if "fail" in name else "batches_ended_badly" if arguments[0] else "batches_by_creation"
            assert expected in plan, plan
            assert "Seq Scan" not in plan, plan


async def test_what_the_counters_exclude_is_not_looked_for(
    database: asyncpg.Connection, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browsing, "PATIENCE", -1.0)  # whoever looks through the items finds nothing
    batch_id = await submit(database)
    await end(database, batch_id, "completed", "completed", "completed")
    for status, following in [("failed", None), ("cancelled", None), ("pending", None), ("processing", None), ("completed", -1)]:
        assert await browsing.page_items(pool, batch_id, status, -1, 50) == ([], following)


async def test_a_page_goes_on_behind_what_was_looked_through(
    database: asyncpg.Connection, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browsing, "WINDOW", 2)
    batch_id = await submit(database, '["a", "b", "c", "d", "e", "f", "g"]')
    await database.execute("UPDATE streamworker.items SET status = 'processing' WHERE batch_id = $1 AND position IN (3, 6)", batch_id)
    lines, following = await browsing.page_items(pool, batch_id, "processing", -1, 1)
    assert ([line.position for line in lines], following) == ([3], 3)
    lines, following = await browsing.page_items(pool, batch_id, "processing", following, 1)
    assert ([line.position for line in lines], following) == ([6], None)


@pytest.mark.parametrize("moment", ["0044-03-15 BC", "infinity", "-infinity", "10000-01-01"])
async def test_a_date_that_no_reader_holds_is_refused(database: asyncpg.Connection, moment: str) -> None:
    await submit(database)
    for place in ("batches SET created_at", "batches SET updated_at", "batches SET lease_expires_at", "items SET started_at"):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match=r"readable_dates|a lease of more"):
            await database.execute(f"UPDATE streamworker.{place} = '{moment}'")
