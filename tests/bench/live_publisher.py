"""Events of many batches, so many a second each, spread evenly, as their workers would publish them; the time stands in `eta_seconds`.

python -m tests.bench.live_publisher '{"url": "redis://...", "ids": "a file", "rate": 10, "seconds": 10}'
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import hiredis
import redis

from streamworker.messages import ItemEvent, ProgressEvent, encode_event

TICK = 0.01  # seconds
REVISION, TIME = 77_777_777, 88_888_888.5  # stand in the template for what differs


def template(batch_id: str) -> bytes:
    """What a worker tells of one item of many, with places for the revision and the time: the publisher must not be what is measured."""
    item = ItemEvent(REVISION, f"uploads/picture-{REVISION:06d}.jpg", "completed", 1, 100.0)
    event = ProgressEvent(
        v=1, batch_id=batch_id, revision=REVISION, at="2026-01-01T00:00:00.000Z", status="processing", total=100_000, processed=REVISION,
        succeeded=REVISION, failed=0, percent=12.5, eta_seconds=TIME, worker="bench-1", epoch=1, error=None, items=[item],
    )  # fmt: skip
    text = encode_event(event).replace(b"%", b"%%")
    return text.replace(str(REVISION).encode(), b"%(revision)d").replace(str(TIME).encode(), b"%(time)f")


class Wire:
    """A connection that sends many commands at once and counts their answers."""

    def __init__(self, client: redis.Redis) -> None:
        self._connection = client.connection_pool.get_connection()
        self._reader = hiredis.Reader()

    def send(self, commands: list[bytes]) -> None:
        """Send, and wait until each is answered; raises what the server refused."""
        socket = self._connection._sock
        socket.sendall(b"".join(commands))
        left = len(commands)
        while left:
            self._reader.feed(socket.recv(65536))
            while left and (answer := self._reader.gets()) is not False:
                if isinstance(answer, Exception):
                    raise answer
                left -= 1


def main(url: str, ids: str, rate: float, seconds: float) -> None:
    """Publish at an even pace; says how many, and by how much it fell behind."""
    names = Path(ids).read_text().split()
    templates = [template(name) for name in names]
    with redis.Redis.from_url(url) as client:
        client.ping()
        wire = Wire(client)
        begun, sent, latest = time.monotonic(), 0, 0.0
        while (now := time.monotonic()) < begun + seconds:
            due, commands = int((now - begun) * rate * len(names)), []
            while sent < due:
                revision, place = divmod(sent, len(names))
                raw = templates[place] % {b"revision": revision + 1, b"time": time.monotonic()}
                command = ("XADD", "progress", "MAXLEN", "~", "100000", "*", "batch_id", names[place], "event", raw)
                commands.append(hiredis.pack_command(command))
                sent += 1
            if commands:
                wire.send(commands)
            latest = max(latest, time.monotonic() - now)
            time.sleep(max(0.0, TICK - (time.monotonic() - now)))
    print(json.dumps({"sent": sent, "latest": latest}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
