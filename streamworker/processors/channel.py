"""The child's end of the channel to its worker: frames out from any thread, log records among them, frames in on the loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from streamworker.errors import LeaseLost
from streamworker.messages import clean_text
from streamworker.processors.frames import (
    LONGEST_LOG_TEXT,
    READ_SIZE,
    Budget,
    Checkpoint,
    Frames,
    FromChild,
    Logged,
    Stored,
    ToChild,
    pack,
)
from streamworker.processors.life import end_group

# Log records a second, and in advance; more are counted.
LOG_RATE, LOG_BURST = 200.0, 2_000.0
MOST_FIELDS = 20
LONGEST_FIELD = 2_000


class Channel:
    """One socket. Sending blocks until the worker has room, which it always makes."""

    def __init__(self, connection: socket.socket) -> None:
        connection.set_inheritable(False)
        self._socket = connection
        self._sending = threading.Lock()
        self._room_to_send = select.poll()
        self._room_to_send.register(connection, select.POLLOUT)
        self._stores: dict[int, asyncio.Future[None]] = {}
        self._number = 0
        self.left = False  # in a process that user code has forked: it has no say here
        os.register_at_fork(after_in_child=self._leave)

    def _leave(self) -> None:
        self.left = True
        self._socket.close()

    def send(self, frame: FromChild) -> None:
        """Send one frame, from any thread."""
        data = pack(frame)
        try:
            with self._sending:
                if not self.left:
                    self._send_all(data)
        except OSError:
            return  # the worker is gone, and soon this process is

    def _send_all(self, data: bytes) -> None:
        sent = self._send_some(data)
        while sent < len(data):
            self._room_to_send.poll()
            sent += self._send_some(memoryview(data)[sent:])

    def _send_some(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:  # the loop that listens makes it so
            return 0

    def listen(self, heard: Callable[[ToChild], None]) -> None:
        """From now on have the running loop give each frame to `heard`."""
        frames = Frames(ToChild, largest=2**32)
        room = memoryview(bytearray(READ_SIZE))  # taken now: later there may be no memory left

        def read() -> None:
            try:
                for frame in frames.feed(room[: self._receive(room)]):
                    heard(frame)
            except Exception:
                give_up()

        asyncio.get_running_loop().add_reader(self._socket.fileno(), read)

    def _receive(self, room: memoryview) -> int:
        try:
            size = self._socket.recv_into(room, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError:
            size = 0
        if not size:
            end_group()
        return size

    def store(self, item: int, text: str) -> asyncio.Future[None]:
        """Have the worker store a checkpoint; done when it is durable. On the loop of `listen`."""
        self._number += 1
        number = self._number
        durable = self._stores[number] = asyncio.get_running_loop().create_future()
        durable.add_done_callback(lambda _: self._stores.pop(number, None))
        self.send(Checkpoint(item, number, text))
        return durable

    def note(self, item: int, text: str) -> None:
        """Have the worker store a checkpoint soon, from any thread."""
        self.send(Checkpoint(item, 0, text))

    def stored(self, answer: Stored) -> None:
        """The worker's answer to a checkpoint."""
        waiting = self._stores.get(answer.number)
        if waiting is None or waiting.done():
            return
        if answer.error is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(LeaseLost(answer.error))


def give_up() -> NoReturn:
    """What must not fail has failed, perhaps for want of memory: the worker waits for an answer, or for the end of this process."""
    with contextlib.suppress(Exception):
        traceback.print_exc()
    os._exit(1)


class ForwardLogs(logging.Handler):
    """Sends the records of this process to the worker's log; what comes faster than anybody could read is counted."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._known = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
        self._budget = Budget(LOG_RATE, LOG_BURST)
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        if not self._budget.take():
            self._dropped += 1
            return
        try:
            dropped, self._dropped = self._dropped, 0
            if dropped:
                self._channel.send(Logged(logging.WARNING, record.name, f"{dropped:,} log records dropped: they came too fast", {}))
            self._channel.send(self._frame(record))
        except Exception:
            self.handleError(record)

    def _frame(self, record: logging.LogRecord) -> Logged:
        trouble = None
        if record.exc_info and record.exc_info[0]:
            trouble = clean_text("".join(traceback.format_exception(*record.exc_info)).rstrip(), LONGEST_LOG_TEXT)
        extra = [(name, value) for name, value in vars(record).items() if name not in self._known]
        fields = {clean_text(str(name), 100): _plain(value) for name, value in extra[:MOST_FIELDS]}
        return Logged(record.levelno, clean_text(record.name, 200), clean_text(record.getMessage(), LONGEST_LOG_TEXT), fields, trouble)


def _plain(value: Any) -> str | int | float | bool | None:
    if value is None or type(value) in (bool, float) or (type(value) is int and abs(value) < 2**63):
        return value  # type: ignore[no-any-return]
    return clean_text(str(value), LONGEST_FIELD)
