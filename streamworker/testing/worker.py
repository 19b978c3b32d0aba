"""A real worker in a process of its own, on real servers, for plain test code: start it, submit to it, kill it, see what became of it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from streamworker.client import Client
from streamworker.store.rows import Batch, ItemRow

Value = TypeVar("Value")
_PREFIXES = ("STREAMWORKER_", "REDIS_URL", "DATABASE_URL")


class Background:
    """An event loop in a thread, for what exists only as coroutines."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="streamworker-testing", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Value], seconds: float = 60.0) -> Value:
        """Run a coroutine over there and wait for its end; TimeoutError after so many seconds."""
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, seconds), self._loop).result()

    def enter(self, context: AbstractAsyncContextManager[Value]) -> Value:
        """Enter a context over there; leave it with `leave`."""
        return self.run(context.__aenter__())

    def leave(self, context: AbstractAsyncContextManager[Any]) -> None:
        """Leave a context that was entered."""
        self.run(context.__aexit__(None, None, None))

    def close(self) -> None:
        """End the loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class RealWorker:
    """Workers, batches, and what is in the database; everything blocks, and everything ends."""

    def __init__(self, redis_url: str, database_url: str, folder: Path, background: Background) -> None:
        self.redis_url, self.database_url = redis_url, database_url
        self._log = folder / "worker.log"
        self._background = background
        self._connecting = Client.connect(redis_url, database_url)
        self._client = background.enter(self._connecting)
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, processor: str, **settings: str) -> int:
        """Start a worker for `module:attribute` and return its process id; settings as in the environment: `item_timeout="5s"`."""
        named = {
            f"STREAMWORKER_{name.upper()}": value for name, value in {"log_format": "json", "shutdown_timeout": "2s", **settings}.items()
        }
        urls = {"REDIS_URL": self.redis_url, "DATABASE_URL": self.database_url, "STREAMWORKER_PROCESSOR": processor}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_PREFIXES)}
        with self._log.open("ab") as log:
            line = [sys.executable, "-m", "streamworker", "run"]
            quiet = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self._running.append(subprocess.Popen(line, env=kept | urls | named, **quiet))  # type: ignore[call-overload]  # noqa: S603
        return self._running[-1].pid

    def submit(self, items: Iterable[Any], metadata: Mapping[str, Any] | None = None, max_attempts: int = 2) -> UUID:
        """Submit a batch, as with `Client.submit`."""
        return self._background.run(self._client.submit(items, metadata=metadata, max_attempts=max_attempts))

    def wait(self, batch_id: UUID, seconds: float = 60.0) -> Batch:
        """Wait until a batch has ended; AssertionError with the worker's last words where it does not in time."""
        try:
            return self._background.run(self._end(batch_id), seconds)
        except TimeoutError:
            state = self._background.run(self._client.status(batch_id))
            raise AssertionError(f"batch {batch_id} did not end within {seconds:g} s: {state.status}\n{self.log()[-4000:]}") from None

    def items(self, batch_id: UUID) -> list[ItemRow]:
        """The items of a batch, in order."""
        return self._background.run(self._items(batch_id))

    def run(self, processor: str, items: Iterable[Any], **settings: str) -> list[ItemRow]:
        """Start a worker, submit a batch, wait for its end, and return its items."""
        self.start(processor, **settings)
        batch_id = self.submit(items)
        self.wait(batch_id)
        return self.items(batch_id)

    def wait_checkpoint(self, batch_id: UUID, position: int, seconds: float = 60.0) -> Any:
        """Wait until an item has stored a checkpoint, and return it: it is being worked on then, or has been."""
        return self._background.run(self._checkpoint(batch_id, position), seconds)

    def kill(self) -> None:
        """End the worker that was started last by SIGKILL: a death like any other."""
        self._end_process(self._running.pop(), signal.SIGKILL)

    def stop(self) -> None:
        """End all workers in good order."""
        while self._running:
            self._end_process(self._running.pop(), signal.SIGTERM)

    def log(self) -> str:
        """What the workers have logged."""
        return self._log.read_text("utf-8", "backslashreplace") if self._log.exists() else ""

    def close(self) -> None:
        """End all workers and the connections."""
        self.stop()
        self._background.leave(self._connecting)

    async def _end(self, batch_id: UUID) -> Batch:
        async for _ in self._client.watch(batch_id):
            pass
        return await self._client.status(batch_id)

    async def _items(self, batch_id: UUID) -> list[ItemRow]:
        return [item async for item in self._client.items(batch_id)]

    async def _checkpoint(self, batch_id: UUID, position: int) -> Any:
        while (stored := (await self._items(batch_id))[position].checkpoint) is None:  # noqa: ASYNC110 (a row in a database has no event)
            await asyncio.sleep(0.02)
        return stored

    def _end_process(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        process.send_signal(number)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
