"""The typed events of the core, and the hub that hands them to subscribers: logs, metrics, traces and tests."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

_log = logging.getLogger("streamworker.observe")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; durations are in seconds."""


@dataclass(frozen=True, slots=True)
class WorkerStarted(Event):
    """The worker has its connections and begins to look for work."""

    worker: str
    processors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerStopping(Event):
    """The worker takes no more work; `reason` is what ended it, such as `SIGTERM`."""

    worker: str
    reason: str
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class WorkerStopped(Event):
    """The worker has handed over or finished everything."""

    worker: str
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class ServerAway(Event):
    """What a part of the worker needs does not answer; `server` names the part, `error` is a sentence without secrets."""

    server: str
    error: str


@dataclass(frozen=True, slots=True)
class ServerBack(Event):
    """It answers again, after `seconds`."""

    server: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class DeadLettered(Event):
    """A message could not be run and lies on the dead stream now."""

    entry_id: str
    reason: str
    detail: str
    batch_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Reconciled(Event):
    """Batches that only Postgres knew are on the stream again, or their end was announced at last."""

    dispatched: int = 0
    announced: int = 0


@dataclass(frozen=True, slots=True)
class BatchesFinished(Event):
    """Several small batches were run together and completed."""

    batches: int
    succeeded: int
    failed: int


@dataclass(frozen=True, slots=True)
class BatchEvent(Event):
    """Something that happened to a batch."""

    batch_id: UUID


@dataclass(frozen=True, slots=True)
class BatchAcquired(BatchEvent):
    """This worker owns the batch from now on; `taken_from` is the worker that died or fell silent with it.

    `repeated`: it is one more try while what the batch's processor needs is away.
    """

    epoch: int
    worker: str
    total: int
    processed: int = 0
    processor: str | None = None
    taken_from: str | None = None
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class BatchFinished(BatchEvent):
    """The batch has a terminal status, and it is durable; `seconds` is the time this worker spent on it."""

    epoch: int
    status: str
    total: int
    succeeded: int
    failed: int
    seconds: float
    processor: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class HandedOver(BatchEvent):
    """The batch was given up on purpose, for another worker to go on with."""

    epoch: int
    processed: int
    total: int


@dataclass(frozen=True, slots=True)
class BatchPaused(BatchEvent):
    """What the batch's processor needs is away; the next try comes in `seconds`. `repeated`: so it was the last time."""

    epoch: int
    reason: str
    seconds: float
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class OutageOver(BatchEvent):
    """What the batch's processor needs is there again, `seconds` after the batch was paused for it first."""

    epoch: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LeaseLost(BatchEvent):
    """The batch is another worker's, or Postgres was away for too long: this run writes nothing more."""

    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class DuplicateDropped(BatchEvent):
    """A second entry for a batch that runs, or has ended, already."""

    entry_id: str


@dataclass(frozen=True, slots=True)
class BatchAcknowledged(BatchEvent):
    """The entry of an ended batch is gone from the stream."""

    entry_id: str


@dataclass(frozen=True, slots=True)
class PostgresAway(BatchEvent):
    """Outcomes of this batch wait: Postgres does not take them at present."""

    error: BaseException | str


@dataclass(frozen=True, slots=True)
class Recorded(BatchEvent):
    """A group of outcomes was committed; `seconds` is the time of the transaction."""

    epoch: int
    revision: int
    items: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Announced(BatchEvent):
    """A progress event was published."""

    revision: int
    status: str


@dataclass(frozen=True, slots=True)
class ItemStarted(BatchEvent):
    """An attempt at an item begins."""

    epoch: int
    position: int
    key: str
    attempt: int


@dataclass(frozen=True, slots=True)
class ItemFinished(BatchEvent):
    """An item has a terminal status, and it is durable; `seconds` is the time of its last attempt."""

    epoch: int
    position: int
    key: str
    attempt: int
    status: str
    seconds: float
    processor: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ItemRetried(BatchEvent):
    """An attempt failed and another one will follow, no earlier than `delay` from now."""

    epoch: int
    position: int
    key: str
    attempt: int
    error: str
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """A place in the flow where a death matters, for fail-points: `when` is before, inside or after `name`."""

    name: str
    when: str
    batch_id: UUID | None = None
    position: int = -1


Subscriber = Callable[[Event], object]
StepHook = Callable[[Step], object]


class Events:
    """The hub: every subscriber sees every event, in the thread that emits it and before `emit` returns."""

    def __init__(self) -> None:
        # Tuple and set are replaced, never changed: a heartbeat thread may emit while somebody subscribes.
        self._subscribers: tuple[Subscriber, ...] = ()
        self._complained: frozenset[int] = frozenset()
        self._hooks: tuple[StepHook, ...] = ()
        self.detailed = False

    @property
    def hooked(self) -> bool:
        """Whether anybody follows the steps: while nobody does, they need not even be made."""
        return bool(self._hooks)

    def subscribe(self, subscriber: Subscriber, *, detailed: bool = False) -> Callable[[], None]:
        """Call `subscriber(event)` for every event from now on; the function that is returned ends it.

        `detailed` asks for what happens with every single item too (`ItemStarted`, `ItemFinished` of completed ones):
        while nobody does, these are not made.
        """
        self._subscribers = (*self._subscribers, subscriber)
        self.detailed = self.detailed or detailed

        def unsubscribe() -> None:
            self._subscribers = tuple(other for other in self._subscribers if other is not subscriber)

        return unsubscribe

    def emit(self, event: Event) -> None:
        """Tell all subscribers; what one of them raises is logged, once for each, and never reaches the caller."""
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except Exception:
                self._complain(subscriber, event)

    def on_step(self, hook: StepHook) -> None:
        """Call `hook(step)` at every step of the flow from now on; unlike a subscriber it may stop the flow by raising."""
        self._hooks = (*self._hooks, hook)

    def step(self, step: Step) -> None:
        """Pass a step of the flow; nothing happens here unless somebody hooked on."""
        for hook in self._hooks:
            hook(step)

    def _complain(self, subscriber: Subscriber, event: Event) -> None:
        if id(subscriber) in self._complained:
            return
        self._complained |= {id(subscriber)}
        name = getattr(subscriber, "__qualname__", type(subscriber).__name__)
        _log.error("%s raised on %s; later errors of it are not logged", name, type(event).__name__, exc_info=True)
