"""Installs the audit triggers, and reads what they wrote, with the time of each commit."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg

SQL = Path(__file__).with_name("audit.sql")

# Commit times need track_commit_timestamp = on; without it, and for frozen transactions, the time of the change stands in.
_READ = """
SELECT seq, extract(epoch FROM at)::float8 AS at, txid, pid, application, source, operation, batch, "position",
       old::text AS old, new::text AS new,
       extract(epoch FROM CASE WHEN current_setting('track_commit_timestamp') = 'on'
                               THEN pg_xact_commit_timestamp(xid) END)::float8 AS committed
FROM audit.changes ORDER BY seq
"""


async def install(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Add the triggers to a migrated database; doing it twice does no harm."""
    await connection.execute(SQL.read_text("utf-8"))


async def read_changes(connection: asyncpg.Connection[asyncpg.Record]) -> list[dict[str, Any]]:
    """Every change in the order of the row locks; `at` and `committed` are CLOCK_MONOTONIC seconds."""
    offset = time.time() - time.monotonic()  # server and observer are on one host
    changes = []
    for row in await connection.fetch(_READ):
        change = dict(row)
        change["old"] = json.loads(row["old"]) if row["old"] else None
        change["new"] = json.loads(row["new"]) if row["new"] else None
        change["at"] = row["at"] - offset
        change["committed"] = (row["committed"] or row["at"]) - offset
        changes.append(change)
    return changes


async def read_effects(connection: asyncpg.Connection[asyncpg.Record]) -> Counter[tuple[str, int]]:
    """How often the effect of each (batch, position) was written."""
    rows = await connection.fetch('SELECT batch, "position", count(*) AS times FROM public.effects GROUP BY 1, 2')
    return Counter({(row["batch"], row["position"]): row["times"] for row in rows})
