"""What an exception of a processor means, also where a task group wraps it."""

from __future__ import annotations

import pytest

from streamworker import Permanent, RetryAfter, Unavailable
from streamworker.processors.outcomes import Failed, failure_of


def group(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("unhandled errors in a TaskGroup", errors)


def nested(error: BaseException, depth: int) -> BaseException:
    for _ in range(depth):
        error = group(error)
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (group(Unavailable("away")), Failed("away", away=True)),
        (group(Unavailable("first"), group(Unavailable("second"))), Failed("first", away=True)),
        (nested(Unavailable("away"), 20_000), Failed("away", away=True)),
        (group(Permanent("no use"), Permanent("none")), Failed("no use", permanent=True)),
        (group(RetryAfter(2), RetryAfter(5, "later")), Failed("later", delay=5.0)),
        (group(RetryAfter(float("nan"), "now")), Failed("now", delay=0.0)),
    ],
)
def test_a_group_whose_members_say_the_same_says_that(error: BaseException, expected: Failed) -> None:
    assert failure_of(error) == expected


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (group(ValueError("x")), "unhandled errors in a TaskGroup (1 sub-exception), the first: ValueError: x"),
        (group(group(ValueError()), KeyError("y")), "unhandled errors in a TaskGroup (2 sub-exceptions), the first: ValueError"),
        (group(Unavailable("away"), ValueError("x")), "unhandled errors in a TaskGroup (2 sub-exceptions), the first: Unavailable: away"),
        (group(Permanent("no"), Unavailable("away")), "unhandled errors in a TaskGroup (2 sub-exceptions), the first: Permanent: no"),
        (group(SystemExit(3)), "BaseExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception), the first: SystemExit: 3"),
    ],
)  # fmt: skip
def test_any_other_group_is_a_failure_that_names_the_first(error: BaseException, told: str) -> None:
    assert failure_of(error) == Failed(told)
