"""Policy: how long a paused batch waits, when that is given up, and when it is an item's own affair."""

from __future__ import annotations

import pytest

from streamworker.engine.attempts import Pace, counts, next_try

DAY = 86_400.0


def test_the_delays_double_up_to_a_minute() -> None:
    assert [next_try(pauses, 0.0, None, DAY) for pauses in (0, 1, 2, 3, 4, 5, 6, 7, 100, 10_000)] == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


@pytest.mark.parametrize(
    ("pauses", "seconds", "limit", "left", "expected"),
    [
        (0, 0.0, 3600.0, DAY, 1.0),
        (9, 3590.0, 3600.0, DAY, 10.0),  # the last try comes when the time is over
        (10, 3600.0, 3600.0, DAY, None),
        (10, 3700.0, 3600.0, DAY, None),
        (10, 3700.0, None, DAY, 60.0),
        (0, 3700.0, 3600.0, DAY, 0.0),  # a new outage
        (3, 10.0, None, 5.0, 5.0),  # nor does it outlast the batch
        (3, 10.0, None, -5.0, 0.0),
        (0, 0.0, 0.2, DAY, 0.2),
    ],
)
def test_the_limits_are_looked_at_when_they_are_reached(
    pauses: int, seconds: float, limit: float | None, left: float, expected: float | None
) -> None:
    assert next_try(pauses, seconds, limit, left) == expected


@pytest.mark.parametrize(
    ("succeeded", "away_after", "expected"), [(5, None, False), (5, 5, False), (6, 5, True), (0, 0, False), (1, 0, True), (4, 5, False)]
)
def test_it_is_an_attempt_once_others_got_through(succeeded: int, away_after: int | None, expected: bool) -> None:
    assert counts(succeeded, away_after) is expected


@pytest.mark.parametrize(
    ("item_seconds", "batch_seconds", "together"),
    [
        (0.0001, 0.0001, [4, 16, 64, 64]),
        (0.0001, 0.0, [4, 16, 64, 64]),
        (0.004, 0.02, [4, 15, 15]),  # no more than others would have to wait for
        (0.004, 0.4, [1, 1]),
        (0.006, 0.006, [1, 1]),  # not quick
    ],
)
def test_small_batches_are_taken_together_as_far_as_that_takes_a_moment(
    item_seconds: float, batch_seconds: float, together: list[int]
) -> None:
    pace, found = Pace(), []
    for _ in together:
        pace.measured(item_seconds)
        pace.more(batch_seconds)
        found.append(pace.together)
    assert found == together
