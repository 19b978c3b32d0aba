"""The built-in processor `documents`: what is in each file of a batch, found without a network.

For every file: its type by content, SHA-256, size, dimensions, exact and near duplicates within the batch, a thumbnail,
its text (OCR for pictures and scans), its language. Paths are resolved inside one folder and never lead out of it.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from pathlib import Path
from typing import Any

from streamworker.errors import ConfigurationError
from streamworker.processors.api import Context, Item
from streamworker.processors.files.limits import Limits

try:
    from streamworker.processors.documents.examiner import Examiner
except ImportError as error:  # told when the processor is opened, not to everybody who looks at its name
    _broken: str | None = str(error)
else:
    _broken = None

__all__ = ["Documents"]

HOME = "STREAMWORKER_HOME"
_PARTS = ("PIL", "magika", "onnxruntime", "py3langid", "pypdf", "pypdfium2", "rapidocr")


class Documents:
    """Examine files; an item's payload is a path, or an object with a `path`.

    `root` is the folder that paths are resolved in (`STREAMWORKER_DOCUMENTS_ROOT`, by default the current folder), `max_bytes` the size
    up to which a file is read (`STREAMWORKER_DOCUMENTS_MAX_BYTES`, 100 MiB), `home` the folder that keeps what was seen of each
    batch (`STREAMWORKER_HOME`), so that duplicates are found also after a restart.
    """

    def __init__(self, root: Path | None = None, max_bytes: int | None = None, home: Path | None = None) -> None:
        self.limits = Limits.read(root, max_bytes)
        self.home = home or Path(os.environ.get(HOME) or ".streamworker")
        self._examiner: Examiner | None = None
        self._opening = threading.Lock()

    async def __aenter__(self) -> Documents:
        """Check what can be checked at once; the models are loaded with the first file that needs them."""
        missing = [part for part in _PARTS if importlib.util.find_spec(part) is None]
        if missing:
            raise ConfigurationError(f"the processor 'documents' needs {', '.join(missing)}: pip install 'streamworker[documents]'")
        if _broken:
            raise ConfigurationError(f"the processor 'documents' cannot be imported: {_broken}")
        self.limits.check()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        """Let go of the models and of the record of what was seen."""
        examiner, self._examiner = self._examiner, None
        if examiner is not None:
            examiner.close()

    def process(self, item: Item, context: Context) -> dict[str, Any]:
        """Examine one file; blocks for as long as OCR takes, so it is run in a thread. The result's shape: see Examiner."""
        return self._open().examine(item, context)

    def _open(self) -> Examiner:
        with self._opening:
            if self._examiner is None:
                self._examiner = Examiner(self.limits, self.home)
            return self._examiner
