"""The processors of this worker: each opened once, when the first batch asks for it, and closed at the end."""

from __future__ import annotations

import asyncio
import logging

from streamworker.processors.calls import OpenProcessor
from streamworker.processors.loading import Registry

LOG = logging.getLogger("streamworker.engine")


class OpenProcessors:
    """Opens on first use; a processor that could not start is tried again with the next batch that wants it."""

    def __init__(self, registry: Registry, isolation: str) -> None:
        self.registry = registry
        self._isolation = isolation
        self._open: dict[str, OpenProcessor] = {}
        self._opening = asyncio.Lock()

    async def get(self, name: str) -> OpenProcessor:
        """The processor called `name`, which the registry serves. Raises ConfigurationError when it cannot start."""
        async with self._opening:
            if name not in self._open:
                self._open[name] = await OpenProcessor.open(self.registry.load(name), self._isolation)
            return self._open[name]

    @property
    def are_open(self) -> bool:
        """Whether every processor that a batch may ask for has been opened."""
        return len(self._open) == len(self.registry.names)

    async def close(self) -> None:
        """Close all; an error in one keeps none of the others open."""
        for name, processor in self._open.items():
            try:
                await processor.close()
            except Exception:
                LOG.exception("processor %r: closing it failed", name)
        self._open.clear()
