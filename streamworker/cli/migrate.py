"""`migrate`: bring the database schema up to date, and on demand make the table of the processor `ollama`."""

from __future__ import annotations

import argparse

import asyncpg

from streamworker.cli.options import SERVERS, Subparsers, add_command, add_settings, asynchronous, load_settings
from streamworker.cli.search import embed
from streamworker.embedded import located
from streamworker.processors.ollama.configuration import Configuration
from streamworker.processors.ollama.descriptions import prepare
from streamworker.store import migrate as schema
from streamworker.store.pool import CONNECTION_ERRORS, open_connection, refusal


def add_to(commands: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "migrate", run, "bring the database schema up to date")
    parser.add_argument(
        "--with",
        dest="with_",
        choices=["ollama"],
        metavar="PROCESSOR",
        help="ollama: make also the table of its descriptions, for which it asks the embedding model how long its vectors are",
    )
    add_settings(parser, SERVERS)


@asynchronous
async def run(arguments: argparse.Namespace) -> int:
    """Apply the migrations that are missing, and name them."""
    vector = await embed(Configuration.read(), "How long are your vectors?") if arguments.with_ else None
    async with located(load_settings(arguments)) as settings:
        assert settings.database_url is not None
        try:
            connection = await open_connection(settings.database_url, application_name="streamworker migrate")
            try:
                applied = await schema.migrate(connection)
                if vector is not None and await _prepare(connection, len(vector)):
                    applied.append(f"the table streamworker.descriptions, for vectors of {len(vector):,} numbers")
            finally:
                await connection.close(timeout=5)
        except CONNECTION_ERRORS as error:
            raise refusal(error, settings.database_url) from error
    for name in applied:
        print(f"applied {name}")
    if not applied:
        print("the schema is up to date")
    return 0


async def _prepare(connection: asyncpg.Connection[asyncpg.Record], dimension: int) -> bool:
    async with connection.transaction():
        return await prepare(connection, dimension)
