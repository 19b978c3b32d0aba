"""How a running batch looks, and one that is being submitted: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeVar

from streamworker.cli.text import duration, escape
from streamworker.messages import TERMINAL, ItemEvent, ProgressEvent

LINE_EVERY = 1.0  # seconds
COUNT_EVERY, LIVE_COUNT_EVERY = 5.0, 0.1  # so that a short submission prints nothing
Item = TypeVar("Item")


class View(Protocol):
    """Something that shows events to a person."""

    failures_shown: int

    def show(self, event: ProgressEvent) -> None:
        """Show the state that the event tells."""

    def say(self, text: str) -> None:
        """Print a line that stays."""


class Rate:
    """Items per second since the watching began, by this process' own monotonic clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, int] | None = None

    def of(self, event: ProgressEvent) -> float | None:
        """The rate so far, or None while nothing sensible can be said."""
        now = self._clock()
        if self._first is None or event.processed < self._first[1]:
            self._first = (now, event.processed)
        since, processed = self._first
        return (event.processed - processed) / (now - since) if event.processed > processed and now - since >= 1 else None


def remaining(event: ProgressEvent, rate: float | None) -> str:
    """The time that is left, as far as it can be told."""
    left = (event.total - event.processed) / rate if rate else event.eta_seconds
    return "" if left is None or event.status in TERMINAL else duration(left)


def doing(item: ItemEvent) -> str:
    """What an item is at: its key, stage, message and percent."""
    parts = [item.key, item.stage or "", item.message or "", "" if item.percent is None else f"{item.percent:g} %"]
    return escape(" · ".join(part for part in parts if part), 120)


def failures(event: ProgressEvent) -> list[str]:
    """A line for each item that the event tells has failed for good."""
    failed = [item for item in event.items if item.status == "failed"]
    return [f"failed: {escape(item.key)}: {escape(item.error or 'no reason given', 500)} (attempt {item.attempt})" for item in failed]


def current(event: ProgressEvent) -> ItemEvent | None:
    """The item that the event says is being worked on."""
    running = [item for item in event.items if item.status == "processing"]
    return running[-1] if running else None


class Lines:
    """One line a second at most, and one for each failure."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures_shown = 0
        self._clock = clock
        self._rate = Rate(clock)
        self._printed_at = -LINE_EVERY
        self._printed: ProgressEvent | None = None
        self._newest: ProgressEvent | None = None

    def show(self, event: ProgressEvent) -> None:
        """Print what is new: failures and a change of the status at once, the rest when it is time."""
        for line in failures(event):
            self.failures_shown += 1
            print(line, flush=True)
        self._newest = event
        if self._printed is None or event.status != self._printed.status:
            self._print(event)
        self.tick()

    def tick(self) -> None:
        """Print the newest state if it is time and it has not been printed."""
        if self._newest is not None and self._newest is not self._printed and self._clock() - self._printed_at >= LINE_EVERY:
            self._print(self._newest)

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, flush=True)

    def _print(self, event: ProgressEvent) -> None:
        self._printed_at, self._printed = self._clock(), event
        rate, item = self._rate.of(event), current(event)
        left = remaining(event, rate)
        parts = [
            f"{event.at} {event.status} {event.processed}/{event.total} ({event.percent:g} %)",
            f"{event.failed} failed",
            f"{rate:.2f}/s" if rate else "",
            f"{left} left" if left else "",
            doing(item) if item else "",
            f"error: {escape(event.error, 500)}" if event.error else "",
        ]
        print(", ".join(part for part in parts if part), flush=True)


class Bar:
    """A progress bar with rate, remaining time, failures and what the current item is at."""

    def __init__(self, progress: Any) -> None:
        self.failures_shown = 0
        self._progress = progress
        self._rate = Rate()
        self._line = progress.add_task("", total=None, failed="", pace="", left="", doing="")

    def show(self, event: ProgressEvent) -> None:
        """Move the bar; failures go above it, where they stay."""
        for line in failures(event):
            self.failures_shown += 1
            self._progress.console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
        rate, item = self._rate.of(event), current(event)
        self._progress.update(
            self._line,
            description=event.status,
            total=event.total or None,
            completed=event.processed,
            failed=f"{event.failed} failed" if event.failed else "",
            pace=f"{rate:.2f}/s" if rate else "",
            left=remaining(event, rate),
        )
        if item is not None:
            self._progress.update(self._line, doing=doing(item))
        if event.status in TERMINAL:
            self._progress.update(self._line, doing=escape(event.error or "", 120))

    def say(self, text: str) -> None:
        """Print a line above the bar, where it stays."""
        self._progress.console.print(text, style="bold", markup=False, highlight=False, soft_wrap=True)


@asynccontextmanager
async def open_view() -> AsyncIterator[View]:
    """The view that suits standard output."""
    progress = _rich_progress() if sys.stdout.isatty() else None
    if progress is not None:
        with progress:
            yield Bar(progress)
        return
    lines = Lines()
    ticking = asyncio.create_task(_tick(lines))
    try:
        yield lines
    finally:
        ticking.cancel()


class Count:
    """Tells now and then how many items have been taken, and how fast they come; how many there will be nobody knows."""

    def __init__(self, show: Callable[[str], object], every: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._show = show
        self._every = every
        self._clock = clock

    def of(self, items: Iterator[Item]) -> Iterator[Item]:
        """The same items."""
        began = shown = self._clock()
        for number, item in enumerate(items, 1):
            now = self._clock()
            if now - shown >= self._every:
                shown = now
                self._show(f"submitting: {number:,} items so far, {number / (now - began):,.1f}/s")
            yield item


@contextmanager
def open_count() -> Iterator[Count]:
    """The count that suits standard error."""
    progress = _rich_count() if sys.stderr.isatty() else None
    if progress is None:
        yield Count(_say_aside, COUNT_EVERY)
        return
    with progress:
        line = progress.add_task("submitting", total=None)
        yield Count(lambda text: progress.update(line, description=text), LIVE_COUNT_EVERY)


def _say_aside(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def _tick(lines: Lines) -> None:
    while True:
        await asyncio.sleep(LINE_EVERY / 4)
        lines.tick()


def _rich_progress() -> Any:
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn  # noqa: PLC0415
    except ImportError:
        return None
    columns = [TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in ("failed", "pace", "left", "doing")]
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(), *columns)


def _rich_count() -> Any:
    try:
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import Progress, SpinnerColumn, TextColumn  # noqa: PLC0415
    except ImportError:
        return None
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False)
    # Gone when all is submitted; and what is printed meanwhile goes where it was sent.
    return Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False)
