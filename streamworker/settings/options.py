"""The one table of options: the environment, the command line and `Settings` all follow from it."""

from __future__ import annotations

import os
import re
import secrets
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamworker.errors import ConfigurationError
from streamworker.settings import values
from streamworker.settings.urls import DATABASE_SCHEMES, REDIS_SCHEMES, url

PREFIX = "STREAMWORKER_"


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: how it is called in `Settings`, in the environment and on the command line, and what it may be.

    `default` is its text, shown in help; without a `fallback` it is parsed when nothing is given ("" stands for None).
    """

    name: str
    variable: str
    flag: str | None
    default: str
    parse: Callable[[str], Any]
    help: str
    fallback: Callable[[], Any] | None = None
    empty_is_unset: bool = False
    repeated: bool = False

    def read(self, flags: Mapping[str, str | Sequence[str]], environ: Mapping[str, str]) -> Any:
        """Take the flag, else the variable, else the default; raises `ConfigurationError` naming the one that is bad."""
        text, label = self._joined(flags.get(self.name)), self.flag or self.name
        if text is None:
            text, label = environ.get(self.variable), self.variable
        if text is None or (text == "" and self.empty_is_unset):
            return self._unset()
        try:
            return self.parse(text)
        except ConfigurationError as error:
            raise ConfigurationError(f"{label}: {error}") from None

    def _joined(self, given: str | Sequence[str] | None) -> str | None:
        if not given or isinstance(given, str):
            return given if isinstance(given, str) else None
        return ",".join(given) if self.repeated else given[-1]

    def _unset(self) -> Any:
        if self.fallback is not None:
            return self.fallback()
        return self.parse(self.default) if self.default else None


def _consumer() -> str:
    host = re.sub("[^A-Za-z0-9.-]", "-", socket.gethostname())[:100] or "host"
    return f"{host}-{os.getpid()}-{secrets.token_hex(2)}"


def _log_format() -> str:
    try:
        return "console" if sys.stderr.isatty() else "json"
    except (AttributeError, ValueError):  # no stderr at all, or a closed one
        return "json"


def _option(name: str, default: str, parse: Callable[[str], Any], help: str, **more: Any) -> Option:
    word = more.pop("word", name)
    return Option(name, PREFIX + word.upper(), more.pop("flag", "--" + word.replace("_", "-")), default, parse, help, **more)


_DATABASE_URL = url(DATABASE_SCHEMES, "postgresql://user@localhost:5432/name")
# fmt: off
OPTIONS: tuple[Option, ...] = (
    Option("redis_url", "REDIS_URL", "--redis-url", "", url(REDIS_SCHEMES, "redis://localhost:6379/0"),
           "Redis or Valkey; with neither URL set, both servers are started in the home folder", empty_is_unset=True),
    Option("database_url", "DATABASE_URL", "--database-url", "", _DATABASE_URL, "Postgres", empty_is_unset=True),
    _option("home", "./.streamworker", values.folder, "folder of the embedded servers"),
    _option("processors", "", values.names, "module:attribute or name; give it several times (or with commas) to serve several",
            word="processor", fallback=tuple, empty_is_unset=True, repeated=True),
    _option("stream", "batches", values.name, "stream of the jobs"),
    _option("group", "workers", values.name, "consumer group of the workers"),
    _option("progress_stream", "progress", values.name, "stream of the progress events"),
    _option("dead_stream", "batches:dead", values.name, "stream of what could not be run"),
    _option("consumer", "host-pid-random", values.name, "name of this worker; no two may share one", fallback=_consumer),
    _option("batch_concurrency", "1", values.whole(1, 1000), "batches at the same time"),
    _option("item_concurrency", "1", values.whole(1, 1000), "items of one batch at the same time; 1: one after another"),
    _option("max_attempts", "2", values.whole(1, 1_000_000), "starts of an item, for a job that does not say"),
    _option("retry_delay", "0s", values.duration("0s", "7d"), "pause before an item is tried again"),
    _option("item_timeout", "none", values.duration_or_none, "longest time for one attempt at an item", empty_is_unset=True),
    _option("batch_timeout", "7d", values.duration("1s", "365d"), "longest time for a batch"),
    _option("unavailable_timeout", "none", values.duration_or_none, "longest time for which what a processor needs may be away",
            empty_is_unset=True),
    _option("lease_ttl", "15s", values.duration("2s", "1h"), "how long a silent worker keeps its batch"),
    _option("shutdown_timeout", "30s", values.duration("0s", "1d"), "grace for the items in flight after SIGTERM; 0s: none"),
    _option("progress_maxlen", "100000", values.whole(100, 100_000_000), "entries that the progress stream keeps, about"),
    _option("max_message_bytes", "16MiB", values.size, "largest job message"),
    _option("isolation", "inline", values.choice("inline", "thread", "process"), "where processors run: inline, thread or process"),
    _option("process_memory", "none", values.memory_or_none, "most memory of a process of --isolation process, such as 2GiB (Linux)",
            empty_is_unset=True),
    _option("process_items", "none", values.whole_or_none(1, 1_000_000_000), "items after which such a process is replaced by a fresh one",
            empty_is_unset=True),
    _option("log_level", "info", values.choice("debug", "info", "warning", "error", "critical"), "least level that is logged"),
    _option("log_format", "console on a terminal, else json", values.choice("console", "json"), "console or json", fallback=_log_format),
    _option("http_address", "", values.address, "host:port of /livez, /readyz and /metrics; port 0: any free one", empty_is_unset=True),
    _option("migrate", "1", values.switch, "1: bring the database schema up to date at start, 0: only check it"),
    _option("gateway_address", "127.0.0.1:8080", values.address, "host:port of the gateway"),
    # No flags: the command line of a process is readable by every user of the machine.
    _option("gateway_token", "", values.token, "what clients of the gateway present; must be set on a non-loopback address", flag=None,
            empty_is_unset=True),
    _option("gateway_read_token", "", values.token, "what clients of the gateway present that may only look", flag=None,
            empty_is_unset=True),
    _option("gateway_hosts", "", values.hosts, "host names, besides its address, that the gateway is called by", fallback=tuple,
            empty_is_unset=True, repeated=True),
    _option("gateway_origins", "", values.origins, "origins of other sites whose pages may open its sockets, such as https://app.example.com",
            fallback=tuple, empty_is_unset=True, repeated=True),
)
# fmt: on
