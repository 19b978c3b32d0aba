"""Whatever happens to the connection: the page says so, keeps what it has, and comes to what Postgres says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from uuid import UUID

import pytest

from tests.flows.processors import act, hold, sleep
from tests.flows.scene import Scene
from tests.page.conftest import PROCESSORS
from tests.page.gateway import Gateway
from tests.page.relay import Relay
from tests.page.site import Site, figures, wait_live
from tests.servers import PostgresServer, RedisServer

STATE = "document.querySelector('#connection').dataset.state"


def run(site: Site, gate: str) -> UUID:
    """A batch that stops at a gate after its first ten items, and has more behind it; with four items at a time."""
    return site.scene.submit([*[sleep(2)] * 10, *[hold(gate)] * 4, *[sleep(2)] * 27, act("permanent")])


def test_a_reload_half_way(site: Site) -> None:
    batch_id = run(site, "reload")
    page = site.open_batch(batch_id)
    site.scene.wait_start(batch_id, 10)
    page.reload()
    wait_live(page)
    site.scene.open("reload")
    page.reload()
    site.scene.wait_end(batch_id)
    site.check_truth(page, batch_id)
    assert figures(page, batch_id)[-1] == 42


@pytest.mark.parametrize("view", ["list", "batch"])
def test_offline_and_back(site: Site, view: str) -> None:
    batch_id = run(site, f"offline-{view}")
    with closing(Relay(site.gateway.port)) as relay:
        page = site.open("#/" if view == "list" else f"#/batches/{batch_id}", url=relay.url)
        wait_live(page)
        site.scene.wait_start(batch_id, 10)
        site.wait_shown(page, batch_id, 10)
        page.offline(True)
        relay.cut()
        page.until(f"{STATE} === 'offline'")
        page.until("document.querySelector('#banner:not([hidden])')?.innerText.includes('Not connected')")
        site.scene.open(f"offline-{view}")
        site.scene.wait_end(batch_id)
        assert figures(page, batch_id)[-1] == 10
        relay.mend()
        page.offline(False)
        wait_live(page)
        site.check_truth(page, batch_id)
        page.until("document.querySelector('#banner').hidden")
        page.close()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_the_gateway_is_started_anew(site: Site, how: str) -> None:
    batch_id = run(site, f"anew-{how}")
    pages = site.open_batch(batch_id), site.open()
    for page in pages:
        wait_live(page)
    getattr(site.gateway, how)()
    pages[0].until(f"{STATE} === 'offline'")
    site.scene.open(f"anew-{how}")
    site.scene.wait_end(batch_id)
    site.gateway.start()
    for page in pages:
        wait_live(page)
        site.check_truth(page, batch_id)


def test_all_of_redis_is_lost(site: Site) -> None:
    batch_id = run(site, "flush")
    page = site.open_batch(batch_id)
    site.scene.wait_start(batch_id, 10)
    site.scene.redis.flushall()
    site.scene.open("flush")
    site.scene.wait_end(batch_id)
    site.check_truth(page, batch_id)
    later = site.scene.submit([sleep(1)] * 3)
    page.open(f"{site.gateway.url}#/")
    page.until(f"document.querySelector('tr[data-batch=\"{later}\"]')?.dataset.status === 'completed'")


def test_redis_is_away(own_redis_scene: Scene, weak_redis: RedisServer, looking: Callable[[Scene, Gateway], Site]) -> None:
    own_redis_scene.settings["processor"] = PROCESSORS
    own_redis_scene.begin_worker()
    with Gateway.of(own_redis_scene) as gateway:
        site = looking(own_redis_scene, gateway)
        batch_id = run(site, "away")
        page = site.open_batch(batch_id)
        own_redis_scene.wait_start(batch_id, 10)
        weak_redis.kill()
        page.until(f"{STATE} === 'redis'")
        own_redis_scene.open("away")
        weak_redis.start()
        wait_live(page, 30)
        own_redis_scene.wait_end(batch_id)
        site.check_truth(page, batch_id)
        assert gateway.stop() == 0


def test_what_is_opened_while_postgres_is_away(
    own_postgres_scene: Scene, own_postgres: PostgresServer, looking: Callable[[Scene, Gateway], Site]
) -> None:
    own_postgres_scene.settings["processor"] = PROCESSORS
    own_postgres_scene.begin_worker()
    with Gateway.of(own_postgres_scene) as gateway:
        site = looking(own_postgres_scene, gateway)
        batch_id = run(site, "outage")
        page, listed = site.open_batch(batch_id), site.open()
        own_postgres_scene.wait_start(batch_id, 10)
        site.wait_shown(page, batch_id, 10)
        wait_live(listed)
        own_postgres.kill()
        for each in (page, listed):
            each.reload()
            each.until("document.querySelector('main').innerText.includes('cannot be read')")
        own_postgres.start()
        for each in (page, listed):
            wait_live(each, 30)
            site.wait_shown(each, batch_id, 10)
        page.until("document.querySelector('.items tbody tr')")
        own_postgres_scene.open("outage")
        own_postgres_scene.wait_end(batch_id)
        for each in (page, listed):
            site.check_truth(each, batch_id)
        assert gateway.stop() == 0


@pytest.mark.parametrize(
    ("where", "there"),
    [
        ("#/", "tr[data-batch]"),
        ("#/batches/{}", ".batch:not([hidden]) .items tbody tr"),
        ("#/batches/{}?item=0", "dialog .key"),
        ("#/dead", "[data-letter]"),
    ],
)
def test_what_is_opened_offline(site: Site, where: str, there: str) -> None:
    batch_id = site.scene.submit([sleep(1)])
    site.scene.wait_end(batch_id)
    site.scene.xadd(batch_id="nonsense", items="[]")
    with closing(Relay(site.gateway.port)) as relay:
        page = site.open("#/workers", url=relay.url)
        wait_live(page)
        page.until("!document.querySelector('#dead-count').hidden")
        page.offline(True)
        relay.cut()
        page.run(f"location.hash = '{where.format(batch_id)}'")
        page.until("document.querySelector('dialog, main').innerText.includes('cannot be read')")
        page.until(f"{STATE} === 'offline'")
        relay.mend()
        page.offline(False)
        page.until(f"document.querySelector('{there}')")
        page.close()
