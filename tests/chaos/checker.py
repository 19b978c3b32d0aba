"""The checker: C1 to C17 over the history of a run, and the report line. `python -m tests.chaos.checker DIR` checks a kept run."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos import checks_rows, checks_runs, checks_wire
from tests.chaos.checks_runs import take_overs
from tests.chaos.history import History
from tests.chaos.loading import load


def residue(history: History) -> Iterator[str]:
    """C15: nothing is left: no pending entry, backlog, session, lock or process; and no worker ended unasked."""
    if not history.residue:
        yield "nobody looked for what is left"
    for name, amount in history.residue.items():
        if amount:
            yield f"left at the end: {name}: {amount}"
    asked = {fault.target: fault.began for fault in reversed(history.faults) if fault.kind in ("kill", "term", "shutdown")}
    poisonous = {(op.batch, op.detail["poison"]) for op in history.operations if "poison" in op.detail}
    for fault in history.faults:
        if fault.kind == "exit" and asked.get(fault.target, fault.ended + 1) > fault.began:
            own = [start for start in history.in_flight(fault.began) if start.worker == fault.target]
            if not any((start.batch, start.position) in poisonous for start in own):
                yield f"{fault.target} ended by itself at {fault.began:.3f}"


def not_vacuous(history: History) -> Iterator[str]:
    """C17: nine in ten of the planned faults hit while work was in flight; each kind and each required phase was seen."""
    planned = [fault for fault in history.faults if fault.planned]
    seen = Counter((fault.kind, phase(history, fault.began)) for fault in planned)
    hits = sum(times for (_, where), times in seen.items() if where != "idle")
    if planned and hits < 0.9 * len(planned):
        yield f"only {hits} of {len(planned)} faults hit while work was in flight"
    kinds = {kind for kind, where in seen if where != "idle"}
    for kind in history.option("kinds", []):
        if kind not in kinds:
            yield f"the fault {kind} was planned, and never hit while work was in flight"
    for kind, where in history.option("pairs", []):
        if not seen[kind, where]:
            yield f"the fault {kind} never hit in the phase {where}"


def phase(history: History, at: float) -> str:
    """What was going on: an item was in flight, a batch was held between items, batches waited, or nothing."""
    if history.in_flight(at):
        return "item"
    rows = [row for batch in history.commits if (row := history.row(batch, at)) is not None]
    if any(row["status"] == "processing" for row in rows):
        return "between"
    return "waiting" if any(row["status"] == "pending" for row in rows) else "idle"


CHECKS: dict[str, Callable[[History], Iterator[str]]] = {
    "C1": checks_rows.lost,
    "C2": checks_rows.recorded_twice,
    "C3": checks_rows.frozen,
    "C4": checks_rows.counters,
    "C5": checks_runs.attempts,
    "C6": checks_runs.run_again,
    "C7": checks_runs.order,
    "C8": checks_wire.fence,
    "C9": checks_wire.acknowledged,
    "C10": checks_wire.truth,
    "C11": checks_wire.readers,
    "C12": checks_wire.dead_letters,
    "C13": checks_rows.effects,
    "C14": checks_runs.liveness,
    "C15": residue,
    "C16": checks_rows.honesty,
    "C17": not_vacuous,
}

# What the report line calls lost and duplicated; all else is unexpected.
LOST = ("C1",)
DUPLICATED = ("C2", "C6", "C13")


@dataclass(frozen=True, slots=True)
class Report:
    """The sums of a run."""

    seed: int
    items: int
    attempts: int
    ok: int
    info: int
    recovered: int
    lost: int
    duplicated: int
    unexpected: int
    take_overs: list[float]
    hand_overs: list[float]
    violations: dict[str, list[str]]

    @property
    def clean(self) -> bool:
        """True if nothing is off."""
        return not self.violations

    def line(self) -> str:
        """The one line."""
        p50, p99, longest = (_clock(value) for value in quantiles(self.take_overs))
        return (
            f"seed {self.seed} · {self.items:,} items · attempts {self.attempts:,} · ok {self.ok:,} · info {self.info:,} · "
            f"recovered {self.recovered:,} · lost {self.lost:,} · duplicated {self.duplicated:,} · unexpected {self.unexpected:,} · "
            f"takeover {p50}/{p99}/{longest}"
        )

    def summary(self) -> dict[str, Any]:
        """The same as JSON can hold it."""
        told = {
            name: getattr(self, name)
            for name in ("seed", "items", "attempts", "ok", "info", "recovered", "lost", "duplicated", "unexpected")
        }
        over = dict(zip(("p50", "p99", "max"), quantiles(self.take_overs), strict=True))
        return {**told, "take_over": {**over, "n": len(self.take_overs)}, "hand_over": self.hand_overs, "violations": self.violations}


def _clock(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f} s"


def quantiles(samples: list[float]) -> tuple[float | None, float | None, float | None]:
    """p50, p99 and the largest."""
    if not samples:
        return None, None, None
    ranked = sorted(samples)
    return ranked[math.ceil(0.5 * len(ranked)) - 1], ranked[math.ceil(0.99 * len(ranked)) - 1], ranked[-1]


def check(history: History) -> dict[str, list[str]]:
    """The violations of each check that found any."""
    found = {name: list(judge(history)) for name, judge in CHECKS.items()}
    return {name: sentences for name, sentences in found.items() if sentences}


def report(history: History) -> Report:
    """Check the history and sum it up."""
    violations = check(history)
    final = [changes[-1].new for changes in history.item_changes.values()]
    unknown = [op for op in history.operations if op.outcome == "info"]
    samples = take_overs(history)
    return Report(
        seed=history.seed,
        items=len(final),
        attempts=sum(map(len, history.starts.values())),
        ok=sum(row is not None and row["status"] == "completed" for row in final),
        info=len(unknown),
        recovered=sum(checks_rows.happened(history, op.action, op.batch) for op in unknown),
        lost=sum(len(violations.get(name, [])) for name in LOST),
        duplicated=sum(len(violations.get(name, [])) for name in DUPLICATED),
        unexpected=sum(len(found) for name, found in violations.items() if name not in LOST + DUPLICATED),
        take_overs=[sample.seconds for sample in samples if sample.kind == "kill" and sample.spare],
        hand_overs=[round(sample.seconds, 4) for sample in samples if sample.kind == "term" and sample.spare],
        violations=violations,
    )


def main(folder: str) -> int:
    """Check a kept run; prints its violations and its report line."""
    result = report(load(Path(folder)))
    for name, sentences in result.violations.items():
        for sentence in sentences:
            print(f"{name}: {sentence}")
    print(result.line())
    Path(folder, "report.json").write_text(json.dumps(result.summary(), indent=1))
    return 0 if result.clean else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
