"""Servers for all tests: started once a session, empty for each test, gone at the end."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from streamworker.store.migrate import migrate_at
from tests.servers import REDIS_KINDS, PostgresServer, RedisServer, run_async, run_sql

TEMPLATE = "streamworker_template"
# Flows in which nothing depends on the kind of Redis, or nothing that others do not ask of each kind.
# One of them will do, but for a release.
ANY_REDIS = {
    "test_bad_processors",
    "test_bursts",
    "test_client",
    "test_commands",
    "test_database_rows",
    "test_descriptions",
    "test_isolation",
    "test_isolation_limits",
    "test_isolation_quick",
    "test_jobs",
    "test_migrations",
    "test_p04_deaths",
    "test_p04_errors",
    "test_p06_nothing_bad_stops_the_rest",
    "test_p09_memory",
    "test_p10_blocking_processors",
    "test_p11_ended_is_ended",
    "test_p12_no_clock_no_guess",
    "test_processor_api",
    "test_unavailable",
}
# Flows that take long: they run on the newest and on the oldest of the servers, but for a release. What is between answers like the newest.
NEWEST_AND_OLDEST = {
    "test_boundaries",
    "test_boundaries_on_the_wire",
    "test_flushes",
    "test_p01_every_batch_ends",
    "test_p02_finished_items_stay",
    "test_p03_one_writer",
    "test_p05_acknowledged_last",
    "test_p07_readers_never_see_numbers_go_back",
    "test_p08_hand_over",
    "test_watch",
}
BETWEEN = "redis70"


# What the tests start must hear Ctrl-C, also where a shell started the tests in the background and so without it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--redis-kinds", default="valkey", metavar="KINDS", help=f"servers to run the flow tests on, of {','.join(REDIS_KINDS)} (valkey)"
    )
    parser.addoption("--full", action="store_true", help="hold, print and repeat as long as a release asks for, not as CI has time for")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "flow: a test that runs on every server of --redis-kinds, like all of tests/flows")
    unknown = set(_kinds(config)) - set(REDIS_KINDS)
    if unknown:
        raise pytest.UsageError(f"--redis-kinds {','.join(sorted(unknown))}: expected some of {','.join(REDIS_KINDS)}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "redis_kind" in metafunc.fixturenames:
        node = metafunc.definition
        is_flow = node.get_closest_marker("flow") is not None or "flows" in node.path.parts
        kinds = _kinds(metafunc.config) if is_flow else ["valkey"]
        if is_flow and not metafunc.config.getoption("--full"):
            if node.path.stem in ANY_REDIS:
                kinds = ["valkey"]
            elif node.path.stem in NEWEST_AND_OLDEST and len(kinds) > 1:
                kinds = [kind for kind in kinds if kind != BETWEEN]
        metafunc.parametrize("redis_kind", kinds, scope="session")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test logged may be no text at all: as it is, it would not pass between the processes of a parallel run."""
    report = yield
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report


def _kinds(config: pytest.Config) -> list[str]:
    return [kind.strip() for kind in config.getoption("--redis-kinds").split(",") if kind.strip()]


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether there is time for the whole of it."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A folder with a short path, private to this session."""
    folder = Path(tempfile.mkdtemp(prefix="swt-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres(server_folder: Path) -> Iterator[PostgresServer]:
    """The session's Postgres; take `database_url` for a database of your own, `own_postgres` to break it."""
    server = PostgresServer(server_folder / "postgres")
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def database_copies(postgres: PostgresServer) -> Callable[[], str]:
    """Make a migrated, empty database and return its name; a copy of a template takes milliseconds."""
    run_sql(postgres.database("postgres"), f"CREATE DATABASE {TEMPLATE}")
    run_async(migrate_at(postgres.database(TEMPLATE)))
    numbers = count(1)

    def copy() -> str:
        name = f"test_{next(numbers)}"
        run_sql(postgres.database("postgres"), f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return name

    return copy


@pytest.fixture
def database_url(postgres: PostgresServer, database_copies: Callable[[], str]) -> Iterator[str]:
    """A migrated, empty database of this test."""
    name = database_copies()
    yield postgres.database(name)
    run_sql(postgres.database("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_database_url(postgres: PostgresServer) -> Iterator[str]:
    """A database of this test without the schema."""
    run_sql(postgres.database("postgres"), "CREATE DATABASE test_empty")
    yield postgres.database("test_empty")
    run_sql(postgres.database("postgres"), "DROP DATABASE test_empty WITH (FORCE)")


@pytest.fixture
def own_postgres(tmp_short: Path) -> Iterator[PostgresServer]:
    """A running, migrated Postgres of this test, to be killed, stopped and paused at will."""
    server = PostgresServer(tmp_short / "postgres")
    try:
        server.start()
        run_async(migrate_at(server.url))
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def redis_servers(server_folder: Path) -> Iterator[Callable[[str], RedisServer]]:
    """Return the session's server of a kind, started at the first call."""
    started: dict[str, RedisServer] = {}
    with ExitStack() as open_servers:

        def of_kind(kind: str) -> RedisServer:
            if kind not in started:
                server = RedisServer(kind, server_folder / kind)
                open_servers.callback(server.close)
                server.start()
                started[kind] = server
            return started[kind]

        yield of_kind


@pytest.fixture
def redis_server(redis_kind: str, redis_servers: Callable[[str], RedisServer]) -> RedisServer:
    """The session's server of the kind this test runs on, emptied; take `own_redis` to break it."""
    server = redis_servers(redis_kind)
    server.flush()
    return server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty server."""
    return redis_server.url


@pytest.fixture
def weak_redis(redis_kind: str, tmp_short: Path) -> Iterator[RedisServer]:
    """A running server of this test that forgets everything when it ends."""
    server = RedisServer(redis_kind, tmp_short / "redis")
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def own_redis(redis_kind: str, tmp_short: Path) -> Iterator[RedisServer]:
    """A running server of this test, with an append-only file, to be killed, stopped and paused at will."""
    server = RedisServer(redis_kind, tmp_short / "redis", persistent=True)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def tmp_short() -> Iterator[Path]:
    """Like tmp_path, with a path short enough for sockets, and removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="swt-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def clean_environment() -> dict[str, str]:
    """This process's environment without anything that concerns the program or its servers."""
    ours = ("STREAMWORKER_", "REDIS_URL", "DATABASE_URL", "PG")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@pytest.fixture
def worker_environment(clean_environment: dict[str, str], redis_url: str, database_url: str) -> dict[str, str]:
    """The environment of a worker process on this test's servers; add what the test is about."""
    return clean_environment | {"REDIS_URL": redis_url, "DATABASE_URL": database_url}
