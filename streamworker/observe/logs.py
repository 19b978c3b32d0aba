"""Log lines, as JSON or for a console: no secret gets into them, and no data breaks out of its line."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TextIO

import msgspec

from streamworker.messages import clean_text, timestamp
from streamworker.observe import events
from streamworker.settings import mask_urls

MAX_TEXT = 16_384
MAX_FIELD = 2_000
MIN_SECRET = 6  # a shorter one would be cut out of ordinary words

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_fields: ContextVar[Mapping[str, object]] = ContextVar("streamworker_log_fields", default=MappingProxyType({}))
_log = logging.getLogger("streamworker")


def configure_logging(level: str, format: str, secrets: Iterable[str] = (), stream: TextIO | None = None) -> None:
    """Send all log records of this process to `stream` (standard error) as lines of `format`: `json` or `console`.

    For programs, not for libraries: it takes over the root logger. Calling it again replaces what it set up before.
    """
    output = _Output(sys.stderr if stream is None else stream)
    output.setFormatter(JSONLines(secrets) if format == "json" else ConsoleLines(secrets))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Output)]:
        root.removeHandler(old)
    root.addHandler(output)
    root.setLevel(level.upper())
    logging.captureWarnings(True)


@contextmanager
def log_fields(**more: object) -> Iterator[None]:
    """Give every record of this context (and of what it starts) these fields, such as `batch_id` and `position`."""
    token = _fields.set(MappingProxyType({**_fields.get(), **more}))
    try:
        yield
    finally:
        _fields.reset(token)


class _Output(logging.StreamHandler[TextIO]):
    """A class of our own, to know ours among what others added to the root logger."""


class _Lines(logging.Formatter):
    """What both formats share: the parts of a record, masked and cut."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        # The longest first: one secret may be a part of another.
        self._secrets = sorted({secret for secret in secrets if len(secret) >= MIN_SECRET}, key=len, reverse=True)

    def _clean(self, text: str, limit: int) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return clean_text(mask_urls(text), limit)

    def _message(self, record: logging.LogRecord) -> str:
        try:
            text = record.getMessage()
        except Exception:
            text = f"{record.msg} (its arguments do not fit)"
        return self._clean(text, MAX_TEXT)

    def _extras(self, record: logging.LogRecord) -> dict[str, object]:
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return {clean_text(name, 100): self._value(value) for name, value in {**_fields.get(), **extra}.items()}

    def _value(self, value: object) -> object:
        if value is None or type(value) in (bool, float) or (type(value) is int and abs(value) < 2**63):
            return value
        try:
            return self._clean(", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value), MAX_FIELD)
        except Exception:
            return f"<{type(value).__name__}>"

    def _trouble(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
        parts += [record.stack_info] if record.stack_info else []
        return self._clean("\n".join(parts), MAX_TEXT)


class JSONLines(_Lines):
    """One JSON object a line: `at`, `level`, `logger`, `message`, the fields of the context, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": timestamp(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": clean_text(record.name, 200),
            "message": self._message(record),
        }
        for name, value in self._extras(record).items():
            line.setdefault(name, value)
        trouble = self._trouble(record)
        if trouble:
            line["exception"] = trouble
        text = msgspec.json.encode(line).decode()
        return text if text.isprintable() else "".join(map(_json_spelling, text))


class ConsoleLines(_Lines):
    """For people: time, level, message, `name=value`; a traceback follows indented, so that it cannot pass for a line."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        shown = [f"{_quoted(name)}={_quoted(str(value))}" for name, value in self._extras(record).items() if value is not None]
        source = "" if record.name.partition(".")[0] == "streamworker" else f"{record.name[:200]}: "
        line = " ".join([f"{at}.{int(record.msecs):03d} {record.levelname.lower():<8}", _plain(source + self._message(record)), *shown])
        trouble = self._trouble(record)
        return "\n    ".join([line, *map(_plain, trouble.split("\n"))]) if trouble else line


def _plain(text: str) -> str:
    """Spell out what could move the cursor, end the line or turn the text round."""
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _quoted(text: str) -> str:
    return _plain(text) if text and not any(c in text for c in " =\"'") else repr(text)


def _json_spelling(character: str) -> str:
    return character if character.isprintable() else json.dumps(character)[1:-1]


_LINES: Mapping[type[events.Event], tuple[int, str]] = MappingProxyType({
    events.WorkerStarted: (logging.INFO, "worker started"),
    events.WorkerStopping: (logging.INFO, "worker stops: it takes no more work"),
    events.WorkerStopped: (logging.INFO, "worker stopped"),
    events.ServerAway: (logging.WARNING, "server away, trying again"),
    events.ServerBack: (logging.INFO, "server back"),
    events.PostgresAway: (logging.WARNING, "outcomes cannot be recorded at present, trying again"),
    events.DeadLettered: (logging.WARNING, "message put on the dead stream"),
    events.Reconciled: (logging.INFO, "batches brought back from Postgres"),
    events.BatchAcquired: (logging.INFO, "batch acquired"),
    events.BatchFinished: (logging.INFO, "batch finished"),
    events.BatchesFinished: (logging.INFO, "batches finished"),
    events.HandedOver: (logging.INFO, "batch handed over"),
    events.BatchPaused: (logging.WARNING, "batch paused: what its processor needs is away, trying again"),
    events.OutageOver: (logging.INFO, "batch goes on: what its processor needs is there again"),
    events.LeaseLost: (logging.WARNING, "batch lost to another worker"),
    events.ItemRetried: (logging.INFO, "item failed and will be tried again"),
})  # fmt: skip
_WORSE = MappingProxyType({events.ItemFinished: "item failed", events.BatchFinished: "batch failed"})


def log_event(event: events.Event) -> None:
    """Write an event as a log line; to be subscribed. What happens many times a second is told at level debug."""
    kind = type(event)
    level, text = _LINES.get(kind, (logging.DEBUG, kind.__name__))
    if getattr(event, "repeated", False):
        level = logging.DEBUG
    if getattr(event, "status", None) == "failed" and kind in _WORSE:
        level, text = logging.WARNING, _WORSE[kind]
    if _log.isEnabledFor(level):
        found = {field.name: getattr(event, field.name) for field in fields(event)}
        _log.log(level, text, extra={name: value for name, value in found.items() if value is not None})
