"""What goes over the wire, told frame by frame: RESP (Redis) and the Postgres v3 protocol, both without TLS."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

SHORT = 160  # bytes of an argument or a reply that the tap keeps
WHOLE = 200_000  # the same for what the checks read in full: XADD
TEXT = 300  # characters of an SQL statement

_numbers = count(1)


@dataclass(slots=True)
class Asked:
    """One command or statement on its way; `lost` says that its reply shall not reach the client."""

    text: str
    parts: list[Any] = field(default_factory=list)
    number: int = field(default_factory=lambda: next(_numbers))
    lost: bool = False


@dataclass(slots=True)
class Answer:
    """One reply from the server; `asked` is None where it answers nothing in particular."""

    asked: Asked | None
    told: dict[str, Any]


class Conversation(Protocol):
    """Both directions of one connection. Each yielded pair is the bytes of one frame and what it means (None: of no interest)."""

    def requests(self, chunk: bytes) -> Iterator[tuple[bytes, Asked | None]]: ...

    def replies(self, chunk: bytes) -> Iterator[tuple[bytes, Answer | None]]: ...


# --- RESP ---------------------------------------------------------------------------------------------------------------


class _Incomplete(Exception):
    pass


def _line(buffer: bytes | bytearray, at: int) -> tuple[bytes, int]:
    end = buffer.find(b"\r\n", at)
    if end < 0:
        raise _Incomplete
    return bytes(buffer[at:end]), end + 2


def _value(buffer: bytes | bytearray, at: int) -> tuple[Any, int]:
    head, at = _line(buffer, at)
    kind, rest = head[:1], head[1:]
    match kind:
        case b"$" | b"=" | b"!":
            size = int(rest)
            if size < 0:
                return None, at
            if len(buffer) < at + size + 2:
                raise _Incomplete
            return bytes(buffer[at : at + size]), at + size + 2
        case b"*" | b"~" | b">" | b"%":
            size = int(rest) * (2 if kind == b"%" else 1)
            if size < 0:
                return None, at
            values = []
            for _ in range(size):
                value, at = _value(buffer, at)
                values.append(value)
            return values, at
        case b":":
            return int(rest), at
        case b"-":
            return {"error": rest.decode("utf-8", "backslashreplace")}, at
        case b"_":
            return None, at
        case _:
            return rest, at


class _RespStream:
    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> Iterator[tuple[bytes, Any]]:
        self._buffer += chunk
        at = 0
        try:
            while at < len(self._buffer):
                value, end = _value(self._buffer, at)
                raw = bytes(self._buffer[at:end])
                at = end
                yield raw, value
        except _Incomplete:
            pass
        finally:
            del self._buffer[:at]


def shorten(value: Any, limit: int = SHORT) -> Any:
    """A reply or an argument as JSON can hold it: text, numbers and lists, long text cut."""
    if isinstance(value, bytes):
        return value[:limit].decode("utf-8", "backslashreplace")
    if isinstance(value, list):
        return [shorten(one, limit) for one in value]
    return value


class RedisConversation:
    """Commands and their replies, which come in the same order."""

    def __init__(self) -> None:
        self._out = _RespStream()
        self._back = _RespStream()
        self._waiting: deque[Asked] = deque()

    def requests(self, chunk: bytes) -> Iterator[tuple[bytes, Asked | None]]:
        for raw, value in self._out.feed(chunk):
            words = value if isinstance(value, list) else [value]
            name = shorten(words[0] or b"").upper()
            limit = WHOLE if name == "XADD" else SHORT
            parts = [name, *(shorten(word, limit) for word in words[1:])]
            asked = Asked(" ".join(str(part) for part in parts[:8])[:TEXT], parts)
            self._waiting.append(asked)
            yield raw, asked

    def replies(self, chunk: bytes) -> Iterator[tuple[bytes, Answer | None]]:
        for raw, value in self._back.feed(chunk):
            if raw[:1] == b">":  # pushed, answers nothing
                yield raw, Answer(None, {"push": shorten(value)})
                continue
            asked = self._waiting.popleft() if self._waiting else None
            yield raw, Answer(asked, {"reply": shorten(value)})


# --- Postgres -----------------------------------------------------------------------------------------------------------

_SSL, _GSS, _CANCEL = 80877103, 80877104, 80877102


class _PostgresStream:
    """Frames of one direction: (type, body). The first ones of the client have no type byte."""

    def __init__(self, *, typed: bool) -> None:
        self._buffer = bytearray()
        self.typed = typed
        self.bare_bytes = 0  # answers to SSLRequest and GSSENCRequest: one byte each

    def feed(self, chunk: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
        self._buffer += chunk
        while (raw := self._take()) is not None:
            if len(raw) == 1:
                yield raw, b"", b""
            elif self.typed:
                yield raw, raw[:1], raw[5:]
            else:
                yield raw, b"", raw[4:]

    def _take(self) -> bytes | None:
        if self.bare_bytes and self._buffer:
            self.bare_bytes -= 1
            size = 1
        else:
            head = 1 if self.typed else 0
            if len(self._buffer) < head + 4:
                return None
            size = head + struct.unpack_from("!i", self._buffer, head)[0]
        if len(self._buffer) < size:
            return None
        raw = bytes(self._buffer[:size])
        del self._buffer[:size]
        return raw


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _sql(raw: bytes) -> str:
    return " ".join(_text(raw).split())[:TEXT]


def _fields(body: bytes) -> dict[str, str]:
    return {_text(part[:1]): _text(part[1:]) for part in body.split(b"\0") if part}


class PostgresConversation:
    """Statements, simple and extended (by the text of their prepared statement), and how each ended."""

    def __init__(self) -> None:
        self._out = _PostgresStream(typed=False)
        self._back = _PostgresStream(typed=True)
        self._statements: dict[bytes, str] = {}
        self._portals: dict[bytes, str] = {}
        self._waiting: deque[Asked | None] = deque()  # None stands for a ReadyForQuery

    def requests(self, chunk: bytes) -> Iterator[tuple[bytes, Asked | None]]:
        for raw, kind, body in self._out.feed(chunk):
            asked = self._opening(body) if not self._out.typed else self._request(kind, body)
            yield raw, asked

    def _opening(self, body: bytes) -> Asked | None:
        (code,) = struct.unpack_from("!i", body)
        if code in (_SSL, _GSS):
            self._back.bare_bytes += 1
            return None
        if code == _CANCEL:
            return Asked("cancel request", [struct.unpack_from("!i", body, 4)[0]])
        self._out.typed = True
        words = [_text(word) for word in body[4:].split(b"\0") if word]
        settings = dict(zip(words[::2], words[1::2], strict=False))
        self._waiting.append(None)
        return Asked("startup", [settings.get("application_name", "")])

    def _request(self, kind: bytes, body: bytes) -> Asked | None:
        match kind:
            case b"Q":
                asked = Asked(_sql(body[:-1]))
                self._waiting += [asked, None]
                return asked
            case b"P":
                name, sql, _ = body.split(b"\0", 2)
                self._statements[name] = _sql(sql)
            case b"B":
                portal, name, _ = body.split(b"\0", 2)
                self._portals[portal] = self._statements.get(name, "?")
            case b"E":
                asked = Asked(self._portals.get(body.split(b"\0", 1)[0], "?"))
                self._waiting.append(asked)
                return asked
            case b"S":
                self._waiting.append(None)
            case b"X":
                return Asked("terminate")
        return None

    def replies(self, chunk: bytes) -> Iterator[tuple[bytes, Answer | None]]:
        for raw, kind, body in self._back.feed(chunk):
            yield raw, self._reply(kind, body)

    def _reply(self, kind: bytes, body: bytes) -> Answer | None:
        match kind:
            case b"C" | b"I" | b"s":
                tag = _text(body.rstrip(b"\0")) if kind == b"C" else ""
                return Answer(self._answered(), {"tag": tag})
            case b"E":
                parts = _fields(body)
                return Answer(self._next(), {"error": parts.get("C", ""), "message": parts.get("M", "")})
            case b"Z":
                while self._waiting and self._waiting.popleft() is not None:
                    pass
                return Answer(None, {"ready": _text(body)})
            case b"K":
                return Answer(None, {"pid": struct.unpack_from("!i", body)[0]})
        return None

    def _next(self) -> Asked | None:
        return self._waiting[0] if self._waiting else None

    def _answered(self) -> Asked | None:
        # A simple query may hold several statements: it stays until ReadyForQuery; an execute is answered once.
        asked = self._next()
        simple = len(self._waiting) > 1 and self._waiting[1] is None
        if asked is not None and not simple:
            self._waiting.popleft()
        return asked
