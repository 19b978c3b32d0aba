"""A short share of the chaos runs, with fixed seeds; a release runs far more of them (scripts/chaos)."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.run import Plan, describe, run
from tests.chaos.world import ROOT, Terms, wait_until

KILLS = 20
MINUTES = 1.0


@pytest.mark.timeout(300)
async def test_killed_workers_lose_nothing_and_repeat_nothing(tmp_short: Path) -> None:
    result = await run(Plan(seed=4711, kills=KILLS), Terms(workers=2, lease_ttl=15.0), tmp_short)
    assert result.clean, describe(result)
    assert result.ok == result.items > 0
    assert result.take_overs


@pytest.mark.timeout(420)
async def test_all_faults_mixed_lose_nothing_and_repeat_nothing(tmp_short: Path) -> None:
    result = await run(Plan(seed=4711, minutes=MINUTES, every=False), Terms(workers=3, lease_ttl=2.0), tmp_short)
    assert result.clean, describe(result)
    assert result.ok > 0


@pytest.mark.timeout(120)
def test_the_command_reports_in_json_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos.run", "--seed", "5", "--kills", "1", "--items", "20", "--json", "--keep", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["violations"] == {}
    again = subprocess.run(
        [sys.executable, "-m", "tests.chaos.checker", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert again.returncode == 0, again.stdout


async def test_an_interrupted_run_leaves_nothing(tmp_short: Path) -> None:
    running = asyncio.create_task(run(Plan(seed=1, minutes=5), Terms(workers=2), tmp_short))
    started = tmp_short / "worker-1.log"
    assert await wait_until(lambda: started.exists() and started.stat().st_size > 0, 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not [entry for entry in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_short).encode() in read(entry)]


def read(entry: Path) -> bytes:
    try:
        return entry.read_bytes() + entry.with_name("environ").read_bytes()
    except OSError:
        return b""
