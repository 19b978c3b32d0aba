"""What a Postgres is like, for those who want to know whether it will do: facts, no judgement."""

from __future__ import annotations

import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, field

import asyncpg

from streamworker.errors import SchemaError
from streamworker.store.migrate import check_schema
from streamworker.store.pool import open_connection
from streamworker.store.sql import query

NAME = "streamworker doctor"


@dataclass(frozen=True, slots=True)
class PostgresFacts:
    """A server, its schema and our rights in it; `ahead` is its clock minus ours in seconds."""

    version: str
    version_number: int
    durability: dict[str, str]
    standby: bool
    role: str
    superuser: bool
    ahead: float
    session_locks: bool
    no_schema: bool
    schema_error: str | None
    missing_rights: list[str] = field(default_factory=list)
    open_batches: dict[str, int] = field(default_factory=dict)


async def inspect(url: str) -> PostgresFacts:
    """Ask the server at `url`; raises one of the pool's `CONNECTION_ERRORS` when it cannot be asked."""
    connection = await open_connection(url, application_name=NAME)
    try:
        before = time.time()
        server = await connection.fetchrow(query("inspect_server"))
        assert server is not None
        ahead = server["clock"] - (before + time.time()) / 2
        schema_error = await _schema_error(connection)
        rights = [row["missing"] for row in await connection.fetch(query("inspect_rights"))] if schema_error is None else []
        readable = schema_error is None and not any("SELECT" in right for right in rights)
        counts = {row["status"]: row["batches"] for row in await connection.fetch(query("count_by_status"))} if readable else {}
        session_locks = await _session_locks_work(url, connection)
    finally:
        with suppress(OSError, asyncpg.PostgresError):
            await connection.close(timeout=5)
    durability = {name: server[name] for name in ("fsync", "synchronous_commit", "full_page_writes")}
    return PostgresFacts(
        server["version"],
        server["version_number"],
        durability,
        server["standby"],
        server["role"],
        bool(server["superuser"]),
        ahead,
        session_locks,
        server["no_schema"],
        schema_error,
        rights,
        counts,
    )


async def _schema_error(connection: asyncpg.Connection[asyncpg.Record]) -> str | None:
    try:
        await check_schema(connection)
    except (SchemaError, asyncpg.InsufficientPrivilegeError) as error:
        return str(error)
    return None


async def _session_locks_work(url: str, holder: asyncpg.Connection[asyncpg.Record]) -> bool:
    """A lock of one connection must be in another's way: behind a transaction pooler both may share a session."""
    number = secrets.randbits(62)
    try:
        other = await open_connection(url, application_name=NAME)
        try:
            held = await holder.fetchrow(query("hold_session_lock"), number)
            tried = await other.fetchrow(query("try_session_lock"), number)
            assert held is not None
            assert tried is not None
            return not tried["taken"] and tried["backend"] != held["backend"]
        finally:
            await other.close(timeout=5)
    except asyncpg.PostgresError:
        return False
