"""One process that serves the gateway: uvicorn with our limits, from the open socket to the last closed connection."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from streamworker.errors import ConfigurationError
from streamworker.gateway.application import build
from streamworker.gateway.protocols import HttpProtocol, WebSocketProtocol
from streamworker.settings import Settings

MAX_HEADER_BYTES = 8 * 1024
MAX_FRAME_BYTES = 64 * 1024
BACKLOG = 2048


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


async def serve(settings: Settings, started: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT; `started` is told the URL once it listens."""
    settings.require_gateway_token()
    with listen(*settings.gateway_address) as listener:
        where = place_of(listener)
        config = uvicorn.Config(
            build(settings),
            http=HttpProtocol,
            ws=WebSocketProtocol,
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            ws_max_size=MAX_FRAME_BYTES,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=5,
        )
        server = _Server(config, lambda: started(where))
        await server.serve(sockets=[listener])
    return 0


class _Server(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._listening()
