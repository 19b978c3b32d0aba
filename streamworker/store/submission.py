"""The producer's side: items become rows in one transaction, streamed, in the memory of one chunk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from streamworker.errors import InvalidSubmission
from streamworker.messages import MAX_KEY, to_json
from streamworker.store.pool import TRANSIENT_ERRORS, Pool
from streamworker.store.sql import query

Items = Iterable[Any] | AsyncIterable[Any]

CHUNK_ROWS, CHUNK_CHARACTERS = 2000, 1024 * 1024
COLUMNS = ("batch_id", "position", "key", "payload")
LARGEST_INT = 2**31 - 1
WAIT_FOR_FIRST = 24 * 3600.0  # the same id is being submitted elsewhere: its end decides
OUTCOME_DEADLINE = 30.0


@dataclass(frozen=True, slots=True)
class Submission:
    """A batch to be: everything but its items, checked."""

    batch_id: UUID
    processor: str | None
    metadata: str
    max_attempts: int
    max_failures: int | None


def check_submission(batch_id: UUID, processor: Any, metadata: Any, max_attempts: Any, max_failures: Any) -> Submission:
    """Check the options of a submission; InvalidSubmission names the one that does not fit."""
    if processor is not None:
        if not isinstance(processor, str) or not processor:
            raise InvalidSubmission(f"processor: expected a name, got {_kind(processor)}")
        _check_text(processor, "processor")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InvalidSubmission(f"metadata: expected a JSON object, got {_kind(metadata)}")
    _check_number(max_attempts, 1, "max_attempts: expected a whole number from 1")
    if max_failures is not None:
        _check_number(max_failures, 0, "max_failures: expected a whole number from 0 or None")
    return Submission(batch_id, processor, _json(dict(metadata or {}), "metadata"), max_attempts, max_failures)


async def submit(pool: Pool, submission: Submission, items: Items, *, notify: bool) -> bool:
    """Submit in a transaction of its own; False when the batch was there already: the first wins.

    When the reply to the commit is lost, the outcome is read back, not assumed.
    """
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(query("lift_limits"))
            xid = await _insert(connection, submission, items, notify)
        except BaseException:
            with suppress(*TRANSIENT_ERRORS):
                await transaction.rollback()
            raise
        try:
            await transaction.commit()
        except TRANSIENT_ERRORS as error:
            if xid is None or await _committed(pool, xid):
                return xid is not None
            raise ConnectionError(f"batch {submission.batch_id} was not submitted: the connection broke while it was committed") from error
        return xid is not None


async def submit_within(connection: Any, submission: Submission, items: Items) -> bool:
    """Submit inside the caller's transaction; a submission that is refused leaves nothing behind in it."""
    if not hasattr(connection, "copy_to_table"):
        raise InvalidSubmission(f"connection: expected an asyncpg connection, got {_kind(connection)}")
    async with connection.transaction():
        return await _insert(connection, submission, items, notify=True) is not None


async def _insert(connection: Any, submission: Submission, items: Items, notify: bool) -> str | None:
    xid: str | None = await connection.fetchval(
        query("insert_batch"),
        submission.batch_id, submission.processor, submission.metadata, submission.max_attempts, submission.max_failures,
        timeout=WAIT_FOR_FIRST,
    )  # fmt: skip
    if xid is None:
        return None
    total = await _copy(connection, submission.batch_id, items)
    await connection.execute(query("set_total"), submission.batch_id, total)
    if notify:
        await connection.execute(query("notify_submit"))
    return xid


async def _copy(connection: Any, batch_id: UUID, items: Items) -> int:
    total = 0
    try:
        # Many small COPYs, not one: its triggers and time limits then see a chunk, however long the items take to come.
        # In text form, since the caller may have given his connection a JSON codec of his own.
        async for rows, count in _chunks(batch_id, items):
            await connection.copy_to_table("items", source=memoryview(rows), columns=COLUMNS, schema_name="streamworker")
            total += count
    except (asyncpg.DataError, asyncpg.StatementTooComplexError) as error:
        raise InvalidSubmission(f"items from index {total} on: {error}") from error
    if total == 0:
        raise InvalidSubmission("items: expected at least one element, got none")
    return total


async def _chunks(batch_id: UUID, items: Items) -> AsyncIterator[tuple[bytes, int]]:
    rows: list[str] = []
    characters = position = 0
    async for item in _each(items):
        key, payload = read_item(item, position)
        row = f"{batch_id}\t{position}\t{_escape(key)}\t{_escape(payload)}\n"
        rows.append(row)
        position += 1
        characters += len(row)
        if len(rows) == CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield "".join(rows).encode(), len(rows)
            rows.clear()
            characters = 0
    if rows:
        yield "".join(rows).encode(), len(rows)


async def _each(items: Items) -> AsyncIterator[Any]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
        return
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
        raise InvalidSubmission(f"items: expected a list or another iterable of items, got {_kind(items)}")
    for item in items:
        yield item


def read_item(item: Any, index: int) -> tuple[str, str]:
    """The key and the payload (JSON text) of one element; InvalidSubmission names its index and what was expected."""
    place = f"items[{index}]"
    if isinstance(item, str):
        _check_text(item, place)
        return item, _json(item, place)
    if not isinstance(item, Mapping):
        raise InvalidSubmission(f"{place}: expected a string or an object with payload, got {_kind(item)}")
    if "payload" not in item:
        raise InvalidSubmission(f"{place}: expected an object with payload, which is missing")
    if len(item) > 1 + ("key" in item):
        extra = min(str(name) for name in item if name not in ("payload", "key"))
        raise InvalidSubmission(f"{place}: expected only payload and key, got also {extra[:64]}")
    key = item.get("key", str(index))
    if not isinstance(key, str):
        raise InvalidSubmission(f"{place}: key: expected a string, got {_kind(key)}")
    _check_text(key, f"{place}: key")
    return key, _json(item["payload"], f"{place}: payload")


def _check_text(text: str, place: str) -> None:
    if len(text) > MAX_KEY:
        raise InvalidSubmission(f"{place}: expected at most {MAX_KEY} characters, got {len(text)}")
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidSubmission(f"{place}: expected text that Postgres can store, got NUL or half a surrogate pair")


def _check_number(number: Any, least: int, expected: str) -> None:
    if type(number) is not int or not least <= number <= LARGEST_INT:
        raise InvalidSubmission(f"{expected}, got {number!r}")


def _json(value: Any, place: str) -> str:
    try:
        return to_json(value)
    except ValueError as error:
        raise InvalidSubmission(f"{place}: {error}") from None


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case list() | tuple():
            return "an array"
        case Mapping():
            return "an object"
        case str():
            return "a string" if value else "an empty string"
        case _:
            return f"a {type(value).__name__}"


def _escape(text: str) -> str:
    if "\\" in text:
        text = text.replace("\\", "\\\\")
    if "\n" in text or "\t" in text or "\r" in text:
        text = text.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    return text


async def _committed(pool: Pool, xid: str) -> bool:
    """Ask Postgres how a transaction ended; raises when it cannot be learned in time."""
    deadline = time.monotonic() + OUTCOME_DEADLINE
    while True:
        try:
            outcome = await pool.fetchval(query("transaction_outcome"), xid)
        except asyncpg.InvalidParameterValueError:
            return False  # the server came back without ever having heard of it
        except TRANSIENT_ERRORS:
            if time.monotonic() > deadline:
                raise
            outcome = "in progress"
        if outcome != "in progress":
            return bool(outcome == "committed")
        await asyncio.sleep(0.2)
