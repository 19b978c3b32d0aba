"""How the text of a setting becomes its value, or is refused with what was expected and what was found."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from pathlib import Path

from streamworker.errors import ConfigurationError

HOST_AND_PORT = re.compile(r"(?P<host>\[[^\[\]]+\]|[\w.%-]+)(?::(?P<port>[0-9]{1,5}))?")

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def refusal(expected: str, text: str) -> ConfigurationError:
    """The error of a value that does not fit; the caller puts the name in front."""
    return ConfigurationError(f"expected {expected}, got {shorten(text)}")


def shorten(text: str, limit: int = 60) -> str:
    """Quote a text for an error sentence: on one line, escaped, and short."""
    return repr(text if len(text) <= limit else text[:limit] + "…")


def parse_duration(text: str) -> float:
    """Read a duration such as `500ms`, `30s`, `5m`, `2h`, `1.5h` or `7d` as seconds."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)", text)
    if match is None:
        raise refusal("a duration such as 500ms, 30s, 5m, 2h or 7d", text)
    return float(match[1]) * _SECONDS[match[2]]


def duration(low: str, high: str) -> Callable[[str], float]:
    """A duration between two limits, as seconds."""
    shortest, longest = parse_duration(low), parse_duration(high)

    def parse(text: str) -> float:
        try:
            seconds = parse_duration(text)
        except ConfigurationError:
            seconds = -1.0
        if not shortest <= seconds <= longest:
            raise refusal(f"a duration from {low} to {high}, such as 500ms, 30s, 5m, 2h or 7d", text)
        return seconds

    return parse


def duration_or_none(text: str) -> float | None:
    """A duration, or `none`."""
    return None if text == "none" else duration("1ms", "30d")(text)


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number between two limits, in plain ASCII digits."""

    def parse(text: str) -> int:
        if re.fullmatch("[0-9]{1,12}", text) is None or not low <= int(text) <= high:
            raise refusal(f"a whole number from {low:,} to {high:,}", text)
        return int(text)

    return parse


def size(text: str) -> int:
    """A number of bytes, with KiB or MiB if wanted."""
    match = re.fullmatch("([0-9]{1,12}) ?(|KiB|MiB)", text)
    amount = int(match[1]) * _BYTES[match[2]] if match else 0
    # Postgres holds at most 256 MiB of JSON in one value, and takes up to six times the text for it.
    if not 1024 <= amount <= 64 * 1024**2:
        raise refusal("a size from 1KiB to 64MiB, such as 65536, 512KiB or 16MiB", text)
    return amount


def memory_or_none(text: str) -> int | None:
    """An amount of memory in bytes, or `none`."""
    if text == "none":
        return None
    match = re.fullmatch("([0-9]{1,12}) ?(MiB|GiB)", text)
    amount = int(match[1]) * _BYTES[match[2]] if match else 0
    # An interpreter that has imported nothing but this package takes a good 20 MiB.
    if not 64 * 1024**2 <= amount <= 1024**4:
        raise refusal("none, or an amount from 64MiB to 1024GiB, such as 512MiB or 2GiB", text)
    return amount


def whole_or_none(low: int, high: int) -> Callable[[str], int | None]:
    """A whole number between two limits, or `none`."""
    parse = whole(low, high)

    def parse_or_none(text: str) -> int | None:
        try:
            return None if text == "none" else parse(text)
        except ConfigurationError as error:
            raise ConfigurationError(f"expected none, or {str(error).removeprefix('expected ')}") from None

    return parse_or_none


def choice(*words: str) -> Callable[[str], str]:
    """One of some words, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise refusal("one of " + ", ".join(words), text)
        return text.lower()

    return parse


def switch(text: str) -> bool:
    """0 or 1."""
    if text not in ("0", "1"):
        raise refusal("0 or 1", text)
    return text == "1"


def is_plain(text: str, limit: int) -> bool:
    """Whether a text is short, printable and free of spaces."""
    return 0 < len(text) <= limit and text.isprintable() and not any(c.isspace() for c in text)


def name(text: str) -> str:
    """A name of a stream, group or consumer."""
    if not is_plain(text, 200):
        raise refusal("a name of 1 to 200 printable characters without spaces", text)
    return text


def names(text: str) -> tuple[str, ...]:
    """Processors, separated by commas; one given twice counts once."""
    names = tuple(dict.fromkeys(part.strip(" ") for part in text.split(",")))
    if not all(is_plain(name, 500) for name in names):
        raise refusal("module:attribute or the name of a processor, several separated by commas", text)
    return names


def hosts(text: str) -> tuple[str, ...]:
    """Host names as they stand in a Host header, with a port or without, separated by commas."""
    found = tuple(dict.fromkeys(part.strip(" ").lower() for part in text.split(",")))
    for host in found:
        match = HOST_AND_PORT.fullmatch(host)
        if match is None or not is_host(match["host"]) or int(match["port"] or 0) > 65535 or not host.isascii() or len(host) > 260:
            raise refusal("host names such as jobs.example.com or 192.168.1.5:8080, several separated by commas", text)
    return found


def origins(text: str) -> tuple[str, ...]:
    """Origins as browsers send them, separated by commas: a scheme, a host, and a port unless it is the scheme's own."""
    found = tuple(dict.fromkeys(part.strip(" ").lower() for part in text.split(",")))
    for origin in found:
        scheme, _, host = origin.partition("://")
        match = HOST_AND_PORT.fullmatch(host)
        ordinary = {"http": "80", "https": "443"}.get(scheme)
        if (
            ordinary is None
            or match is None
            or not is_host(match["host"])
            or match["port"] == ordinary
            or not host.isascii()
            or len(host) > 260
        ):
            raise refusal("origins such as https://app.example.com (no path, no :443 or :80), several separated by commas", text)
    return found


def folder(text: str) -> Path:
    """The path of a folder, which need not exist yet."""
    try:
        if text.strip() and text.isprintable() and len(os.fsencode(text)) <= 1024:
            return Path(text).expanduser()
    except (RuntimeError, UnicodeError):  # ~ of a user that nobody knows, or a name that this system cannot write
        pass
    raise refusal("the path of a folder", text)


def address(text: str) -> tuple[str, int]:
    """host:port, as both."""
    match = HOST_AND_PORT.fullmatch(text)
    if match is None or match["port"] is None or not is_host(match["host"]) or int(match["port"]) > 65535 or len(text) > 260:
        raise refusal("host:port, such as 127.0.0.1:9464 or [::1]:9464", text)
    return match["host"].strip("[]"), int(match["port"])


def is_host(host: str) -> bool:
    """Whether a bracketed text is an IPv6 address; any other text is left to the resolver."""
    if not host.startswith("["):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).version == 6
    except ValueError:
        return False


def token(text: str) -> str:
    """A secret that fits into an HTTP header; never shown."""
    if not (is_plain(text, 1000) and text.isascii()):
        raise ConfigurationError("expected 1 to 1,000 printable ASCII characters without spaces, got something else (not shown)")
    return text


def host_of(text: str) -> str:
    """The host of a Host header, without brackets and port."""
    match = HOST_AND_PORT.fullmatch(text)
    return match["host"].strip("[]") if match else ""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address of this host; a name that needs a resolver counts as not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
