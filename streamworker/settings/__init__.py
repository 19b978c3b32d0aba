"""Every setting of a process, valid before anything starts: defaults < environment < flags.

An empty text counts as "not set" for the URLs, HTTP_ADDRESS, ITEM_TIMEOUT, UNAVAILABLE_TIMEOUT, PROCESS_MEMORY, PROCESS_ITEMS,
PROCESSOR, the tokens, hosts and origins of the gateway, and is a bad value elsewhere.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from streamworker.errors import ConfigurationError
from streamworker.settings.built_in import BUILT_IN_OPTIONS, built_in_secrets, built_in_settings
from streamworker.settings.options import OPTIONS, PREFIX, Option
from streamworker.settings.urls import mask_url, mask_urls, secrets_of
from streamworker.settings.values import host_of, is_loopback, parse_duration, shorten

__all__ = [
    "BUILT_IN_OPTIONS",
    "OPTIONS",
    "Option",
    "Settings",
    "built_in_secrets",
    "built_in_settings",
    "mask_url",
    "mask_urls",
    "parse_duration",
]


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """All settings of one process, checked; durations in seconds, addresses as (host, port)."""

    redis_url: str | None
    database_url: str | None
    home: Path
    processors: tuple[str, ...]
    stream: str
    group: str
    progress_stream: str
    dead_stream: str
    consumer: str
    batch_concurrency: int
    item_concurrency: int
    max_attempts: int
    retry_delay: float
    item_timeout: float | None
    batch_timeout: float
    unavailable_timeout: float | None
    lease_ttl: float
    shutdown_timeout: float
    progress_maxlen: int
    max_message_bytes: int
    isolation: str
    process_memory: int | None
    process_items: int | None
    log_level: str
    log_format: str
    http_address: tuple[str, int] | None
    migrate: bool
    gateway_address: tuple[str, int]
    gateway_token: str | None
    gateway_read_token: str | None
    gateway_hosts: tuple[str, ...]
    gateway_origins: tuple[str, ...]

    @classmethod
    def load(cls, flags: Mapping[str, str | Sequence[str]] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
        """Read all settings; `flags` goes by field name (`lease_ttl`), `environ` is `os.environ` if not given.

        Raises `ConfigurationError` with one sentence that names the setting, its value and what was expected.
        """
        environ = os.environ if environ is None else environ
        _refuse_unknown(environ)
        settings = cls(**{option.name: option.read(flags or {}, environ) for option in OPTIONS})
        settings._check_together()
        for option in BUILT_IN_OPTIONS:
            option.read({}, environ)  # the processors read them again when they are opened; a bad one is refused now
        return settings

    def _check_together(self) -> None:
        if (self.redis_url is None) != (self.database_url is None):
            there, missing = ("DATABASE_URL", "REDIS_URL") if self.redis_url is None else ("REDIS_URL", "DATABASE_URL")
            raise ConfigurationError(f"{missing}: not set although {there} is; set both, or neither for the embedded servers")
        streams = (self.stream, self.progress_stream, self.dead_stream)
        if len(set(streams)) < 3:
            shown = ", ".join(shorten(stream) for stream in streams)
            raise ConfigurationError(f"{PREFIX}STREAM, PROGRESS_STREAM and DEAD_STREAM: expected three different names, got {shown}")
        if self.gateway_read_token is not None and self.gateway_token in (None, self.gateway_read_token):
            found = "not set" if self.gateway_token is None else "the same"
            raise ConfigurationError(f"{PREFIX}GATEWAY_TOKEN: {found} although {PREFIX}GATEWAY_READ_TOKEN is set; expected another token")

    @property
    def embedded(self) -> bool:
        """Whether this program starts its own Valkey and Postgres: neither URL is set."""
        return self.redis_url is None

    @property
    def secrets(self) -> tuple[str, ...]:
        """The passwords and tokens in these settings, as they could stand in a log."""
        tokens = [token for token in (self.gateway_token, self.gateway_read_token) if token]
        return tuple(dict.fromkeys(tokens + secrets_of(self.redis_url) + secrets_of(self.database_url)))

    def require_gateway_token(self) -> None:
        """Refuse to serve the gateway on an address, or under a name, by which others can reach it, unless a token protects it."""
        host, port = self.gateway_address
        public = [name for name in self.gateway_hosts if not is_loopback(host_of(name))]
        if self.gateway_token is not None or (is_loopback(host) and not public):
            return
        what = f"names {public[0]}" if is_loopback(host) else f"is {host}:{port}"
        raise ConfigurationError(
            f"{PREFIX}GATEWAY_TOKEN: not set although {PREFIX}GATEWAY_{'HOSTS' if is_loopback(host) else 'ADDRESS'} {what}; "
            "expected a token, or a loopback address such as 127.0.0.1:8080"
        )

    def __repr__(self) -> str:
        shown = {field.name: getattr(self, field.name) for field in fields(self)}
        shown |= {name: mask_url(shown[name]) for name in ("redis_url", "database_url") if shown[name]}
        shown |= {name: "***" for name in ("gateway_token", "gateway_read_token") if shown[name] is not None}
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    known = {option.variable.removeprefix(PREFIX): option.variable for option in (*OPTIONS, *BUILT_IN_OPTIONS)}
    for name in sorted(environ):
        word = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and known.get(word) != name:
            close = difflib.get_close_matches(word[:60].upper(), known, n=1)
            hint = f"did you mean {known[close[0]]}?" if close else "no setting has this name"
            raise ConfigurationError(f"{shorten(name)[1:-1]}: unknown variable; {hint}")
