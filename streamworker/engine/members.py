"""A batch of a burst: what arrived, what was claimed, and what has become of its items so far."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from streamworker.broker.consumer import Delivery
from streamworker.engine.attempts import Away, Policy
from streamworker.engine.holds import Hold
from streamworker.engine.progress import Progress, item_event, tell_rows
from streamworker.engine.recorder import Recorder
from streamworker.engine.services import Services
from streamworker.messages import TERMINAL, Job
from streamworker.store import bursts
from streamworker.store.batches import Acquired, BatchState
from streamworker.store.items import ItemRecord, OpenItem
from streamworker.store.pool import Pool

LOG = logging.getLogger("streamworker.engine")


class Arrival(msgspec.Struct, frozen=True):
    """A delivery that was read, and what keeps it from looking idle."""

    delivery: Delivery
    hold: Hold
    job: Job


@dataclass(slots=True, eq=False)
class Member:
    """One batch of a burst. `rows` is what its items ended as, unwritten; `failure` is why the batch as a whole fails.

    `away`: why it is paused, since what its processor needs is not there.
    """

    arrival: Arrival
    grant: Acquired
    items: list[OpenItem]
    began: float
    together: bool
    rows: list[ItemRecord] = field(default_factory=list)
    failure: str | None = None
    away: Away | None = None
    progress: Progress | None = None
    telling: bool = False
    recorder: Recorder | None = None

    async def single_out(self, pool: Pool, frontier: int) -> None:
        """Let the batch answer for itself from now on: its items below `frontier` have started."""
        if self.recorder is None and (self.together or frontier != self.grant.frontier):
            async with pool.acquire() as connection:
                await bursts.single_out(connection, self.grant.state, frontier)
            self.grant, self.together = msgspec.structs.replace(self.grant, frontier=frontier), False

    @property
    def is_plain(self) -> bool:
        """Whether nothing is left but to record that all its items have ended."""
        whole = len(self.rows) == len(self.items) and self.failure is None and self.recorder is None and self.arrival.hold.lost is None
        return whole and all(row.status in TERMINAL and row.write is None for row in self.rows)

    def progress_of(self, services: Services) -> Progress:
        """What tells of this batch while it runs: made when there is something to tell."""
        if self.progress is None:
            self.progress = Progress(services.announcer, self.grant.state, self.arrival.hold)
        return self.progress

    def recorder_of(self, services: Services, position: int) -> Recorder:
        """What writes for this batch alone while its item at `position` runs; its further items are for the ordinary way."""
        if self.recorder is None:
            settings, progress = services.settings, self.progress_of(services)

            def recorded(state: BatchState, rows: Sequence[ItemRecord]) -> None:
                progress.recorded(state, [item_event(row) for row in rows])
                tell_rows(services.events, state, rows)

            policy = Policy(self.grant.max_attempts, settings.retry_delay)
            self.recorder = Recorder(
                services.pool, services.small, self.grant, self.arrival.hold, policy, 1, lambda: 1, settings.lease_ttl, services.events,
                services.outages, services.explain_postgres, recorded=recorded, again=lambda row: None,
            )  # fmt: skip
            self.recorder.open()
        for started in range(position + 1):
            self.recorder.may_start(started)
        return self.recorder

    async def close_recorder(self) -> None:
        """Write the rest."""
        if self.recorder is None:
            return
        try:
            await self.recorder.close()
        except Exception:
            LOG.exception("batch %s: its checkpoint could not be written", self.grant.state.id)
        self.grant = msgspec.structs.replace(self.grant, state=self.recorder.state, frontier=self.recorder.frontier)

    def hush(self) -> None:
        """Tell nothing live any more."""
        if self.progress is not None:
            self.progress.close()
            self.progress = None
