"""Scenes: one for a test of its own, or one for a whole file whose worker stays up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.flows.modes import MODES, NAMES, Succession
from tests.flows.scene import Scene
from tests.flows.workers import WorkerProcess
from tests.servers import PostgresServer, RedisServer, run_sql


def staged(redis_url: str, database_url: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A scene for one test; at the end everything is ended and looked after."""
    with Scene(redis_url, database_url, folder) as scene:
        yield scene
        if not _has_failed(request.node):
            scene.finish()


@pytest.fixture
def scene(redis_server: RedisServer, database_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """Servers of this test, without a worker yet."""
    yield from staged(redis_server.url, database_url, tmp_path, request)


@pytest.fixture
def own_redis_scene(weak_redis: RedisServer, database_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """As `scene`, with the Redis of `weak_redis`, to be broken."""
    yield from staged(weak_redis.url, database_url, tmp_path, request)


@pytest.fixture
def own_postgres_scene(
    redis_server: RedisServer, own_postgres: PostgresServer, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Scene]:
    """As `scene`, with the Postgres of `own_postgres`, to be broken."""
    yield from staged(redis_server.url, own_postgres.url, tmp_path, request)


@pytest.fixture(scope="module")
def module_scene(
    redis_kind: str,
    redis_servers: Callable[[str], RedisServer],
    postgres: PostgresServer,
    database_copies: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    """Servers for all tests of a file; a fixture of the file puts the worker on them."""
    server, name = redis_servers(redis_kind), database_copies()
    server.flush()
    with Scene(server.url, postgres.database(name), tmp_path_factory.mktemp("scene")) as scene:
        yield scene
        scene.finish()
    run_sql(postgres.database("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def shared(module_scene: Scene) -> Iterator[Scene]:
    """The file's scene; after each test nothing of it may be left on the servers."""
    yield module_scene
    module_scene.residue.check_batches()


@pytest.fixture(scope="module", params=MODES, ids=NAMES)
def mode(request: pytest.FixtureRequest) -> tuple[str, str]:
    """An isolation, and the processor to name; tests of one mode come together."""
    isolation, processor = request.param
    return isolation, processor


@pytest.fixture(scope="module")
def succession(module_scene: Scene, request: pytest.FixtureRequest) -> Succession:
    """One worker after another, with the PROCESSORS of the file."""
    return Succession(module_scene, request.module.PROCESSORS)


@pytest.fixture
def worker(shared: Scene, succession: Succession, mode: tuple[str, str]) -> WorkerProcess:
    """The worker of the mode's isolation."""
    return succession.worker(mode[0])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Note on the test whether it has failed: what a failed one leaves behind is no news."""
    report = yield
    if call.when == "call":
        item.stash[FAILED] = report.failed
    return report


FAILED = pytest.StashKey[bool]()


def _has_failed(node: pytest.Item) -> bool:
    return node.stash.get(FAILED, False)
