"""The wires between a worker and its servers: what passes is written down, and replies can be lost."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from tests.chaos.proxy import Proxy, Tap, Trap
from tests.flows.scene import Scene

Server = Literal["redis", "postgres"]


class Wires:
    """A proxy before each server of a scene; hand `urls` to a worker, and leave the block once that worker has ended."""

    def __init__(self, scene: Scene) -> None:
        self._background = scene.background
        redis, postgres = urlsplit(scene.redis_url), urlsplit(scene.database_url)
        self._database = postgres.path.strip("/")
        self._tap = Tap()
        self.records: list[dict[str, Any]] = []
        self._tap.listen(self.records.append)
        socket = f"{parse_qs(postgres.query)['host'][0]}/.s.PGSQL.5432"
        self.proxies: dict[Server, Proxy] = {
            "redis": Proxy("redis", redis.path, self._tap),
            "postgres": Proxy("postgres", socket, self._tap),
        }
        self._armed_later: list[_Later] = []
        self.urls: dict[str, str] = {}

    def __enter__(self) -> Wires:
        redis, postgres = (self._background.run(self.proxies[server].open("worker")) for server in ("redis", "postgres"))
        self.urls = {
            "redis_url": f"redis://{redis[0]}:{redis[1]}/0",
            "database_url": f"postgresql://postgres@{postgres[0]}:{postgres[1]}/{self._database}",
        }
        return self

    def __exit__(self, *_: object) -> None:
        for proxy in self.proxies.values():
            self._background.run(proxy.stop())

    def lose_reply(self, server: Server, pattern: str, skip: int = 0) -> Trap:
        """Deliver the next request that matches, after `skip` others, then lose its reply and cut the connection."""
        return self._background.run(self._set(self.proxies[server], self.proxies[server].lose_reply, pattern, skip))

    def cut_before(self, server: Server, pattern: str, skip: int = 0) -> Trap:
        """Cut the connection instead of delivering the next request that matches, after `skip` others."""
        return self._background.run(self._set(self.proxies[server], self.proxies[server].cut_before, pattern, skip))

    def strike(self, server: Server, pattern: str, act: Callable[[], object]) -> None:
        """Call `act`, once, when a request that matches comes by: before it is delivered."""
        self._tap.listen(_Once(server, re.compile(pattern), act))

    def silence(self, *servers: Server) -> None:
        """Let nothing pass to or from these servers, and close nothing: as when a cable is pulled."""
        for server in servers:
            self._background.loop.call_soon_threadsafe(self.proxies[server].black_hole)

    def heal(self) -> None:
        """Let everything pass again."""
        for proxy in self.proxies.values():
            self._background.loop.call_soon_threadsafe(proxy.heal)

    def clear(self) -> None:
        """Take back all traps that have not struck."""
        for later in self._armed_later:
            later.left = 0
        for proxy in self.proxies.values():
            proxy.traps.clear()

    def find(self, server: Server, pattern: str, op: str = "request") -> list[dict[str, Any]]:
        """The requests so far whose text matches, in the order in which they passed."""
        return [record for record in self.of(server) if record["op"] == op and re.search(pattern, text_of(record))]

    def of(self, server: Server) -> list[dict[str, Any]]:
        """All that has passed on the wire of one server."""
        return [record for record in self.records if record["server"] == server]

    def reply_to(self, request: dict[str, Any]) -> dict[str, Any]:
        """What answered a request."""
        return next(record for record in self.records if record["op"] == "reply" and record["n"] == request["n"])

    async def _set(self, proxy: Proxy, set_trap: Callable[[str], Trap], pattern: str, skip: int) -> Trap:
        trap = set_trap(pattern)
        if skip:
            proxy.traps.remove(trap)
            self._armed_later.append(_Later(proxy, trap, skip))
            self._tap.listen(self._armed_later[-1])
        return trap


class _Once:
    """Acts on the first request that matches."""

    def __init__(self, server: Server, pattern: re.Pattern[str], act: Callable[[], object]) -> None:
        self._server, self._pattern, self._act = server, pattern, act
        self._done = False

    def __call__(self, record: dict[str, Any]) -> None:
        if not self._done and (record["server"], record["op"]) == (self._server, "request") and self._pattern.search(text_of(record)):
            self._done = True
            self._act()


class _Later:
    """Arms a trap once so many requests that it would have caught have passed."""

    def __init__(self, proxy: Proxy, trap: Trap, skip: int) -> None:
        self._proxy, self._trap, self.left = proxy, trap, skip

    def __call__(self, record: dict[str, Any]) -> None:
        if (
            self.left
            and record["server"] == self._proxy.server
            and record["op"] == "request"
            and self._trap.pattern.search(text_of(record))
        ):
            self.left -= 1
            if not self.left:
                self._proxy.traps.append(self._trap)


def text_of(record: dict[str, Any]) -> str:
    """A request as text, like the traps see it."""
    return str(record["sql"]) if "sql" in record else " ".join(str(part) for part in record.get("args", [])[:8])
