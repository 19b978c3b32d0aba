"""The processors of this worker: each opened once, when the first batch asks for it, and closed at the end."""

from __future__ import annotations

import asyncio
import logging

from streamworker.processors.calls import OpenProcessor
from streamworker.processors.isolated import IsolatedProcessor, Nursery
from streamworker.processors.loading import Registry
from streamworker.settings import Settings

LOG = logging.getLogger("streamworker.engine")
# Either is called with an item and its context, once it is `ready`.
AnyProcessor = OpenProcessor | IsolatedProcessor


class OpenProcessors:
    """Opens on first use; a processor that could not start is tried again with the next batch that wants it."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self.registry = registry
        self._settings = settings
        self._isolated = settings.isolation == "process"
        self._nursery = Nursery(settings.process_memory)
        self._checked: dict[str, IsolatedProcessor] = {}
        self._open: dict[str, AnyProcessor] = {}
        self._opening = asyncio.Lock()

    async def check(self) -> None:
        """Import every processor, and refuse what is none: ConfigurationError."""
        for name in self.registry.names:
            if self._isolated:
                self._checked[name] = await self._load(name)
            else:
                self.registry.load(name)

    async def get(self, name: str) -> AnyProcessor:
        """The processor called `name`, which the registry serves. Raises ConfigurationError when it cannot start."""
        async with self._opening:
            if name not in self._open:
                self._open[name] = await self._begin(name)
            return self._open[name]

    async def _begin(self, name: str) -> AnyProcessor:
        if not self._isolated:
            return await OpenProcessor.open(self.registry.load(name), self._settings.isolation)
        processor = self._checked.pop(name, None) or await self._load(name)
        await processor.open()
        return processor

    async def _load(self, name: str) -> IsolatedProcessor:
        processor = IsolatedProcessor(name, self.registry.specs[name], self._nursery, self._settings.process_items)
        await processor.load()
        return processor

    @property
    def are_open(self) -> bool:
        """Whether every processor that a batch may ask for has been opened."""
        return len(self._open) == len(self.registry.names)

    async def close(self) -> None:
        """Close all; an error in one keeps none of the others open."""
        for name, processor in (self._open | self._checked).items():
            try:
                await processor.close()
            except Exception:
                LOG.exception("processor %r: closing it failed", name)
        self._open.clear()
        self._checked.clear()
        await self._nursery.close()
