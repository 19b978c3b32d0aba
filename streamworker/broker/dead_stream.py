"""The dead stream for people: look at it, send letters back, drop them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from redis.asyncio import Redis

from streamworker.broker.replies import Entry, entries
from streamworker.errors import InvalidMessage
from streamworker.messages import DeadLetter, read_dead_letter

PAGE = 100
PAGE_BYTES = 8 * 1024 * 1024


async def letters(redis: Redis, stream: str) -> AsyncGenerator[Entry, None]:
    """The dead letters of this moment, the oldest first, read page by page.

    Those that are added meanwhile are left out: what is sent back may die again at once.
    """
    newest = entries(await redis.execute_command("XREVRANGE", stream, "+", "-", "COUNT", 1))
    if not newest:
        return
    after, last = "-", newest[0].id
    while page := entries(await redis.execute_command("XRANGE", stream, after, last, "COUNT", PAGE)):
        for entry in page:
            yield entry
        after = f"({page[-1].id.decode()}"


async def page(redis: Redis, stream: str, after: str | None, limit: int) -> tuple[list[Entry], str | None]:
    """Letters behind an id, the oldest first, and the id to go on from.

    A letter may be as large as Redis takes it, so they are asked for by what the last ones weighed; a page ends early at 8 MiB.
    """
    found: list[Entry] = []
    start, size = "-" if after is None else f"({after}", 0
    while len(found) < limit and size < PAGE_BYTES:
        average = size // len(found) if found else PAGE_BYTES
        count = max(1, min(limit - len(found), PAGE_BYTES // 8 // max(average, 1)))
        chunk = entries(await redis.execute_command("XRANGE", stream, start, "+", "COUNT", count))
        if not chunk:
            return found, None
        found += chunk
        size += sum(len(name) + len(value) for entry in chunk for name, value in entry.fields)
        start = f"({found[-1].id.decode()}"
    more = entries(await redis.execute_command("XREVRANGE", stream, "+", start, "COUNT", 1))
    return found, found[-1].id.decode() if more else None


async def find(redis: Redis, stream: str, entry_id: str) -> Entry | None:
    """The letter with this id, or None."""
    found = entries(await redis.execute_command("XRANGE", stream, entry_id, entry_id))
    return found[0] if found else None


async def requeue(redis: Redis, dead_stream: str, stream: str, letter: Entry) -> str:
    """Put the original message on the stream again, then drop the letter; returns the new entry's id.

    A death in between leaves both: the second delivery of a batch is a duplicate and harmless.
    """
    flat = [part for pair in read(letter).fields for part in pair]
    entry_id: bytes = await redis.execute_command("XADD", stream, "*", *flat)
    await drop(redis, dead_stream, [letter.id.decode()])
    return entry_id.decode()


async def drop(redis: Redis, dead_stream: str, entry_ids: Sequence[str]) -> int:
    """Delete letters for good; returns how many there were."""
    return int(await redis.execute_command("XDEL", dead_stream, *entry_ids))


def read(letter: Entry) -> DeadLetter:
    """What was sent, and what was added; an entry that no worker wrote counts as sent, without a reason."""
    try:
        return read_dead_letter(letter.fields)
    except InvalidMessage:
        return DeadLetter(list(letter.fields), "", "", "", "")
