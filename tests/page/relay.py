"""A cable between browser and gateway that a test can cut: what is open is cut off, and nothing new gets through."""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import Lock, Thread

from tests.servers import free_port


class Relay:
    """Listens at a port of its own and passes bytes on to `target`."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._target = target
        self._whole = True
        self._open: set[socket.socket] = set()
        self._lock = Lock()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Cut the cable."""
        with self._lock:
            self._whole = False
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def mend(self) -> None:
        """Let everything through again."""
        self._whole = True

    def close(self) -> None:
        """Be gone."""
        self.cut()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if not self._connect(near):
                    near.close()

    def _connect(self, near: socket.socket) -> bool:
        try:
            far = socket.create_connection(("127.0.0.1", self._target), timeout=5)
        except OSError:
            return False
        far.settimeout(None)
        with self._lock:
            if not self._whole:
                far.close()
                return False
            self._open |= {near, far}
        for source, sink in ((near, far), (far, near)):
            Thread(target=self._pass, args=(source, sink), daemon=True).start()
        return True

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(65536):
                sink.sendall(chunk)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open -= {source, sink}
        source.close()
