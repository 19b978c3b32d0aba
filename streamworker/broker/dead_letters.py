"""The dead stream: what could not be run, whole, with its reason."""

from __future__ import annotations

from collections.abc import Sequence

from redis.asyncio import Redis

from streamworker.messages import dead_letter


async def bury(
    redis: Redis, stream: str, fields: Sequence[tuple[bytes, bytes]], reason: str, detail: str, source_id: str, died_at: str
) -> None:
    """Write a dead letter. Only after it is written may the original be acknowledged."""
    arguments: list[bytes] = [part for pair in dead_letter(fields, reason, detail, source_id, died_at) for part in pair]
    await redis.execute_command("XADD", stream, "*", *arguments)
