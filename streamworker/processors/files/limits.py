"""Which files a built-in processor may read: those below one folder, up to one size; the same for all of them."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamworker.errors import ConfigurationError
from streamworker.processors.files.opening import OpenedFile, opened, path_of
from streamworker.settings import built_in_settings


@dataclass(frozen=True, slots=True)
class Limits:
    """The folder that paths are resolved in, and the size (bytes) up to which a file is read."""

    root: Path
    max_bytes: int

    @classmethod
    def read(cls, root: Path | None = None, max_bytes: int | None = None) -> Limits:
        """Those given, else those of the environment (`STREAMWORKER_DOCUMENTS_ROOT`, `STREAMWORKER_DOCUMENTS_MAX_BYTES`)."""
        found = built_in_settings(os.environ, "documents_")
        return cls(root or found["root"], found["max_bytes"] if max_bytes is None else max_bytes)

    def check(self) -> None:
        """ConfigurationError where there is no such folder."""
        if not self.root.is_dir():
            raise ConfigurationError(f"STREAMWORKER_DOCUMENTS_ROOT: there is no folder {str(self.root)!r}")

    def open(self, payload: Any) -> AbstractContextManager[OpenedFile]:
        """Open the file that a payload names. The only way from a payload to a file; raises Permanent for whatever no retry can help."""
        return opened(self.root, path_of(payload), self.max_bytes)
