"""What a child process prints, as lines of the worker's log: bounded in time and memory, however much it is."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import termios
from collections.abc import Callable, Mapping

from streamworker.messages import clean_text
from streamworker.processors.frames import READ_SIZE, Budget

LOG = logging.getLogger("streamworker.processor")
LONGEST_LINE = 4_000
NEWLINE = 10
# Bytes a second, and in advance, that one child may put into the log by printing; each line counts for so many more, since the log
# adds as much to it, and the worker's time goes by lines.
RATE, BURST = 64 * 1024.0, 256 * 1024.0
LINE = 200


class Output:
    """The read end of a child's standard output and error. It is always emptied; what exceeds the budget is counted instead of logged.

    `ids()` gives the fields of each line: which item the child is working on.
    """

    def __init__(self, file: int, ids: Callable[[], Mapping[str, object]], loop: asyncio.AbstractEventLoop) -> None:
        os.set_blocking(file, False)
        self._file = file
        self._ids = ids
        self._loop = loop
        self._room = bytearray(READ_SIZE)
        self._size = bytearray(4)
        self._line = bytearray()
        self._cutting = False  # in the middle of a line whose beginning was told
        self._dropped = 0
        self._budget = Budget(RATE, BURST)
        self._open = True
        loop.add_reader(file, self._read)

    def finish_item(self) -> None:
        """What was printed up to now belongs to the item that has just ended."""
        if self._open and self._has_come() and self._read() and self._read() and self._read():
            pass  # as much as a pipe holds, and no more: another process may be printing on
        if self._line or self._dropped or self._cutting:
            self._end_line()
            self._tell_dropped()

    def close(self) -> None:
        """The child is gone: tell what is left."""
        self.finish_item()
        if self._open:
            self._open = False
            self._loop.remove_reader(self._file)
            os.close(self._file)

    def _has_come(self) -> bool:
        """Whether there is something to read; to ask costs a third of trying."""
        fcntl.ioctl(self._file, termios.FIONREAD, self._size)
        return any(self._size)

    def _read(self) -> bool:
        """Take what is there; False when that was nothing."""
        try:
            size = os.readv(self._file, [self._room])
        except BlockingIOError:
            return False
        if not size:
            self._loop.remove_reader(self._file)  # nobody can print any more
            return False
        if self._dropped and not self._budget.holds(RATE):
            self._drop(size, torn=self._room[size - 1] != NEWLINE)  # on until a good piece can be told
        else:
            self._take(self._room[:size])
        return True

    def _take(self, data: bytearray) -> None:
        """Tell what the budget allows."""
        self._tell_dropped()
        start = 0
        while start < len(data):
            end = data.find(b"\n", start)
            stop = len(data) if end < 0 else end
            if not (self._cutting or self._budget.take(LINE + stop - start)):
                return self._drop(len(data) - start, torn=data[-1] != NEWLINE)
            self._add(data[start:stop])
            if end >= 0:
                self._end_line()
            start = stop + 1
        return None

    def _add(self, part: bytearray) -> None:
        if self._cutting:
            return
        self._line += part[: LONGEST_LINE + 1]
        if len(self._line) > LONGEST_LINE:
            self._tell(bytes(self._line[:LONGEST_LINE]) + b" (cut)")
            self._line.clear()
            self._cutting = True

    def _end_line(self) -> None:
        if self._line and not self._cutting:
            self._tell(bytes(self._line))
        self._line.clear()
        self._cutting = False

    def _drop(self, size: int, torn: bool) -> None:
        self._end_line()
        self._dropped += size
        self._cutting = torn

    def _tell_dropped(self) -> None:
        dropped, self._dropped = self._dropped, 0
        if dropped:
            LOG.warning("%s bytes of output dropped: it came too fast", f"{dropped:,}", extra=dict(self._ids()))

    def _tell(self, line: bytes) -> None:
        LOG.info("%s", clean_text(line.decode("utf-8", "backslashreplace"), LONGEST_LINE + 100), extra=dict(self._ids()))
