"""`demo`: a batch of real files, a worker killed in the middle of it, and every file accounted for."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from streamworker.cli.demo_gateway import has_terminal, key_pressed, live_page
from streamworker.cli.demo_report import report
from streamworker.cli.demo_worker import DemoWorker
from streamworker.cli.options import Subparsers, add_command, add_settings, asynchronous, load_settings
from streamworker.cli.progress import View, current, open_view
from streamworker.cli.sources import Source
from streamworker.cli.text import escape
from streamworker.client import Client
from streamworker.errors import StreamworkerError
from streamworker.messages import MAX_KEY, ProgressEvent
from streamworker.settings import Settings

# Not imported above: it draws with Pillow, which only the demo needs.
DRAWING = "streamworker.cli.demo_files"
DESCRIPTION = """\
Work through about forty document images and text files that are drawn for it, or through the files of FOLDER, with the
built-in processor `documents` and embedded servers of its own. Half-way the worker is killed, and another goes on.
The live page shows it; on a terminal it stays up until a key is pressed.
"""


def add_to(commands: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "demo", run, "see a batch survive the death of its worker", description=DESCRIPTION)
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="work on the files of this folder")
    add_settings(parser, {"home"})


@asynchronous
async def run(arguments: argparse.Namespace) -> int:
    """Run the demo; 0 when every file is accounted for."""
    settings = load_settings(arguments)
    # Servers of its own, always: a demo must not work through the jobs of others.
    settings = replace(settings, redis_url=None, database_url=None, home=settings.home / "demo")
    folder, paths = _files(arguments.folder, settings.home / "files")
    print(f"{len(paths)} files in {folder}; starting Valkey and Postgres in {settings.home}", flush=True)
    async with Client.connect(settings=settings) as client:
        await _cancel_leftovers(client)
        batch_id = await client.submit([_item(folder, path) for path in paths], processor="documents", metadata={"demo": str(folder)})
        print(f"submitted batch {batch_id}", flush=True)
        async with live_page(settings.home, settings.gateway_address[1]) as page, _worker(settings, folder) as worker:
            if page is not None:
                print(f"live page: {page}#/batches/{batch_id}", flush=True)
            await _until_it_ends(client, batch_id, worker)
            code = await report(client, batch_id, len(paths), settings.home, own_files=arguments.folder is not None)
            if page is not None and has_terminal():
                print(f"\nthe live page stays up: {page}   (any key ends the demo)", flush=True)
                await key_pressed()
        return code


def _files(given: str | None, drawn: Path) -> tuple[Path, list[str]]:
    """The folder that the processor may read, and the files in it."""
    if given is None:
        paths = importlib.import_module(DRAWING).draw_demo_files(drawn)
        return Path(os.path.abspath(drawn)), [os.path.abspath(path) for path in paths]
    # All at once, unlike `submit`: the demo wants to know what half-way is.
    return Path(os.path.abspath(given)), [item["payload"] for item in Source().paths([given])]


def _item(folder: Path, path: str) -> dict[str, str]:
    return {"payload": path, "key": os.path.relpath(path, folder)[-MAX_KEY:]}


async def _cancel_leftovers(client: Client) -> None:
    """End what an interrupted demo has left, which the new worker would work through first."""
    for status in ("pending", "processing"):
        for batch in await client.list(status):
            await client.cancel(batch.id)


@asynccontextmanager
async def _worker(settings: Settings, folder: Path) -> AsyncIterator[DemoWorker]:
    worker = DemoWorker(settings.home, folder)
    try:
        await worker.start()
        yield worker
    finally:
        await worker.stop()


async def _until_it_ends(client: Client, batch_id: UUID, worker: DemoWorker) -> None:
    """Show the progress; a worker that ends of its own accord ends the demo."""
    watching = asyncio.create_task(_watch(client, batch_id, worker))
    broken = asyncio.create_task(worker.broken())
    try:
        await asyncio.wait({watching, broken}, return_when=asyncio.FIRST_COMPLETED)
        if not watching.done():
            raise StreamworkerError(broken.result())
        watching.result()
    finally:
        for running in (watching, broken):
            running.cancel()
        await asyncio.gather(watching, broken, return_exceptions=True)


async def _watch(client: Client, batch_id: UUID, worker: DemoWorker) -> None:
    killed = False
    async with open_view() as view:
        view.say(f"worker {worker.pid} started")
        async for event in client.watch(batch_id):
            view.show(event)
            if not killed and _is_half_way(event):
                killed = True
                await _kill_and_replace(event, worker, view)
        if not killed:
            view.say("the batch was done before its worker could be killed in the middle of a file")


def _is_half_way(event: ProgressEvent) -> bool:
    """Half is done and a file is well under way; when none ever is, because all are quick, three quarters will do."""
    item = current(event)
    if item is None or (item.percent or 0) >= 95:
        return False
    deep = (item.percent or 0) >= 25
    return event.processed >= event.total // 2 and (deep or event.processed >= event.total * 3 // 4)


async def _kill_and_replace(event: ProgressEvent, worker: DemoWorker, view: View) -> None:
    item = current(event)
    assert item is not None
    old = await worker.kill()
    view.say(f"worker {old} killed (SIGKILL) in the middle of {escape(item.key, 100)}, {event.processed} of {event.total} files done")
    await worker.start()
    view.say(f"worker {worker.pid} started: it goes on where the other one stopped")
