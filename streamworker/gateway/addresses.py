"""Who is called, and by whose page: the Host and the Origin of a request, compared letter by letter with what is allowed.

A page on another site can make a browser send requests to a loopback address; it cannot choose these two headers.
"""

from __future__ import annotations

from starlette.types import Scope

from streamworker.settings import Settings
from streamworker.settings.values import HOST_AND_PORT

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 compared with, not bound to
_WEB = {"ws": "http", "wss": "https"}


def header(scope: Scope, name: bytes) -> str | None:
    """The value of a header; None where it is missing, or given more than once: then nobody knows what it says."""
    found = [value for key, value in scope["headers"] if key == name]
    return found[0].decode("latin-1") if len(found) == 1 else None


def cookie_name(scope: Scope) -> str:
    """Cookies do not know ports, so the cookie of a gateway on another port must have another name."""
    match = HOST_AND_PORT.fullmatch(header(scope, b"host") or "")
    return f"streamworker_{(match and match['port']) or 'session'}"


class Addresses:
    """The names that the gateway answers to, and the origins that its clients may come from."""

    def __init__(self, settings: Settings) -> None:
        host, _ = settings.gateway_address
        self._hosts = LOOPBACK | set(settings.gateway_hosts) | {_bracketed(host.lower())}
        self._any_own_address = host in WILDCARDS
        self._origins = frozenset(settings.gateway_origins)

    def host(self, scope: Scope) -> str | None:
        """The Host of a request, if it is one of ours; with its port, in small letters."""
        given = (header(scope, b"host") or "").lower()
        match = HOST_AND_PORT.fullmatch(given)
        if match is None or not given.isascii():
            return None
        if given in self._hosts or match["host"] in self._hosts or self._is_own_address(match["host"], scope):
            return given
        return None

    def allows_origin(self, scope: Scope, host: str) -> bool:
        """Whether the request's Origin header is that of our own page, or one of the settings."""
        origin = header(scope, b"origin")
        if origin is None:
            return False
        own = {f"{scheme}://{host}" for scheme in ("http", "https")} & self._origins
        # Behind a proxy with TLS the settings name the page's own origin; the same host without TLS is somebody else then.
        return origin in (own or {f"{_WEB.get(scope['scheme'], scope['scheme'])}://{host}"}) or origin in self._origins

    def _is_own_address(self, host: str, scope: Scope) -> bool:
        # Bound to all addresses: the one that this connection came to. Only names can be made to point elsewhere.
        server = scope.get("server")
        return self._any_own_address and server is not None and host == _bracketed(plain_address(str(server[0])))


def plain_address(address: str) -> str:
    """An IPv4 address that came by an IPv6 socket, as what it is; any other text as it stands."""
    return address.removeprefix("::ffff:") if "." in address else address


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
