"""`run`: one worker, until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import os

import uvloop

from streamworker.cli.options import Subparsers, add_command, add_settings, load_settings
from streamworker.embedded import located
from streamworker.engine.signals import StopSignals
from streamworker.engine.worker import Worker
from streamworker.observe.logs import configure_logging
from streamworker.settings import Settings, built_in_secrets


def add_to(commands: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "run", run, "work through batches until SIGTERM (the default command)")
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run one worker; returns its exit code."""
    signals = StopSignals()
    signals.listen()  # before anything is started that would go on without us
    settings = load_settings(arguments)
    configure_logging(settings.log_level, settings.log_format, (*settings.secrets, *built_in_secrets(os.environ)))
    return uvloop.run(_work(settings, signals))


async def _work(settings: Settings, signals: StopSignals) -> int:
    with signals.cancelling():
        await asyncio.sleep(0)  # a signal that came before there was a loop ends it here
        async with located(settings) as settings:
            assert settings.redis_url is not None
            assert settings.database_url is not None
            return await Worker(settings, settings.redis_url, settings.database_url, signals=signals).run()
    return 0  # told to stop before the servers were there
