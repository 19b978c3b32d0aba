"""The one table at the end: figure, spread, ratio and goal side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from tests.bench.figures import Goal, Results, Row

HEAD = ("", "what", "median", "min - max", "unit", "held against", "ratio", "min - max", "goal", "")
LEFT = {1, 4, 5, 8, 9}


def lines(all_results: Sequence[Results]) -> Iterator[str]:
    """The table as lines of text."""
    cells = [HEAD, *(line for results in all_results for line in _section(results))]
    widths = [max(len(line[column]) for line in cells if len(line) == len(HEAD)) for column in range(len(HEAD))]
    for line in cells:
        if len(line) == 1:
            yield line[0]
        else:
            padded = (
                text.ljust(width) if column in LEFT else text.rjust(width)
                for column, (text, width) in enumerate(zip(line, widths, strict=True))
            )
            yield "  ".join(padded).rstrip()


def _section(results: Results) -> Iterator[tuple[str, ...]]:
    yield ("",)
    yield (f"({results.section.letter}) {results.section.title}",)
    for row in results.section.rows:
        if results.of(row.key):
            yield from _row(results, row)
    for name, reason in results.not_run.items():
        yield (f"  {name}: not run: {reason}",)


def _row(results: Results, row: Row) -> Iterator[tuple[str, ...]]:
    figures = results.of(row.key)
    start = ("", row.what, number(median(figures)), between(figures), row.unit)
    for goal in row.goals or (Goal(),):
        ratios, verdict = results.judged(row, goal)
        limit = f"{'(aim) ' if goal.wish else ''}{goal}"
        compared = (goal.against, number(median(ratios)), between(ratios)) if goal.against and ratios else (goal.against, "", "")
        yield (*start, *compared, limit, verdict)
        start = ("", "", "", "", "")


def between(figures: Sequence[float]) -> str:
    """The least and the greatest."""
    return f"{number(min(figures))} - {number(max(figures))}" if len(figures) > 1 else ""


def number(figure: float) -> str:
    """Three digits that count, thousands apart."""
    if abs(figure) >= 100:
        return f"{figure:,.0f}"
    return f"{figure:.1f}" if abs(figure) >= 10 else f"{figure:.2f}"
