"""The frames of `streamworker.v1`: the same JSON on WebSockets and in server-sent events, encoded once for all who get it."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from streamworker.messages import ProgressEvent

PROTOCOL = "streamworker.v1"
SERVER = version("streamworker")
HEARTBEAT = 15  # seconds
ALL = "*"  # in place of a batch id
MAX_FRAME = 64 * 1024  # bytes that a client may send at once


class Hello(msgspec.Struct, tag_field="type", tag="hello"):
    """The first frame: who speaks, and what this client may do."""

    role: str
    redis: bool
    protocol: str = PROTOCOL
    server: str = SERVER
    heartbeat_seconds: int = HEARTBEAT


class Snapshot(msgspec.Struct, tag_field="type", tag="snapshot", kw_only=True):
    """A batch as it is; `reset`: forget what you knew of it. The items of the event are those in flight.

    `id` is missing where something else that is older is still to be told.
    """

    batch_id: str
    id: str | UnsetType = UNSET
    reset: bool
    event: ProgressEvent


class Event(msgspec.Struct, tag_field="type", tag="event", kw_only=True):
    """What has changed. `id` is missing where something else that is older is still to be told."""

    batch_id: str
    id: str | UnsetType = UNSET
    event: ProgressEvent


class Live(msgspec.Struct, tag_field="type", tag="live"):
    """What was there, or was missed, is told: from here on it is live. With `batch_id` (`*`: of all) where one was asked for."""

    id: str
    batch_id: str | UnsetType = UNSET


class End(msgspec.Struct, tag_field="type", tag="end"):
    """A batch that was asked for by its id has ended."""

    batch_id: str
    status: str


class State(msgspec.Struct, tag_field="type", tag="state"):
    """One of the servers has gone away, or come back."""

    redis: bool
    postgres: bool


class Complaint(msgspec.Struct, tag_field="type", tag="error", omit_defaults=True):
    """Something that was asked for is not possible."""

    code: int
    message: str
    batch_id: str | None = None


class Ping(msgspec.Struct, tag_field="type", tag="ping"):
    """Still here; either side may send it."""


class Subscribe(msgspec.Struct, tag_field="type", tag="subscribe"):
    """Tell me of this batch, or of all (`*`), from `since` on."""

    batch_id: str
    since: str | int | None = None


class Unsubscribe(msgspec.Struct, tag_field="type", tag="unsubscribe"):
    """Tell me no more of this batch."""

    batch_id: str


_ENCODER = msgspec.json.Encoder()
_REQUESTS: msgspec.json.Decoder[Subscribe | Unsubscribe | Ping] = msgspec.json.Decoder(Subscribe | Unsubscribe | Ping)


class Frame(msgspec.Struct, eq=False, gc=False):
    """One frame for any number of clients: its bytes, in each form that somebody asked for, are made once."""

    kind: str
    json: bytes
    batch_id: str | None
    id: str | None
    _content: Snapshot | Event | None = None
    _bare: Frame | None = None
    _text: str | None = None
    _stream: bytes | None = None
    _wire: bytes | None = None

    @property
    def text(self) -> str:
        """The message of a WebSocket."""
        if self._text is None:
            self._text = self.json.decode()
        return self._text

    @property
    def wire(self) -> bytes:
        """The same with its head, as it goes over the wire (RFC 6455, 5.2; a server masks nothing)."""
        if self._wire is None:
            size = len(self.json)
            if size < 126:
                head = bytes((0x81, size))
            elif size < 65536:
                head = b"\x81\x7e" + size.to_bytes(2)
            else:
                head = b"\x81\x7f" + size.to_bytes(8)
            self._wire = head + self.json
        return self._wire

    @property
    def stream(self) -> bytes:
        """The event of an event stream; JSON as we write it has no line breaks."""
        if self._stream is None:
            number = b"" if self.id is None else b"id: " + self.id.encode() + b"\n"
            self._stream = b"event: " + self.kind.encode() + b"\n" + number + b"data: " + self.json + b"\n\n"
        return self._stream

    @property
    def bare(self) -> Frame:
        """The same without its id: for a client who has older things to hear yet."""
        if self._content is None:
            return self
        if self._bare is None:
            self._bare = frame(msgspec.structs.replace(self._content, id=UNSET))
        return self._bare


def frame(content: Any, id: str | None = None, *, often_bare: bool = False) -> Frame:
    """Encode one of the structs above; `id` is what an event stream carries where the frame itself has none."""
    own = getattr(content, "id", UNSET)
    batch_id = getattr(content, "batch_id", None)
    return Frame(
        content.__struct_config__.tag,
        _ENCODER.encode(content),
        None if batch_id is UNSET else batch_id,
        id if own is UNSET else own,
        content if often_bare else None,
    )


PING = frame(Ping())


def read_request(text: str | bytes) -> Subscribe | Unsubscribe | Ping:
    """Read what a client asks for; ValueError says what was expected."""
    try:
        return _REQUESTS.decode(text)
    except (ValueError, RecursionError) as error:
        expected = '{"type": "subscribe" or "unsubscribe", "batch_id": …} or {"type": "ping"}'
        raise ValueError(f"expected {expected}, found something else: {error}") from None
