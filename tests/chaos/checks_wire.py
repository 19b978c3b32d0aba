"""Checks of who wrote, acknowledged, announced and read what: C8 to C12. Each returns its violations as sentences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from tests.chaos.history import TERMINAL, Command, Commit, History, Reading, Row, added_pairs, ended

# Written without being the owner: which entry stands for a batch, and that its end was announced.
UNFENCED = frozenset({"entry_id", "announced_at"})
DEATH_FIELDS = ("reason", "detail", "source_id", "died_at")
DUPLICATE_GRACE = 2.0  # a duplicate was looked at, and is dropped a moment later
ONE_BURST = 0.05  # what was sent together: one pipeline may be under way when a batch is taken over


def fence(history: History) -> Iterator[str]:
    """C8: a claim raises the epoch by one, an epoch has one worker, and whoever lost it writes nothing more (one late event may be out)."""
    for batch, commits in history.commits.items():
        owner: dict[int, str] = {}
        for commit in commits:
            if commit.after is None:
                continue
            yield from _claimed(batch, commit, owner)
            yield from _written(batch, commit, owner)
    yield from _late_events(history)


def _claimed(batch: str, commit: Commit, owner: dict[int, str]) -> Iterator[str]:
    assert commit.after is not None
    before = 0 if commit.before is None else commit.before["epoch"]  # a batch may be created and claimed at once
    epoch, worker = commit.after["epoch"], commit.after["worker"]
    if epoch not in (before, before + 1):
        yield f"batch {batch}: epoch went from {before} to {epoch}"
    if worker is not None and owner.setdefault(epoch, worker) != worker:
        yield f"batch {batch}: epoch {epoch} belongs to {owner[epoch]} and to {worker}"


def _written(batch: str, commit: Commit, owner: dict[int, str]) -> Iterator[str]:
    assert commit.after is not None
    holder = owner.get(commit.after["epoch"])
    if commit.writer == "client" or holder is None or commit.writer == holder:
        return
    columns = {name for change in commit.changes for name in _changed(change.old, change.new)}
    if not columns <= UNFENCED:
        listed = ", ".join(sorted(columns))
        yield f"batch {batch}: {commit.writer} wrote ({listed}) under epoch {commit.after['epoch']}, which belongs to {holder}"


def _changed(old: Row | None, new: Row | None) -> set[str]:
    old, new = old or {}, new or {}
    return {name for name in {*old, *new} if old.get(name) != new.get(name)}


def _late_events(history: History) -> Iterator[str]:
    late: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for command, event in history.events:
        batch, epoch = event["batch_id"], event["epoch"]
        if event["status"] in TERMINAL:
            continue  # the end of a batch may be announced again by anybody
        overtaken = [claim for claim in history.claims.get(batch, []) if claim.epoch > epoch and claim.at < command.asked]
        if overtaken:
            late[command.label, batch, epoch].append(command.asked)
    for (label, batch, epoch), times in late.items():
        if max(times) - min(times) > ONE_BURST:
            yield f"batch {batch}: {label} published {len(times)} events of epoch {epoch} after it had been taken over"


# --- C9 -----------------------------------------------------------------------------------------------------------------


def acknowledged(history: History) -> Iterator[str]:
    """C9: an entry is acknowledged after its batch's end was committed and announced, or its dead letter written, or as a duplicate."""
    stream = history.option("stream", "batches")
    buried = {
        fields.get("source_id", ""): command.answered for command, fields in reversed(history.dead) if command.done
    }  # the first counts
    announced = _announced(history)
    yield from _reckless(history, stream)
    settled: set[str] = set()
    complained: set[str] = set()
    allowed: set[tuple[str, str]] = set()  # XDEL comes right after XACK, in one transaction: what holds for the one holds for the other
    for command in history.commands:
        if command.args[0] not in ("XACK", "XDEL", "XACKDEL") or command.args[1] != stream or command.label not in history.workers:
            continue
        for entry in command.args[3:] if command.args[0] == "XACK" else command.args[2:]:
            if command.done:
                settled.add(entry)
            if entry in complained or (command.label, entry) in allowed:
                continue
            if _may_go(history, entry, command, buried, announced):
                allowed.add((command.label, entry))
            else:
                complained.add(entry)
                batch = history.entries.get(entry, "unknown")
                yield f"{command.label} sent {command.args[0]} {entry} (batch {batch}): {_why(history, entry, command.asked)}"
    for command in history.commands:
        if command.args[:2] == ["XADD", stream] and command.done and isinstance(command.reply, str):
            entry = command.reply
            if entry not in settled and not history.redis_lost_since(command.asked):
                yield f"entry {entry} (batch {history.entries.get(entry)}) was neither acknowledged nor dead-lettered"


def _reckless(history: History, stream: str) -> Iterator[str]:
    """Commands of workers that drop entries without acknowledging them."""
    for command in history.commands:
        words = [word.upper() for word in command.args[:6]]
        if command.label not in history.workers or stream not in command.args:
            continue
        trims = words[0] in ("XTRIM", "DEL", "UNLINK") or (
            words[0] == "XADD" and words[1] == stream.upper() and {"MAXLEN", "MINID"} & set(words)
        )
        drops = words[:2] in (["XGROUP", "DESTROY"], ["XGROUP", "DELCONSUMER"]) and isinstance(command.reply, int) and command.reply > 0
        if trims or drops or (words[0] == "XREADGROUP" and "NOACK" in [word.upper() for word in command.args]):
            yield f"{command.label} sent {' '.join(command.args[:6])}, which drops what nobody has finished"


def _announced(history: History) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for command, event in history.events:
        if event["status"] in TERMINAL and command.done and command.answered is not None:
            found[event["batch_id"]].append(command.answered)
    return found


def _may_go(history: History, entry: str, ack: Command, buried: dict[str, float | None], announced: dict[str, list[float]]) -> bool:
    at = ack.asked
    if (written := buried.get(entry)) is not None and written <= at:
        return True
    batch = history.entries.get(entry, "").lower()
    if any(ended_at <= told <= at for ended_at in _ends(history, batch, ack) for told in announced.get(batch, [])):
        return True
    return _duplicate(history, batch, entry, ack.label, at)


def _ends(history: History, batch: str, ack: Command) -> list[float]:
    ends = [c.known(ack.label) for c in history.commits.get(batch, []) if not ended(c.before) and ended(c.after)]
    return [at for at in ends if at <= ack.asked]


def _duplicate(history: History, batch: str, entry: str, label: str, at: float) -> bool:
    """True if, shortly before, another entry stood for the open batch."""
    rows = [history.row(batch, at), history.row(batch, at - DUPLICATE_GRACE)]
    rows += [c.after for c in history.commits.get(batch, []) if at - DUPLICATE_GRACE <= c.committed <= at]
    if any(row is not None and row["entry_id"] not in (None, entry) for row in rows):
        return True
    # The batch runs under an older entry, and this one was put on the stream when that one seemed lost.
    older = any(other != entry and of.lower() == batch and _number(other) < _number(entry) for other, of in history.entries.items())
    return older and any(row is not None and row["worker"] == label and not ended(row) for row in rows)


def _number(entry: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry.partition("-")
    return int(milliseconds), int(sequence)


def _why(history: History, entry: str, at: float) -> str:
    batch = history.entries.get(entry, "").lower()
    row = history.row(batch, at)
    if row is None:
        return "no such batch, and no dead letter"
    if ended(row):
        return f"the batch is {row['status']}, but its end was not announced yet"
    return f"the batch is {row['status']}, and entry {row['entry_id']} stands for it"


# --- C10, C11 -------------------------------------------------------------------------------------------------------------


TOLD = ("status", "total", "processed", "succeeded", "failed", "epoch", "error")


def truth(history: History) -> Iterator[str]:
    """C10: what an event says was committed before it was sent: the batch row at its revision, and each item that it calls ended."""
    versions: dict[tuple[str, int], list[Commit]] = defaultdict(list)
    for batch, commits in history.commits.items():
        for commit in commits:
            if commit.after is not None:
                versions[batch, commit.after["revision"]].append(commit)
    for command, event in history.events:
        name = f"event of batch {event['batch_id']} at revision {event['revision']}"
        rows = versions.get((event["batch_id"], event["revision"]), [])
        same = [commit for commit in rows if commit.after is not None and all(commit.after[key] == event[key] for key in TOLD)]
        if not same:
            yield f"{name} says {_short(event)}, Postgres said {[_short(c.after) for c in rows if c.after][-1:] or 'nothing'}"
        elif (early := min(commit.known(command.label) for commit in same) - command.asked) > 0:
            yield f"{name} was sent {early * 1000:.1f} ms before the reply to its commit"
        percent = 100 * event["processed"] / event["total"] if event["total"] else 100.0
        if event.get("percent") is not None and abs(event["percent"] - percent) > 0.1:
            yield f"{name} says {event['percent']} percent, {event['processed']} of {event['total']} is {percent:.1f}"
        yield from _items_true(history, command, event, name)


def _short(row: Any) -> str:
    return ", ".join(f"{key} {row[key]}" for key in TOLD)


def _items_true(history: History, command: Command, event: dict[str, Any], name: str) -> Iterator[str]:
    for item in event["items"]:
        if item["status"] not in TERMINAL:
            continue
        rows = [
            c
            for c in history.item_changes.get((event["batch_id"], item["position"]), [])
            if c.new is not None and c.new["status"] == item["status"]
        ]
        if not any(c.known(command.label) <= command.asked for c in rows):
            when = "later" if rows else "never"
            yield f"{name} says item {item['position']} is {item['status']}, which was committed {when}"
        elif item["status"] == "failed" and not any(c.new is not None and c.new["error"] == item["error"] for c in rows):
            yield f"{name} says item {item['position']} failed with {item['error']!r}, which is not in its row"


def readers(history: History) -> Iterator[str]:
    """C11: no reader sees a number go back, a gap without a new snapshot, the same twice, or another end than Postgres has."""
    streams: dict[tuple[str, str], list[Reading]] = defaultdict(list)
    for reading in history.readings:
        streams[reading.reader, reading.batch].append(reading)
    for (reader, batch), readings in streams.items():
        name = f"reader {reader} of batch {batch}"
        for before, reading in pairwise(readings):
            yield from _step(history, name, before, reading)
        if readings[0].kind != "snapshot":
            yield f"{name} began with an {readings[0].kind}, not a snapshot"
        if not reader.startswith("cut"):
            yield from _last(history, name, readings[-1])


def _step(history: History, name: str, before: Reading, reading: Reading) -> Iterator[str]:
    if reading.revision < before.revision:
        yield f"{name} saw revision {reading.revision} after {before.revision}"
    if reading.processed < before.processed and not any(
        before.at - 60 <= c.committed <= reading.at for c in history.reopened.get(reading.batch, [])
    ):
        yield f"{name} saw {reading.processed} processed after {before.processed}"
    if reading.kind != "snapshot" and reading.revision > before.revision + 1:
        yield f"{name} saw revision {reading.revision} after {before.revision}, with no new snapshot"
    if reading.kind != "snapshot" and reading.revision == before.revision and reading.body and reading.body == before.body:
        yield f"{name} saw revision {reading.revision} twice"
    if before.status in TERMINAL and not history.reopened.get(reading.batch):
        yield f"{name} saw something after the end ({before.status})"


def _last(history: History, name: str, reading: Reading) -> Iterator[str]:
    row = history.final(reading.batch)
    seen = {"status": reading.status, "processed": reading.processed, "revision": reading.revision}
    if row is None or any(row[key] != value for key, value in seen.items()):
        said = {key: row[key] for key in seen} if row else None
        yield f"{name} saw {seen} last, Postgres has {said}"


# --- C12 ------------------------------------------------------------------------------------------------------------------


def dead_letters(history: History) -> Iterator[str]:
    """C12: each message that cannot be run is on the dead stream, whole and with the right reason; no good one is."""
    letters: dict[str, list[Command]] = defaultdict(list)
    for command, fields in history.dead:
        letters[fields.get("source_id", "")].append(command)
    bad = {op.detail.get("entry", ""): op for op in history.operations if op.action == "bad"}
    for entry, op in bad.items():
        if not letters.get(entry) and op.outcome == "ok" and not history.redis_lost_since(op.invoked):
            yield f"bad message {entry} ({op.detail['reason']}) is not on the dead stream"
        for command in letters.get(entry, []):
            yield from _buried_right(entry, op.detail, added_pairs(command))
    known = history.entries
    for entry in letters:
        batch = known.get(entry, "").lower()
        if entry not in bad and (history.final(batch) is not None or entry not in known):
            yield f"entry {entry} (batch {batch or 'unknown'}) is on the dead stream, although nothing was wrong with it"


def _buried_right(entry: str, detail: Row, pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    original, death = pairs[: -len(DEATH_FIELDS)], dict(pairs[-len(DEATH_FIELDS) :])
    if death.get("reason") != detail["reason"]:
        yield f"dead letter of {entry}: reason is {death.get('reason')}, expected {detail['reason']}"
    if [list(pair) for pair in original] != [list(pair) for pair in detail["fields"]]:
        yield f"dead letter of {entry}: its fields are not those of the original"
    if not death.get("detail") or tuple(death) != DEATH_FIELDS:
        yield f"dead letter of {entry}: expected the fields {', '.join(DEATH_FIELDS)} after the original ones, got {', '.join(death)}"
