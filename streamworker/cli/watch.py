"""`watch`: a batch as it goes, on a terminal, as plain lines, or as JSON."""

from __future__ import annotations

import argparse
from uuid import UUID

from streamworker.cli.batches import show_failures
from streamworker.cli.options import SERVERS, Subparsers, add_command, add_settings, asynchronous, open_client, read_id
from streamworker.cli.progress import open_view
from streamworker.cli.text import json_text
from streamworker.client import Client
from streamworker.messages import ProgressEvent


def add_to(commands: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "watch", run, "watch a batch to its end; exit code 0 when it is completed, else 1")
    parser.add_argument("id", metavar="ID", help="the batch's id")
    parser.add_argument("--json", action="store_true", help="print the events, one JSON object a line")
    add_settings(parser, SERVERS)


@asynchronous
async def run(arguments: argparse.Namespace) -> int:
    """Watch one batch."""
    batch_id = read_id(arguments.id)
    async with open_client(arguments) as client:
        return await follow(client, batch_id, arguments.json)


async def follow(client: Client, batch_id: UUID, as_json: bool) -> int:
    """Show a batch until it ends; 0 when it was completed, 1 when it failed or was cancelled."""
    last = await (_print_events(client, batch_id) if as_json else _show(client, batch_id))
    return 0 if last is not None and last.status == "completed" else 1


async def _print_events(client: Client, batch_id: UUID) -> ProgressEvent | None:
    last = None
    async for last in client.watch(batch_id):
        print(json_text(last), flush=True)
    return last


async def _show(client: Client, batch_id: UUID) -> ProgressEvent | None:
    last = None
    async with open_view() as view:
        async for last in client.watch(batch_id):
            view.show(last)
    if last is not None and last.failed and not view.failures_shown:
        await show_failures(client, batch_id)
    return last
