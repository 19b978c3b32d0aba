"""What a section measures and what becomes of it: values by round, their medians, ratios within a round, goals."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench.world import World


@dataclass(slots=True)
class Sizes:
    """How much of everything; the defaults are those of a full run."""

    items: int = 200_000  # of the batch of (a)
    loop: int = 1_000  # items of the straightforward loop
    small: int = 4_000  # one-item batches of (b)
    jobs: int = 2_000  # no-op jobs of a peer
    durable_jobs: int = 1_500
    pickups: int = 300
    scale: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    submitted: int = 100_000
    delayed: int = 20_000  # items of (f)
    delay: float = 0.002  # seconds, each way
    workers: tuple[int, ...] = (1, 2, 4)
    shares: tuple[int, int] = (60, 500)  # batches of (g), items of each
    slow: int = 50  # items of 100 ms
    live: int = 1_000  # clients of (i)
    live_seconds: float = 15.0
    idle: int = 10_000


QUICK = Sizes(4_000, 60, 300, 200, 200, 40, (100, 1_000, 10_000), 5_000, 2_000, 0.002, (1, 2), (8, 200), 10, 50, 2.0, 200)


@dataclass(frozen=True, slots=True)
class Goal:
    """A limit to a row's figure, or, where `against` names another row, to its ratio to that one in the same round."""

    against: str = ""
    at_least: float | None = None
    at_most: float | None = None
    wish: bool = False  # to be aimed at; missing it is no miss

    def met(self, figure: float) -> bool:
        """Whether a figure is within the limit."""
        return (self.at_least is None or figure >= self.at_least) and (self.at_most is None or figure <= self.at_most)

    def __str__(self) -> str:
        if self.at_least is None and self.at_most is None:
            return ""
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a figure and what it is held against. A goal without a limit only shows the ratio."""

    key: str
    what: str
    unit: str
    goals: tuple[Goal, ...] = ()


Measure = Callable[[World, Sizes], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Section:
    """One letter of the bench. Every measurement is made once a round and yields figures for one row or several, by key."""

    letter: str
    title: str
    how: str  # what exactly is measured, for whoever reads the figures
    rows: tuple[Row, ...]
    measures: Mapping[str, Measure]
    derive: Callable[[Mapping[str, float]], Mapping[str, float]] = lambda figures: {}  # figures of a round that follow from the others


@dataclass(slots=True)
class Results:
    """The values of one section: by row, one for each round; None where a round brought none. And why something was not run."""

    section: Section
    values: dict[str, list[float | None]] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)  # by measurement

    def add_round(self, figures: Mapping[str, float]) -> None:
        """Take what one round brought."""
        figures = {**figures, **self.section.derive(figures)}
        for row in self.section.rows:
            self.values.setdefault(row.key, []).append(figures.get(row.key))

    def of(self, key: str) -> list[float]:
        """The values of a row, of all rounds that have one."""
        return [value for value in self.values.get(key, []) if value is not None]

    def ratios(self, key: str, against: str) -> list[float]:
        """The row's values, each divided by the other row's in the same round."""
        pairs = zip(self.values.get(key, []), self.values.get(against, []), strict=False)
        return [value / base for value, base in pairs if value is not None and base]

    def judged(self, row: Row, goal: Goal) -> tuple[list[float], str]:
        """The figures that a goal is about, and the verdict on their median."""
        figures = self.ratios(row.key, goal.against) if goal.against else self.of(row.key)
        if not figures or not str(goal):
            return figures, ""
        met = goal.met(statistics.median(figures))
        return figures, "pass" if met else "open" if goal.wish else "MISS"

    def as_json(self) -> dict[str, Any]:
        """Everything, for `--json`."""
        return {
            "title": self.section.title,
            "how": self.section.how,
            "rows": [self._row_as_json(row) for row in self.section.rows],
            "not_run": self.not_run,
        }

    def _row_as_json(self, row: Row) -> dict[str, Any]:
        goals = [
            {"against": goal.against or None, "goal": str(goal) or None, "wish": goal.wish, **spread(figures), "verdict": verdict or None}
            for goal in row.goals
            for figures, verdict in [self.judged(row, goal)]
        ]
        return {
            "key": row.key,
            "what": row.what,
            "unit": row.unit,
            **spread(self.of(row.key)),
            "values": self.values[row.key],
            "goals": goals,
        }


def spread(figures: Sequence[float]) -> dict[str, float | None]:
    """Median, least and greatest."""
    if not figures:
        return {"median": None, "min": None, "max": None}
    return {"median": statistics.median(figures), "min": min(figures), "max": max(figures)}


def quantile(figures: Sequence[float], share: float) -> float:
    """The value that `share` of all figures do not exceed."""
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
