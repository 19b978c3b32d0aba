"""Runs a processor on some payloads as a worker would: attempts, retries, checkpoints, deaths; without servers, and without waiting."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from streamworker.engine.attempts import Policy, settle
from streamworker.errors import ConfigurationError
from streamworker.messages import MAX_KEY, to_json
from streamworker.processors.api import BatchInfo, Item
from streamworker.processors.calls import OpenProcessor
from streamworker.processors.importing import Plugin, check
from streamworker.processors.loading import registry
from streamworker.processors.outcomes import Failed, Outcome, Succeeded, failure_of
from streamworker.store.batches import DIED
from streamworker.store.items import ItemRecord
from streamworker.testing.context import RecordingContext, Told

# How often an item may find that what its processor needs is away, before that is its end here.
MOST_AWAY = 9
Failures = int | Collection[int] | Mapping[int, BaseException | type[BaseException]]


@dataclass(frozen=True, slots=True)
class ItemRun:
    """What became of one item: `status` is completed or failed, `result` what a reader of the database would get.

    `pending` is one that raised `Unavailable` each of the ten times that it was asked: a worker would go on asking.

    `error` is that of the last attempt that failed, also where a later one succeeded; `progress` what the last attempt told
    (percent, stage, message); `checkpoint` the last one stored.
    """

    position: int
    key: str
    payload: Any
    status: str
    attempts: int
    result: Any
    error: str | None
    progress: tuple[Told, ...]
    checkpoint: Any


def run_processor(
    process: Any,
    payloads: Iterable[Any],
    *,
    fail: Failures = (),
    crash_at: int | Collection[int] | Mapping[int, int] = (),
    metadata: Mapping[str, Any] | None = None,
    max_attempts: int = 2,
) -> list[ItemRun]:
    """Work through a batch of these payloads, one after another, and return what became of each.

    `process` is what `--processor` would name: "module:attribute" or an installed or built-in one, or the processor itself: a function,
    a class, an instance.

    `fail`: positions whose first attempt fails after the processor has returned, as if its result could not be recorded; with a mapping,
    in that exception (or one of that class). It shows whether running an item twice is harmless.

    `crash_at`: positions at whose first attempt the worker dies: when the processor returns, before that is recorded; with a mapping, right
    after the checkpoint of that number (from 1) is stored. The next attempt meets a processor that was opened afresh.

    ConfigurationError says in one sentence what does not fit about the processor or the other arguments. What is to happen must happen:
    a position that no payload has, or a checkpoint that the first attempt did not store, is such a mistake.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(
            run_processor_async(process, payloads, fail=fail, crash_at=crash_at, metadata=metadata, max_attempts=max_attempts)
        )
    raise RuntimeError("run_processor: an event loop is running here already: use `await run_processor_async(…)`")


async def run_processor_async(
    process: Any,
    payloads: Iterable[Any],
    *,
    fail: Failures = (),
    crash_at: int | Collection[int] | Mapping[int, int] = (),
    metadata: Mapping[str, Any] | None = None,
    max_attempts: int = 2,
    connection: Any = None,
) -> list[ItemRun]:
    """As `run_processor`, inside an event loop; `connection` (asyncpg) is what `Result.write` is given, without one it is not called."""
    if not isinstance(max_attempts, int) or max_attempts < 1:
        raise ConfigurationError(f"max_attempts: expected a whole number from 1, got {max_attempts!r}")
    given = [json.loads(to_json(payload)) for payload in payloads]
    batch = BatchInfo(uuid4(), len(given), json.loads(to_json(dict(metadata or {}))))
    failures, deaths = _failures(fail), _deaths(crash_at)
    _check_positions("fail", failures, len(given))
    _check_positions("crash_at", deaths, len(given))
    if both := failures.keys() & deaths.keys():
        raise ConfigurationError(f"fail: expected no position that is in crash_at as well, got {min(both)}")
    desk = _Desk(_plugin(process), batch, failures, deaths, Policy(max_attempts, 0.0), connection)
    async with desk:
        return [await desk.run(position, payload) for position, payload in enumerate(given)]


class _Desk:
    """A worker's place: the processor that is open on it, and how an item is worked on."""

    def __init__(
        self,
        plugin: Plugin,
        batch: BatchInfo,
        failures: Mapping[int, BaseException],
        deaths: Mapping[int, int | None],
        policy: Policy,
        connection: Any,
    ) -> None:
        self._plugin, self._batch, self._policy, self._connection = plugin, batch, policy, connection
        self._failures, self._deaths = failures, deaths
        self._processor: OpenProcessor

    async def __aenter__(self) -> None:
        self._processor = await OpenProcessor.open(self._plugin, "inline")

    async def __aexit__(self, *_exception: object) -> None:
        await self._processor.close()

    async def run(self, position: int, payload: Any) -> ItemRun:
        """Attempt after attempt, until there is an end."""
        key = payload if isinstance(payload, str) and len(payload) <= MAX_KEY else str(position)
        checkpoint: str | None = None
        error: str | None = None
        attempt = start = 1
        while True:
            item = Item(self._batch.id, position, key, payload, attempt, None if checkpoint is None else json.loads(checkpoint))
            context = RecordingContext(self._batch, checkpoint, self._deaths.get(position) if start == 1 else None)
            record = await self._attempt(item, context, start == 1)
            checkpoint, error = context.saved, record.error or record.away or error
            if record.status in ("completed", "failed") or start == attempt + MOST_AWAY:
                result = None if record.result is None else json.loads(record.result)
                stored = None if checkpoint is None else json.loads(checkpoint)
                return ItemRun(position, key, payload, record.status, record.attempts, result, error, tuple(context.told), stored)
            start += 1
            attempt += record.away is None

    async def _attempt(self, item: Item, context: RecordingContext, first: bool) -> ItemRecord:
        outcome = await self._processor(item, context)
        if first and not context.died and (number := self._deaths.get(item.position)) is not None:
            why = f": {outcome.error}" if isinstance(outcome, Failed) else ""
            raise ConfigurationError(f"crash_at: the first attempt at position {item.position} ended before its checkpoint {number}{why}")
        if first and item.position in self._deaths:
            outcome = Failed(DIED)
            self._processor = await OpenProcessor.open(self._plugin, "inline")  # the old one is not closed: nobody was left to do it
        elif first and item.position in self._failures:
            outcome = failure_of(self._failures[item.position])
        elif isinstance(outcome, Succeeded) and outcome.write is not None and self._connection is not None:
            outcome = await self._written(outcome, outcome.write)
        assert isinstance(outcome, Succeeded | Failed)
        return settle(item.position, item.key, item.attempt, outcome, self._policy, 0.0)

    async def _written(self, outcome: Succeeded, write: Any) -> Outcome:
        try:
            async with self._connection.transaction():
                await write(self._connection)
        except Exception as error:
            return failure_of(error)
        return outcome


def _plugin(process: Any) -> Plugin:
    if isinstance(process, str):
        named = registry([process])
        return named.load(named.names[0])
    name = getattr(process, "__name__", type(process).__name__)
    check(name, process)
    return Plugin(name, process)


def _failures(fail: Failures) -> Mapping[int, BaseException]:
    if isinstance(fail, Mapping):
        return {position: _error(position, error) for position, error in fail.items()}
    return {position: RuntimeError("failed on purpose") for position in ([fail] if isinstance(fail, int) else fail)}


def _error(position: int, error: object) -> BaseException:
    """The exception that is given for a position; of a class, one without arguments."""
    try:
        made = error() if isinstance(error, type) and issubclass(error, BaseException) else error
    except TypeError as refused:
        raise ConfigurationError(f"fail: position {position}: expected an exception, got a class that needs arguments: {refused}") from None
    if not isinstance(made, BaseException):
        raise ConfigurationError(f"fail: position {position}: expected an exception, got {error!r}")
    return made


def _deaths(crash_at: int | Collection[int] | Mapping[int, int]) -> Mapping[int, int | None]:
    """Position -> the checkpoint after which the worker dies, or None: when the processor returns."""
    if not isinstance(crash_at, Mapping):
        return dict.fromkeys([crash_at] if isinstance(crash_at, int) else crash_at)
    for position, number in crash_at.items():
        if not isinstance(number, int) or number < 1:
            raise ConfigurationError(f"crash_at: position {position}: expected the number of a checkpoint, from 1, got {number!r}")
    return crash_at


def _check_positions(name: str, given: Iterable[int], total: int) -> None:
    for position in given:
        if position not in range(total):
            raise ConfigurationError(f"{name}: expected the position, from 0, of one of {total} payloads, got {position!r}")
