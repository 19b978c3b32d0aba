"""What a processor needs is away: its batch is given back, to be tried again later by whoever is free, at nobody's cost."""

from __future__ import annotations

from dataclasses import dataclass

from streamworker.broker.consumer import Delivery
from streamworker.engine.attempts import Away, next_try
from streamworker.engine.endings import Ending, Endings
from streamworker.engine.holds import Hold
from streamworker.engine.patience import Patience
from streamworker.engine.progress import event_of
from streamworker.engine.services import Services
from streamworker.engine.waiting_room import WaitingRoom
from streamworker.messages import TERMINAL, clean_text
from streamworker.observe.events import BatchPaused, Step
from streamworker.store import pauses
from streamworker.store.batches import BatchState, Connection
from streamworker.store.pauses import Outage

LONGEST_REASON = 1_900


@dataclass(frozen=True, slots=True)
class Paused:
    """A pause that is durable; `seconds` until the next try, `number` counts the pauses of this outage, from 1."""

    state: BatchState
    seconds: float
    number: int


class Pauses:
    """Pauses batches of ours; their entries wait without a slot."""

    def __init__(self, services: Services, patience: Patience, endings: Endings, waiting_room: WaitingRoom) -> None:
        self._services = services
        self._patience = patience
        self._endings = endings
        self._waiting_room = waiting_room

    async def pause(self, state: BatchState, hold: Hold, away: Away, processor: str, delivery: Delivery, seconds: float) -> None:
        """Pause our batch, or fail it where its time is over; `seconds` is how long it was with us."""
        away = Away(clean_text(away.reason, LONGEST_REASON), away.met)
        last: Paused | None = None

        async def pause() -> Paused | BatchState | None:
            nonlocal last
            async with self._services.pool.acquire() as connection, connection.transaction():
                outage = await pauses.look(connection, state.id, state.epoch)
                if outage is not None and outage.is_paused and last is not None:
                    return last  # the try before was committed, only its reply was lost
                found = None if outage is None else await self._decide(connection, outage, away)
                last = found if isinstance(found, Paused) else None
                self._step(state, "inside")
                return found

        self._step(state, "before")
        found = await self._patience.persist(pause)
        self._step(state, "after")
        match found:
            case None:  # cancelled, or another worker's
                await self._endings.after_loss(state, hold, "the lease is lost", delivery)
            case Paused():
                self._tell(found, away.reason)
                await self._waiting_room.admit(delivery, state.id, processor)
            case _:
                await self._endings.conclude(Ending(found, delivery, seconds=seconds))

    async def _decide(self, connection: Connection, outage: Outage, away: Away) -> Paused | BatchState:
        limit = self._services.settings.unavailable_timeout
        seconds = next_try(outage.pauses, outage.seconds, limit, self._services.settings.batch_timeout - outage.age)
        if seconds is None:
            given_up = f"given up after {outage.seconds:.0f} s (STREAMWORKER_UNAVAILABLE_TIMEOUT): {away.reason}"
            return await pauses.give_up(connection, outage, given_up)
        error = f"paused: {away.reason}; next try in {seconds:.3g} s"
        paused = await pauses.pause(connection, outage, error, seconds, away.met)
        return Paused(paused, seconds, outage.pauses + 1)

    def _tell(self, paused: Paused, reason: str) -> None:
        state = paused.state
        if state.status not in TERMINAL:
            self._services.announcer.announce(event_of(state, []))
        self._services.events.emit(
            BatchPaused(batch_id=state.id, epoch=state.epoch, reason=reason, seconds=paused.seconds, repeated=paused.number > 1)
        )

    def _step(self, state: BatchState, moment: str) -> None:
        if self._services.events.hooked:
            self._services.events.step(Step("pause", moment, state.id))
