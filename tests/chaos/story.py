"""Makes histories by hand, step by step, as a sound worker would leave them; tests of the checker then spoil one step."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

from tests.chaos.history import Change, Command, Fault, History, Line, Operation, Reading, Row

STREAM, GROUP, PROGRESS, DEAD = "batches", "workers", "progress", "batches:dead"

FRESH: dict[str, Any] = {
    "status": "pending", "total": 0, "processed": 0, "succeeded": 0, "failed": 0, "max_attempts": 2, "revision": 0, "epoch": 0,
    "worker": None, "lease_expires_at": None, "error": None, "frontier": 0, "careful_until": 0, "deaths": 0, "entry_id": None,
    "announced_at": None, "finished_at": None,
}  # fmt: skip
FRESH_ITEM: dict[str, Any] = {"status": "pending", "attempts": 0, "error": None, "result": None, "finished_at": None}


class Story:
    """A history in the making; every step takes 10 ms."""

    def __init__(self, *workers: str) -> None:
        self.history = History(seed=1, workers=frozenset(workers or ("w0", "w1")), options={"kinds": ["kill"], "lease_ttl": 2.0})
        self.history.residue = {"pending entries": 0}
        self.now = 100.0
        self.batches: dict[str, dict[str, Any]] = {}
        self.items: dict[tuple[str, int], dict[str, Any]] = {}
        self._sequence = count(1)
        self._transaction = count(1)
        self._entries = count(1)
        for worker in self.history.workers:
            self.history.commands.append(Command(1.0, worker, ["XREADGROUP", "GROUP", GROUP, worker], 2.0, None))

    def tick(self, seconds: float = 0.01) -> float:
        """Let time pass."""
        self.now += seconds
        return self.now

    # --- Postgres -----------------------------------------------------------------------------------------------------------

    def commit(self, writer: str, batch: str, row: Row | None = None, items: dict[int, Row] | None = None) -> None:
        """One transaction: changes of the batch row, then of item rows."""
        at, txid = self.tick(), next(self._transaction)

        def add(source: str, position: int | None, old: Row | None, new: Row | None) -> None:
            self.history.changes.append(Change(next(self._sequence), at, at - 0.001, txid, writer, source, batch, position, old, new))

        if row is not None:
            old = self.batches.get(batch)
            self.batches[batch] = {**(old or FRESH), **row}
            add("batches", None, old, self.batches[batch])
        for position, changes in (items or {}).items():
            before = self.items.get((batch, position))
            self.items[batch, position] = {**(before or FRESH_ITEM), **changes}
            add("items", position, before, self.items[batch, position])

    def submit(self, batch: str = "b", size: int = 3, entry: bool = True, **detail: Any) -> None:
        """A client submits, and puts it on the stream."""
        began = self.now
        self.commit("client", batch, {"total": size, "max_attempts": detail.pop("max_attempts", 2)}, {n: {} for n in range(size)})
        self.history.operations.append(Operation("submit", batch, began, self.tick(), "ok", {"items": size, **detail}))
        if entry:
            self.enqueue(batch)

    def enqueue(self, batch: str) -> str:
        """Put a batch on the stream; returns the entry's id."""
        entry = f"{next(self._entries)}-0"
        self.redis("client", ["XADD", STREAM, "*", "batch_id", batch], entry)
        return entry

    def claim(self, worker: str, batch: str = "b", entry: str = "1-0", charged: dict[int, Row] | None = None, **more: Any) -> None:
        """Acquire it; the first open item is marked by the frontier."""
        row = self.batches[batch]
        opened = [p for (b, p), item in sorted(self.items.items()) if b == batch and item["status"] in ("pending", "processing")]
        self.commit(
            worker,
            batch,
            {
                "status": "processing", "epoch": row["epoch"] + 1, "revision": row["revision"] + 1, "worker": worker, "entry_id": entry,
                "frontier": max(row["frontier"], opened[0] + 1), **more,
            },
            charged,
        )  # fmt: skip
        self.announce(worker, batch)

    def record(self, worker: str, position: int, status: str = "completed", batch: str = "b", last: bool = False, **item: Any) -> None:
        """Record an item, move the frontier one on, and announce it; the last one ends the batch."""
        row = self.batches[batch]
        counted = {"completed": "succeeded", "failed": "failed"}.get(status)
        changes: dict[str, Any] = {"revision": row["revision"] + 1}
        if counted:
            changes |= {counted: row[counted] + 1, "processed": row["processed"] + 1, "frontier": max(row["frontier"], position + 2)}
            item = {"finished_at": str(self.now), "attempts": max(1, self.items[batch, position]["attempts"]), **item}
        if last:
            changes |= {"status": "completed", "finished_at": str(self.now)}
        self.commit(worker, batch, changes, {position: {"status": status, **item}})
        shown = {"position": position, "key": "k", "status": status, "attempt": 1, "error": self.items[batch, position]["error"]}
        self.announce(worker, batch, [shown] if counted else [])

    # --- Redis ----------------------------------------------------------------------------------------------------------------

    def redis(self, label: str, args: list[str], reply: Any) -> Command:
        """A command and its reply."""
        command = Command(self.tick(0.001), label, args, self.tick(0.001), reply)
        self.history.commands.append(command)
        return command

    def announce(self, worker: str, batch: str = "b", items: list[Any] | None = None, **changed: Any) -> Command:
        """Publish the row as it is."""
        row = self.batches[batch]
        told = {key: row[key] for key in ("revision", "status", "total", "processed", "succeeded", "failed", "epoch", "worker", "error")}
        event = {"v": 1, "batch_id": batch, "percent": 100 * row["processed"] / row["total"], "items": items or [], **told, **changed}
        return self.redis(worker, ["XADD", PROGRESS, "MAXLEN", "~", "100000", "*", "batch_id", batch, "event", json.dumps(event)], "9-9")

    def acknowledge(self, worker: str, entry: str = "1-0") -> None:
        """XACK and XDEL in one transaction."""
        at, done = self.tick(0.001), self.tick(0.001)
        self.history.commands.append(Command(at, worker, ["XACK", STREAM, GROUP, entry], done, 1))
        self.history.commands.append(Command(at, worker, ["XDEL", STREAM, entry], done, 1))

    def bury(self, worker: str, entry: str, fields: list[tuple[str, str]], reason: str) -> None:
        """Write a dead letter."""
        letter = [*fields, ("reason", reason), ("detail", "a sentence"), ("source_id", entry), ("died_at", "now")]
        self.redis(worker, ["XADD", DEAD, "*", *(part for pair in letter for part in pair)], "8-8")

    def bad_message(self, worker: str = "w0", reason: str = "invalid_message") -> str:
        """A client sends what cannot be run; a worker buries it."""
        fields = [("batch_id", "x"), ("colour", "green")]
        entry = f"{next(self._entries)}-0"
        began = self.now
        self.redis("client", ["XADD", STREAM, "*", *(part for pair in fields for part in pair)], entry)
        detail = {"reason": reason, "fields": fields, "entry": entry}
        self.history.operations.append(Operation("bad", "x", began, self.now, "ok", detail))
        self.bury(worker, entry, fields, reason)
        self.acknowledge(worker, entry)
        return entry

    # --- processors, readers, nemesis -------------------------------------------------------------------------------------------

    def start(self, worker: str, position: int, attempt: int = 1, batch: str = "b") -> None:
        """The processor log's line for a start."""
        self.history.lines.append(Line(self.tick(), "start", worker, 1, batch, position, attempt))

    def end(self, worker: str, position: int, attempt: int = 1, batch: str = "b", outcome: str = "ok") -> None:
        """The line for an end."""
        self.history.lines.append(Line(self.tick(), "end", worker, 1, batch, position, attempt, outcome))

    def pause(self, worker: str, position: int, until: str, batch: str = "b") -> None:
        """A start that finds its service away: the batch is given back."""
        self.start(worker, position, batch=batch)
        self.end(worker, position, batch=batch, outcome="Unavailable")
        row = self.batches[batch]
        changes = {"worker": None, "frontier": 0, "revision": row["revision"] + 1, "error": "paused: x", "paused_until": until}
        self.commit(worker, batch, changes)
        self.announce(worker, batch)

    def item(self, worker: str, position: int, attempt: int = 1, batch: str = "b", last: bool = False) -> None:
        """Start, end and record."""
        self.start(worker, position, attempt, batch)
        self.end(worker, position, attempt, batch)
        self.record(worker, position, batch=batch, last=last)

    def fault(self, kind: str, target: str = "", seconds: float = 0.0, planned: bool = True) -> None:
        """Something the nemesis does."""
        began = self.now
        self.history.faults.append(Fault(kind, began, self.tick(seconds), target, planned))

    def kill(self, worker: str) -> None:
        """SIGKILL; the exit is seen at once."""
        self.fault("kill", worker)
        self.fault("exit", worker, planned=False)

    def read(self, kind: str = "event", reader: str = "watch", batch: str = "b", **changed: Any) -> None:
        """A reader is given the row as it is."""
        row = {**self.batches[batch], **changed}
        self.history.readings.append(
            Reading(self.tick(0.001), reader, batch, kind, row["revision"], row["processed"], row["status"], json.dumps(row, default=str))
        )

    def finish(self, worker: str, batch: str = "b", entry: str = "1-0") -> None:
        """The end is announced, and the entry acknowledged."""
        self.commit(worker, batch, {"announced_at": "now"})
        self.acknowledge(worker, entry)


def good() -> Story:
    """A batch of three items; its owner is killed in the second, another worker goes on; a bad message; a reader; effects."""
    story = Story()
    story.submit(effects=True, expect="completed")
    story.claim("w0")
    story.read("snapshot")
    story.item("w0", 0)
    story.read()
    story.start("w0", 1)
    story.kill("w0")
    story.tick(0.3)
    story.claim("w1", charged={1: {"attempts": 1, "error": "worker died while processing"}})
    story.read()
    story.record("w1", 1, "processing", attempts=2)
    story.read()
    story.item("w1", 1, attempt=2)
    story.read()
    story.item("w1", 2, last=True)
    story.read()
    story.finish("w1")
    story.bad_message("w1")
    story.history.effects.update({("b", n): 1 for n in range(3)})
    return story
