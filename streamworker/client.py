"""The door for programs: submit a batch, look at it, watch it, cancel it, retry it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from streamworker.broker.connection import CONNECTION_ERRORS, connect
from streamworker.broker.live import read_live
from streamworker.broker.revisions import Revisions, Verdict
from streamworker.broker.tail import Tail
from streamworker.embedded import located
from streamworker.errors import ConfigurationError, InvalidMessage, InvalidSubmission
from streamworker.messages import TERMINAL, ItemEvent, ProgressEvent, decode_event
from streamworker.settings import Settings
from streamworker.store import catalog, submission
from streamworker.store.migrate import check_schema, migrate
from streamworker.store.pool import CONNECTION_ERRORS as POSTGRES_ERRORS
from streamworker.store.pool import TRANSIENT_ERRORS, Pool, open_pool, refusal
from streamworker.store.progress import read_snapshot
from streamworker.store.rows import Batch, ItemRow
from streamworker.store.submission import Items

POOL_SIZE = 10
POLL = 1.0  # seconds without a word from the progress stream, after which Postgres is asked
LONGEST_BACKOFF = 5.0


class Client:
    """Submits batches and reads about them; open one with `async with Client.connect() as client`."""

    def __init__(self, pool: Pool, redis: Redis | None, settings: Settings) -> None:
        self._pool = pool
        self._redis = redis
        self._settings = settings

    @property
    def settings(self) -> Settings:
        """What this client is connected with; both URLs are those in use."""
        return self._settings

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, redis_url: str | None = None, database_url: str | None = None, *, settings: Settings | None = None
    ) -> AsyncIterator[Client]:
        """Connect to the servers given, else to those of the environment, else to the embedded ones.

        With `database_url` alone the client works without Redis: workers find its batches within a second, and `watch` polls.
        Raises ConfigurationError for a bad setting or URL, also where a file that the URL names cannot be read, ConnectionError when
        Postgres is not reachable, SchemaError before the first migration.
        """
        settings = settings or _load(redis_url, database_url)
        # Nobody else prepares a database that we have started ourselves.
        prepare = migrate if settings.database_url is None and settings.migrate else check_schema
        async with located(settings) as settings, _open_redis(settings.redis_url) as redis, _open_pool(settings, prepare) as pool:
            yield cls(pool, redis, settings)

    async def submit(
        self,
        items: Items,
        *,
        batch_id: UUID | str | None = None,
        processor: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        max_attempts: int = 2,
        max_failures: int | None = None,
        connection: Any = None,
    ) -> UUID:
        """Submit a batch; when this returns it is accepted. Returns its id.

        `items` is any iterable or async iterable, read once, streamed: each element a string (key and payload in one) or a mapping
        `{"payload": any JSON, "key": optional string of at most 512 characters}`. All or nothing: InvalidSubmission names the element
        that does not fit. A `batch_id` that was submitted before is left as it is: the first wins.
        With `connection` (asyncpg) it happens inside the caller's transaction.
        """
        options = submission.check_submission(_as_new_id(batch_id), processor, metadata, max_attempts, max_failures)
        if connection is not None:
            await submission.submit_within(connection, options, items)
        elif await submission.submit(self._pool, options, items, notify=self._redis is None):
            await self._announce(options.batch_id)
        return options.batch_id

    async def status(self, batch_id: UUID | str) -> Batch:
        """The batch as Postgres has it now; BatchNotFound when there is none."""
        return await catalog.read_batch(self._pool, as_id(batch_id))

    async def in_flight(self, batch_id: UUID | str) -> Sequence[ItemEvent]:
        """The items that are being worked on, with the percent, stage and message that each told last.

        They stand on the progress stream alone: empty without Redis, and without what was trimmed or buried under 10,000 newer entries.
        """
        target = as_id(batch_id)
        batch = await catalog.read_batch(self._pool, target)
        if self._redis is None or batch.worker is None or batch.status in TERMINAL:
            return []
        try:
            found = await read_live(self._redis, self._settings.progress_stream, str(target), batch.epoch)
        except (*CONNECTION_ERRORS, ResponseError):
            return []
        still = await catalog.open_positions(self._pool, target, [item.position for item in found])
        return [item for item in found if item.position in still]

    async def list(self, status: str | None = None, limit: int = 50) -> list[Batch]:
        """The newest batches first, of one status or of all."""
        return await catalog.list_batches(self._pool, status, limit)

    async def items(self, batch_id: UUID | str, status: str | None = None) -> AsyncGenerator[ItemRow, None]:
        """The items of a batch in order, of one status or of all; read page by page."""
        async for row in catalog.read_items(self._pool, as_id(batch_id), status):
            yield row

    async def cancel(self, batch_id: UUID | str) -> bool:
        """Cancel a batch; False when it had ended already."""
        return await catalog.cancel(self._pool, as_id(batch_id))

    async def retry_failed(self, batch_id: UUID | str, position: int | None = None) -> int:
        """Put the failed and cancelled items of an ended batch back to pending, with fresh attempts; returns how many.

        With `position` that item alone; not one of a batch whose other failures are more than its `max_failures`.
        """
        if position is not None and not 0 <= position < 2**31:
            raise ValueError(f"position: expected a whole number from 0, got {position}")
        return await catalog.retry(self._pool, as_id(batch_id), position)

    async def watch(self, batch_id: UUID | str, from_revision: int | None = None) -> AsyncGenerator[ProgressEvent, None]:
        """A snapshot (an event without items), then live events; ends after the terminal one.

        A revision never goes back and nothing comes twice; where events were missed a fresh snapshot stands in their place.
        With `from_revision` the first snapshot is left out if it tells nothing newer. While Redis is away the snapshots of
        Postgres come about once a second; while Postgres is away this waits.
        """
        target = as_id(batch_id)
        tail = Tail(self._settings.redis_url, self._settings.progress_stream) if self._settings.redis_url else None
        try:
            if tail is not None:
                await tail.start()  # before the snapshot, so that nothing can fall between the two
            seen = Revisions()
            snapshot = await self._snapshot(target)
            seen.accept(snapshot)
            if snapshot.revision != from_revision or snapshot.status in TERMINAL:
                yield snapshot
            if snapshot.status not in TERMINAL:
                async for event in self._follow(target, seen, tail):
                    yield event
        finally:
            if tail is not None:
                await tail.close()

    async def _follow(self, batch_id: UUID, seen: Revisions, tail: Tail | None) -> AsyncGenerator[ProgressEvent, None]:
        """Live events after the first snapshot, up to the terminal one."""
        loop = asyncio.get_running_loop()
        heard, ahead = loop.time(), -1
        while True:
            for event in await _next_events(tail, batch_id):
                heard = loop.time()
                if seen.judge(event) is Verdict.GAP:
                    snapshot = await self._snapshot(batch_id)
                    seen.accept(snapshot)
                    yield snapshot
                    if snapshot.status in TERMINAL:
                        return
                if seen.judge(event) is Verdict.NEW:
                    seen.accept(event)
                    yield event
                    if event.status in TERMINAL:
                        return
            if loop.time() - heard < POLL:
                continue
            heard, snapshot = loop.time(), await self._snapshot(batch_id)
            # The stream may be a moment behind Postgres: only what it has not told a second later is lost.
            lost = ahead > seen.last or tail is None or not tail.healthy
            ahead = snapshot.revision
            if snapshot.revision > seen.last and lost:
                seen.accept(snapshot)
                yield snapshot
                if snapshot.status in TERMINAL:
                    return

    async def _snapshot(self, batch_id: UUID) -> ProgressEvent:
        """Read the batch's state; while Postgres is away, try again and again."""
        pause = 0.1
        while True:
            try:
                return await read_snapshot(self._pool, batch_id)
            except TRANSIENT_ERRORS:
                if self._pool.is_closing():
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_BACKOFF)

    async def _announce(self, batch_id: UUID) -> None:
        """Wake a worker. The batch is safe already: without this one finds it within a second."""
        if self._redis is None:
            return
        try:
            await self._redis.xadd(self._settings.stream, {"batch_id": str(batch_id)})
        except CONNECTION_ERRORS:
            with suppress(*TRANSIENT_ERRORS):
                await catalog.notify(self._pool)


def as_id(batch_id: UUID | str) -> UUID:
    """Read a batch id; ValueError says what was expected."""
    if isinstance(batch_id, UUID):
        return batch_id
    try:
        return UUID(batch_id)
    except (ValueError, AttributeError, TypeError):
        raise ValueError(f"batch_id: expected a UUID, got {batch_id!r}") from None


def _as_new_id(batch_id: UUID | str | None) -> UUID:
    try:
        return uuid4() if batch_id is None else as_id(batch_id)
    except ValueError as error:
        raise InvalidSubmission(str(error)) from None


async def _next_events(tail: Tail | None, batch_id: UUID) -> list[ProgressEvent]:
    if tail is None:
        await asyncio.sleep(POLL)
        return []
    wanted = str(batch_id).encode()
    events = []
    for entry in await tail.read(POLL):
        fields = dict(entry.fields)
        if fields.get(b"batch_id") == wanted:
            with suppress(InvalidMessage, ValueError):  # a stranger's entry: the next event or Postgres will tell
                events.append(decode_event(fields.get(b"event", b"")))
    return events


def _load(redis_url: str | None, database_url: str | None) -> Settings:
    if redis_url is None and database_url is None:
        return Settings.load()
    environ = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATABASE_URL")}
    redis_url = redis_url or os.environ.get("REDIS_URL") or None
    database_url = database_url or os.environ.get("DATABASE_URL") or None
    if database_url is None:
        raise ConfigurationError("database_url: not given, and DATABASE_URL is not set: Postgres is where batches live")
    if redis_url is None:
        return replace(Settings.load(environ=environ), database_url=database_url)
    return Settings.load({"redis_url": redis_url, "database_url": database_url}, environ)


@asynccontextmanager
async def _open_redis(url: str | None) -> AsyncIterator[Redis | None]:
    """A client that connects when it is first needed; a bad URL is refused at once."""
    redis = connect(url) if url else None
    try:
        yield redis
    finally:
        if redis is not None:
            with suppress(*CONNECTION_ERRORS):
                await redis.aclose()


@asynccontextmanager
async def _open_pool(settings: Settings, prepare: Callable[[Any], Awaitable[object]]) -> AsyncIterator[Pool]:
    assert settings.database_url is not None
    async with AsyncExitStack() as stack:
        try:
            pool = await open_pool(settings.database_url, size=POOL_SIZE, application_name="streamworker client")
            stack.push_async_callback(pool.close)
            async with pool.acquire() as connection:
                await prepare(connection)
        except POSTGRES_ERRORS as error:
            raise refusal(error, settings.database_url) from error
        yield pool
