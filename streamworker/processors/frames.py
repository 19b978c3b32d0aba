"""What a worker and the child process of a processor say to each other: length-prefixed msgpack, checked by its types.

JSON values travel as their text: it passes numbers of any size unchanged.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec

from streamworker.messages import MAX_JSON_BYTES

# A result and the arguments of its write, each as large as JSON may be, and their surroundings.
LARGEST_FRAME = 2 * MAX_JSON_BYTES + 1024 * 1024
READ_SIZE = 64 * 1024
LONGEST_LOG_TEXT = 8_000

_LENGTH = struct.Struct("!I")
_ENCODER = msgspec.msgpack.Encoder()
_JSON = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))


def json_text(value: Any) -> str:
    """The JSON text of what was read from a row. Raises RecursionError where it is nested too deeply."""
    try:
        return _JSON.encode(value)
    except TypeError:
        return _with_decimals(value)  # what neither int nor float can hold was read as a Decimal


def _with_decimals(value: Any) -> str:
    match value:
        case Decimal():
            return str(value)
        case dict():
            return "{" + ",".join(f"{_JSON.encode(key)}:{_with_decimals(part)}" for key, part in value.items()) + "}"
        case list():
            return "[" + ",".join(map(_with_decimals, value)) + "]"
    return _JSON.encode(value)


class BadFrame(Exception):
    """What came is not a frame."""


class _Frame(msgspec.Struct, array_like=True, gc=False):
    """The base of all frames."""


# --- to the child -------------------------------------------------------------------------------------------------------------


class Load(_Frame, tag=1):
    """Import the processor and check what it is; the answer is Loaded or Refused."""

    name: str
    spec: str
    log_level: int


class Enter(_Frame, tag=2):
    """Open the processor; the answer is Ready or Refused."""


class Batch(_Frame, tag=3):
    """The batch that the following items belong to."""

    id: bytes
    total: int
    metadata: str


class Work(_Frame, tag=4):
    """Run the processor on one item; the answer is an Answer. What is told of the item bears its `number`."""

    number: int
    position: int
    key: str
    payload: str
    attempt: int
    checkpoint: str | None
    deadline: float | None = None  # monotonic seconds, which all processes of a machine share


class Stored(_Frame, tag=5):
    """The answer to a Checkpoint: it is durable, or it is not, for this reason."""

    number: int
    error: str | None = None


class Cancel(_Frame, tag=6):
    """The result of the item is no longer wanted."""


class Close(_Frame, tag=7):
    """Leave the processor and end; the answer is Closed."""


# --- from the child -----------------------------------------------------------------------------------------------------------


class Loaded(_Frame, tag=20):
    """The processor is there."""


class Ready(_Frame, tag=21):
    """The processor is open."""


class Refused(_Frame, tag=22):
    """It cannot be loaded or opened; not now, if what it needs is `away`."""

    text: str
    away: bool = False


class Named(_Frame):
    """A write by its name: the function, and the JSON object of its `args` and `kwargs`."""

    module: str
    function: str
    arguments: str


class Succeeded(_Frame, tag=23):
    """The item's result as JSON text."""

    value: str | None
    write: Named | None = None


class Failed(_Frame, tag=24):
    """The attempt failed; where memory was `exhausted`, the next item would fare no better in this process."""

    error: str
    permanent: bool = False
    delay: float | None = None
    exhausted: bool = False
    away: bool = False


class Interrupted(_Frame, tag=25):
    """The item was ended because of a Cancel."""


class Told(_Frame, tag=26):
    """How far the item of this number is."""

    item: int
    percent: float | None
    stage: str | None
    message: str | None


class Checkpoint(_Frame, tag=27):
    """Store this JSON text of the item of this number; `number` comes back in the answer. 0: nobody waits for one."""

    item: int
    number: int
    state: str


class Logged(_Frame, tag=28):
    """A log record; `trouble` is the text of its exception."""

    level: int
    logger: str
    text: str
    fields: dict[str, str | int | float | bool | None]
    trouble: str | None = None


class Closed(_Frame, tag=29):
    """The processor was left, perhaps with an error."""

    error: str | None = None


ToChild = Load | Enter | Batch | Work | Stored | Cancel | Close
Answer = Succeeded | Failed | Interrupted
FromChild = Loaded | Ready | Refused | Answer | Told | Checkpoint | Logged | Closed


def pack(frame: ToChild | FromChild) -> bytes:
    """The bytes of a frame."""
    body = _ENCODER.encode(frame)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Cuts what comes from one side into its frames."""

    def __init__(self, kind: Any, largest: int = LARGEST_FRAME) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._largest = largest
        self._rest = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[Any]:
        """The frames that are complete with this piece. Raises BadFrame."""
        if not self._rest and len(data) > 4 and len(data) == 4 + _LENGTH.unpack_from(data)[0]:
            yield self._decode(memoryview(data)[4:])  # one frame and no more: the common case
            return
        self._rest += data
        start = 0
        while len(self._rest) - start >= 4:
            end = start + 4 + self._length(start)
            if len(self._rest) < end:
                break
            yield self._decode(bytes(memoryview(self._rest)[start + 4 : end]))
            start = end
        del self._rest[:start]

    def _length(self, start: int) -> int:
        length: int = _LENGTH.unpack_from(self._rest, start)[0]
        if length > self._largest:
            raise BadFrame(f"a frame of {length:,} bytes")
        return length

    def _decode(self, body: bytes | memoryview) -> Any:
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadFrame(str(error)[:200]) from None


class Budget:
    """So much a second, and some in advance; for what a processor may write without end."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = time.monotonic()

    def holds(self, amount: float) -> bool:
        """Whether that much is left."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        return self._left >= amount

    def take(self, amount: float = 1.0) -> bool:
        """Whether that much is left; if so it is spent."""
        if not self.holds(amount):
            return False
        self._left -= amount
        return True
