"""A context that keeps what it is told, and in which a worker can die."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import NamedTuple

from streamworker.messages import clean_text
from streamworker.processors.api import LONGEST_TOLD, BatchInfo, Done, checkpoint_text, percent_of

_LOG = logging.getLogger("streamworker.processor")


class Told(NamedTuple):
    """One call of `progress`, as a reader would see it."""

    percent: float | None
    stage: str | None
    message: str | None


class Death(BaseException):
    """Ends the processor's code where its worker dies. No Exception, so that user code seldom catches it."""


class RecordingContext:
    """One attempt's Context."""

    def __init__(self, batch: BatchInfo, saved: str | None, dies_after: int | None) -> None:
        self.batch = batch
        self.log = logging.LoggerAdapter(_LOG, {"batch_id": str(batch.id)})
        self.cancelled = False
        self.deadline: float | None = None
        self.told: list[Told] = []
        self.saved = saved
        self.died = False
        self._left = dies_after

    def progress(self, percent: float | None = None, stage: str | None = None, message: str | None = None) -> Awaitable[None]:
        """See `Context.progress`."""
        number = None if percent is None else percent_of(percent)
        self.told.append(Told(number, _text(stage), _text(message)))
        return Done()

    def checkpoint(self, state: object, *, wait: bool = True) -> Awaitable[None]:
        """See `Context.checkpoint`."""
        self.saved = checkpoint_text(state)
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self.died = True
                raise Death
        return Done()


def _text(text: str | None) -> str | None:
    return None if text is None else clean_text(str(text), LONGEST_TOLD)
