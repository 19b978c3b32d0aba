"""Waiting for what other processes do: polled, patient, and told to the log when it takes long."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Event

_logger = logging.getLogger("streamworker.embedded")
_REMIND = 10.0


def wait_until(happened: Callable[[], bool], stop: Event, about: str) -> None:
    """Return once `happened()`, or raise InterruptedError once `stop` is set. There is no limit: recovery takes as long as it takes."""
    pause, started = 0.002, time.monotonic()
    remind = started + _REMIND
    while not happened():
        if stop.wait(pause):
            raise InterruptedError(f"interrupted while {about}")
        pause = min(pause * 1.5, 0.1)
        if time.monotonic() >= remind:
            _logger.warning("%s for %d s", about, time.monotonic() - started)
            remind += _REMIND


def happens_within(seconds: float, happened: Callable[[], bool]) -> bool:
    """Tell whether `happened()` became true in time."""
    deadline, pause = time.monotonic() + seconds, 0.002
    while not happened():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    return True
