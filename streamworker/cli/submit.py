"""`submit`: files, folders, or JSON Lines become one batch."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from itertools import chain
from typing import Any

from streamworker.cli.options import SERVERS, Subparsers, add_command, add_settings, asynchronous, open_client, read_id
from streamworker.cli.progress import open_count
from streamworker.cli.sources import Source
from streamworker.cli.watch import follow
from streamworker.errors import ConfigurationError, InvalidSubmission

DESCRIPTION = """\
Submit one batch, all of it or nothing.

PATH: a file, a folder (its files, recursively, in order of their names; names that begin with a dot and links to folders
are left out), or - for a list of paths on standard input, one a line. The payload of an item is the absolute path of its file,
its key the path as given (in a folder: from the folder's name on).

--jsonl: one JSON value a line. An object with `payload`, and at most `key` besides, is an item; any other value is the payload
of one, and a string of at most 512 characters is its own key. Other items are named by their position.
"""


def add_to(commands: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands, "submit", run, "submit one batch", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="a file, a folder, or - for a list of paths on standard input")
    parser.add_argument("--jsonl", metavar="FILE", help="take the items from a JSON Lines file, or from standard input (-)")
    parser.add_argument("--processor", metavar="NAME", help="the processor that is to work on it (default: the first of the worker)")
    parser.add_argument("--metadata", metavar="JSON", help="a JSON object that goes with the batch")
    parser.add_argument("--max-attempts", type=_whole(1), metavar="N", help="starts of an item (default 2; STREAMWORKER_MAX_ATTEMPTS)")
    parser.add_argument("--max-failures", type=_whole(0), metavar="N", help="the batch fails with more failed items (default: never)")
    parser.add_argument("--id", metavar="UUID", help="the batch's id; one that was submitted before is left as it is")
    parser.add_argument("--watch", action="store_true", help="watch it to its end; the exit code is then the batch's")
    parser.add_argument("--json", action="store_true", help="print JSON (with --watch: the events, one a line)")
    add_settings(parser, SERVERS)


@asynchronous
async def run(arguments: argparse.Namespace) -> int:
    """Submit; prints the id on standard output and a word for people on standard error."""
    source = Source()
    items = _at_least_one(_items(arguments, source))
    metadata = _metadata(arguments.metadata)
    batch_id = None if arguments.id is None else read_id(arguments.id)
    async with open_client(arguments) as client:
        try:
            with open_count() as count:
                submitted = await client.submit(
                    count.of(items),
                    batch_id=batch_id,
                    processor=arguments.processor,
                    metadata=metadata,
                    max_attempts=arguments.max_attempts or client.settings.max_attempts,
                    max_failures=arguments.max_failures,
                )
        except InvalidSubmission as error:
            raise _at_its_place(error, source) from None
        if not (arguments.json and arguments.watch):
            print(f'{{"batch_id": "{submitted}"}}' if arguments.json else submitted, flush=True)
        if not arguments.watch:
            print(f"submitted; follow it with: streamworker watch {submitted}", file=sys.stderr)
            return 0
        return await follow(client, submitted, arguments.json)


def _items(arguments: argparse.Namespace, source: Source) -> Iterator[Any]:
    if arguments.jsonl is not None and arguments.paths:
        raise ConfigurationError("submit: expected PATHs or --jsonl, got both")
    if arguments.jsonl is not None:
        return source.json_lines(arguments.jsonl)
    if arguments.paths:
        return source.paths(arguments.paths)
    raise ConfigurationError("submit: expected a PATH, - for a list of paths on standard input, or --jsonl FILE")


def _at_least_one(items: Iterator[Any]) -> Iterator[Any]:
    """Read the first item now: what is missing or empty is refused before any server is asked."""
    for first in items:
        return chain((first,), items)
    raise InvalidSubmission("submit: expected at least one item, got none")


def _at_its_place(error: InvalidSubmission, source: Source) -> InvalidSubmission:
    # Items are checked as they are read, so the line read last is the one complained of.
    text = str(error)
    if source.place and re.match(r"items\[\d+\]: ", text):
        return InvalidSubmission(f"{source.place}: {text.partition(': ')[2]}")
    return error


def _metadata(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ConfigurationError(f'--metadata: expected a JSON object such as {{"source": "scanner"}}, got {text[:100]!r}')
    return value


def _whole(least: int) -> Any:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= least):
            raise argparse.ArgumentTypeError(f"expected a whole number from {least}, got {text!r}")
        return int(text)

    return read
