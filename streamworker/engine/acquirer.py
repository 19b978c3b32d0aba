"""Makes batches ours: what a job brings is created, what is free is taken, and whoever asked hears how it stands."""

from __future__ import annotations

import logging
import time
from uuid import UUID

from streamworker.broker.consumer import Delivery
from streamworker.engine.patience import Patience
from streamworker.engine.processors import OpenProcessors
from streamworker.engine.services import Services
from streamworker.messages import Job
from streamworker.observe.events import BatchAcquired, Step
from streamworker.store import batches, creation
from streamworker.store.batches import Acquired, Claim, Ended, Foreign, Missing, Paused

LOG = logging.getLogger("streamworker.engine")

Grant = Acquired | Ended | Foreign | Missing | Paused


class Acquirer:
    """Asks Postgres for batches, until it answers."""

    def __init__(self, services: Services, patience: Patience, processors: OpenProcessors) -> None:
        self._services = services
        self._patience = patience
        self._processors = processors

    async def acquire(self, job: Job, delivery: Delivery) -> tuple[Grant, float]:
        """Take the job's batch if that may be; returns also when it was asked for (monotonic seconds)."""
        if job.items is not None:
            await self._create(job, delivery)
        grant, asked_at = await self._claim(job, delivery)
        if isinstance(grant, Acquired):
            self._tell(grant)
        return grant, asked_at

    async def _create(self, job: Job, delivery: Delivery) -> None:
        """A job that brings its items: copied to Postgres first thing; sent twice, the first wins."""
        max_attempts = job.max_attempts or self._services.settings.max_attempts
        await self._patience.persist(lambda: creation.create(self._services.pool, job, max_attempts, delivery.entry_id))

    async def _claim(self, job: Job, delivery: Delivery) -> tuple[Grant, float]:
        settings, heartbeat = self._services.settings, self._services.heartbeat
        await heartbeat.ready()
        # While a processor has yet to be opened nothing counts as started: if that kills the worker, no item is to blame.
        width = settings.item_concurrency if self._processors.are_open else 0
        claim = Claim(settings.consumer, heartbeat.number, delivery.entry_id, settings.lease_ttl, settings.batch_timeout, width)
        asked_at = time.monotonic()
        grant: Grant = Missing()

        async def acquire() -> Grant:
            nonlocal asked_at, grant
            async with self._services.pool.acquire() as connection, connection.transaction():
                if isinstance(grant, Acquired) and await batches.is_current(connection, grant.state):
                    return grant  # the try before was committed, only its reply was lost
                asked_at = time.monotonic()
                found = await batches.acquire(connection, job.batch_id, claim)
                if not (isinstance(found, Ended) and isinstance(grant, Ended) and found.state == grant.state):  # likewise
                    grant = found
                return grant

        self._step(job.batch_id, "before")
        grant = await self._patience.persist(acquire)
        self._step(job.batch_id, "after")
        return grant, asked_at

    def _tell(self, grant: Acquired) -> None:
        state = grant.state
        if grant.declared_total != state.total:
            LOG.warning("batch %s: total says %d, but there are %d items: the rows win", state.id, grant.declared_total, state.total)
        for item in grant.charged:
            LOG.warning("batch %s: item %d: %s, attempt %d (%s)", state.id, item.position, batches.DIED, item.attempts, item.status)
        self._services.events.emit(
            BatchAcquired(
                batch_id=state.id, epoch=state.epoch, worker=state.worker or "", total=state.total,
                processed=state.succeeded + state.failed, processor=grant.processor, taken_from=grant.taken_from,
                repeated=grant.outage is not None,
            )
        )  # fmt: skip

    def _step(self, batch_id: UUID, moment: str) -> None:
        if self._services.events.hooked:
            self._services.events.step(Step("acquire", moment, batch_id))
