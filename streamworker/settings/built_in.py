"""The settings of the built-in processors: read when one is opened, checked like all others when anything starts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from streamworker.errors import ConfigurationError
from streamworker.settings import values
from streamworker.settings.options import PREFIX, Option

ROOT = PREFIX + "DOCUMENTS_ROOT"
MAX_BYTES = PREFIX + "DOCUMENTS_MAX_BYTES"
KEY = PREFIX + "OLLAMA_KEY"
PROMPT = (
    "Describe this image in two to four complete sentences for somebody who searches for it: "
    "what is in it, where, in which colours, and any text that can be read. Say only what can be seen."
)
_LONGEST_PROMPT = 4000


def _bytes(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) > 0):
        raise values.refusal("a number of bytes from 1 on", text)
    return int(text)


def _base_url(text: str) -> str:
    """The URL that a server's paths are put behind; a bad one is not shown: it may hold a password."""
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits or not values.is_plain(text, 1000) or re.search(r"[@?#\\]", text):
        expected = "a URL such as http://127.0.0.1:11434 or https://models.example.com/v1, without user, password and parameters"
        raise ConfigurationError(f"expected {expected}, got something else (not shown)")
    return text.rstrip("/")


def _prompt(text: str) -> str:
    if not text.strip() or len(text) > _LONGEST_PROMPT or "\0" in text:
        raise ConfigurationError(f"expected a text of 1 to {_LONGEST_PROMPT:,} characters, got one of {len(text):,}")
    return text


def _option(name: str, default: str, parse: Callable[[str], Any], help: str) -> Option:
    # No flags: these belong to a processor, not to the command.
    return Option(name, PREFIX + name.upper(), None, default, parse, help, empty_is_unset=True)


# fmt: off
BUILT_IN_OPTIONS: tuple[Option, ...] = (
    _option("documents_root", ".", Path, "the folder that the paths of `documents` and `ollama` are resolved in"),
    _option("documents_max_bytes", str(100 * 1024 * 1024), _bytes, "larger files are not read, by either"),
    _option("ollama_host", "http://127.0.0.1:11434", _base_url, "the model server; nothing else is ever contacted"),
    _option("ollama_api", "ollama", values.choice("ollama", "openai"), "what it speaks: ollama, or openai for a compatible server"),
    _option("ollama_key", "", values.token, "the key that it asks for, if any"),
    _option("ollama_vision_model", "qwen2.5vl", values.name, "the model that describes"),
    _option("ollama_embed_model", "nomic-embed-text", values.name, "the model that embeds, also for `search`"),
    _option("ollama_prompt", PROMPT, _prompt, "what the vision model is asked"),
    _option("ollama_audit_minimum", "60", values.whole(0, 100), "a description with a lower score is asked for once more"),
    _option("ollama_timeout", "5m", values.duration("1s", "1d"), "longest time for one answer of the server"),
)
# fmt: on


def built_in_settings(environ: Mapping[str, str], prefix: str) -> dict[str, Any]:
    """The settings of one built-in processor, by name without its `prefix`; ConfigurationError names the variable that is bad."""
    return {option.name.removeprefix(prefix): option.read({}, environ) for option in BUILT_IN_OPTIONS if option.name.startswith(prefix)}


def built_in_secrets(environ: Mapping[str, str]) -> tuple[str, ...]:
    """What must not stand in a log."""
    return (environ[KEY],) if environ.get(KEY) else ()
