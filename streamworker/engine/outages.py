"""One line for an outage, however many loops suffer from it."""

from __future__ import annotations

import time
from typing import Literal

from streamworker.observe.events import Events, ServerAway, ServerBack

Server = Literal["redis", "postgres"]


class Outages:
    """Counts who cannot reach a server: the first to notice tells it, and the last to recover. For the main loop only."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._suffering: dict[Server, set[str]] = {"redis": set(), "postgres": set()}
        self._since: dict[Server, float] = {}

    def away(self, server: Server, who: str, error: str) -> None:
        """`who` got this error from the server."""
        suffering = self._suffering[server]
        if not suffering:
            self._since[server] = time.monotonic()
            self._events.emit(ServerAway(server=server, error=error))
        suffering.add(who)

    def back(self, server: Server, who: str) -> None:
        """`who` is served again, or needs the server no longer."""
        suffering = self._suffering[server]
        if who in suffering:
            suffering.remove(who)
            if not suffering:
                self._events.emit(ServerBack(server=server, seconds=time.monotonic() - self._since[server]))

    def is_away(self, server: Server) -> bool:
        """Whether anybody misses the server at the moment."""
        return bool(self._suffering[server])
