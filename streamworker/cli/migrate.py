"""`migrate`: bring the database schema up to date."""

from __future__ import annotations

import argparse

from streamworker.cli.options import SERVERS, Subparsers, add_command, add_settings, asynchronous, load_settings
from streamworker.client import located
from streamworker.store import migrate as schema
from streamworker.store.pool import CONNECTION_ERRORS, explain, open_connection


def add_to(commands: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "migrate", run, "bring the database schema up to date")
    add_settings(parser, SERVERS)


@asynchronous
async def run(arguments: argparse.Namespace) -> int:
    """Apply the migrations that are missing, and name them."""
    async with located(load_settings(arguments)) as settings:
        assert settings.database_url is not None
        try:
            connection = await open_connection(settings.database_url, application_name="streamworker migrate")
            try:
                applied = await schema.migrate(connection)
            finally:
                await connection.close(timeout=5)
        except CONNECTION_ERRORS as error:
            raise ConnectionError(explain(error, settings.database_url)) from error
    for name in applied:
        print(f"applied {name}")
    if not applied:
        print("the schema is up to date")
    return 0
