"""One process that serves the gateway: uvicorn with our limits, from the open socket to the last closed connection."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn

from streamworker.errors import ConfigurationError
from streamworker.gateway.application import build
from streamworker.gateway.frames import MAX_FRAME
from streamworker.gateway.garbage import collected_seldom
from streamworker.gateway.limits import HEAD_BYTES, Rate
from streamworker.gateway.protocols import MOST_CONNECTIONS, Bounds, Gate, HttpProtocol, WebSocketProtocol
from streamworker.gateway.services import Running
from streamworker.settings import Settings

BACKLOG = 2048
UNSENT_BYTES = 64 * 1024
PING_SECONDS = 20.0
FAREWELL_SECONDS = 1.0  # for the clients to take their close frame
LAST_ANSWERS_SECONDS = 5
OTHER_FILES = 200  # descriptors that are no connections of clients
_COMPLAINTS = Rate(a_second=0.1, burst=10, loopback_too=True)


def _is_told(record: logging.LogRecord) -> bool:
    """Whether a record is logged: what any client can bring about is told a few times a minute."""
    return record.levelno > logging.WARNING or _COMPLAINTS.take(str(record.msg))


async def serve(settings: Settings, started: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT; `started` is told the URL once it listens. Returns the exit code."""
    with listen(*settings.gateway_address) as listener:
        app = build(settings)
        gate = Gate(Bounds(connections=_room()))
        server = Server(configure(app, gate), app.state.running, lambda: started(place_of(listener)))
        with _signals(server), collected_seldom(lambda: gate.ended):
            try:
                async with app.router.lifespan_context(app):
                    await server.serve(sockets=[listener])
            except asyncio.CancelledError:
                if not server.should_exit:
                    raise
    return 0


def listen(host: str, port: int) -> socket.socket:
    """An open socket at the address; ConfigurationError says why there is none."""
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigurationError(f"STREAMWORKER_GATEWAY_ADDRESS {place}: {error.strerror or error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by every connection: what a slow client has not taken waits where we can count it, not in the system's buffers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"STREAMWORKER_GATEWAY_ADDRESS {place}: {error.strerror or error}; give another one with --address (port 0: any free one)"
        ) from None
    return listener


def place_of(listener: socket.socket) -> str:
    """The URL that a browser takes."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 no address to bind to
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def configure(app: Any, gate: Gate) -> uvicorn.Config:
    """How uvicorn serves the app: with our protocols, one message a frame and no compression, and nothing believed of a proxy."""
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it tells of each socket, and we of what matters
    logging.getLogger("uvicorn.error").addFilter(_is_told)
    return uvicorn.Config(
        app,
        http=partial(HttpProtocol, gate=gate),  # type: ignore[arg-type]
        ws=partial(WebSocketProtocol, gate=gate),  # type: ignore[arg-type]
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=HEAD_BYTES,
        ws_max_size=MAX_FRAME,
        ws_per_message_deflate=False,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PING_SECONDS,
        timeout_graceful_shutdown=LAST_ANSWERS_SECONDS,
        backlog=BACKLOG,
    )


def _room() -> int:
    """Connections that this process may have, after it has been allowed as many files as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(MOST_CONNECTIONS, soft - OTHER_FILES))


@contextmanager
def _signals(server: Server) -> Iterator[None]:
    """SIGTERM and SIGINT end it in good order, at whatever point; a second one does not wait for anybody."""
    loop, running = asyncio.get_running_loop(), asyncio.current_task()
    assert running is not None

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True
        if not server.started:
            running.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


class Server(uvicorn.Server):
    """A server that says when it listens, and shows its clients out before it ends."""

    def __init__(self, config: uvicorn.Config, running: Running, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._running = running
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        self._listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what lasts with a code that says so, then let uvicorn end the rest."""
        for server in self.servers:
            server.close()
        await self._running.dismiss(FAREWELL_SECONDS)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are ours: uvicorn would end the process by the same signal once more."""
        yield
