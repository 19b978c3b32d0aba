"""What a processor sees: the item, its context, and the ways to answer."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

import msgspec

from streamworker.messages import to_json


class Item(msgspec.Struct, frozen=True):
    """One element of a batch, on one attempt.

    `position` counts from 0, `attempt` from 1. `payload` is the JSON value that was submitted,
    `checkpoint` what an earlier attempt stored with `Context.checkpoint`, or None.
    """

    batch_id: UUID
    position: int
    key: str
    payload: Any
    attempt: int
    checkpoint: Any = None


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """The batch that the item belongs to."""

    id: UUID
    total: int
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """A value together with a write that happens in the transaction which records it.

    `write(connection)` gets the asyncpg connection of that transaction: its effects and the item's
    completion are committed together, so they happen exactly once. An exception from it is a failed attempt.
    """

    value: Any = None
    write: Callable[[Any], Awaitable[Any]] | None = None


class Permanent(Exception):
    """Raise it for an item that no retry can help: it is failed at once."""


class RetryAfter(Exception):
    """Raise it to fail this attempt and have the next one start no earlier than `seconds` from now."""

    def __init__(self, seconds: float, message: str = "") -> None:
        super().__init__(message or f"retry after {seconds:g} s")
        self.seconds = float(seconds)


class Unavailable(Exception):
    """Raise it when what the processor needs is away, and nothing is wrong with the item: its batch is paused, and tried again.

    The start that ended so is no attempt, so raise it only where nothing has been done yet that must not be done twice.
    """


class Done:
    """An awaitable that is finished already: lets one method serve `await` and plain calls alike."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


DONE = Done()
# The longest stage and message (characters) that an item can tell.
LONGEST_TOLD = 500


def percent_of(value: float) -> float | None:
    """A percentage as it is told: between 0 and 100, with two decimals."""
    number = float(value)
    return None if number != number else round(min(100.0, max(0.0, number)), 2)


def checkpoint_text(state: Any) -> str:
    """The JSON of a checkpoint; ValueError says what cannot be stored about it."""
    try:
        return to_json(state)
    except ValueError as error:
        raise ValueError(f"checkpoint cannot be stored: {error}") from None


class Context(Protocol):
    """What a processor may ask and tell while it works on an item."""

    @property
    def batch(self) -> BatchInfo:
        """The batch of the item: id, total, metadata."""

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry the batch and the item."""

    @property
    def cancelled(self) -> bool:
        """True once the result is no longer wanted: the batch was cancelled, timed out, or moved to another worker."""

    @property
    def deadline(self) -> float | None:
        """When this attempt is interrupted, by `time.monotonic()`: the item's or the batch's time limit, whichever comes first.

        `async with asyncio.timeout_at(context.deadline - 5)` leaves five seconds to tidy up. None where there is no limit.
        """

    def progress(self, percent: float | None = None, stage: str | None = None, message: str | None = None) -> Awaitable[None]:
        """Tell how far the item is (0 to 100), in which stage, and what it is doing.

        Cheap at any rate: at most ten events a second are published for an item. In a plain `def` just call it.
        """

    def checkpoint(self, state: Any, *, wait: bool = True) -> Awaitable[None]:
        """Store JSON-serialisable `state` durably; the next attempt finds it in `item.checkpoint`.

        Returns (in a plain `def`: blocks) until this state, or a newer one, is committed. With `wait=False` it returns at once and costs
        next to nothing: the newest state is written about once a second, and when the attempt ends; a death loses no more than that second.
        """
