"""Postgres for plain test code: one connection, kept on a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import asyncpg

Value = TypeVar("Value")
AWAY = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.OperatorInterventionError)


class Background:
    """An event loop in a thread, for what exists only as coroutines."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Value], seconds: float = 60.0) -> Value:
        """Run a coroutine over there and wait for its end."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def close(self) -> None:
        """End the loop."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Database:
    """Statements one by one, jsonb as Python values. While the server is away a statement waits for it, up to 30 s."""

    def __init__(self, url: str, background: Background) -> None:
        self._url = url
        self._background = background
        self._connection: asyncpg.Connection | None = None

    def rows(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """All rows."""
        return self._background.run(self._fetch(sql, arguments))

    def row(self, sql: str, *arguments: Any) -> asyncpg.Record:
        """The only row."""
        (row,) = self.rows(sql, *arguments)
        return row

    def value(self, sql: str, *arguments: Any) -> Any:
        """The first column of the only row."""
        return self.row(sql, *arguments)[0]

    def column(self, sql: str, *arguments: Any) -> list[Any]:
        """The first column of all rows."""
        return [row[0] for row in self.rows(sql, *arguments)]

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._background.loop.call_soon_threadsafe(self._connection.terminate)
            self._connection = None

    async def _fetch(self, sql: str, arguments: tuple[Any, ...]) -> list[asyncpg.Record]:
        deadline = time.monotonic() + 30
        while True:
            try:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._connect()
                return await self._connection.fetch(sql, *arguments)
            except AWAY:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.05)

    async def _connect(self) -> asyncpg.Connection:
        connection = await asyncpg.connect(self._url, timeout=10, command_timeout=30, server_settings={"application_name": "the test"})
        for kind in ("json", "jsonb"):
            await connection.set_type_codec(kind, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        return connection
