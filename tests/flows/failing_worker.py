"""A worker with a fail point: at one step of the flow it is killed, stopped, or loses its connection to Postgres.

TEST_OF_STREAMWORKER_STEP says where, as `name:moment`, `name:moment:position`, `name:moment:position#occurrence` (from 1);
TEST_OF_STREAMWORKER_FAULT what happens there: `kill` (the default), `stop` or `lose`.
"""

from __future__ import annotations

import os
import re
import signal
import sys

import asyncpg
import uvloop

from streamworker.engine.worker import Worker
from streamworker.observe.events import Events, Step
from streamworker.observe.logs import configure_logging
from streamworker.settings import Settings

STEP, FAULT = "TEST_OF_STREAMWORKER_STEP", "TEST_OF_STREAMWORKER_FAULT"
_FORM = re.compile(r"(?P<name>\w+):(?P<when>\w+)(?::(?P<position>-?\d+))?(?:#(?P<occurrence>\d+))?")


class FailPoint:
    """A step hook that strikes once."""

    def __init__(self, place: str, fault: str) -> None:
        match = _FORM.fullmatch(place)
        assert match, f"{STEP}: expected name:moment:position#occurrence, got {place!r}"
        self._place = (match["name"], match["when"])
        self._position = None if match["position"] is None else int(match["position"])
        self._left = int(match["occurrence"] or 1)
        self._strike = {"kill": _kill, "stop": _stop, "lose": _lose}[fault]

    def __call__(self, step: Step) -> None:
        if (step.name, step.when) != self._place or self._position not in (None, step.position):
            return
        self._left -= 1
        if self._left == 0:
            self._strike()


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _lose() -> None:
    raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")


def main() -> int:
    """As `python -m streamworker run`, on the servers of the environment."""
    settings = Settings.load()
    configure_logging(settings.log_level, settings.log_format, settings.secrets)
    events = Events()
    events.on_step(FailPoint(os.environ[STEP], os.environ.get(FAULT, "kill")))
    return uvloop.run(_work(settings, events))


async def _work(settings: Settings, events: Events) -> int:
    assert settings.redis_url is not None
    assert settings.database_url is not None
    return await Worker(settings, settings.redis_url, settings.database_url, events=events).run()


if __name__ == "__main__":
    sys.exit(main())
