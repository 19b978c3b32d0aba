"""Writing progress events to their stream."""

from __future__ import annotations

from collections.abc import Sequence

from redis.asyncio import Redis

from streamworker.messages import ProgressEvent, encode_event


class Publisher:
    """Appends events to the progress stream, which is trimmed to about `maxlen` entries."""

    def __init__(self, redis: Redis, stream: str, maxlen: int) -> None:
        self._redis = redis
        self._stream = stream
        self._maxlen = maxlen

    async def publish(self, events: Sequence[ProgressEvent]) -> None:
        """Append the events in order, in one round trip. After an error any part of them may stand in the stream."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for event in events:
                fields = {"batch_id": event.batch_id, "event": encode_event(event)}
                pipeline.xadd(self._stream, fields, maxlen=self._maxlen, approximate=True)  # type: ignore[arg-type]
            await pipeline.execute()
