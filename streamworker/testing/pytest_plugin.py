"""Fixtures for pytest: put `pytest_plugins = ["streamworker.testing.pytest_plugin"]` into your conftest.py.

`real_worker` is a RealWorker on a database of its own; the servers are started once a session, in a temporary folder.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import asyncpg
import pytest
from redis import Redis

from streamworker.embedded import Urls, servers
from streamworker.settings import Settings
from streamworker.store.migrate import migrate_at
from streamworker.testing.worker import Background, RealWorker

_numbers = count(1)


@pytest.fixture(scope="session")
def streamworker_background() -> Iterator[Background]:
    """The event loop in which everything asynchronous of these fixtures happens."""
    background = Background()
    yield background
    background.close()


@pytest.fixture(scope="session")
def streamworker_servers(streamworker_background: Background) -> Iterator[Urls]:
    """A Valkey and a Postgres, started once a session, gone at its end."""
    folder = Path(tempfile.mkdtemp(prefix="swt-"))  # short: its sockets' paths must be
    held = servers(Settings.load({"home": str(folder)}, environ={}))
    try:
        yield streamworker_background.enter(held)
    finally:
        streamworker_background.leave(held)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def real_worker(streamworker_servers: Urls, streamworker_background: Background, tmp_path: Path) -> Iterator[RealWorker]:
    """A worker to be started, on an empty database and an empty Valkey."""
    name = f"test_{next(_numbers)}"
    url = streamworker_servers.database_url
    own = url.replace("/streamworker?", f"/{name}?")
    with Redis.from_url(streamworker_servers.redis_url) as redis:
        redis.flushall()
    streamworker_background.run(_execute(url, f"CREATE DATABASE {name}"))
    streamworker_background.run(migrate_at(own))
    worker = RealWorker(streamworker_servers.redis_url, own, tmp_path, streamworker_background)
    try:
        yield worker
    finally:
        worker.close()
        streamworker_background.run(_execute(url, f"DROP DATABASE {name} WITH (FORCE)"))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=20)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
