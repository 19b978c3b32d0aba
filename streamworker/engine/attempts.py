"""Pure policy: what follows from an outcome, and how many items may start ahead of a commit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

from streamworker.processors.outcomes import Failed, Succeeded
from streamworker.store.items import ItemRecord

# A commit may cost a twentieth of the work it protects; cheaper items share one. But never is more work than this
# (seconds) under suspicion together: only items of a few milliseconds run in bursts.
COMMIT_SHARE = 20
LONGEST_BURST = 0.02
WIDEST_WINDOW = 4_000
LONGEST_BACKOFF = 2.0
# Between two tries while what a processor needs is away (seconds).
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0


class Policy(msgspec.Struct, frozen=True):
    """How often an item is tried, and after which pause (seconds)."""

    max_attempts: int
    retry_delay: float


@dataclass(frozen=True, slots=True)
class Away:
    """What a processor needs is not there: why, and the positions of the items that met that."""

    reason: str
    met: tuple[int, ...] = ()


def counts(succeeded: int, away_after: int | None) -> bool:
    """Whether finding it away again is an attempt: others got through since the item first did, so it is the item's own affair."""
    return away_after is not None and succeeded > away_after


def settle(position: int, key: str, attempt: int, outcome: Succeeded | Failed, policy: Policy, seconds: float) -> ItemRecord:
    """The record of one attempt. A retry without delay is marked in the same record: `processing`, with its attempt number."""
    if isinstance(outcome, Succeeded):
        return ItemRecord(position, key, "completed", attempt, result=outcome.value, seconds=seconds, write=outcome.write)
    if outcome.away:  # the start is taken back
        return ItemRecord(position, key, "pending", attempt - 1, progressed=False, away=outcome.error)
    if outcome.permanent or attempt >= policy.max_attempts:
        return ItemRecord(position, key, "failed", attempt, error=outcome.error, seconds=seconds)
    delay = policy.retry_delay if outcome.delay is None else outcome.delay
    if delay > 0:
        return ItemRecord(position, key, "pending", attempt, error=outcome.error, delay=delay)
    return ItemRecord(position, key, "processing", attempt + 1, error=outcome.error, seconds=0.0)


def window(item_seconds: float | None, commit_seconds: float, lanes: int, before: int) -> int:
    """How many items may start before the next commit: one a lane when they are slow, more the faster they are.

    It grows at most fourfold at a time, so that one lucky measurement does not put many items under suspicion.
    """
    burst = min(COMMIT_SHARE * commit_seconds, LONGEST_BURST)
    if item_seconds is None or item_seconds >= burst:
        return lanes
    wanted = lanes * math.ceil(burst / max(item_seconds, 1e-7))
    return max(lanes, min(wanted, 4 * before, WIDEST_WINDOW))


def backoff(failures: int, chance: float) -> float:
    """Seconds to wait after so many failures in a row; `chance` from 0 to 1 spreads those who wait together."""
    return min(LONGEST_BACKOFF, 0.05 * 2.0 ** min(failures, 10)) * (0.5 + chance / 2)


def next_try(pauses: int, seconds: float, limit: float | None, left: float) -> float | None:
    """Seconds until a batch is tried again after so many pauses in `seconds` of an outage: twice as long each time; None to give up.

    `limit` is the longest outage, `left` what is left of the batch's time: either is looked at when it is over, and not later.
    """
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(pauses, 10), max(left, 0.0))
    if limit is None:
        return pause
    return None if pauses and seconds >= limit else min(pause, max(limit - seconds, 0.0))


# Small batches whose items take no longer than this (seconds) are run together, at most so many at a time.
QUICK_ITEM = 0.005
LARGEST_BURST = 64
# And no more than are likely done in this time (seconds), as far as the last ones tell.
MOST_WORK = 0.3


class Pace:
    """How many small batches to take together: more after each burst of quick ones, one after anything else."""

    def __init__(self) -> None:
        self.together = 1
        self.is_quick = False

    def measured(self, item_seconds: float | None) -> None:
        """Items took so long on average; None: nothing is known."""
        self.is_quick = item_seconds is not None and item_seconds <= QUICK_ITEM
        if not self.is_quick:
            self.together = 1

    def more(self, batch_seconds: float) -> None:
        """All that was taken together was small and quick; a batch took so long on average."""
        if self.is_quick:
            self.together = max(1, min(4 * self.together, LARGEST_BURST, int(MOST_WORK / max(batch_seconds, 1e-6))))

    def fewer(self) -> None:
        """Not all that was taken together was fit to be run together."""
        self.together = 1
