"""The schema: numbered SQL files, each applied once, however many workers start at the same time."""

from __future__ import annotations

import hashlib
from importlib.resources import files

import asyncpg

from streamworker.errors import SchemaError
from streamworker.store.pool import LONGEST_STATEMENT

# Two keys: apart from the single-key space of the workers' session locks.
MIGRATION_LOCK = (0x5357, 1)

_BOOKKEEPING = """
CREATE SCHEMA IF NOT EXISTS streamworker;
CREATE TABLE IF NOT EXISTS streamworker.migrations (
    version int PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
)"""


def migrations() -> list[tuple[int, str, str]]:
    """(version, file name, SQL) of every migration that this program brings, in order."""
    folder = files("streamworker.store").joinpath("migrations")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name[:4]), name, folder.joinpath(name).read_text("utf-8")) for name in names]


async def migrate(connection: asyncpg.Connection[asyncpg.Record]) -> list[str]:
    """Apply what is missing, in one transaction; returns the names of the files applied.

    Raises SchemaError when the database is newer than this program, or a file applied before was changed since.
    """
    async with connection.transaction():
        await connection.execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
        await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", *MIGRATION_LOCK, timeout=LONGEST_STATEMENT)
        if await connection.fetchval("SELECT to_regclass('streamworker.migrations')") is None:
            await connection.execute(_BOOKKEEPING)  # only now: a worker's role need not be allowed to create anything
        missing = await _missing(connection)
        for version, name, sql in missing:
            await connection.execute(sql, timeout=LONGEST_STATEMENT)
            await connection.execute(
                "INSERT INTO streamworker.migrations (version, name, checksum) VALUES ($1, $2, $3)", version, name, _checksum(sql)
            )
    return [name for _, name, _ in missing]


async def migrate_at(url: str) -> None:
    """Bring the database at `url` up to date, over a connection of its own."""
    connection = await asyncpg.connect(url, timeout=20)
    try:
        await migrate(connection)
    finally:
        await connection.close()


async def check_schema(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Raise SchemaError unless the database's schema is exactly the one that this program knows."""
    if await connection.fetchval("SELECT to_regclass('streamworker.migrations')") is None:
        raise SchemaError("the database has no schema `streamworker` yet: run `python -m streamworker migrate`")
    missing = await _missing(connection)
    if missing:
        raise SchemaError(f"the database lacks migration {missing[0][1]}: run `python -m streamworker migrate`")


async def _missing(connection: asyncpg.Connection[asyncpg.Record]) -> list[tuple[int, str, str]]:
    known = migrations()
    rows = await connection.fetch("SELECT version, name, checksum FROM streamworker.migrations ORDER BY version")
    applied = {row["version"]: row for row in rows}
    newest = max(applied, default=0)
    if newest > known[-1][0]:
        raise SchemaError(f"the database is newer than this program: it has migration {applied[newest]['name']}, known is {known[-1][1]}")
    for version, name, sql in known:
        if version in applied and applied[version]["checksum"] != _checksum(sql):
            raise SchemaError(f"migration {name} was applied with another content than this program brings")
    return [migration for migration in known if migration[0] not in applied]


def _checksum(sql: str) -> str:
    return hashlib.sha256(sql.encode()).hexdigest()
