"""The consumer group: entries delivered to us, reclaimed by us, kept, passed on, and acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from streamworker.broker.replies import Entry, entries, read_entries
from streamworker.broker.scripts import Scripts

# An entry given away looks idle for this long: the next XAUTOCLAIM of anybody takes it at once.
GIVEN_AWAY_MS = 3_600_000
STRANDED_PAGE = 500


@dataclass(frozen=True, slots=True)
class Address:
    """Where the jobs are: stream, consumer group, and our name in it."""

    stream: str
    group: str
    consumer: str


class Delivery(msgspec.Struct, frozen=True):
    """One stream entry that is pending with us."""

    entry_id: str
    fields: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What one XAUTOCLAIM gave: deliveries, and ids of entries that were deleted while pending (their dispatch is lost)."""

    deliveries: list[Delivery] = field(default_factory=list)
    deleted: int = 0
    through: bool = True  # the whole list has been looked through


class Consumer:
    """Reads, reclaims and acknowledges under one consumer name.

    `reader` is a client of its own for blocking reads, `redis` serves everything else.
    Methods raise redis-py's errors; NOGROUP means that the stream or the group is gone: call `create_group`.
    """

    def __init__(self, redis: Redis, reader: Redis, address: Address) -> None:
        self._redis = redis
        self._reader = reader
        self._address = address
        self._scripts = Scripts(redis)
        self._cursor: bytes = b"0-0"
        self._looked_until = "-"

    async def create_group(self) -> bool:
        """Make the group, from the first entry on, if it is not there; True if it was made."""
        try:
            await self._redis.xgroup_create(self._address.stream, self._address.group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" in str(error):
                return False
            raise
        return True

    async def read(self, count: int, block: float) -> list[Delivery]:
        """Up to `count` new entries, waiting at most `block` seconds. Never cancel it: what is delivered meanwhile is ours."""
        reply = await self._reader.execute_command(
            "XREADGROUP", "GROUP", self._address.group, self._address.consumer,
            "COUNT", count, "BLOCK", max(1, round(block * 1000)), "STREAMS", self._address.stream, ">",
        )  # fmt: skip
        return [_delivery(entry) for _, found in read_entries(reply) for entry in found]

    async def reclaim(self, count: int, min_idle: float) -> Reclaimed:
        """Take over up to `count` entries that nobody renewed for `min_idle` seconds.

        The cursor is kept between calls: one call scans only a part of a long list.
        """
        reply = await self._redis.execute_command(
            "XAUTOCLAIM", self._address.stream, self._address.group, self._address.consumer,
            round(min_idle * 1000), self._cursor, "COUNT", count,
        )  # fmt: skip
        self._cursor = reply[0]
        found = entries(reply[1])
        # Redis 6.2 answers a deleted entry with a hole and leaves it pending; later servers list it and drop it.
        gone = [entry.id.decode() for entry in found if not entry.fields]
        if gone:
            await self.acknowledge(gone)
        deleted = len(gone) + sum(row is None for row in reply[1]) + (len(reply[2]) if len(reply) > 2 else 0)
        return Reclaimed([_delivery(entry) for entry in found if entry.fields], deleted, self._cursor == b"0-0")

    async def pass_on(self, entry_id: str, consumer: str | None = None, idle: float | None = None) -> bool:
        """Hand a pending entry to `consumer` with an idle time (seconds); to nobody in particular: the next to look takes it."""
        idle_ms = GIVEN_AWAY_MS if idle is None else round(idle * 1000)
        address = self._address
        arguments = (address.group, address.consumer, entry_id, consumer or address.consumer, idle_ms)
        return bool(await self._scripts.run("pass_on", address.stream, *arguments))

    async def acknowledge(self, entry_ids: Sequence[str]) -> None:
        """XACK and XDEL in one transaction: the stream's length stays the backlog."""
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.xack(self._address.stream, self._address.group, *entry_ids)
            pipeline.xdel(self._address.stream, *entry_ids)
            await pipeline.execute()

    async def enqueue(self, batch_id: str) -> str:
        """Put a batch on the stream; returns the entry's id."""
        entry_id = await self._redis.xadd(self._address.stream, {"batch_id": batch_id})
        return entry_id.decode() if isinstance(entry_id, bytes) else entry_id

    async def last_delivered(self) -> str:
        """The group's last delivered id; raises NOGROUP or `no such key` when there is none."""
        for row in await self._redis.xinfo_groups(self._address.stream):
            if row["name"] == self._address.group.encode():
                last: bytes = row["last-delivered-id"]
                return last.decode()
        raise ResponseError("NOGROUP the consumer group is gone")

    async def find_lost(self, entry_ids: Sequence[str]) -> set[str]:
        """Those of `entry_ids` that will never be delivered to anybody."""
        milliseconds, _, sequence = (await self.last_delivered()).partition("-")
        lost = await self._scripts.run("find_lost", self._address.stream, self._address.group, milliseconds, sequence, *entry_ids)
        return {entry_id.decode() for entry_id in lost}

    async def requeue_stranded(self) -> int:
        """Put anew on the stream what was delivered and is pending with nobody, as XGROUP DELCONSUMER leaves it; returns how many were.

        The place is kept between calls: one call looks at no more than a page.
        """
        arguments = (self._address.group, self._looked_until, await self.last_delivered(), STRANDED_PAGE)
        looked_until, moved = await self._scripts.run("requeue_stranded", self._address.stream, *arguments)
        self._looked_until = looked_until.decode()
        return int(moved)

    async def delete(self, entry_ids: Sequence[str]) -> None:
        """Remove entries that nobody will ever get."""
        await self._redis.xdel(self._address.stream, *entry_ids)

    async def drop_idle_consumers(self, idle: float) -> int:
        """Forget consumers without pending entries that did nothing for `idle` seconds; returns how many."""
        dropped = 0
        for row in await self._redis.xinfo_consumers(self._address.stream, self._address.group):
            if row["pending"] == 0 and row["idle"] >= idle * 1000 and row["name"] != self._address.consumer.encode():
                arguments = (self._address.group, row["name"], round(idle * 1000))
                dropped += int(await self._scripts.run("drop_consumer", self._address.stream, *arguments))
        return dropped


class Renewer:
    """Keeps entries from looking idle; used from the heartbeat's own loop, with its own client."""

    def __init__(self, redis: Redis, address: Address) -> None:
        self._address = address
        self._scripts = Scripts(redis)

    async def renew(self, entry_ids: Sequence[str]) -> dict[str, bool]:
        """Reset the idle time of the entries that are still ours; tells for each whether it was."""
        address = self._address
        kept = await self._scripts.run("renew", address.stream, address.group, address.consumer, GIVEN_AWAY_MS, *entry_ids)
        return {entry_id: bool(mine) for entry_id, mine in zip(entry_ids, kept, strict=True)}


def group_is_gone(error: BaseException) -> bool:
    """Whether an error says that the stream or its group vanished."""
    text: Any = str(error)
    return isinstance(error, ResponseError) and ("NOGROUP" in text or "UNBLOCKED" in text or "no such key" in text)


def _delivery(entry: Entry) -> Delivery:
    return Delivery(entry.id.decode(), entry.fields)
