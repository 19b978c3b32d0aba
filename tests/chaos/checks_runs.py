"""Checks of what ran, and when: C5 to C7 and C14. Each returns its violations as sentences."""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from tests.chaos.history import TERMINAL, Change, Fault, History, Line, ended

# Faults that end a run without a death: its worker lives, and what it had started is charged to nobody.
INTERRUPTING = frozenset(
    {
        "term",
        "stop",
        "stop in transaction",
        "postgres restart",
        "postgres immediate",
        "terminate backend",
        "partition",
        "hold",
        "cut",
        "cut at byte",
        "lose reply",
        "slow",
    }
)
HARMLESS = frozenset({"duplicate", "poison", "block"})  # work that hurts: nothing outside the worker is broken
AWAY = "Unavailable"  # the outcome of such an end
CANCEL_GRACE = 1.0  # contract: the item in flight is interrupted within 1 s of a cancel
RECOVERY = 5.0  # reliability D1: all goes on within 5 s after a server is back


def attempts(history: History) -> Iterator[str]:
    """C5: attempts count up from 1 to at most max_attempts, none twice but for a reason, and each start was durable before it happened."""
    yield from _paused(history)
    for (batch, position), starts in history.starts.items():
        row = history.final(batch)
        if row is None:
            yield f"item {position} of batch {batch} was started, but the batch is not in Postgres"
            continue
        reopened = [commit.committed for commit in history.reopened.get(batch, [])]
        rounds: dict[int, list[Line]] = defaultdict(list)
        for start in starts:
            rounds[bisect.bisect_right(reopened, start.at)].append(start)
        for one in rounds.values():
            yield from _counting(history, one, row["max_attempts"])
        for number, one in rounds.items():
            since = reopened[number - 1] if number else 0.0
            for start in one:
                yield from _durable(history, start, since)


def _paused(history: History) -> Iterator[str]:
    """Nobody takes a paused batch before its time, all by Postgres' clock."""
    ttl = timedelta(seconds=history.option("lease_ttl", 15.0))
    for batch, commits in history.commits.items():
        for commit in commits:
            before, after = commit.before, commit.after
            if not commit.claims or after is None or before is None or before["worker"] is not None or before["status"] != "processing":
                continue
            if (until := before.get("paused_until")) and (lease := after.get("lease_expires_at")):
                early = (datetime.fromisoformat(until) - (datetime.fromisoformat(lease) - ttl)).total_seconds()
                if early > 0.01:
                    yield f"batch {batch} was claimed by {after['worker']} {early:.2f} s before its pause was over"


def _was_away(history: History, start: Line) -> bool:
    """True if this start ended so that it counts for nothing: what its item needs was away."""
    ends = [line for line in history.lines_of[start.worker] if line.edge == "end" and line.at >= start.at]
    return any((e.batch, e.position, e.attempt, e.outcome) == (start.batch, start.position, start.attempt, AWAY) for e in ends[:1000])


def _counting(history: History, starts: Sequence[Line], allowed: int) -> Iterator[str]:
    name = f"item {starts[0].position} of batch {starts[0].batch}"
    unexplained = 0
    for before, start in zip([None, *starts], starts, strict=False):
        if start.attempt > allowed:
            yield f"{name}: attempt {start.attempt} started, max_attempts is {allowed}"
        last = before.attempt if before else 0
        if before is None or start.attempt > last:
            if start.attempt > last + 1 and not _charged(history, before, start, last):
                yield f"{name}: attempt {start.attempt} started after attempt {last}, and nobody charged those between"
            if before is not None and _was_away(history, before) and not _charged(history, before, start, last - 1):
                yield f"{name}: attempt {last} ended since its service was away, and yet it counted"
            continue
        if start.attempt < last:
            yield f"{name}: attempt {start.attempt} started after attempt {last}"
        elif history.epoch(before) == history.epoch(start):
            yield f"{name}: attempt {start.attempt} started twice under epoch {history.epoch(start)}"
        elif not (_was_away(history, before) or _handed_over(history, before, start)):
            unexplained += 1
            if unexplained > 1 or allowed == 1:
                yield f"{name}: attempt {start.attempt} started again after a death, for the {unexplained}. time, max_attempts is {allowed}"


def _charged(history: History, before: Line | None, start: Line, last: int) -> bool:
    """True if a take-over lies between, which charged the row for a death before the start, once for each number."""
    since, epoch = (before.at, history.epoch(before)) if before else (0.0, None)
    claims = [claim for claim in history.claims.get(start.batch, []) if since < claim.committed <= start.at and claim.epoch != epoch]
    if len(claims) < (1 if before else 2):
        return False
    charged = {
        change.new["attempts"]
        for change in history.item_changes.get((start.batch, start.position), [])
        if change.new is not None and change.committed <= start.at
    }
    return all(number in charged for number in range(last + 1, start.attempt))


def _handed_over(history: History, before: Line, start: Line) -> bool:
    """True if the earlier start was called off, or something other than a death can have ended its worker's lease."""
    return any(
        fault.kind in INTERRUPTING
        and fault.target in ("", before.worker)
        and fault.began <= start.at
        and max(fault.ended, fault.began) >= before.at - RECOVERY
        for fault in history.faults
    )


def _durable(history: History, start: Line, since: float) -> Iterator[str]:
    name = f"attempt {start.attempt} of item {start.position} of batch {start.batch}"
    epoch = history.epoch(start)
    if epoch is None:
        yield f"{name} was started by {start.worker}, which had not claimed the batch"
        return
    if start.attempt == 1 and _frontier_passed(history, start, epoch):
        return
    changes = history.item_changes.get((start.batch, start.position), [])
    marked = any(
        change.new is not None
        and change.new["status"] == "processing"
        and change.new["attempts"] == start.attempt
        and since <= change.committed
        and change.known(start.worker) <= start.at
        for change in changes
    )
    if not marked:
        yield f"{name} started before a commit said so (neither the frontier nor its row)"


def _frontier_passed(history: History, start: Line, epoch: int) -> bool:
    return any(
        commit.known(start.worker) <= start.at
        and commit.after is not None
        and commit.after["epoch"] == epoch
        and commit.after["frontier"] > start.position
        for commit in history.commits.get(start.batch, [])
    )


def run_again(history: History) -> Iterator[str]:
    """C6: no item starts after the reply to the commit of its terminal status, until a retry opens it again."""
    for (batch, position), starts in history.starts.items():
        changes = history.item_changes.get((batch, position), [])
        for start in starts:
            last = _last_before(changes, start.at)
            if last is not None and last.new is not None and last.new["status"] in TERMINAL:
                grace = CANCEL_GRACE if last.new["status"] == "cancelled" else 0.0
                if start.at > last.at + grace and not _reopened_by(changes, start.at):
                    late = (start.at - last.at) * 1000
                    status = last.new["status"]
                    yield f"item {position} of batch {batch} started {late:.0f} ms after it was recorded as {status} (by {start.worker})"


def _last_before(changes: Sequence[Change], at: float) -> Change | None:
    earlier = [change for change in changes if change.at <= at]
    return earlier[-1] if earlier else None


def _reopened_by(changes: Sequence[Change], at: float) -> bool:
    earlier = [change for change in changes if change.committed <= at]
    return bool(earlier) and not ended(earlier[-1].new)


def order(history: History) -> Iterator[str]:
    """C7: with ITEM_CONCURRENCY 1 the intervals of one epoch are disjoint, and first attempts come in the order of the positions.

    Those whose service was away before come last, the one that waited longest first: in no order that matters here.
    """
    if history.option("item_concurrency", 1) != 1:
        return
    runs: dict[tuple[str, int | None, str], list[Line]] = defaultdict(list)
    for line in history.lines:
        runs[line.batch, history.epoch(line) if line.edge == "start" else _epoch_of_start(history, line), line.worker].append(line)
    put_off: dict[tuple[str, int], float] = {}
    for line in history.lines:
        if line.edge == "end" and line.outcome == AWAY:
            put_off.setdefault((line.batch, line.position), line.at)
    for (batch, epoch, _), lines in runs.items():
        yield from _in_order(f"batch {batch}, epoch {epoch}", lines, put_off)


def _epoch_of_start(history: History, end: Line) -> int | None:
    starts = [
        s
        for s in history.starts.get((end.batch, end.position), [])
        if s.worker == end.worker and s.attempt == end.attempt and s.at <= end.at
    ]
    return history.epoch(starts[-1]) if starts else None


def _in_order(name: str, lines: Sequence[Line], put_off: Mapping[tuple[str, int], float]) -> Iterator[str]:
    running: Line | None = None
    reached = -1
    last_of = {line.pid: line for line in lines}
    for line in lines:
        if line.edge == "end":
            if running is not None and running.position == line.position:
                running = None
            continue
        # With isolation `process` a worker has one process after another; one that dies of its item writes no end.
        if running is not None and (line.pid == running.pid or last_of[running.pid] is not running):
            yield f"{name}: item {line.position} started while item {running.position} was running"
        running = line
        if line.attempt == 1 and put_off.get((line.batch, line.position), math.inf) > line.at:
            if line.position <= reached:
                yield f"{name}: item {line.position} was started after item {reached}"
            reached = max(reached, line.position)


# --- C14 ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TakeOver:
    """How long a batch stood still between the fault and the next start by another worker (seconds)."""

    batch: str
    kind: str
    began: float
    seconds: float
    spare: bool  # another worker stood idle and nothing else was wrong: the promise holds


def take_overs(history: History) -> list[TakeOver]:
    """Every kill, hand-over and stop of a worker with an item in flight, and how long until another one went on."""
    found = []
    for fault in history.faults:
        if fault.kind in ("kill", "term", "stop"):
            for start in {start.batch: start for start in history.in_flight(fault.began) if start.worker == fault.target}.values():
                if sample := _take_over(history, fault, start):
                    found.append(sample)
    return found


def _take_over(history: History, fault: Fault, running: Line) -> TakeOver | None:
    starts = history.starts_of[running.batch]
    index = bisect.bisect_right(starts, fault.began, key=lambda line: line.at)
    following = next((line for line in starts[index:] if line.worker != fault.target), None)
    if following is None:
        return None
    since = fault.began
    if fault.kind == "term":  # the grace period counts for nobody
        own = [line.at for line in history.lines_of[fault.target] if line.at >= fault.began]
        since = max([fault.began, *own])
    if fault.kind == "stop" and any(fault.ended < line.at <= following.at for line in history.lines_of[fault.target]):
        return None  # it woke up in time
    spare = _spare(history, fault, running.batch, following.at)
    return TakeOver(running.batch, fault.kind, fault.began, max(0.0, following.at - since), spare)


def _spare(history: History, fault: Fault, batch: str, until: float) -> bool:
    """True if a worker stood idle and ready at the time, and no other fault was in force, nor just over."""
    others = [f for f in history.faults if f is not fault and f.kind not in HARMLESS and (f.planned or f.target != fault.target)]
    if any(f.began <= until and f.ended >= fault.began - RECOVERY and f.target in ("", fault.target) for f in others):
        return False
    idle = history.workers - history.owners(fault.began) - {fault.target}
    return any(_ready(history, label, batch, fault.began, until, others) for label in idle)


def _ready(history: History, label: str, batch: str, at: float, until: float, others: Sequence[Fault]) -> bool:
    if any(f.target == label and f.began <= until and (f.kind in ("kill", "exit") or f.ended >= at) for f in others):
        return False
    if any(at < claimed < until and other != batch for claimed, other in history.claims_of.get(label, [])):
        return False  # it took something else meanwhile
    reads = history.reads.get(label, [])
    return bool(reads) and reads[0] <= at


def liveness(history: History) -> Iterator[str]:
    """C14: a dead owner is replaced within 2 s, one asked to stop within 1 s, a frozen one within the lease + 1 s; nothing stalls."""
    bounds = {
        "kill": history.option("take_over_bound", 2.0),
        "term": history.option("hand_over_bound", 1.0),
        "stop": history.option("lease_ttl", 15.0) + 1.0,
    }
    for sample in take_overs(history):
        if sample.spare and sample.seconds > bounds[sample.kind]:
            yield (
                f"batch {sample.batch} stood still for {sample.seconds:.2f} s after a {sample.kind} of its owner at {sample.began:.3f}, "
                f"although another worker was idle; promised: {bounds[sample.kind]:g} s"
            )
    yield from _stalls(history)


def _stalls(history: History) -> Iterator[str]:
    """Stretches in which open batches waited, nothing was in flight, no fault was in force, and nothing happened."""
    longest = history.option("stall", 10.0)
    open_spans = [
        (commits[0].at, commits[-1].at if ended(commits[-1].after) else float("inf")) for commits in history.commits.values() if commits
    ]
    events = sorted(
        [line.at for line in history.lines]
        + [commit.at for commits in history.commits.values() for commit in commits if _tells(commit.changes)]
    )
    events.append(history.option("ended", events[-1] if events else 0.0))
    for began, until in pairwise(events):
        if until - began <= longest or not any(a <= began and until <= b for a, b in open_spans):
            continue
        covered = [(f.began, f.ended + RECOVERY) for f in history.faults] + [(s.at, e) for s, e in history.intervals]
        quiet = _longest_gap(began, until, covered)
        if quiet > longest:
            yield f"nothing happened for {quiet:.1f} s from {began:.3f} on, although batches were open and no fault was in force"


def _tells(changes: Sequence[Change]) -> bool:
    """True if more than a lease changed."""
    return any({**(c.old or {}), "lease_expires_at": None} != {**(c.new or {}), "lease_expires_at": None} for c in changes)


def _longest_gap(began: float, until: float, covered: Sequence[tuple[float, float]]) -> float:
    longest, at = 0.0, began
    for start, end in sorted(covered):
        if start > until:
            break
        longest = max(longest, min(start, until) - at)
        at = max(at, end)
    return max(longest, until - at)
