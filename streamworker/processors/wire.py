"""The worker's end of the channel to a child: frames out when there is room, frames in as they come, and nothing that blocks."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from streamworker.processors.frames import READ_SIZE, BadFrame, Frames, FromChild, ToChild, pack


class Wire:
    """One socket on the loop. `heard(frame)` gets each frame, `spoiled(text)` word of the first that is none, `hung_up()` the end.

    `unread` says that the child has gone with something of ours unread.
    """

    def __init__(
        self,
        connection: socket.socket,
        heard: Callable[[FromChild], None],
        spoiled: Callable[[str], None],
        hung_up: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._heard = heard
        self._spoiled = spoiled
        self._hung_up = hung_up
        self._loop = asyncio.get_running_loop()
        self._frames = Frames(FromChild)
        self._room = memoryview(bytearray(READ_SIZE))
        self._unsent = bytearray()
        self._deaf = False
        self.unread = False
        self._number = connection.fileno()  # it says -1 once it is closed
        self._closed = False
        self._loop.add_reader(self._number, self.read)

    @property
    def sent_all(self) -> bool:
        """Whether all that was to be sent has been taken."""
        return not self._unsent

    def send(self, frame: ToChild) -> bool:
        """Send it now or when there is room; False when nobody will ever read it."""
        if self._closed:
            return False
        data = pack(frame)
        if not self._unsent:
            try:
                sent = self._connection.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return False  # it is gone: that is told by its end
            if sent == len(data):
                return True
            data = data[sent:]
            self._loop.add_writer(self._number, self._send_rest)
        self._unsent += data
        return True

    def _send_rest(self) -> None:
        try:
            del self._unsent[: self._connection.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self._loop.remove_writer(self._number)
        if not self._unsent:
            self._loop.remove_writer(self._number)

    def read(self) -> bool:
        """Take what has come; False when there is nothing."""
        if self._deaf or self._closed:
            return False
        try:
            size = self._connection.recv_into(self._room)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            self.unread, size = True, 0
        except OSError:
            size = 0
        if not size:
            self._listen_no_more()
            self._hung_up()
            return False
        try:
            for frame in self._frames.feed(self._room[:size]):
                self._heard(frame)
        except BadFrame as error:
            self._listen_no_more()
            self._spoiled(str(error))
        return True

    def _listen_no_more(self) -> None:
        self._deaf = True
        if not self._closed:
            self._loop.remove_reader(self._number)

    def close(self) -> None:
        """Let go of the socket; twice is as good as once."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._number)
        self._loop.remove_writer(self._number)
        self._connection.close()
