"""`search`: the described files that are nearest to a text in meaning."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from streamworker.cli.options import SERVERS, Subparsers, add_command, add_settings, asynchronous, load_settings
from streamworker.cli.text import print_array, print_table
from streamworker.embedded import located
from streamworker.errors import ConfigurationError
from streamworker.processors.api import Permanent, Unavailable
from streamworker.processors.ollama.configuration import Configuration
from streamworker.processors.ollama.descriptions import MAX_FOUND, search
from streamworker.processors.ollama.server import connect
from streamworker.settings import Settings
from streamworker.store.pool import CONNECTION_ERRORS, open_connection, refusal

DESCRIPTION = """\
Search what the processor `ollama` has described: the text is embedded by the same model (STREAMWORKER_OLLAMA_EMBED_MODEL)
and the descriptions nearest to it by cosine distance are printed, the nearest first.
"""


def add_to(commands: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "search", run, "search the descriptions of `ollama`", description=DESCRIPTION)
    parser.add_argument("text", metavar="TEXT", help="what to look for, in your own words")
    parser.add_argument("--limit", type=_limit, default=10, metavar="N", help="how many to print (default 10)")
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    add_settings(parser, SERVERS)


@asynchronous
async def run(arguments: argparse.Namespace) -> int:
    """Print what was found; nothing found is no failure."""
    if not arguments.text.strip():
        raise ConfigurationError("search: expected a text to look for, got an empty one")
    try:
        arguments.text.encode()
    except UnicodeEncodeError:  # an argument's bytes that are no UTF-8 come in as halves of surrogate pairs
        raise ConfigurationError(f"search: expected a text in UTF-8, got {arguments.text[:80]!r}") from None
    configuration = Configuration.read()
    async with located(load_settings(arguments)) as settings:
        vector = await embed(configuration, arguments.text)
        found = await _search(settings, vector, configuration.embed_model, arguments.limit)
    if arguments.json:
        print_array(found)
    else:
        print_table(("MATCH", "SCORE", "KEY", "DESCRIPTION"), map(_row, found))
    if not found:
        print(f"nothing has been described yet with the embedding model {configuration.embed_model}", file=sys.stderr)
    return 0


async def embed(configuration: Configuration, text: str) -> list[float]:
    """The vector of a text; ConnectionError where the model server does not give it, ConfigurationError where the extra is missing."""
    try:
        async with connect(configuration) as server:
            return await server.embed(text)
    except (Unavailable, Permanent) as error:
        raise ConnectionError(str(error)) from error


async def _search(settings: Settings, vector: list[float], embed_model: str, limit: int) -> list[dict[str, Any]]:
    assert settings.database_url is not None
    try:
        connection = await open_connection(settings.database_url, application_name="streamworker search")
        try:
            return await search(connection, vector, embed_model, limit)
        finally:
            await connection.close(timeout=5)
    except CONNECTION_ERRORS as error:
        raise refusal(error, settings.database_url) from error


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    text = " ".join(found["description"].split())
    return f"{1 - found['distance']:.3f}", str(found["score"]), found["key"], text if len(text) <= 100 else f"{text[:99]}…"


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= MAX_FOUND):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {MAX_FOUND:,}, got {text!r}")
    return int(text)
