"""`list`, `status`, `cancel`, `retry`: look at batches, and change one's mind about them."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Sequence
from itertools import chain
from uuid import UUID

import msgspec

from streamworker.cli.options import SERVERS, Subparsers, add_command, add_settings, asynchronous, open_client, read_id
from streamworker.cli.progress import doing
from streamworker.cli.text import duration, escape, json_text, moment, print_array, print_table
from streamworker.client import Client
from streamworker.errors import StreamworkerError
from streamworker.messages import TERMINAL, ItemEvent
from streamworker.store.catalog import STATUSES
from streamworker.store.rows import Batch, ItemRow

FAILURES_SHOWN = 10


def add_to(commands: Subparsers) -> None:
    """Add the commands to the command line."""
    listing = add_command(commands, "list", list_batches, "show the newest batches")
    listing.add_argument("--status", choices=STATUSES, help="only batches of this status")
    listing.add_argument("--limit", type=_count, default=50, metavar="N", help="at most so many (default 50)")
    status = add_command(commands, "status", show_status, "show one batch, or its items")
    status.add_argument("--items", nargs="?", const="all", choices=("all", *STATUSES), help="show the items, all or those of one status")
    cancel = add_command(commands, "cancel", cancel_batch, "cancel a batch: no further item starts, the one in flight is interrupted")
    retry = add_command(commands, "retry", retry_batch, "run the failed and cancelled items of an ended batch again")
    retry.add_argument("--position", type=_position, metavar="N", help="only the item at this position")
    for parser in (status, cancel, retry):
        parser.add_argument("id", metavar="ID", help="the batch's id")
    for parser in (listing, status):
        parser.add_argument("--json", action="store_true", help="print JSON (the items of a batch: one object a line)")
    for parser in (listing, status, cancel, retry):
        add_settings(parser, SERVERS)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1_000_000):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 1,000,000, got {text!r}")
    return int(text)


def _position(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 11 and int(text) < 2**31):
        raise argparse.ArgumentTypeError(f"expected the position of an item, a whole number from 0, got {text[:60]!r}")
    return int(text)


@asynchronous
async def list_batches(arguments: argparse.Namespace) -> int:
    """Print the newest batches, as a table or as a JSON array."""
    async with open_client(arguments) as client:
        batches = await client.list(arguments.status, arguments.limit)
    if arguments.json:
        print_array(batches)
    elif batches:
        print_table(("ID", "STATUS", "DONE", "FAILED", "CREATED", "TOOK", "PROCESSOR"), map(_line, batches))
    else:
        print("no batches" + (f" with status {arguments.status}" if arguments.status else ""))
    return 0


def _line(batch: Batch) -> tuple[str, ...]:
    done = f"{batch.processed}/{batch.total} ({batch.percent:g} %)"
    return str(batch.id), batch.status, done, str(batch.failed), moment(batch.created_at), _took(batch), batch.processor or ""


def _took(batch: Batch) -> str:
    if batch.started_at is None or batch.finished_at is None:
        return ""
    return duration((batch.finished_at - batch.started_at).total_seconds())


@asynchronous
async def show_status(arguments: argparse.Namespace) -> int:
    """Print one batch with its first failures, or its items."""
    batch_id = read_id(arguments.id)
    async with open_client(arguments) as client:
        if arguments.items:
            wanted = None if arguments.items == "all" else arguments.items
            await _show_items(client.items(batch_id, wanted), arguments.json)
            return 0
        batch, in_flight = await client.status(batch_id), await client.in_flight(batch_id)
        if arguments.json:
            print(json_text(msgspec.structs.asdict(batch) | {"in_flight": in_flight}))
        else:
            _show_batch(batch, in_flight)
            if batch.failed:
                await show_failures(client, batch_id)
    return 0


def _show_batch(batch: Batch, in_flight: Sequence[ItemEvent]) -> None:
    done = f"{batch.processed} of {batch.total} ({batch.percent:g} %), {batch.failed} failed"
    processor = batch.processor or "(the first of the worker)"
    own = [("batch", str(batch.id)), ("status", batch.status), ("done", done), ("processor", processor)]
    if batch.metadata:
        own.append(("metadata", json_text(batch.metadata)))
    if batch.worker and batch.status not in TERMINAL:
        own.append(("worker", f"{batch.worker}, epoch {batch.epoch}"))
    if batch.error:
        own.append(("error", batch.error))
    own += [("in flight", f"{doing(item)} (attempt {item.attempt})") for item in in_flight]
    times = [(name, moment(getattr(batch, f"{name}_at"))) for name in ("created", "started", "finished")]
    for name, value in chain(own, ((name, at) for name, at in times if at)):
        print(f"{name:<10} {escape(value)}")


async def show_failures(client: Client, batch_id: UUID, limit: int = FAILURES_SHOWN) -> None:
    """Print the first failed items of a batch with their reasons."""
    shown = 0
    async for item in client.items(batch_id, "failed"):
        if shown == limit:
            print(f"… and more: streamworker status {batch_id} --items failed")
            return
        print(failure_line(item.key, item.error, item.attempts))
        shown += 1


def failure_line(key: str, error: str | None, attempts: int) -> str:
    """One failed item with its reason."""
    return f"failed: {escape(key)}: {escape(error or 'no reason given', 500)} (attempt {attempts})"


async def _show_items(items: AsyncIterator[ItemRow], as_json: bool) -> None:
    async for item in items:
        if as_json:
            print(json_text(item))
        else:
            outcome = item.error if item.error is not None else json_text(item.result) if item.status == "completed" else ""
            print(f"{item.position:>7}  {item.status:<10}  {item.attempts}  {escape(item.key)}  {escape(outcome, 200)}".rstrip())


@asynchronous
async def cancel_batch(arguments: argparse.Namespace) -> int:
    """Cancel a batch; 1 when it had ended already."""
    batch_id = read_id(arguments.id)
    async with open_client(arguments) as client:
        cancelled = await client.cancel(batch_id)
        status = (await client.status(batch_id)).status
    print(f"batch {batch_id} is cancelled" if cancelled else f"batch {batch_id} had ended already: {status}")
    return 0 if cancelled else 1


@asynchronous
async def retry_batch(arguments: argparse.Namespace) -> int:
    """Put failed and cancelled items back; a batch that is still open is refused."""
    batch_id = read_id(arguments.id)
    async with open_client(arguments) as client:
        reopened = await client.retry_failed(batch_id, arguments.position)
        status = (await client.status(batch_id)).status
    if not reopened and status not in TERMINAL:
        raise StreamworkerError(f"batch {batch_id} is {status}: what failed can be retried once it has ended")
    where = "" if arguments.position is None else f" at position {arguments.position}"
    told = f"{reopened} {'item runs' if reopened == 1 else 'items run'} again" if reopened else f"nothing to retry{where}"
    print(f"batch {batch_id}: {told}")
    return 0
