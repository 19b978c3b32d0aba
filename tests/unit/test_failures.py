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
    "error",
    [group(ValueError("x")), group(Unavailable("away"), ValueError("x")), group(Permanent("no"), Unavailable("away"))],
)
def test_any_other_group_is_a_failure(error: BaseException) -> None:
    failed = failure_of(error)
    assert (failed.permanent, failed.delay, failed.away) == (False, None, False)
    assert failed.error.startswith("unhandled errors in a TaskGroup")
