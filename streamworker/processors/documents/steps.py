"""The steps of one item: told one by one, and left off as soon as nobody wants the result."""

from __future__ import annotations

from streamworker.processors.api import Context


class Stopped(Exception):
    """The result is no longer wanted, so the rest of the work is not done."""


class Steps:
    """Call it at the beginning of each step; raises Stopped where no further one is worth it."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __call__(self, percent: float, stage: str, message: str) -> None:
        if self._context.cancelled:
            raise Stopped("the result is no longer wanted")
        self._context.progress(percent, stage=stage, message=message)
