"""The Lua scripts: each checks and acts in one step, so that nobody comes between."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError


def _load() -> Mapping[str, str]:
    folder = files("streamworker.broker.scripts")
    return MappingProxyType({f.name.removesuffix(".lua"): f.read_text("utf-8") for f in folder.iterdir() if f.name.endswith(".lua")})


_SCRIPTS = _load()


class Scripts:
    """Runs scripts on one client; a server that lost them (restart, failover) is taught again."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._digests: dict[str, str] = {}

    async def run(self, name: str, key: str, *arguments: Any) -> Any:
        """Run `name` on the stream `key`."""
        if name in self._digests:
            try:
                return await self._redis.evalsha(self._digests[name], 1, key, *arguments)
            except NoScriptError:
                pass
        self._digests[name] = await self._redis.script_load(_SCRIPTS[name])
        return await self._redis.evalsha(self._digests[name], 1, key, *arguments)
