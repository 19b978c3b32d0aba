"""What an attempt ended as, and what a processor's return value or exception means."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from streamworker.messages import clean_text, to_json
from streamworker.processors.api import Permanent, Result, RetryAfter, Unavailable


class Succeeded(msgspec.Struct, frozen=True):
    """The processor returned: `value` is JSON text."""

    value: str | None
    write: Callable[[Any], Awaitable[Any]] | None = None


class Failed(msgspec.Struct, frozen=True):
    """The attempt failed; `delay` (seconds) asks for a later retry, `permanent` for none. `exhausted`: there was no memory left.

    `away`: it was no attempt, since what the processor needs was not there.
    """

    error: str
    permanent: bool = False
    delay: float | None = None
    exhausted: bool = False
    away: bool = False


class Interrupted(msgspec.Struct, frozen=True):
    """We ended it ourselves: the batch was cancelled, handed over or lost. It counts for nothing."""


Outcome = Succeeded | Failed | Interrupted


def outcome_of(returned: Any) -> Outcome:
    """What a processor's return value means."""
    value, write = (returned.value, returned.write) if isinstance(returned, Result) else (returned, None)
    if value is None:
        return Succeeded(None, write)
    try:
        return Succeeded(to_json(value), write)
    except ValueError as error:
        return Failed(clean_text(f"result cannot be stored: {error}"), permanent=False)


def failure_of(error: BaseException) -> Failed:
    """What an exception of a processor means; of a group whose members all say the same: what they say."""
    error = _unwrapped(error)
    text = clean_text(_text(error) if isinstance(error, Exception) else named(error))
    match error:
        case Permanent():
            return Failed(text, permanent=True)
        case RetryAfter():
            return Failed(text, delay=sane_delay(error.seconds))
        case Unavailable():
            return Failed(text, away=True)
    return Failed(text, exhausted=isinstance(error, MemoryError))


def _text(error: BaseException) -> str:
    """What it says; a group only counts its members, so of one also what the first says."""
    try:
        text = str(error) or type(error).__name__
    except BaseException:
        text = "(its text cannot be shown)"
    return f"{text}, the first: {named(_leaves(error)[0])}" if isinstance(error, BaseExceptionGroup) else text


def named(error: BaseException) -> str:
    """The kind of an exception, and what it says."""
    name, text = type(error).__name__, _text(error)
    return name if text == name else f"{name}: {text}"


def _unwrapped(error: BaseException) -> BaseException:
    """Task groups raise groups: of one whose leaves are all of one kind that we know, the first, or that with the longest delay."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = _leaves(error)
    if all(isinstance(leaf, RetryAfter) for leaf in leaves):
        return max((leaf for leaf in leaves if isinstance(leaf, RetryAfter)), key=lambda leaf: sane_delay(leaf.seconds))
    alike = any(all(isinstance(leaf, kind) for leaf in leaves) for kind in (Permanent, Unavailable))
    return leaves[0] if alike else error


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The members of a group and of those in it, in their order."""
    leaves: list[BaseException] = []
    left: list[BaseException] = [group]
    while left:
        member = left.pop()
        if isinstance(member, BaseExceptionGroup):
            left.extend(reversed(member.exceptions))
        else:
            leaves.append(member)
    return leaves


def sane_delay(seconds: float) -> float:
    """The delay of a retry: NaN and negative ones mean "now"; a year is longer than any batch may run."""
    return min(seconds, 31_536_000.0) if seconds > 0 else 0.0
