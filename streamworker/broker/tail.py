"""Following the progress stream from a noted position on, through outages, flushes and failovers of the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from streamworker.broker.connection import CONNECTION_ERRORS, connect, explain
from streamworker.broker.replies import Entry, read_entries

log = logging.getLogger("streamworker.broker")

START = b"0-0"
QUIET = 1.0  # seconds
SMALLEST_PAGE, FIRST_PAGE, PAGE = 10, 50, 500  # entries
PAGE_BYTES = 4 * 1024 * 1024


async def position(redis: Redis, stream: str) -> bytes:
    """The id of the newest entry that the stream ever had; `0-0` for a stream that is not there."""
    try:
        found = await redis.xinfo_stream(stream)
    except ResponseError as error:
        if "no such key" in str(error):
            return START
        raise
    newest: bytes = found["last-generated-id"]
    return newest


class Tail:
    """Entries of one stream as they come, read through a client of its own.

    `page`: the most entries that are read at once, where they are small. `healthy` is False while the server cannot be read.
    Entries may be missed then, or when the server loses its data: readers compare revisions and ask Postgres.
    """

    def __init__(self, url: str, stream: str, client: Callable[..., Redis] = connect, page: int = PAGE) -> None:
        self._url = url
        self._stream = stream
        self._connect = client
        self._page = page
        self._count = min(FIRST_PAGE, page)  # of the page that is asked for next
        self._redis: Redis | None = None
        self._after: bytes | None = None
        self._coming: asyncio.Task[list[Entry]] | None = None
        self.healthy = True

    async def start(self, after: bytes | None = None) -> None:
        """Note the present position, or take `after` for it: what is appended after it will be read.

        Does not raise when the server is away.
        """
        await self._stop_reading_ahead()
        if after is not None:
            self._after = after
            return
        try:
            await self._note_position()
        except CONNECTION_ERRORS as error:
            await self._fell(error)

    async def read(self, quiet: float = QUIET) -> list[Entry]:
        """The next entries; an empty list after `quiet` seconds without any, or without a server."""
        try:
            if self._after is None:
                await self._note_position()
            assert self._after is not None
            coming, self._coming = self._coming, None
            found = await (coming or self._read_after(self._after, quiet))
        except CONNECTION_ERRORS as error:
            await self._fell(error)
            await asyncio.sleep(quiet)
            return []
        self._rose()
        if len(found) == self._count:
            self._fit(found)
            await self._ask_for_more(found[-1].id, quiet)
        if found:
            self._after = found[-1].id
        return found

    async def close(self) -> None:
        """Give the connection back."""
        await self._stop_reading_ahead()
        redis, self._redis = self._redis, None
        if redis is not None:
            with suppress(*CONNECTION_ERRORS):
                await redis.aclose()

    async def _note_position(self) -> None:
        self._after = await position(self._client(), self._stream)

    def _fit(self, found: list[Entry]) -> None:
        """Ask for about so many bytes: an entry may have a megabyte, and a page must come within the time limit of a reply."""
        size = sum(len(value) for entry in found for _, value in entry.fields)
        self._count = max(1, min(self._page, 2 * self._count, PAGE_BYTES * len(found) // max(1, size)))

    async def _ask_for_more(self, after: bytes, quiet: float) -> None:
        """More is there already: the server looks it up while the caller is at work on what was read."""
        self._coming = asyncio.create_task(self._read_after(after, quiet), name="progress read ahead")
        try:
            for _ in range(2):  # in the first turn of the loop it is written, at its end it is sent
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._coming.cancel()
            self._coming = None
            raise

    async def _stop_reading_ahead(self) -> None:
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)

    async def _read_after(self, after: bytes, quiet: float) -> list[Entry]:
        reply = await self._client().execute_command(
            "XREAD", "COUNT", self._count, "BLOCK", max(1, round(quiet * 1000)), "STREAMS", self._stream, after
        )
        found = [entry for _, entries in read_entries(reply) for entry in entries]
        if not found and _number(await position(self._client(), self._stream)) < _number(after):
            self._after = START  # the server lost its data and counts anew: all that is there now is new to us
        return found

    def _client(self) -> Redis:
        if self._redis is None:
            self._redis = self._connect(self._url, blocking=QUIET)
        return self._redis

    async def _fell(self, error: BaseException) -> None:
        if self.healthy:
            log.warning("%s; progress comes from Postgres meanwhile", explain(error, self._url))
        self.healthy = False
        self._count = min(SMALLEST_PAGE, self._page)  # whatever it was: a smaller answer may get through
        await self.close()

    def _rose(self) -> None:
        if not self.healthy:
            log.info("the progress stream can be read again")
        self.healthy = True


def _number(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence or 0)
