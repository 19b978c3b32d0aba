"""Events of many batches, so many a second each, spread evenly, as their workers would publish them; the time stands in `eta_seconds`.

python -m tests.bench.live_publisher '{"url": "redis://...", "ids": "a file", "rate": 10, "seconds": 10}'
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import redis

from streamworker.messages import ItemEvent, ProgressEvent, encode_event

TICK = 0.01  # seconds


def event(batch_id: str, revision: int) -> ProgressEvent:
    """What a worker tells of one item of many."""
    item = ItemEvent(revision, f"uploads/picture-{revision:06d}.jpg", "completed", 1, 100.0)
    return ProgressEvent(
        v=1, batch_id=batch_id, revision=revision, at="2026-01-01T00:00:00.000Z", status="processing", total=100_000, processed=revision,
        succeeded=revision, failed=0, percent=round(revision / 1000, 2), eta_seconds=time.monotonic(), worker="bench-1", epoch=1,
        error=None, items=[item],
    )  # fmt: skip


def main(url: str, ids: str, rate: float, seconds: float) -> None:
    """Publish at an even pace; says how many, and by how much it fell behind."""
    end = time.monotonic() + seconds
    names = Path(ids).read_text().split()
    begun, sent, revisions, latest = time.monotonic(), 0, dict.fromkeys(names, 0), 0.0
    with redis.Redis.from_url(url) as client:
        while (now := time.monotonic()) < end:
            due = int((now - begun) * rate * len(names))
            with client.pipeline(transaction=False) as pipeline:
                while sent < due:
                    batch_id = names[sent % len(names)]
                    revisions[batch_id] += 1
                    sent += 1
                    raw = encode_event(event(batch_id, revisions[batch_id]))
                    pipeline.xadd("progress", {"batch_id": batch_id, "event": raw}, maxlen=100_000, approximate=True)
                pipeline.execute()
            latest = max(latest, time.monotonic() - now)
            time.sleep(max(0.0, TICK - (time.monotonic() - now)))
    print(json.dumps({"sent": sent, "latest": latest}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
