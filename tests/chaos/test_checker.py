"""The checker against histories made by hand: sound ones pass, and each check fires on at least three bad ones."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.chaos.bad_histories import CASES, Case, burst, duplicated, paused, released, retried
from tests.chaos.checker import CHECKS, check, report
from tests.chaos.story import Story, good


@pytest.mark.parametrize(
    "story",
    [good(), released(), burst(), retried(), duplicated(), paused()],
    ids=["good", "released", "burst", "retried", "duplicated", "paused"],
)
def test_a_sound_history_passes(story: Story) -> None:
    assert check(story.history) == {}


@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{name}-{case.__name__}" for name, case in CASES])
def test_a_bad_history_is_caught(name: str, case: Case) -> None:
    story = good()
    found = check((case(story) or story).history)
    assert name in found, found


@pytest.mark.parametrize("name", CHECKS)
def test_each_check_has_three_bad_histories(name: str) -> None:
    assert Counter(name for name, _ in CASES)[name] >= 3


def test_the_report_line() -> None:
    result = report(good().history)
    assert result.line() == (
        "seed 1 · 3 items · attempts 4 · ok 3 · info 0 · recovered 0 · lost 0 · duplicated 0 · unexpected 0 · takeover 0.34 s/0.34 s/0.34 s"
    )
    assert result.clean
