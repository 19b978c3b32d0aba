"""`dead`: what could not be run, with the reason; sent back, or dropped."""

from __future__ import annotations

import argparse
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from streamworker.broker import dead_stream
from streamworker.broker.connection import connect, explain
from streamworker.broker.replies import Entry
from streamworker.cli.options import SERVERS, Subparsers, add_command, add_settings, asynchronous, load_settings
from streamworker.cli.text import escape, json_text
from streamworker.embedded import located
from streamworker.errors import ConfigurationError
from streamworker.settings import Settings

STREAMS = SERVERS | {"stream", "dead_stream"}
NOUN = {"requeue": "sent back", "drop": "dropped"}


def add_to(commands: Subparsers) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("dead", help="list, send back or drop messages that could not be run", allow_abbrev=False)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = add_command(actions, "list", list_letters, "show the dead letters, the oldest first")
    listing.add_argument("--json", action="store_true", help="print a JSON array")
    requeue = add_command(actions, "requeue", requeue_letters, "put messages on the stream again, as they were sent")
    drop = add_command(actions, "drop", drop_letters, "delete messages for good")
    for action in (requeue, drop):
        action.add_argument("ids", nargs="*", metavar="ID", help="id of a dead letter, as `dead list` shows it")
        action.add_argument("--all", action="store_true", help="all of them")
    for action in (listing, requeue, drop):
        add_settings(action, STREAMS)


@asynchronous
async def list_letters(arguments: argparse.Namespace) -> int:
    """Print all dead letters."""
    async with _redis(arguments) as (redis, settings), aclosing(dead_stream.letters(redis, settings.dead_stream)) as letters:
        count = await (_print_json(letters) if arguments.json else _print_lines(letters))
    if not count and not arguments.json:
        print("no dead letters")
    return 0


async def _print_lines(letters: AsyncIterator[Entry]) -> int:
    count = 0
    async for entry in letters:
        count += 1
        letter = dead_stream.read(entry)
        sent = " ".join(f"{escape(_text(name))}={escape(_text(value), 60)}" for name, value in letter.fields)
        print(f"{entry.id.decode()}  {escape(letter.reason or 'no reason')}: {escape(letter.detail, 300)}\n    {sent[:500]}")
    return count


async def _print_json(letters: AsyncIterator[Entry]) -> int:
    count = 0
    async for entry in letters:
        print(("," if count else "[") + json_text(_as_json(entry)))
        count += 1
    print("]" if count else "[]")
    return count


def _as_json(entry: Entry) -> dict[str, Any]:
    letter = dead_stream.read(entry)
    sent = [[_text(name), _text(value)] for name, value in letter.fields]
    return {
        "id": entry.id.decode(),
        "reason": letter.reason,
        "detail": letter.detail,
        "source_id": letter.source_id,
        "died_at": letter.died_at,
        "fields": sent,
    }


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


@asynchronous
async def requeue_letters(arguments: argparse.Namespace) -> int:
    """Send letters back; 1 when one of the ids is not there."""

    async def send(redis: Redis, settings: Settings, letter: Entry) -> bool:
        await dead_stream.requeue(redis, settings.dead_stream, settings.stream, letter)
        return True

    return await _each(arguments, "requeue", send)


@asynchronous
async def drop_letters(arguments: argparse.Namespace) -> int:
    """Delete letters; 1 when one of the ids is not there."""

    async def drop(redis: Redis, settings: Settings, letter: Entry) -> bool:
        return await dead_stream.drop(redis, settings.dead_stream, [letter.id.decode()]) > 0

    return await _each(arguments, "drop", drop)


async def _each(arguments: argparse.Namespace, action: str, act: Any) -> int:
    _check_ids(arguments, action)
    done = missing = 0
    async with _redis(arguments) as (redis, settings):
        async for entry_id, letter in _chosen(arguments, redis, settings.dead_stream):
            if letter is not None and await act(redis, settings, letter):
                done += 1
            else:
                missing += 1
                print(f"{entry_id}: no dead letter has this id")
    print(f"{done} {'message' if done == 1 else 'messages'} {NOUN[action]}")
    return 1 if missing else 0


async def _chosen(arguments: argparse.Namespace, redis: Redis, stream: str) -> AsyncIterator[tuple[str, Entry | None]]:
    if not arguments.all:
        for entry_id in arguments.ids:
            yield entry_id, await dead_stream.find(redis, stream, entry_id)
        return
    async for letter in dead_stream.letters(redis, stream):
        yield letter.id.decode(), letter


def _check_ids(arguments: argparse.Namespace, action: str) -> None:
    if bool(arguments.ids) == arguments.all:
        raise ConfigurationError(f"dead {action}: expected ids or --all, got {'both' if arguments.all else 'neither'}")
    for entry_id in arguments.ids:
        if not re.fullmatch(r"[0-9]{1,19}-[0-9]{1,19}", entry_id):
            raise ConfigurationError(f"dead {action}: expected an id such as 1767225600000-0, got {entry_id[:60]!r}")


@asynccontextmanager
async def _redis(arguments: argparse.Namespace) -> AsyncIterator[tuple[Redis, Settings]]:
    async with located(load_settings(arguments)) as settings:
        assert settings.redis_url is not None
        redis = connect(settings.redis_url)
        try:
            yield redis, settings
        except RedisError as error:
            raise ConnectionError(explain(error, settings.redis_url)) from error
        finally:
            await redis.aclose()
