"""The class that a worker opens: the parts it needs, the limits, the describer."""

from __future__ import annotations

import logging
from pathlib import Path

from streamworker.errors import ConfigurationError
from streamworker.processors.api import Context, Item, Result
from streamworker.processors.files.limits import Limits
from streamworker.processors.ollama.configuration import Configuration, require_parts

try:
    from streamworker.processors.ollama.describer import Describer
except ImportError as error:  # told when the processor is opened, not to everybody who looks at its name
    _broken: str | None = str(error)
else:
    _broken = None

__all__ = ["Ollama"]

_log = logging.getLogger("streamworker.ollama")


class Ollama:
    """Describe pictures, PDFs and videos; an item's payload is a path, or an object with a `path`.

    The settings STREAMWORKER_OLLAMA_* say where the model server is and what to ask; those of `documents` say which files are read.
    The result's shape: see Describer.
    """

    def __init__(self, root: Path | None = None, max_bytes: int | None = None) -> None:
        self.limits = Limits.read(root, max_bytes)
        self.configuration = Configuration.read()
        self._describer: Describer

    async def __aenter__(self) -> Ollama:
        """Check what can be checked at once; a model server that is away now may be there with the first item."""
        require_parts("PIL", "httpx", "pypdfium2")
        if _broken:
            raise ConfigurationError(f"the processor 'ollama' cannot be imported: {_broken}")
        self.limits.check()
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it would tell every request
        self._describer = Describer(self.configuration, self.limits)
        if wrong := await self._describer.open():
            _log.warning("the models were not checked: %s", wrong)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        """Close the connections."""
        await self._describer.close()

    async def process(self, item: Item, context: Context) -> Result:
        """Describe one file."""
        return await self._describer.describe(item, context)
