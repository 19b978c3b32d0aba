"""Draws (d) and (g) out of what `--json` wrote: `python -m tests.bench.plot JSON SVG`. Runs where matplotlib is, and nothing of ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# Greys and colours that can be read on white and on black; the background is left out.
TEXT, LINES = "#7d8590", "#7d859055"
COLOURS = ("#2f81f7", "#db6d28", "#3fb950")
mpl.use("svg")
mpl.rcParams.update(
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "streamworker",
        "font.family": "sans-serif",
        "font.size": 9,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), TEXT),
        "axes.edgecolor": LINES,
        "grid.color": LINES,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
)


class Measured:
    """What a run of the bench wrote."""

    def __init__(self, text: str) -> None:
        self.all = json.loads(text)
        sections = self.all["sections"].values()
        self._rows: dict[str, Any] = {row["key"]: row for section in sections for row in section["rows"]}

    def line(self, axes: Any, name: str, across: list[int], colour: str, label: str) -> None:
        """The figures of one row for each point, with a band from least to greatest."""
        rows = [self._rows.get(f"{name} {place}") for place in range(len(across))]
        _line(axes, [(point, row) for point, row in zip(across, rows, strict=True) if row], colour, label)

    def multiples(self, axes: Any, name: str, across: list[int], colour: str, label: str) -> None:
        """The ratios of each row to the first."""
        rows = [self._rows[f"{name} {point}"] for point in across]
        one = {"median": 1.0, "min": 1.0, "max": 1.0}
        _line(axes, [(across[0], one), *((point, row["goals"][0]) for point, row in zip(across[1:], rows[1:], strict=True))], colour, label)

    @property
    def caption(self) -> str:
        """On what, and when."""
        machine = self.all["machine"]
        where = f"{machine['cores']} cores, {machine['processor']}, {machine['date'][:10]}"
        return f"{where}; medians of {self.all['rounds']} rounds, least to greatest"


def _line(axes: Any, points: list[tuple[int, Any]], colour: str, label: str) -> None:
    points = [(across, figures) for across, figures in points if figures["median"] is not None]
    places = [across for across, _ in points]
    axes.plot(places, [figures["median"] for _, figures in points], color=colour, marker="o", markersize=3, label=label)
    least, greatest = ([figures[edge] for _, figures in points] for edge in ("min", "max"))
    axes.fill_between(places, least, greatest, color=colour, alpha=0.2, linewidth=0)


def by_size(measured: Measured, time: Any, memory: Any) -> None:
    """(d): flat lines are what is wanted."""
    sizes = measured.all["sizes"]["scale"]
    measured.line(time, "time", sizes, COLOURS[0], "")
    for colour, who in zip(COLOURS, ("worker", "submit", "watch"), strict=True):
        measured.line(memory, who, sizes, colour, who)
    time.set_title("time per item, µs")
    memory.set_title("memory, MB")
    memory.legend()
    for axes in (time, memory):
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xlabel("items of the batch")


def by_workers(measured: Measured, axes: Any) -> None:
    """(g): how the work of many batches grows with the workers."""
    workers = measured.all["sizes"]["workers"]
    measured.multiples(axes, "nothing", workers, COLOURS[0], "no-op items")
    measured.multiples(axes, "short_pause", workers, COLOURS[1], "items of 5 ms")
    axes.set_title("items/s, times one worker")
    axes.set_xlabel("workers")
    axes.set_xticks(workers)
    axes.legend()


def main(source: str, target: str) -> None:
    """Draw whichever of the two was measured."""
    measured = Measured(Path(source).read_text("utf-8"))
    letters = measured.all["sections"]
    count = 2 * ("d" in letters) + ("g" in letters)
    if not count:
        raise SystemExit(f"{source} has neither (d) nor (g)")
    figure = Figure(figsize=(3.2 * count, 2.8), layout="constrained")
    panels = list(figure.subplots(1, count, squeeze=False)[0])
    if "d" in letters:
        by_size(measured, *panels[:2])
    if "g" in letters:
        by_workers(measured, panels[-1])
    for axes in panels:
        axes.margins(y=0.12)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", linewidth=0.6)
    figure.text(0.01, -0.04, measured.caption, fontsize=7)
    figure.savefig(target, transparent=True, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
