"""Connections to Postgres: each wait has an end, each failure a sentence."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncpg
from asyncpg.pool import PoolAcquireContext

from streamworker.errors import ConfigurationError
from streamworker.settings import mask_url

CONNECT_TIMEOUT = 10.0
ACQUIRE_TIMEOUT = 10.0
CLOSE_TIMEOUT = 5.0
# The client's own limit (seconds) for a statement that the server gives all the time it takes: its reply may be lost without a word.
LONGEST_STATEMENT = 3600.0
FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")  # parameters of a URL

# What a connection attempt raises; `explain` has a sentence for each.
CONNECTION_ERRORS = (
    OSError,
    asyncio.TimeoutError,
    ssl.SSLError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    ValueError,
)

# What may be different at the next try: the connection, the server, or somebody else's lock.
TRANSIENT_ERRORS = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that broke at an awkward moment
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.PostgresIOError,
)

# What a worker waits out: the above, and what only somebody with other rights can mend.
OUTAGE_ERRORS = (*TRANSIENT_ERRORS, asyncpg.SyntaxOrAccessError, asyncpg.InvalidAuthorizationSpecificationError)


class Pool(asyncpg.Pool):
    """An asyncpg pool that does not wait for ever, neither to lend a connection nor to close."""

    def acquire(self, *, timeout: float | None = None) -> PoolAcquireContext:
        """Lend a connection; TimeoutError when none is free within `timeout` (10 s by default)."""
        return super().acquire(timeout=ACQUIRE_TIMEOUT if timeout is None else timeout)

    async def close(self) -> None:
        """Close gracefully, or cut what is still in use after 5 s."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await super().close()
        except (TimeoutError, OSError, asyncpg.PostgresError):
            self.terminate()


async def open_pool(
    url: str,
    *,
    size: int,
    application_name: str,
    statement_timeout: float = 60.0,
    lock_timeout: float = 10.0,
    idle_timeout: float = 30.0,
    plan_once: bool = False,
) -> Pool:
    """Open a pool of at most `size` connections; the first is made now, so that a wrong URL shows at once.

    `plan_once`: each statement is planned once a connection, whatever its arguments: for statements that touch few rows.

    The timeouts (seconds) are the server's: for one statement, for a lock, and for a transaction whose client has gone silent.
    json and jsonb are text on both sides. Raises one of `CONNECTION_ERRORS`.
    """
    pool = Pool(
        url,
        min_size=0,  # else it would try to keep a connection up by itself, with a traceback in the log at each try
        max_size=size,
        max_queries=50_000,
        max_inactive_connection_lifetime=300.0,
        reset=_leave_as_it_is,
        loop=None,
        connection_class=asyncpg.Connection,
        record_class=asyncpg.Record,
        **connect_options(application_name, statement_timeout, lock_timeout, idle_timeout, plan_once),
    )
    await pool
    try:
        async with pool.acquire():
            pass
    except BaseException:
        pool.terminate()
        raise
    return pool


async def _leave_as_it_is(_connection: object) -> None:
    """What we run leaves no trace in a session, so nothing is asked of Postgres when a connection goes back; see `Connection.reset`."""


async def open_connection(
    url: str, *, application_name: str, statement_timeout: float = 60.0, lock_timeout: float = 10.0, idle_timeout: float = 30.0
) -> asyncpg.Connection[asyncpg.Record]:
    """One connection outside any pool, with the same limits: for what belongs to the session (LISTEN, session locks)."""
    return await asyncpg.connect(url, **connect_options(application_name, statement_timeout, lock_timeout, idle_timeout))


def connect_options(
    application_name: str, statement_timeout: float, lock_timeout: float, idle_timeout: float, plan_once: bool = False
) -> Mapping[str, Any]:
    """Arguments of `asyncpg.connect` that put an end to every wait."""
    return {
        "timeout": CONNECT_TIMEOUT,
        "command_timeout": statement_timeout + 5,  # the server's own limit comes first, and leaves the connection usable
        "server_settings": {
            "application_name": application_name,
            "statement_timeout": _milliseconds(statement_timeout),
            "lock_timeout": _milliseconds(lock_timeout),
            "idle_in_transaction_session_timeout": _milliseconds(idle_timeout),
            # A plan kept from when the tables were small would go through a large batch at every record.
            "plan_cache_mode": "force_generic_plan" if plan_once else "force_custom_plan",
            # Nor may one that sorts what an index gives in order: each page of a batch would read all the rest of it.
            "enable_bitmapscan": "off",
            "enable_seqscan": "off",
            # Where a scan that is switched off is the only way, its price would have a statement of a millisecond compiled for a second.
            "jit": "off",
            "tcp_keepalives_idle": "15",
            "tcp_keepalives_interval": "5",
            "tcp_keepalives_count": "3",
        },
    }


def explain(error: BaseException, url: str) -> str:
    """One sentence for an error of connecting to, or talking with, the Postgres at `url`; no secret in it."""
    place = f"Postgres at {mask_url(url)}"
    match error:
        case _ if blames_url(error, url):
            reason = _unreadable_file(url) or _text(error, url)
            return f"DATABASE_URL: expected postgresql://user@host:port/database, got {mask_url(url)}: {reason}"
        case TimeoutError():
            return f"{place} did not answer in time"
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return f"{place} refuses the login: {_text(error, url)}"
        case asyncpg.ProtocolViolationError() if "startup parameter" in str(error):
            return (
                f"{place} is behind a connection pooler that refuses a setting ({_text(error, url)}): "
                "name it in the pooler's ignore_startup_parameters, or give the server's own address"
            )
        case ConnectionRefusedError() | FileNotFoundError():
            return f"{place} is not reachable: nothing listens there"
        case OSError():
            return f"{place} is not reachable: {_text(error, url)}"
        case _:
            return f"{place}: {_text(error, url)}"


def refusal(error: BaseException, url: str) -> ConfigurationError | ConnectionError:
    """The error, explained, for whoever cannot connect: ConfigurationError where waiting mends nothing."""
    return (ConfigurationError if blames_url(error, url) else ConnectionError)(explain(error, url))


def blames_url(error: BaseException, url: str) -> bool:
    """Whether an error of connecting is about the URL itself, or a file that it names, and not about the server."""
    match error:
        case ssl.SSLError():  # first: that a server's certificate does not fit is a ValueError, too
            return any(mark in str(error) for mark in ("[PEM", "[X509", "PEM lib"))
        case FileNotFoundError() | PermissionError() | IsADirectoryError() | NotADirectoryError():  # or about the server's socket
            return _unreadable_file(url) is not None
        case UnicodeDecodeError():  # in what the server said
            return False
        case _:
            return isinstance(error, ValueError)


def _unreadable_file(url: str) -> str | None:
    """The first file that a URL names and that cannot be read, with the reason."""
    try:
        named = [(name, path) for name, path in parse_qsl(urlsplit(url).query) if name in FILES]
    except ValueError:
        return None
    for name, path in named:
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            return f"{name}: {path}: {error.strerror}"
    return None


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000))) if seconds else "0"


def _text(error: BaseException, url: str) -> str:
    text = (str(error) or type(error).__name__).splitlines()[0]
    return _without_secrets(text.replace(url, mask_url(url)), url)


def _without_secrets(text: str, url: str) -> str:
    try:
        password = urlsplit(url).password
    except ValueError:
        return "the URL cannot be read"
    for secret in {password, unquote(password)} if password else ():
        text = text.replace(secret, "***")
    return text
