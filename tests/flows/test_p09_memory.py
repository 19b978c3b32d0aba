"""P9: memory does not grow with the batch, neither the worker's nor that of who submits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from uuid import UUID

from tests.flows.scene import OURS, Scene
from tests.flows.workers import ROOT

FEW, MANY = 200, 50_000
GROWTH = 20 * 1024 * 1024
# Submits items that come one by one, follows the batch to its end and reads all results; prints the id and the peak of its memory.
CLIENT = """
import asyncio, json, pathlib, sys
from streamworker import Client

async def main(redis_url, database_url, count):
    async with Client.connect(redis_url, database_url) as client:
        items = ({"key": f"upload-{n}.jpg", "payload": {"number": n, "text": "x" * 200}} for n in range(count))
        batch_id = await client.submit(items)
        async for event in client.watch(batch_id):
            pass
        results = 0
        async for item in client.items(batch_id):
            results += 1
        assert results == count
    status = pathlib.Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    print(json.dumps([str(batch_id), peak]))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def run_client(scene: Scene, items: int) -> int:
    """Send a batch through a client process; returns the greatest number of bytes that it held."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    line = [sys.executable, "-c", CLIENT, scene.redis_url, scene.database_url, str(items)]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    batch_id, peak = json.loads(done.stdout)
    assert scene.wait_end(UUID(batch_id))["succeeded"] == items
    return int(peak)


def test_worker_and_client_hold_no_more_for_a_large_batch(scene: Scene) -> None:
    worker = scene.start_worker(processor="tests.flows.processors:quiet")
    client_few, worker_few = run_client(scene, FEW), worker.memory
    client_many, worker_many = run_client(scene, MANY), worker.memory
    assert client_many - client_few < GROWTH, f"{client_few >> 20} MiB for {FEW} items, {client_many >> 20} MiB for {MANY}"
    assert worker_many - worker_few < GROWTH, f"{worker_few >> 20} MiB for {FEW} items, {worker_many >> 20} MiB for {MANY}"
