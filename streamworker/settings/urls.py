"""URLs of servers: which are accepted, and how their secrets stay out of every text."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from streamworker.errors import ConfigurationError
from streamworker.settings.values import HOST_AND_PORT, is_host, is_plain, shorten

REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
DATABASE_SCHEMES = ("postgresql", "postgres")

_SECRET_PARAMETER = re.compile(r"([?&][^=&#]{0,40}(?:pass|pwd|secret|token)[^=&#]{0,40}=)([^&#]*)", re.IGNORECASE)


def url(schemes: tuple[str, ...], example: str) -> Callable[[str], str]:
    """A URL with one of these schemes; a bad one is shown without its secrets."""
    expected = f"a URL such as {example} ({', '.join(schemes)}; special characters of a password written as %40, %2F, …)"

    def parse(text: str) -> str:
        if not is_plain(text, 4000) or not _is_url(text, schemes):
            shown = shorten(mask_url(text)) if "://" in text else "something that is no URL (not shown)"
            raise ConfigurationError(f"expected {expected}, got {shown}")
        return text

    return parse


def _is_url(text: str, schemes: tuple[str, ...]) -> bool:
    scheme, _, rest = text.partition("://")
    try:
        parts = urlsplit(text)  # the clients will do the same: what it cannot split is refused here
    except ValueError:
        return False
    if scheme not in schemes or not rest or "@" in parts.path or "#" in text:
        return False
    hosts = parts.netloc.rpartition("@")[2]
    if scheme == "unix":
        return not hosts and len(parts.path) > 1
    if not hosts:
        return scheme in DATABASE_SCHEMES
    if scheme in ("redis", "rediss") and ("," in hosts or not re.fullmatch("/?[0-9]{0,9}", parts.path)):
        return False
    matches = [HOST_AND_PORT.fullmatch(host) for host in hosts.split(",")]
    return all(m is not None and is_host(m["host"]) and int(m["port"] or 0) <= 65535 for m in matches)


def mask_url(url: str) -> str:
    """Hide the secrets of a URL: the password, a lone user of a Redis URL, and secret parameters.

    A text that is no URL comes back as `***` alone: nobody knows which part of it is secret.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]{0,40}", scheme) is None:
        return "***"
    return f"{scheme}://{_mask_rest(scheme, rest)}"


def mask_urls(text: str) -> str:
    """Hide the secrets of every URL anywhere in a text."""
    if "://" not in text:
        return text
    # Anchored at the start of a word, so that hostile text costs linear time.
    return re.sub(r"(?<!\S)(\S*?)://(\S*)", lambda m: f"{m[1]}://{_mask_rest(m[1], m[2])}", text)


def _mask_rest(scheme: str, rest: str) -> str:
    # Up to the last @, wherever it stands: an unescaped / may be part of the password.
    userinfo, at, place = rest.rpartition("@")
    if "?" in userinfo:
        return "***"  # a ? in the password, or an @ in a parameter: no telling which
    user, colon, password = userinfo.partition(":")
    if colon:
        userinfo = f"{user}:***" if password else "***"
    elif at and scheme not in DATABASE_SCHEMES:
        userinfo = "***"
    return userinfo + at + _SECRET_PARAMETER.sub(r"\1***", place)


def secrets_of(url: str | None) -> list[str]:
    """The passwords in a URL, as written and as meant."""
    userinfo = (url or "").partition("://")[2].rpartition("@")[0]
    user, colon, password = userinfo.partition(":")
    lone = "" if (url or "").startswith(DATABASE_SCHEMES) else user
    found = [password if colon and password else lone]
    found += [match[2] for match in _SECRET_PARAMETER.finditer(url or "")]
    return [text for secret in found if secret for text in {secret, unquote(secret)}]
