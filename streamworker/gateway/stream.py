"""The one reader of the progress stream in this process: what stood in it lately, and what comes."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from streamworker.broker import replies
from streamworker.broker.connection import CONNECTION_ERRORS, connect
from streamworker.broker.replies import Entry
from streamworker.broker.tail import Tail, position
from streamworker.errors import InvalidMessage
from streamworker.gateway.chronicle import seconds_of
from streamworker.gateway.resume import MOST_BYTES, MOST_ENTRIES, START, History, Record, read_position, tag_of
from streamworker.messages import TERMINAL, ProgressEvent, decode_event

log = logging.getLogger("streamworker.gateway")

PAGE = 200  # entries at once
FIRST_PAGE, LONGEST_PAGE = 10, 500  # of those that stand there already

_STATUS = TERMINAL | {"pending", "processing"}
_BATCH_ID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Told(msgspec.Struct, gc=False):
    """An event as it was read."""

    record: Record
    event: ProgressEvent


class Stream:
    """Reads the stream into `history`. `healthy` is False while the server is away."""

    def __init__(self, url: str, name: str, observe: Callable[[ProgressEvent], None] | None = None) -> None:
        self.history = History(secrets.token_hex(4))
        self.healthy = False
        self._url = url
        self._name = name
        self._tail = Tail(url, name, page=PAGE)
        self._begun = False
        self._observe = observe  # is told each event that is news, also those that stood there already

    async def start(self) -> None:
        """Read what stands there already. Does not raise when the server is away: the first `read` that succeeds begins then."""
        client = connect(self._url)
        try:
            await self._begin(client)
            self.healthy = True
        except CONNECTION_ERRORS:
            await self._tail.start()
        finally:
            with suppress(*CONNECTION_ERRORS):
                await client.aclose()

    async def read(self, quiet: float) -> Iterator[Told]:
        """The next events; none after `quiet` seconds, or without a server. The history goes on with each one that is taken."""
        entries = await self._tail.read(quiet)
        if self._tail.healthy and not self.healthy and not await self._rise():
            return iter(())
        self.healthy = self._tail.healthy
        return (told for entry in entries if (told := self._take(entry)) is not None)

    async def close(self) -> None:
        """Give the connection back."""
        await self._tail.close()

    async def _begin(self, client: Redis) -> None:
        tag, newest = await self._tag(client), await position(client, self._name)
        entries = await self._read_back(client, newest)
        oldest = read_position(entries[-1].id) if entries else None
        self.history.reset(tag, read_position(newest), oldest)
        for entry in reversed(entries):
            self._take(entry)
        await self._tail.start(newest)
        self._begun = True

    async def _rise(self) -> bool:
        """The server is back, or another one in its place; False when what was just read is in the history already."""
        client = connect(self._url)
        try:
            if not self._begun:
                await self._begin(client)
                self.healthy = True
                return False
            await self._go_on(client)
        except CONNECTION_ERRORS:
            self.history.reset(secrets.token_hex(4), self.history.newest)
        finally:
            with suppress(*CONNECTION_ERRORS):
                await client.aclose()
        return True

    async def _go_on(self, client: Redis) -> None:
        """Keep the history if what came meanwhile follows it without a hole."""
        tag = await self._tag(client)
        found = replies.entries(await client.execute_command("XRANGE", self._name, "-", "+", "COUNT", 1))
        oldest = read_position(found[0].id) if found else None
        newest = self.history.newest
        if tag != self.history.tag or oldest is None or oldest > newest:
            # What stands there already is not read again: only what comes after it is going to be known.
            self.history.reset(tag if oldest else secrets.token_hex(4), newest, max(oldest or newest, newest))
        else:
            self.history.began_at = time.monotonic()  # what was held up all that time is still to come

    async def _tag(self, client: Redis) -> str:
        try:
            server = await client.info("server")
            return tag_of(str(server["run_id"]), self._name)
        except (KeyError, TypeError, ResponseError):  # a cluster answers for each node, an access list may forbid it
            return secrets.token_hex(4)  # then no token is good beyond this process

    async def _read_back(self, client: Redis, newest: bytes) -> list[Entry]:
        """The last entries, the newest first."""
        found: list[Entry] = []
        size, end, count = 0, newest.decode(), FIRST_PAGE
        while len(found) < MOST_ENTRIES and size < MOST_BYTES:
            page = replies.entries(await client.execute_command("XREVRANGE", self._name, end, "-", "COUNT", count))
            found += page
            size += sum(len(value) for entry in page for _, value in entry.fields)
            if len(page) < count:
                break
            end = "(" + page[-1].id.decode()
            count = max(1, min(LONGEST_PAGE, 2 * count, (MOST_BYTES - size) * len(found) // max(1, size)))
        return found

    def _take(self, entry: Entry) -> Told | None:
        place = read_position(entry.id)
        if place <= self.history.newest and self._begun:
            # The stream counts anew, from below: its positions are not those of the one before.
            self.history.reset(secrets.token_hex(4), place, START)
        self.history.newest = max(place, self.history.newest)
        fields = dict(entry.fields)
        raw = fields.get(b"event", b"")
        try:
            event = decode_event(raw)
        except (InvalidMessage, ValueError):  # a stranger's entry: the next event or Postgres will tell
            return None
        if not (self.history.knows(event.batch_id) or _BATCH_ID.fullmatch(event.batch_id)) or not _is_ours(event):
            return None
        if fields.get(b"batch_id") != event.batch_id.encode():
            return None
        record = self.history.append(place, event.batch_id, event.revision, raw)
        if record is None:
            return None
        if self._observe is not None:
            try:
                self._observe(event)
            except Exception:
                log.exception("unexpected error, going on with the next event")
        return Told(record, event)


def _is_ours(event: ProgressEvent) -> bool:
    """Whether a worker can have said that: what follows takes it for granted."""
    return event.status in _STATUS and seconds_of(event.at) is not None
