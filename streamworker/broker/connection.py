"""Connections to Redis or Valkey: standalone, Sentinel and Cluster, by URL; each wait has an end."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import ConnectionPool, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from streamworker.broker.cancellable import (
    CancellableConnection,
    CancellableSentinelConnection,
    CancellableSentinelSSLConnection,
    CancellableSSLConnection,
    CancellableUnixConnection,
)
from streamworker.errors import ConfigurationError
from streamworker.settings import mask_url

SOCKET_TIMEOUT = 5.0
EXPECTED = "redis://, rediss://, unix://, redis+sentinel://host:port,…/service or redis+cluster://host:port,… (rediss+… for TLS)"

# What a command on an unreachable or unwilling server raises; `explain` has a sentence for each.
CONNECTION_ERRORS = (RedisError, OSError)

# Their answers stay as they came over the wire: redis-py's dictionaries would swallow a field that a sender gave twice.
RAW_REPLIES = ("XREAD", "XREADGROUP", "XRANGE", "XREVRANGE", "XCLAIM", "XAUTOCLAIM")

CANCELLABLE: Mapping[type | None, type] = MappingProxyType(
    {None: CancellableConnection, SSLConnection: CancellableSSLConnection, UnixDomainSocketConnection: CancellableUnixConnection}
)


class _SentinelRedis(Redis):
    """A client of the present master that also closes its connections to the sentinels."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        await self.connection_pool.sentinel_manager.aclose()  # type: ignore[attr-defined]


class _ClusterRedis(RedisCluster):
    """A cluster client whose errors are RedisErrors, as everybody expects."""

    async def initialize(self, *arguments: Any, **options: Any) -> RedisCluster:
        try:
            return await super().initialize(*arguments, **options)
        except RedisClusterException as error:
            raise RedisConnectionError(str(error)) from error

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        try:
            return await super().execute_command(*words, **options)
        except RedisClusterException as error:
            raise RedisConnectionError(str(error)) from error


def connect(url: str, *, blocking: float | None = None) -> Redis:
    """A client for `url`; no connection is made yet.

    `blocking` is the longest BLOCK (seconds) that will be asked of it: such reads need a client of their own.
    Nothing is ever sent twice: a command whose reply is lost raises. Replies are bytes, stream entries as `replies` reads them.
    """
    try:
        client = _build(url, _options(blocking))
    except (ValueError, TypeError, RedisError) as error:
        raise ConfigurationError(f"REDIS_URL: expected {EXPECTED}, got {mask_url(url)}: {_text(error, url)}") from None
    for command in RAW_REPLIES:
        client.response_callbacks.pop(command, None)
    return client


def explain(error: BaseException, url: str) -> str:
    """One sentence for an error of connecting to, or talking with, the Redis at `url`; no secret in it."""
    place = f"Redis at {mask_url(url)}"
    match error:
        case AuthenticationError() | AuthorizationError():
            return f"{place} refuses the login: {_text(error, url)}"
        case NoPermissionError():
            return f"{place}: its access list forbids a command that is needed: {_text(error, url)}"
        case BusyLoadingError():
            return f"{place} is still loading its data set"
        case ReadOnlyError():
            return f"{place} is a replica and takes no writes: give the master's address"
        case OutOfMemoryError():
            return f"{place} is full (maxmemory) and refuses writes"
        case ResponseError() if str(error).startswith("WRONGTYPE"):
            return f"{place}: a key of the stream's name holds something that is not a stream"
        case RedisTimeoutError() | TimeoutError():
            return f"{place} did not answer in time"
        case MasterNotFoundError():
            return f"{place}: no sentinel knows a master of this name"
        case RedisConnectionError() if isinstance(error.__cause__, ssl.SSLError):
            return f"{place}: TLS failed: {_text(error, url)}"
        case RedisConnectionError() | OSError():
            return f"{place} is not reachable: {_text(error, url)}"
        case _:
            return f"{place}: {_text(error, url)}"


def _options(blocking: float | None) -> dict[str, Any]:
    return {
        "socket_timeout": SOCKET_TIMEOUT + (blocking or 0.0),
        "socket_connect_timeout": SOCKET_TIMEOUT,
        "socket_keepalive": True,
        "health_check_interval": 30,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "decode_responses": False,
        "driver_info": None,
    }


def _build(url: str, fixed: Mapping[str, Any]) -> Redis:
    scheme, _, kind = urlsplit(url).scheme.partition("+")
    if kind == "sentinel":
        return _sentinel(url, scheme, fixed)
    if kind == "cluster":
        return _cluster(url, scheme, fixed)
    given = parse_url(url)
    if scheme == "unix":
        if not given.get("path"):
            raise ValueError("the path of the socket is missing")
        fixed = {name: value for name, value in fixed.items() if name != "socket_keepalive"}
    plain = given.pop("connection_class", None)
    # The fixed options come last: redis-py itself lets the URL's query win, and `?protocol=3` would change every reply.
    pool: Any = ConnectionPool(CANCELLABLE[plain], **{**given, **fixed})
    pool.make_connection()  # makes no connection yet, but refuses an option that does not exist
    return Redis.from_pool(pool)


def _sentinel(url: str, scheme: str, fixed: Mapping[str, Any]) -> Redis:
    service, _, database = urlsplit(url).path.strip("/").partition("/")
    if not service:
        raise ValueError("the name of the service is missing (…:26379/mymaster)")
    given = _parse_single(url, scheme, database)
    own = {name.removeprefix("sentinel_"): given.pop(name) for name in list(given) if name.startswith("sentinel_")}
    secure = {"ssl": True} if given.pop("connection_class", None) is SSLConnection else {}
    certificates = {name: value for name, value in given.items() if name.startswith("ssl_")} if secure else {}
    for_sentinels = {**fixed, **secure, **certificates, **own}
    build: Any = Sentinel
    sentinels = build(_hosts(url, 26379), sentinel_kwargs=for_sentinels, **{**given, **secure, **fixed})
    kind = CancellableSentinelSSLConnection if secure else CancellableSentinelConnection
    client: Redis = sentinels.master_for(unquote(service), redis_class=_SentinelRedis, connection_class=kind)
    return client


def _cluster(url: str, scheme: str, fixed: Mapping[str, Any]) -> Redis:
    given = _parse_single(url, scheme, "")
    secure = given.pop("connection_class", None) is SSLConnection
    nodes = [ClusterNode(host, port) for host, port in _hosts(url, 6379)]
    # A cluster client must follow MOVED, so it keeps its redirections; errors of the connection are still not retried.
    client: Any = _ClusterRedis(startup_nodes=nodes, ssl=secure, **{**given, **fixed})
    kind = CancellableSSLConnection if secure else CancellableConnection
    client.nodes_manager.connection_kwargs["connection_class"] = kind
    for node in client.nodes_manager.startup_nodes.values():
        node.connection_class = kind
    return cast(Redis, client)


def _parse_single(url: str, scheme: str, database: str) -> dict[str, Any]:
    """What redis-py reads from a URL, without the hosts, which it cannot read when there are several."""
    parts = urlsplit(url)
    if scheme not in ("redis", "rediss"):
        raise ValueError(f"{parts.scheme} is no known scheme")
    userinfo, at, _ = parts.netloc.rpartition("@")
    options = dict(parse_url(f"{scheme}://{userinfo}{at}localhost/{database}?{urlencode(parse_qsl(parts.query))}"))
    options.pop("host", None)
    return options


def _hosts(url: str, default_port: int) -> list[tuple[str, int]]:
    listed = urlsplit(url).netloc.rpartition("@")[2]
    hosts = [urlsplit(f"//{one}") for one in listed.split(",") if one]
    if not hosts or any(not host.hostname for host in hosts):
        raise ValueError("at least one host is needed")
    return [(host.hostname or "", host.port or default_port) for host in hosts]


def _text(error: BaseException, url: str) -> str:
    text = (str(error) or type(error).__name__).splitlines()[0].replace(url, mask_url(url))
    userinfo = urlsplit(url).netloc.rpartition("@")[0] if "://" in url else ""
    password = userinfo.partition(":")[2]
    for secret in {password, unquote(password)} if password else ():
        text = text.replace(secret, "***")
    return text
