"""Asking Postgres for the state of batches: one question at a time, for all who wait, however many they are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from uuid import UUID

from streamworker.gateway.resume import History
from streamworker.messages import ProgressEvent
from streamworker.store import progress
from streamworker.store.catalog import not_found
from streamworker.store.pool import OUTAGE_ERRORS, Pool

log = logging.getLogger("streamworker.gateway")

AT_ONCE = 500
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0

Answer = asyncio.Future[ProgressEvent | None]


class Reader:
    """Reads snapshots, with which what the stream has told must agree. While Postgres is away it tries again and again.

    `told` hears whether it answers.
    """

    def __init__(self, history: History, pool: Pool, told: Callable[[bool, BaseException | None], None]) -> None:
        self._history = history
        self._pool = pool
        self._told = told
        self._asked: dict[str, Answer] = {}
        self._running: asyncio.Task[None] | None = None

    async def read(self, batch_id: str) -> ProgressEvent:
        """The state of the batch, not older than this call; BatchNotFound when there is none."""
        answer = self._asked.get(batch_id)
        if answer is None:
            answer = self._asked[batch_id] = asyncio.get_running_loop().create_future()
            if self._running is None or self._running.done():
                self._running = asyncio.create_task(self._run(), name="gateway reader")
        found = await asyncio.shield(answer)
        if found is None:
            raise not_found(UUID(batch_id))
        return found

    async def close(self) -> None:
        """Ask no more; whoever still waits is cancelled."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        for answer in self._asked.values():
            answer.cancel()
        self._asked.clear()

    async def _run(self) -> None:
        while self._asked:
            # Taken out first: who asks from here on gets a later answer.
            asked = {id: self._asked.pop(id) for id in list(self._asked)[:AT_ONCE]}
            try:
                await self._answer(asked)
            finally:
                for answer in asked.values():
                    answer.cancel()  # where there is none

    async def _answer(self, asked: Mapping[str, Answer]) -> None:
        pause = SHORTEST_PAUSE
        while True:
            asked_at = self._history.newest
            try:
                found = await progress.read_snapshots(self._pool, [UUID(id) for id in asked])
            except OUTAGE_ERRORS as error:
                self._told(False, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            except Exception as error:
                # Something is wrong with one of them: that one fails alone.
                if len(asked) > 1:
                    for id, answer in asked.items():
                        await self._answer({id: answer})
                else:
                    for answer in asked.values():
                        if not answer.done():
                            answer.set_exception(error)
                return
            break
        self._told(True, None)
        for id, answer in asked.items():
            event = found.get(id)
            self._history.confirm(id, -1 if event is None else event.revision, asked_at)
            if not answer.done():
                answer.set_result(event)
