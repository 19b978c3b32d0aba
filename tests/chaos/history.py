"""What the observers saw in one run, in one clock (CLOCK_MONOTONIC seconds), and what follows from it."""

from __future__ import annotations

import bisect
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

Row = Mapping[str, Any]

TERMINAL = frozenset({"completed", "failed", "cancelled"})

# What may lose entries of a stream, or the group's knowledge of them.
LOSING = frozenset(
    {"redis kill", "redis flush", "redis delete stream", "redis destroy group", "redis delete consumer", "redis trim", "redis failover"}
)


@dataclass(frozen=True, slots=True)
class Change:
    """A row as a committed transaction left it. `committed` is the commit, `at` the moment its reply had passed the proxy."""

    seq: int
    at: float
    committed: float
    txid: int
    writer: str
    source: str
    batch: str
    position: int | None
    old: Row | None
    new: Row | None

    def known(self, label: str) -> float:
        """From when on `label` may rely on it: its own commit once the reply has passed, another's once it is committed."""
        return self.at if self.writer == label else self.committed


@dataclass(frozen=True, slots=True)
class Commit:
    """What one transaction did to one batch; `before` and `after` are the batch row."""

    at: float
    committed: float
    writer: str
    changes: tuple[Change, ...]
    before: Row | None
    after: Row | None

    def known(self, label: str) -> float:
        """From when on `label` may rely on it: its own commit once the reply has passed, another's once it is committed."""
        return self.at if self.writer == label else self.committed

    @property
    def reopens(self) -> bool:
        """True for a retry: an ended batch is open again."""
        return ended(self.before) and self.after is not None and not ended(self.after)

    @property
    def claims(self) -> bool:
        """True if a worker acquired the batch."""
        return self.after is not None and self.after["epoch"] != (self.before or {"epoch": 0})["epoch"]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the processor log; `edge` is start or end."""

    at: float
    edge: str
    worker: str
    pid: int
    batch: str
    position: int
    attempt: int
    outcome: str = ""


@dataclass(slots=True)
class Command:
    """A Redis command as it passed the proxy; one inside MULTI was asked when EXEC was. `answered` None: no reply was seen."""

    asked: float
    label: str
    args: list[str]
    answered: float | None = None
    reply: Any = None

    @property
    def done(self) -> bool:
        """True if the server did it, as far as its reply told."""
        return self.answered is not None and not (isinstance(self.reply, dict) and "error" in self.reply)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader was given of a batch; `kind` is snapshot or event."""

    at: float
    reader: str
    batch: str
    kind: str
    revision: int
    processed: int
    status: str
    body: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """What a client did. `outcome` is ok, fail (surely not done) or info (unknown).

    Actions: submit, xadd, retry, cancel, bad (a message that must be refused; detail has reason, fields, entry).
    Detail of submit and xadd: items (how many), effects (their processor writes any), expect (the status of every item, or none).
    """

    action: str
    batch: str
    invoked: float
    finished: float
    outcome: str
    detail: Row = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fault:
    """What the nemesis did, from when to when; `target` is a worker's label or empty. Not planned: a consequence, such as an exit."""

    kind: str
    began: float
    ended: float
    target: str = ""
    planned: bool = True


@dataclass(frozen=True, slots=True)
class Claim:
    """From `committed` on the epoch belongs to the worker."""

    epoch: int
    worker: str
    at: float
    committed: float


def ended(row: Row | None) -> bool:
    """True for a row in a terminal status."""
    return row is not None and row["status"] in TERMINAL


@dataclass
class History:
    """Everything that was seen. All lists are in order of time (`changes`: in the order of the row locks)."""

    seed: int = 0
    changes: list[Change] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    effects: Counter[tuple[str, int]] = field(default_factory=Counter)
    residue: dict[str, int] = field(default_factory=dict)
    workers: frozenset[str] = frozenset()
    options: dict[str, Any] = field(default_factory=dict)

    def option(self, name: str, default: Any) -> Any:
        """An option of the run, such as `item_concurrency`."""
        return self.options.get(name, default)

    @cached_property
    def commits(self) -> dict[str, list[Commit]]:
        """The transactions that touched each batch, in order."""
        grouped: dict[tuple[str, int], list[Change]] = defaultdict(list)
        for change in self.changes:
            grouped[change.batch, change.txid].append(change)
        commits: dict[str, list[Commit]] = defaultdict(list)
        state: dict[str, Row | None] = {}
        for (batch, _), changes in sorted(grouped.items(), key=lambda entry: entry[1][0].seq):
            rows = [change for change in changes if change.source == "batches"]
            before = state.get(batch)
            after = rows[-1].new if rows else before
            state[batch] = after
            last = changes[-1]
            commits[batch].append(Commit(last.at, last.committed, last.writer, tuple(changes), before, after))
        return commits

    @cached_property
    def item_changes(self) -> dict[tuple[str, int], list[Change]]:
        """The changes of each item, in order."""
        found: dict[tuple[str, int], list[Change]] = defaultdict(list)
        for change in self.changes:
            if change.source == "items" and change.position is not None:
                found[change.batch, change.position].append(change)
        return found

    @cached_property
    def claims(self) -> dict[str, list[Claim]]:
        """Who got which epoch of each batch, in order."""
        return {
            batch: [Claim(c.after["epoch"], c.after["worker"] or "", c.at, c.committed) for c in commits if c.claims and c.after]
            for batch, commits in self.commits.items()
        }

    @cached_property
    def reopened(self) -> dict[str, list[Commit]]:
        """The retries of each batch."""
        return {batch: [commit for commit in commits if commit.reopens] for batch, commits in self.commits.items()}

    @cached_property
    def starts(self) -> dict[tuple[str, int], list[Line]]:
        """The starts of each item, in order of time."""
        found: dict[tuple[str, int], list[Line]] = defaultdict(list)
        for line in self.lines:
            if line.edge == "start":
                found[line.batch, line.position].append(line)
        return found

    @cached_property
    def starts_of(self) -> dict[str, list[Line]]:
        """The starts of each batch's items, in order of time."""
        found: dict[str, list[Line]] = defaultdict(list)
        for line in self.lines:
            if line.edge == "start":
                found[line.batch].append(line)
        return found

    @cached_property
    def lines_of(self) -> dict[str, list[Line]]:
        """What each worker ran."""
        found: dict[str, list[Line]] = defaultdict(list)
        for line in self.lines:
            found[line.worker].append(line)
        return found

    @cached_property
    def entries(self) -> dict[str, str]:
        """Which batch an entry of the job stream stands for: from XADDs and from what reads returned."""
        stream = self.option("stream", "batches")
        known: dict[str, str] = {}
        for command in self.commands:
            if command.args[:2] == ["XADD", stream] and command.done and isinstance(command.reply, str):
                known[command.reply] = added_fields(command).get("batch_id", "")
            elif command.args[0] in ("XREADGROUP", "XAUTOCLAIM", "XCLAIM", "XRANGE"):
                for entry, fields in _entries_in(command.reply):
                    known.setdefault(entry, fields.get("batch_id", ""))
        return known

    @cached_property
    def events(self) -> list[tuple[Command, dict[str, Any]]]:
        """Progress events as they were published."""
        stream = self.option("progress_stream", "progress")
        found = []
        for command in self.commands:
            if command.args[:2] == ["XADD", stream]:
                event = json.loads(added_fields(command).get("event", "null"))
                if event is not None:
                    found.append((command, event))
        return found

    @cached_property
    def reads(self) -> dict[str, list[float]]:
        """When each worker asked the group for new entries."""
        found: dict[str, list[float]] = defaultdict(list)
        for command in self.commands:
            if command.args[0] == "XREADGROUP":
                found[command.label].append(command.asked)
        return found

    @cached_property
    def dead(self) -> list[tuple[Command, dict[str, str]]]:
        """Dead letters as they were written."""
        stream = self.option("dead_stream", "batches:dead")
        return [(command, added_fields(command)) for command in self.commands if command.args[:2] == ["XADD", stream]]

    def redis_lost_since(self, at: float) -> bool:
        """True if a fault that may lose entries was in force at or after `at`."""
        return any(fault.kind in LOSING and fault.ended >= at for fault in self.faults)

    def row(self, batch: str, at: float) -> Row | None:
        """The batch row as of `at`."""
        index = bisect.bisect_right(self._times.get(batch, []), at)
        return self.commits[batch][index - 1].after if index else None

    @cached_property
    def _times(self) -> dict[str, list[float]]:
        return {batch: [commit.committed for commit in commits] for batch, commits in self.commits.items()}

    def owners(self, at: float) -> set[str]:
        """The workers that held a batch at `at`."""
        rows = [self.row(batch, at) for batch in self.commits]
        return {row["worker"] for row in rows if row is not None and row["status"] == "processing" and row["worker"]}

    @cached_property
    def claims_of(self) -> dict[str, list[tuple[float, str]]]:
        """When each worker claimed which batch."""
        found: dict[str, list[tuple[float, str]]] = defaultdict(list)
        for batch, claims in self.claims.items():
            for claim in claims:
                found[claim.worker].append((claim.committed, batch))
        return found

    def final(self, batch: str) -> Row | None:
        """The batch row at the end."""
        commits = self.commits.get(batch)
        return commits[-1].after if commits else None

    def epoch(self, line: Line) -> int | None:
        """Under which epoch a processor was running: its worker's last claim before."""
        held = [claim.epoch for claim in self.claims.get(line.batch, []) if claim.worker == line.worker and claim.committed <= line.at]
        return held[-1] if held else None

    def in_flight(self, at: float) -> list[Line]:
        """The items that were running at `at`: started, and neither ended nor their worker gone."""
        began, longest = self._spans
        first, last = bisect.bisect_left(began, at - longest), bisect.bisect_right(began, at)
        return [start for start, end in self.intervals[first:last] if at <= end]

    @cached_property
    def _spans(self) -> tuple[list[float], float]:
        return [start.at for start, _ in self.intervals], max((end - start.at for start, end in self.intervals), default=0.0)

    @cached_property
    def intervals(self) -> list[tuple[Line, float]]:
        """Each start with its end; without an end line that is the death of its worker, or the end of the log."""
        gone = {fault.target: fault.began for fault in reversed(self.faults) if fault.kind in ("kill", "exit")}
        waiting: dict[tuple[str, str, int, int], list[Line]] = defaultdict(list)
        found = []
        for line in self.lines:
            key = (line.worker, line.batch, line.position, line.attempt)
            if line.edge == "start":
                waiting[key].append(line)
            elif waiting[key]:
                found.append((waiting[key].pop(), line.at))
        last = self.lines[-1].at if self.lines else 0.0
        found += [(start, max(start.at, gone.get(start.worker, last))) for starts in waiting.values() for start in starts]
        return sorted(found, key=lambda pair: pair[0].at)


def added_fields(command: Command) -> dict[str, str]:
    """The fields of an XADD, whatever its options."""
    return dict(added_pairs(command))


def added_pairs(command: Command) -> list[tuple[str, str]]:
    """The fields of an XADD in order, repeated ones repeated."""
    args = command.args[2:]
    while args:
        match args[0].upper():
            case "NOMKSTREAM":
                args = args[1:]
            case "MAXLEN" | "MINID":
                args = args[3:] if args[1] in ("~", "=") else args[2:]
            case "LIMIT":
                args = args[2:]
            case _:
                break
    return list(zip(args[1::2], args[2::2], strict=False))


def _entries_in(reply: Any) -> Iterable[tuple[str, dict[str, str]]]:
    """Stream entries anywhere in a reply: [id, [name, value, ...]]."""
    if not isinstance(reply, list):
        return
    if (
        len(reply) == 2
        and isinstance(reply[0], str)
        and isinstance(reply[1], list)
        and "-" in reply[0]
        and all(isinstance(x, str) for x in reply[1])
    ):
        yield reply[0], dict(zip(reply[1][::2], reply[1][1::2], strict=False))
        return
    for part in reply:
        yield from _entries_in(part)
