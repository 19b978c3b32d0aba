"""One Chromium for the session; a scene, a worker and a gateway for each file, and a profile of the browser for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.flows.conftest import _has_failed, own_postgres_scene, own_redis_scene, pytest_runtest_makereport
from tests.flows.scene import Scene
from tests.page.chromium import Chromium, find_chromium
from tests.page.gateway import Gateway
from tests.page.site import Site
from tests.servers import PostgresServer, RedisServer, run_sql

__all__ = ["own_postgres_scene", "own_redis_scene", "pytest_runtest_makereport"]

PROCESSORS = "tests.flows.processors:work,speak=tests.page.processors:speak"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """The browser."""
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    browser = Chromium(program)
    try:
        yield browser
    finally:
        browser.close()


@pytest.fixture(scope="module")
def served(
    redis_servers: Callable[[str], RedisServer],
    postgres: PostgresServer,
    database_copies: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
    chromium: Chromium,
    request: pytest.FixtureRequest,
) -> Iterator[tuple[Scene, Gateway]]:
    """Servers, a worker and a gateway for all tests of a file."""
    server, name = redis_servers("valkey"), database_copies()
    server.flush()
    with Scene(server.url, postgres.database(name), tmp_path_factory.mktemp("page"), processor=PROCESSORS) as scene:
        scene.begin_worker(batch_concurrency="4", item_concurrency=getattr(request.module, "ITEM_CONCURRENCY", "4"))
        with Gateway.of(scene) as gateway:
            scene.workers[0].wait_started()
            yield scene, gateway
            assert gateway.stop() == 0, gateway.log()
            assert "Traceback" not in gateway.log(), gateway.log()
        scene.finish()
    run_sql(postgres.database("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def site(served: tuple[Scene, Gateway], chromium: Chromium, request: pytest.FixtureRequest) -> Iterator[Site]:
    """The file's servers, and a profile of this test."""
    scene, gateway = served
    with _looking(chromium, scene, gateway, request) as site:
        yield site
    scene.redis.delete("batches:dead")


@pytest.fixture
def looking(chromium: Chromium, request: pytest.FixtureRequest) -> Iterator[Callable[[Scene, Gateway], Site]]:
    """Look at a gateway of the test's own."""
    with chromium.context() as context:
        made: list[Site] = []

        def look(scene: Scene, gateway: Gateway) -> Site:
            made.append(Site(scene, gateway, context, []))
            return made[-1]

        yield look
        if not _has_failed(request.node):
            for site in made:
                site.check()


@contextmanager
def _looking(chromium: Chromium, scene: Scene, gateway: Gateway, request: pytest.FixtureRequest) -> Iterator[Site]:
    with chromium.context() as context:
        site = Site(scene, gateway, context, [])
        yield site
        if not _has_failed(request.node):
            site.check()
