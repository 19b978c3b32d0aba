"""Settings as flags: made from the one table that the environment is read by."""

from __future__ import annotations

import argparse
import asyncio
import functools
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
from redis.exceptions import RedisError

from streamworker.broker import connection as broker
from streamworker.client import Client, as_id
from streamworker.errors import ConfigurationError
from streamworker.settings import OPTIONS, Settings
from streamworker.store import pool as store

SERVERS = frozenset({"redis_url", "database_url", "home"})


Subparsers = Any  # argparse gives its class no public name


def add_command(
    commands: Subparsers, name: str, run: Callable[[argparse.Namespace], int], help: str, description: str | None = None, **more: Any
) -> argparse.ArgumentParser:
    """Add a command: its name, what it does, and what it is for."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=description or help, allow_abbrev=False, **more)
    parser.set_defaults(command=run)
    return parser


def add_settings(parser: argparse.ArgumentParser, only: Collection[str] | None = None) -> None:
    """Add the flags of all settings, or of `only` some."""
    group = parser.add_argument_group("settings (each also an environment variable)")
    for option in OPTIONS:
        if option.flag is not None and (only is None or option.name in only):
            shown = f" (default {option.default})" if option.default else ""
            group.add_argument(
                option.flag,
                dest=f"setting_{option.name}",
                metavar=option.flag.rpartition("-")[2].upper(),
                action="append" if option.repeated else "store",
                help=f"{option.help}{shown}; {option.variable}".replace("%", "%%"),
            )


def load_settings(arguments: argparse.Namespace) -> Settings:
    """The settings of this run: defaults < environment < flags."""
    given = {name.removeprefix("setting_"): value for name, value in vars(arguments).items() if name.startswith("setting_")}
    return Settings.load({name: value for name, value in given.items() if value is not None})


def asynchronous(command: Callable[[argparse.Namespace], Awaitable[int]]) -> Callable[[argparse.Namespace], int]:
    """Let a coroutine be a command."""

    @functools.wraps(command)
    def run(arguments: argparse.Namespace) -> int:
        return asyncio.run(_until_terminated(command, arguments))

    return run


async def _until_terminated(command: Callable[[argparse.Namespace], Awaitable[int]], arguments: argparse.Namespace) -> int:
    """Let SIGTERM and Ctrl-C end a command in good order, the embedded servers included; a second Ctrl-C waits for nothing.

    Between two steps of the loop, as a handler of the loop: in the middle of one a cancellation can get lost on Python 3.11
    (see `broker/cancellable.py`).
    """
    running = asyncio.current_task()
    assert running is not None
    loop = asyncio.get_running_loop()
    came: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        came.append(number)
        if number is signal.SIGINT:
            loop.remove_signal_handler(number)
        running.cancel()

    heard = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) is not signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, end, number)
    try:
        return await command(arguments)
    except asyncio.CancelledError:
        if not came:
            raise
        return 128 + came[0]
    finally:
        for number in heard:
            loop.remove_signal_handler(number)


@asynccontextmanager
async def open_client(arguments: argparse.Namespace) -> AsyncIterator[Client]:
    """A client for the servers that the arguments and the environment name; their errors become one sentence."""
    async with Client.connect(settings=load_settings(arguments)) as client, _explained(client.settings):
        yield client


@asynccontextmanager
async def _explained(settings: Settings) -> AsyncIterator[None]:
    assert settings.database_url is not None
    try:
        yield
    except RedisError as error:
        raise ConnectionError(broker.explain(error, settings.redis_url or "")) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
        raise ConnectionError(store.explain(error, settings.database_url)) from error


def read_id(text: str) -> UUID:
    """A batch id given as an argument."""
    try:
        return as_id(text)
    except ValueError as error:
        raise ConfigurationError(str(error).replace("batch_id", "ID", 1)) from None
