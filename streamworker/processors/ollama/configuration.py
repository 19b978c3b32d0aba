"""What the processor `ollama` and `search` are told by the environment."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field

from streamworker.errors import ConfigurationError
from streamworker.settings import built_in_settings


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings STREAMWORKER_OLLAMA_*, checked; `timeout` in seconds."""

    host: str
    api: str
    key: str | None = field(repr=False)
    vision_model: str
    embed_model: str
    prompt: str
    audit_minimum: int
    timeout: float

    @classmethod
    def read(cls) -> Configuration:
        """Those of the environment; ConfigurationError names the one that is bad."""
        return cls(**built_in_settings(os.environ, "ollama_"))


def require_parts(*parts: str) -> None:
    """ConfigurationError where a package of the extra is not installed."""
    missing = [part for part in parts if importlib.util.find_spec(part) is None]
    if missing:
        raise ConfigurationError(f"the processor 'ollama' needs {', '.join(missing)}: pip install 'streamworker[ollama]'")
