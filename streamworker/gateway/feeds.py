"""All batches that somebody watches by id: opened, compared with Postgres, mended where events were lost, and forgotten again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

from streamworker.errors import BatchNotFound
from streamworker.gateway.connection import Connection
from streamworker.gateway.feed import FRESH, Feed
from streamworker.gateway.frames import Complaint, frame
from streamworker.gateway.reader import Reader
from streamworker.gateway.resume import History, Since, Token
from streamworker.gateway.stream import Told
from streamworker.messages import ProgressEvent
from streamworker.store import progress
from streamworker.store.catalog import not_found
from streamworker.store.pool import Pool

log = logging.getLogger("streamworker.gateway")

QUIET = 1.0  # seconds without a word of a batch, after which Postgres is asked
TICK = 0.005  # seconds
KEPT = 30.0  # seconds that a batch is followed after the last client has left


class Feeds:
    """The feeds by batch id. `begin` runs a coroutine beside everything else, for as long as the hub lives."""

    def __init__(self, history: History, pool: Pool, reader: Reader, begin: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self._history = history
        self._pool = pool
        self._reader = reader
        self._begin = begin
        self._feeds: dict[str, Feed] = {}

    def hear(self, told: Told) -> None:
        """Take an event from the stream."""
        feed = self._feeds.get(told.event.batch_id)
        if feed is not None and not feed.hear(told.record, told.event):
            self._mend(feed)

    def find(self, batch_id: str) -> Feed | None:
        """The feed of a batch that is followed at present."""
        return self._feeds.get(batch_id)

    def take(self, batch_id: str) -> Feed:
        """The feed of a batch, for whoever is about to watch: `interest` must be given back."""
        feed = self._feeds.get(batch_id)
        if feed is None:
            feed = self._feeds[batch_id] = Feed(batch_id, self._history)
        feed.interest += 1
        return feed

    async def open(self, feed: Feed, since: Since | None = None) -> ProgressEvent | None:
        """Wait until the state is known; returns what Postgres says now, None where it was asked a moment ago. BatchNotFound."""
        if since is not None and since.token is not None:
            await self._catch_up(since.token)
        must_ask = feed.state is None or (since is not None and feed.may_hear_less(since))
        if feed.is_fresh(time.monotonic()) and not must_ask:
            return None
        known = feed.revision
        try:
            # While Postgres is away what is known will do, where it can be nothing less than what was known to who comes.
            async with asyncio.timeout(None if must_ask else QUIET):
                snapshot = await self._reader.read(feed.batch_id)
        except TimeoutError:
            return None
        except BatchNotFound:
            self.drop(feed)
            raise
        feed.read_at, feed.said = time.monotonic(), snapshot
        if feed.state is None:
            complete = feed.open(snapshot)
        else:
            complete = feed.mending or not snapshot.revision < known == feed.revision or feed.mend(snapshot)
        if not complete:
            self._mend(feed)
        return snapshot

    async def _catch_up(self, token: Token) -> None:
        """Read on up to where another gateway was: what it told and is read here a moment later must not be told twice."""
        until = time.monotonic() + QUIET
        while token.tag == self._history.tag and token.position > self._history.newest and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(TICK)

    def drop(self, feed: Feed) -> None:
        """The batch is no more."""
        if self._feeds.get(feed.batch_id) is feed:
            if feed.interest:
                feed.begin_anew()  # others have asked too, and may be given another answer
            else:
                self._forget(feed)
        told = frame(Complaint(4404, str(not_found(UUID(feed.batch_id))), feed.batch_id))
        for connection in list(feed.watchers):
            connection.wanted.discard(feed.batch_id)
            connection.offer(told)
        feed.watchers.clear()

    def leave(self, connection: Connection, batch_id: str) -> int:
        """Tell this client of this batch no more; returns up to which revision it was told, -1 for not at all."""
        feed = self._feeds.get(batch_id)
        return -1 if feed is None else feed.leave(connection)

    def look_again(self, batch_id: str) -> None:
        """Ask Postgres for this batch, if anybody watches it."""
        feed = self._feeds.get(batch_id)
        if feed is not None and feed.watchers and feed.state is not None and not feed.mending:
            feed.mending = True
            self._mend(feed)

    def look_after(self, redis: bool) -> None:
        """Follow no longer what nobody has watched for a while. `redis`: whether the stream can be read."""
        now = time.monotonic()
        for feed in list(self._feeds.values()):
            if redis:
                feed.settle(now)
            if not (feed.watchers or feed.interest or feed.mending) and now - feed.read_at > KEPT:
                self._forget(feed)

    def _forget(self, feed: Feed) -> None:
        del self._feeds[feed.batch_id]
        self._history.in_step.discard(feed.batch_id)

    async def compare(self, redis: bool) -> bool:
        """Ask Postgres for what the stream has not told; False where there was nothing to ask."""
        now = time.monotonic()
        quiet = {
            id: feed.revision
            for id, feed in self._feeds.items()
            if feed.watchers and feed.state is not None and not feed.mending and (now - feed.heard >= QUIET or not redis)
        }
        if not quiet:
            return False
        for batch_id, event in (await progress.read_moved(self._pool, quiet)).items():
            feed = self._feeds.get(batch_id)
            if feed is None or feed.mending:
                continue
            if event is None:
                self.drop(feed)
                continue
            # The stream may be a moment behind Postgres: only what it has not told a second later is lost.
            lost = feed.behind > feed.revision or not redis
            feed.behind = event.revision
            # It is never a moment ahead of it, though: where Postgres knows less, something else was told.
            if (lost and event.revision > feed.revision) or event.revision < quiet[batch_id] == feed.revision:
                feed.mending = True
                self._mend(feed)
        return True

    def _mend(self, feed: Feed) -> None:
        self._begin(self._ask_again(feed))

    async def _ask_again(self, feed: Feed) -> None:
        """Events of this batch are missing: ask Postgres, until none is."""
        while True:
            await asyncio.sleep(max(0.0, feed.read_at + FRESH - time.monotonic()))
            try:
                snapshot = await self._reader.read(feed.batch_id)
            except BatchNotFound:
                self.drop(feed)
                return
            except Exception:
                feed.mending = False  # the next comparison begins anew
                raise
            if feed.mend(snapshot):
                return
