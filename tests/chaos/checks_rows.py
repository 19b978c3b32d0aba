"""Checks of what Postgres recorded: C1 to C4, C13, C16. Each returns its violations as sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.chaos.history import Change, Commit, History, Row, ended

COUNTED = {"completed": "succeeded", "failed": "failed"}
FROZEN = ("status", "result", "error", "finished_at")


def lost(history: History) -> Iterator[str]:
    """C1: what was accepted has ended, batches and items, and no item that nothing was wrong with has failed."""
    accepted = {change.batch for change in history.changes if change.source == "batches" and change.old is None}
    accepted |= {op.batch for op in history.operations if op.action == "submit" and op.outcome == "ok"}
    items = _final_items(history)
    for batch in sorted(accepted):
        row = history.final(batch)
        if not ended(row):
            yield f"batch {batch} was accepted and did not end: it is {row['status'] if row else 'missing'}"
        for position, item in sorted(items.get(batch, {}).items()):
            if not ended(item):
                yield f"item {position} of batch {batch} did not end: it is {item['status']}"
        if row is not None and row["total"] != len(items.get(batch, {})):
            yield f"batch {batch} has {len(items.get(batch, {}))} item rows of {row['total']}"
    yield from _spoiled(history, items)


def _spoiled(history: History, items: dict[str, dict[int, Row]]) -> Iterator[str]:
    cancelled = {op.batch for op in history.operations if op.action == "cancel" and op.outcome != "fail"}
    for op in history.operations:
        if (expected := op.detail.get("expect")) and op.batch not in cancelled and op.outcome != "fail":
            row = history.final(op.batch)
            if row is not None and row["status"] != "completed" and ended(row):
                yield f"batch {op.batch} ended {row['status']} ({row['error']}), expected completed"
            for position, item in sorted(items.get(op.batch, {}).items()):
                if ended(item) and item["status"] != expected:
                    yield f"item {position} of batch {op.batch} ended {item['status']} ({item['error']}), expected {expected}"


def _final_items(history: History) -> dict[str, dict[int, Row]]:
    found: dict[str, dict[int, Row]] = {}
    for (batch, position), changes in history.item_changes.items():
        if changes[-1].new is not None:
            found.setdefault(batch, {})[position] = changes[-1].new
    return found


def recorded_twice(history: History) -> Iterator[str]:
    """C2: an item, and a batch, enters a terminal status once, and once more per explicit retry."""
    for (batch, position), changes in history.item_changes.items():
        entered = sum(_entered(change) for change in changes)
        allowed = 1 + len(history.reopened.get(batch, []))
        if entered > allowed:
            yield f"item {position} of batch {batch} was recorded as ended {entered} times, with {allowed - 1} retries"
    for batch, commits in history.commits.items():
        entered = sum(not ended(commit.before) and ended(commit.after) for commit in commits)
        allowed = 1 + len(history.reopened.get(batch, []))
        if entered > allowed:
            yield f"batch {batch} ended {entered} times, with {allowed - 1} retries"


def _entered(change: Change) -> bool:
    return not ended(change.old) and ended(change.new)


def frozen(history: History) -> Iterator[str]:
    """C3: what has ended does not change, but by an explicit retry, and then only what had failed or was cancelled."""
    retried = {op.batch for op in history.operations if op.action == "retry"}
    for batch, commits in history.commits.items():
        for commit in commits:
            if commit.reopens and batch not in retried:
                yield f"batch {batch} was {commit.before and commit.before['status']} and was opened again, with no retry asked for"
            for change in commit.changes:
                if ended(change.old) and not (commit.reopens and _retried(change)):
                    yield from _thawed(change)


def _retried(change: Change) -> bool:
    return change.source == "batches" or (change.old is not None and change.old["status"] in ("failed", "cancelled"))


def _thawed(change: Change) -> Iterator[str]:
    assert change.old is not None
    name = f"batch {change.batch}" if change.position is None else f"item {change.position} of batch {change.batch}"
    if change.new is None:
        yield f"{name} had ended and was deleted"
        return
    for column in FROZEN:
        if change.old.get(column) != change.new.get(column):
            yield f"{name} had ended, and its {column} changed from {change.old.get(column)!r} to {change.new.get(column)!r}"


def counters(history: History) -> Iterator[str]:
    """C4: at every commit the counters are the count of the rows; `revision` grows by one with every change that counts."""
    for batch, commits in history.commits.items():
        statuses: dict[int, str] = {}
        counts: Counter[str] = Counter()
        for commit in commits:
            for change in commit.changes:
                if change.source == "items" and change.position is not None:
                    if (before := statuses.pop(change.position, None)) is not None:
                        counts[before] -= 1
                    if change.new is not None:
                        statuses[change.position] = change.new["status"]
                        counts[change.new["status"]] += 1
            if commit.after is not None:
                yield from _counted(batch, commit.after, counts, len(statuses))
                yield from _revised(batch, commit)


def _counted(batch: str, row: Row, counts: Counter[str], rows: int) -> Iterator[str]:
    at = f"batch {batch} at revision {row['revision']}"
    if row["processed"] != row["succeeded"] + row["failed"]:
        yield f"{at}: processed {row['processed']} is not succeeded {row['succeeded']} + failed {row['failed']}"
    for status, column in COUNTED.items():
        if row[column] != counts[status]:
            yield f"{at}: {column} is {row[column]}, but {counts[status]} items are {status}"
    if row["processed"] > row["total"]:
        yield f"{at}: processed {row['processed']} of {row['total']}"
    if row["total"] != rows:
        yield f"{at}: total is {row['total']}, but there are {rows} items"


def _revised(batch: str, commit: Commit) -> Iterator[str]:
    if commit.before is None or commit.after is None:
        return
    step = commit.after["revision"] - commit.before["revision"]
    told = ("status", "processed", "succeeded", "failed", "total", "epoch", "error")
    changed = any(commit.before[name] != commit.after[name] for name in told) or any(
        change.source == "items" and (change.old or {}).get("status") != (change.new or {}).get("status") for change in commit.changes
    )
    if step not in (0, 1) or (changed and step != 1):
        what = "a change" if changed else "no change"
        yield f"batch {batch}: revision went from {commit.before['revision']} to {commit.after['revision']} with {what}"


def effects(history: History) -> Iterator[str]:
    """C13: `Result.write` happened exactly once for each completed item, and for no other."""
    writing = {op.batch for op in history.operations if op.detail.get("effects")}
    items = _final_items(history)
    for batch in sorted(writing):
        for position, item in sorted(items.get(batch, {}).items()):
            expected = int(item["status"] == "completed")
            if (times := history.effects[batch, position]) != expected:
                yield f"the effect of item {position} of batch {batch} ({item['status']}) was written {times} times, expected {expected}"
    for batch, position in sorted(history.effects):
        if batch not in writing or position not in items.get(batch, {}):
            yield f"an effect was written for item {position} of batch {batch}, which writes none"


def honesty(history: History) -> Iterator[str]:
    """C16: what a client was told is so: ok means done, fail means not done; unknown may be either."""
    for op in history.operations:
        done = happened(history, op.action, op.batch)
        if op.outcome == "ok" and not done and not (op.action == "xadd" and history.redis_lost_since(op.invoked)):
            yield f"{op.action} of batch {op.batch} was answered ok, but it did not happen"
        if op.outcome == "fail" and done and op.action in ("submit", "xadd") and not _asked_again(history, op.batch):
            yield f"{op.action} of batch {op.batch} was answered as failed, but it happened"


def happened(history: History, action: str, batch: str) -> bool:
    """Whether the rows show what a client asked for."""
    match action:
        case "submit" | "xadd":
            return history.final(batch) is not None
        case "cancel":
            return any(commit.after is not None and commit.after["status"] == "cancelled" for commit in history.commits.get(batch, []))
        case "retry":
            return bool(history.reopened.get(batch))
        case _:
            return True


def _asked_again(history: History, batch: str) -> bool:
    return any(op.batch == batch and op.action in ("submit", "xadd") and op.outcome != "fail" for op in history.operations)
