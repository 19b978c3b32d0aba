"""What becomes of a wish to watch: the batches are opened, then the client is told, all between two awaits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from streamworker.errors import BatchNotFound
from streamworker.gateway.connection import MOST_BYTES, Connection
from streamworker.gateway.feed import FRESH, Feed
from streamworker.gateway.feeds import QUIET, Feeds
from streamworker.gateway.frames import ALL, Complaint, Live, frame
from streamworker.gateway.overview import Overview
from streamworker.gateway.resume import History, Record, Since, Token, is_ahead, scope_of
from streamworker.messages import TERMINAL, ProgressEvent
from streamworker.store.pool import OUTAGE_ERRORS

log = logging.getLogger("streamworker.gateway")


class Subscriptions:
    """Brings clients to the feeds and to the list of all.

    `note_postgres` hears whether Postgres answers; `renew` subscribes a client once more.
    """

    def __init__(
        self,
        history: History,
        feeds: Feeds,
        overview: Overview,
        note_postgres: Callable[[bool, BaseException | None], None],
        renew: Callable[[Connection, Sequence[str], Since], object],
    ) -> None:
        self._renew = renew
        self._history = history
        self._feeds = feeds
        self._overview = overview
        self._note_postgres = note_postgres

    async def ended(self, batch_id: str, token: Token) -> bool:
        """Whether the token was given for the end of this batch, and that is its end still. BatchNotFound."""
        is_ours = token.tag == self._history.tag or is_ahead(token.tag)
        if token.ended is None or not is_ours or token.scope != scope_of([batch_id]):
            return False
        feed = self._feeds.take(batch_id)
        try:
            await self._feeds.open(feed)
            return feed.newest.status in TERMINAL and feed.newest.revision == token.ended
        finally:
            feed.interest -= 1

    async def exists(self, batch_id: str) -> bool:
        """Whether there is such a batch; waits while Postgres is away."""
        feed = self._feeds.take(batch_id)
        try:
            await self._feeds.open(feed)
        except BatchNotFound:
            return False
        finally:
            feed.interest -= 1
        return True

    async def open(self, connection: Connection, ids: Sequence[str], since: Since | None) -> None:
        """Tell this client of these batches: what there is or what it has missed, `live`, and what comes."""
        feeds = [self._feeds.take(id) for id in ids if id != ALL]
        if since is not None and since.token is not None and since.token.scope != scope_of(ids):
            since = Since()  # it says nothing of what is asked for
        try:
            opening = [self._feeds.open(feed, since) for feed in feeds]
            found = await asyncio.gather(*opening, return_exceptions=True) if len(opening) > 1 else [await _caught(one) for one in opening]
            if ALL in ids:
                # Who comes back may have heard from another gateway what is not known here yet.
                await self._open_overview(connection, time.monotonic() - (FRESH if since is None else 0.0))
            # From here on nothing is awaited: what a client is told first and what it is told next belong together.
            if not connection.gone:
                self._join(connection, dict(zip(feeds, found, strict=True)), since, bare=len(ids) > 1)
                if ALL in ids and connection.everything:
                    # A token of several kinds of frames says nothing of the list of all, which is told beside the rest.
                    self._overview.join(connection, since if len(ids) == 1 or since is None else Since())
        finally:
            for feed in feeds:
                feed.interest -= 1

    def _join(
        self, connection: Connection, found: Mapping[Feed, ProgressEvent | BaseException | None], since: Since | None, *, bare: bool
    ) -> None:
        missed: list[tuple[Feed, Record]] = []
        resumed: list[Feed] = []
        for feed, snapshot in found.items():
            if isinstance(snapshot, BaseException):
                self._complain(connection, feed.batch_id, snapshot)
            elif feed.batch_id in connection.wanted:
                if connection in feed.watchers:
                    connection.forget(feed.batch_id)  # what waits would be told twice
                records = feed.join(connection, snapshot, since, bare=bare)
                if records is not None:
                    resumed.append(feed)
                    missed += [(feed, record) for record in records]
        told = [feed for feed, snapshot in found.items() if not isinstance(snapshot, BaseException) and feed.batch_id in connection.wanted]
        self._tell_missed(connection, resumed, missed, in_step=len(resumed) == len(told))
        if told:
            token = self._token(told[0].scope_for(connection), told)
            connection.offer(frame(Live(token) if bare else Live(token, told[0].batch_id)))

    def _tell_missed(
        self, connection: Connection, resumed: Sequence[Feed], missed: Sequence[tuple[Feed, Record]], *, in_step: bool
    ) -> None:
        """`in_step`: no other batch was shown as it is now, and may not be told from the middle of these events on."""
        own = sum(len(record.raw) for feed, record in missed if feed.scope_for(connection) != feed.scope)
        if own > MOST_BYTES:  # the frames of those who asked for several batches are made for them alone
            for feed in resumed:
                feed.show(connection, reset=True)
            return
        in_order = sorted(missed, key=lambda one: one[1].position)  # of several batches, as it happened
        connection.offer_missed(feed.event_frame(record, feed.scope_for(connection), in_step=in_step) for feed, record in in_order)
        for feed in resumed:
            if feed.ended and feed.state is not None:
                connection.offer(feed.end_frame(feed.state))

    def _complain(self, connection: Connection, batch_id: str, error: BaseException) -> None:
        connection.wanted.discard(batch_id)
        if isinstance(error, BatchNotFound):
            connection.offer(frame(Complaint(4404, str(error), batch_id)))
        elif not isinstance(error, asyncio.CancelledError):
            log.error("batch %s cannot be told", batch_id, exc_info=error)
            connection.close(4500, "an error of the gateway")

    async def _open_overview(self, connection: Connection, moment: float) -> None:
        self._overview.interest += 1
        try:
            while self._overview.asked_at < moment:
                try:
                    await self._overview.catch_up(moment)
                except OUTAGE_ERRORS as error:
                    self._note_postgres(False, error)
                    await asyncio.sleep(QUIET)
                except Exception:
                    log.exception("unexpected error, trying again")
                    await asyncio.sleep(QUIET)
            await self._overview.ask_about_all(connection)
        finally:
            self._overview.interest -= 1

    def resync(self, connection: Connection, ids: set[str]) -> None:
        """Frames of these batches were dropped: show the state of each instead."""
        for batch_id in ids:
            feed = self._feeds.find(batch_id)
            if feed is None or feed.state is None or connection not in feed.watchers:
                continue
            if feed.watchers[connection] > feed.revision:  # it knows more than the stream has told: ask again rather than go back
                scope = connection.together.get(batch_id)
                feed.leave(connection)  # what it is told next is the answer
                self._renew(connection, [id for id, one in connection.together.items() if one == scope] or [batch_id], Since())
            else:
                feed.show(connection, reset=True, bare=True)
        told: dict[str, list[Feed]] = {}
        not_yet: set[str] = set()
        for batch_id in connection.wanted:
            scope = connection.together.get(batch_id) or scope_of([batch_id])
            feed = self._feeds.find(batch_id)
            if feed is None or connection not in feed.watchers:
                not_yet.add(scope)  # it is about to be told of this one
            else:
                told.setdefault(scope, []).append(feed)
        for scope, feeds in told.items():
            if scope not in not_yet:
                connection.offer(frame(Live(self._token(scope, feeds))))

    def _token(self, scope: str, told: Sequence[Feed]) -> str:
        """The token of all that is told of these batches."""
        return self._history.token(scope, in_step={feed.batch_id for feed in told} <= self._history.in_step)


async def _caught(work: Coroutine[Any, Any, ProgressEvent | None]) -> ProgressEvent | BaseException | None:
    try:
        return await work
    except Exception as error:
        return error
