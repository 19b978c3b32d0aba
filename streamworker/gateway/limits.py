"""How much one address may ask for: requests a second, wrong tokens a minute, bytes and seconds of a body."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from streamworker.gateway.addresses import plain_address
from streamworker.gateway.answers import Refusal, refuse

MOST_ADDRESSES = 10_000
MOST_HEADERS, HEAD_BYTES = 100, 8 * 1024
BODY_SECONDS = 10.0
TOO_MANY_REQUESTS = "too many requests from this address: come back in a moment"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one address may do. This machine's own addresses are left alone: a proxy on it speaks for many."""

    requests_a_second: float = 50.0
    burst: int = 200
    wrong_tokens_a_minute: float = 10.0
    body_bytes: int = 64 * 1024
    loopback_too: bool = False


def client_of(scope: Scope) -> str:
    """The address that a request came from; what a proxy says about it is not believed."""
    client = scope.get("client")
    return str(client[0]) if client else ""


class Rate:
    """So many a second for each address, and `burst` at once. Knows the latest 10,000 addresses."""

    def __init__(self, a_second: float, burst: float, loopback_too: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._a_second = a_second
        self._burst = burst
        self._loopback_too = loopback_too
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, address: str) -> bool:
        """Take one; False when there is none left."""
        if self._is_exempt(address):
            return True
        address = counted_as(address)
        left = self._now_left(address)
        # Taken out and put in again: the dictionary's first is the one that was not seen for the longest time.
        self._left.pop(address, None)
        if len(self._left) >= MOST_ADDRESSES:
            del self._left[next(iter(self._left))]
        self._left[address] = (max(left - 1, 0.0) if left >= 1 else left, self._clock())
        return left >= 1

    def is_spent(self, address: str) -> bool:
        """Whether there is none left, without taking one."""
        return not self._is_exempt(address) and self._now_left(counted_as(address)) < 1

    def _now_left(self, address: str) -> float:
        left, since = self._left.get(address, (self._burst, self._clock()))
        return min(self._burst, left + (self._clock() - since) * self._a_second)

    def _is_exempt(self, address: str) -> bool:
        return not self._loopback_too and is_this_machine(address)


def counted_as(address: str) -> str:
    """What counts as one address: of IPv6 the 64 bits that a customer gets, who may choose the rest."""
    try:
        parsed = ipaddress.ip_address(plain_address(address))
    except ValueError:
        return address
    return parsed.packed[:8].hex() if parsed.version == 6 else str(parsed)


def is_this_machine(address: str) -> bool:
    """Whether an address is one of the loopback interface; so is the other end of a unix socket."""
    try:
        return not address or ipaddress.ip_address(plain_address(address)).is_loopback
    except ValueError:
        return False


def is_from_this_machine(scope: Scope) -> bool:
    """Whether a request came over the loopback interface or by a unix socket. A TCP client that is gone already has no address, too."""
    if client_of(scope):
        return is_this_machine(client_of(scope))
    server = scope.get("server")
    return server is not None and server[1] is None


class RequestBounds:
    """ASGI middleware that refuses what comes too fast, or says too much before its body."""

    def __init__(self, app: ASGIApp, rate: Rate) -> None:
        self._app = app
        self._rate = rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif not self._rate.take(client_of(scope)):
            await refuse(scope, receive, send, 429, TOO_MANY_REQUESTS)
        elif len(scope["path"]) + len(scope["query_string"]) > HEAD_BYTES:
            await refuse(scope, receive, send, 414, f"URL: expected at most {HEAD_BYTES:,} characters")
        elif len(scope["headers"]) > MOST_HEADERS or sum(len(name) + len(value) for name, value in scope["headers"]) > HEAD_BYTES:
            await refuse(scope, receive, send, 431, f"headers: expected at most {MOST_HEADERS}, of {HEAD_BYTES:,} bytes in all")
        else:
            await self._app(scope, receive, send)


async def read_body(request: Request, most: int) -> bytes:
    """The body of a request, if it is short enough and comes in time."""
    too_large = Refusal(413, f"body: expected at most {most:,} bytes, got more", {"Connection": "close"})
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared[:12]) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise Refusal(408, f"body: expected within {BODY_SECONDS:g} seconds", {"Connection": "close"}) from None
    except ClientDisconnect:
        raise Refusal(400, "body: ended too early") from None
    return bytes(body)
