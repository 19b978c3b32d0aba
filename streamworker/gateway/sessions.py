"""Who somebody is: the two tokens, and the signed cookie that stands for one of them in a browser."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from streamworker.settings import Settings

OPERATOR, READ = "operator", "read"
SESSION_SECONDS = 12 * 3600
MOST_REVOKED = 100_000


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who sent a request: the role that was proven, if any. `session` and `expires` (seconds of the epoch) belong to a cookie."""

    role: str | None
    by_token: bool = False
    session: str = ""
    expires: float = 0.0


NOBODY = Visitor(None)


class Keys:
    """Checks tokens in constant time, and signs and reads the cookie's text.

    The cookie is signed with a key made from both tokens: it outlives a restart, and ends when a token is changed. The key is made by
    scrypt, so that who may only look cannot find the operator's token by trying words on a cookie.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        given = ((settings.gateway_token, OPERATOR), (settings.gateway_read_token, READ))
        self._digests = tuple((_digest(token), role) for token, role in given if token is not None)
        self.required = bool(self._digests)
        self._key = _signing_key(settings) if self.required else b""
        self._revoked: dict[str, float] = {}

    def by_token(self, token: str) -> Visitor:
        """Who has this token; each one is compared, whatever the first says."""
        digest, role = _digest(token), None
        for known, its_role in self._digests:
            if hmac.compare_digest(digest, known):
                role = its_role
        return NOBODY if role is None else Visitor(role, by_token=True)

    def issue(self, role: str) -> str:
        """The text of a new session's cookie."""
        body = f"{role}.{int(self._clock()) + SESSION_SECONDS}.{secrets.token_urlsafe(12)}"
        return f"{body}.{self._sign(body)}"

    def by_cookie(self, text: str) -> Visitor:
        """Who has this cookie, if it is genuine, has not expired and was not given back."""
        body, _, signature = text.rpartition(".")
        if not (self.required and len(text) < 200 and text.isascii() and hmac.compare_digest(signature, self._sign(body))):
            return NOBODY
        role, expires, session = body.split(".")
        visitor = Visitor(role, session=session, expires=float(expires))
        return visitor if self.is_valid(visitor) else NOBODY

    def is_valid(self, visitor: Visitor) -> bool:
        """Whether what was proven once still holds."""
        return not visitor.session or (visitor.expires > self._clock() and visitor.session not in self._revoked)

    def seconds_left(self, visitor: Visitor) -> float:
        """How long a session is good for; what is no session, for ever."""
        return visitor.expires - self._clock() if visitor.session else math.inf

    def revoke(self, visitor: Visitor) -> None:
        """End a session before its time."""
        if visitor.session:
            if len(self._revoked) >= MOST_REVOKED:
                now = self._clock()
                self._revoked = {session: expires for session, expires in self._revoked.items() if expires > now}
            self._revoked[visitor.session] = visitor.expires

    def _sign(self, body: str) -> str:
        return base64.urlsafe_b64encode(hmac.digest(self._key, body.encode(), "sha256")).decode().rstrip("=")


def read_subprotocol(name: str) -> str | None:
    """The token in a subprotocol `bearer.<base64url of the token>`: the one header that a page can choose for a WebSocket."""
    encoded = name.removeprefix("bearer.")
    if encoded == name:
        return None
    try:
        return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        return ""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _signing_key(settings: Settings) -> bytes:
    words = f"{settings.gateway_token or ''}\0{settings.gateway_read_token or ''}".encode()
    return hashlib.scrypt(words, salt=b"streamworker gateway session", n=2**14, r=8, p=1, maxmem=64 * 1024**2, dklen=32)
