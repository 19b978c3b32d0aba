"""What a Redis or Valkey is like, for those who want to know whether it will do: facts, no judgement."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """A key that is to hold a stream: its type (`none` when it is not there) and its length."""

    name: str
    type: str
    length: int = 0


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """The consumer group: entries delivered and not acknowledged, and who reads."""

    consumers: int
    pending: int


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """A server and our keys in it; `ahead` is its clock minus ours in seconds, `seconds` the time of one round trip."""

    product: str
    version: str
    role: str
    max_memory: int
    eviction: str
    append_only: bool
    ahead: float
    seconds: float
    streams: list[StreamFacts]
    group: GroupFacts | None


@dataclass(frozen=True, slots=True)
class Reader:
    """A member of the consumer group: entries in hand, and seconds since it was heard of."""

    name: str
    pending: int
    idle_seconds: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """Lengths of the streams: entries on the stream of jobs, in hand, not read yet; dead letters; progress events."""

    length: int | None = None
    pending: int | None = None
    waiting: int | None = None
    dead: int | None = None
    progress_length: int | None = None

    def numbers(self) -> dict[str, int | None]:
        """All of them by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


async def readers(redis: Redis, stream: str, group: str) -> list[Reader]:
    """Who reads in the group; nobody where there is no group."""
    try:
        rows = await redis.xinfo_consumers(stream, group)
    except ResponseError as error:
        if "no such key" in str(error) or str(error).startswith("NOGROUP"):
            return []
        raise
    return [Reader(_decoded(row["name"]), int(row["pending"]), int(row["idle"]) / 1000) for row in rows]


async def backlog(redis: Redis, stream: str, group: str, dead_stream: str, progress_stream: str) -> Backlog:
    """How much waits. Finished entries are deleted, so what is neither in hand nor finished waits."""
    length = int(await redis.xlen(stream))
    found = await _group(redis, stream, group) if length else None
    pending = found.pending if found else 0
    dead, progress = int(await redis.xlen(dead_stream)), int(await redis.xlen(progress_stream))
    return Backlog(length, pending, max(length - pending, 0), dead, progress)


async def inspect(redis: Redis, streams: Sequence[str], group: str) -> RedisFacts:
    """Ask the server; the first of `streams` is the one with the group. Raises redis-py's errors."""
    await redis.ping()
    began, clock = time.monotonic(), time.time()
    seconds, microseconds = await redis.time()
    took = time.monotonic() - began
    facts = _one_node(await redis.info())
    return RedisFacts(
        product="Valkey" if "valkey_version" in facts else "Redis",
        version=str(facts.get("valkey_version") or facts.get("redis_version", "0")),
        role=str(facts.get("role", "unknown")),
        max_memory=int(facts.get("maxmemory", 0)),
        eviction=str(facts.get("maxmemory_policy", "unknown")),
        append_only=bool(facts.get("aof_enabled", 0)),
        ahead=seconds + microseconds / 1e6 - (clock + took / 2),
        seconds=took,
        streams=[await _stream(redis, name) for name in streams],
        group=await _group(redis, streams[0], group),
    )


def _decoded(name: Any) -> str:
    return name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)


def _one_node(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    # A cluster answers for each node.
    return facts if "redis_version" in facts else next(iter(facts.values()))


async def _stream(redis: Redis, name: str) -> StreamFacts:
    kind: Any = await redis.type(name)
    return StreamFacts(name, kind.decode(), await redis.xlen(name) if kind == b"stream" else 0)


async def _group(redis: Redis, stream: str, group: str) -> GroupFacts | None:
    try:
        rows = await redis.xinfo_groups(stream)
    except ResponseError:
        return None
    found = next((row for row in rows if row["name"] == group.encode()), None)
    return None if found is None else GroupFacts(found["consumers"], found["pending"])
