"""What the items under way told last, as it stands on the progress stream: it is stored nowhere else."""

from __future__ import annotations

from contextlib import suppress

from redis.asyncio import Redis

from streamworker.broker.replies import Entry, entries
from streamworker.errors import InvalidMessage
from streamworker.messages import ItemEvent, ProgressEvent, decode_event

PAGE, MOST_PAGES = 500, 20


async def read_live(redis: Redis, stream: str, batch_id: str, epoch: int) -> list[ItemEvent]:
    """Items that were being worked on under this epoch when they were last heard of, in order.

    The newest 10,000 entries are looked through, and no further than where the epoch began.
    """
    found: dict[int, ItemEvent] = {}
    newest = "+"
    for _ in range(MOST_PAGES):
        page = entries(await redis.execute_command("XREVRANGE", stream, newest, "-", "COUNT", PAGE))
        events = [event for entry in page if (event := _event(entry, batch_id.encode())) is not None]
        for event in events:
            for item in event.items if event.epoch == epoch else ():
                found.setdefault(item.position, item)
        if len(page) < PAGE or any(event.epoch < epoch for event in events):
            break
        newest = f"({page[-1].id.decode()}"
    return [item for _, item in sorted(found.items()) if item.status == "processing"]


def _event(entry: Entry, batch_id: bytes) -> ProgressEvent | None:
    fields = dict(entry.fields)
    if fields.get(b"batch_id") == batch_id:
        with suppress(InvalidMessage, ValueError):  # a stranger's entry
            return decode_event(fields.get(b"event", b""))
    return None
