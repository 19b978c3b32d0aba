"""The table streamworker.descriptions: made when it is needed, written within the transaction that records the item, and searched.

It is no migration: only who uses this processor needs the extension `vector`, and only the model tells how long its vectors are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any
from uuid import UUID

import asyncpg

from streamworker.errors import ConfigurationError, SchemaError
from streamworker.processors.api import Permanent, Unavailable

# Beside those of the store: apart from the single-key space of the workers' session locks.
DESCRIPTIONS_LOCK = (0x5357, 3)
MAX_INDEXED = 2000  # numbers in a vector that an HNSW index takes
MAX_FOUND = 1000
_REMEDY = "; install pgvector on the server of this Postgres, and run `python -m streamworker migrate --with ollama` as a role that may"
Connection = Any  # asyncpg's own, or one lent by its pool


async def prepare(connection: Connection, dimension: int) -> bool:
    """Make the extension, the table and its index, inside a transaction of the caller; False where they were there.

    SchemaError says in one sentence why that cannot be; ConfigurationError that the table is for vectors of another length.
    """
    found = await _look(connection)
    if found["dimension"] is None:
        await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", *DESCRIPTIONS_LOCK)
        found = await _look(connection)  # another worker may have been quicker
    if found["dimension"] is not None:
        _check(dimension, found["dimension"])
        return False
    await _create(connection, dimension)
    return True


async def write_description(connection: Connection, row: Mapping[str, Any]) -> None:
    """Write one row of the table, given as JSON; the same item once more replaces its own."""
    vector = row["embedding"]
    try:
        await prepare(connection, len(vector))
    except SchemaError as error:
        raise Unavailable(str(error)) from error  # no fault of the item: it can wait until somebody has put it right
    except ConfigurationError as error:
        raise Permanent(str(error)) from error
    found = await _look(connection)
    columns = ("key", "path", "description", "score", "model", "embed_model")
    arguments = (UUID(row["batch_id"]), row["position"], *(row[column] for column in columns), _literal(vector))
    await connection.execute(_query("upsert_description", found), *arguments)


async def search(connection: Connection, vector: Sequence[float], embed_model: str, limit: int) -> list[dict[str, Any]]:
    """The rows nearest to a vector by cosine distance, the nearest first; only vectors of the same model can be compared."""
    found = await _look(connection)
    if found["dimension"] is None:
        return []
    _check(len(vector), found["dimension"])
    async with connection.transaction(readonly=True):
        # The index gives no more than this many, and with it goes on where rows of other models were in the way.
        await connection.execute("SELECT set_config('hnsw.ef_search', $1, true)", str(max(40, limit)))
        if await connection.fetchval(
            "SELECT string_to_array(extversion, '.')::int[] >= '{0,8}' FROM pg_extension WHERE extname = 'vector'"
        ):
            await connection.execute("SELECT set_config('hnsw.iterative_scan', 'strict_order', true)")
        rows = await connection.fetch(_query("search_descriptions", found), _literal(vector), embed_model, limit)
    return [dict(row) for row in rows]


async def _look(connection: Connection) -> Mapping[str, Any]:
    found: Mapping[str, Any] = await connection.fetchrow(_query("look_at_descriptions"))
    return found


async def _create(connection: Connection, dimension: int) -> None:
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        found = await _look(connection)
        await connection.execute(_query("create_descriptions", found, dimension=dimension))
        if dimension <= MAX_INDEXED:
            await connection.execute(_query("index_descriptions", found))
    except (asyncpg.FeatureNotSupportedError, asyncpg.UndefinedFileError) as error:
        raise SchemaError(f"this Postgres has no extension `vector` (pgvector): {_line(error)}{_REMEDY}") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise SchemaError(f"streamworker.descriptions cannot be made: {_line(error)}{_REMEDY}") from error


def _check(given: int, held: int) -> None:
    if given != held:
        raise ConfigurationError(
            f"the embedding model gives vectors of {given:,} numbers, streamworker.descriptions holds vectors of {held:,}: "
            "take the model that it was made with (STREAMWORKER_OLLAMA_EMBED_MODEL), or rename the table and describe anew"
        )


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _literal(vector: Sequence[float]) -> str:
    return f"[{','.join(map(repr, vector))}]"


def _query(name: str, found: Mapping[str, Any] | None = None, **more: Any) -> str:
    text = files("streamworker.processors.ollama").joinpath("queries", f"{name}.sql").read_text("utf-8")
    return text.format(schema=found["schema"], **more) if found else text
