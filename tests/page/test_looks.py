"""The page for every hand and eye: keyboard, screen reader, phone, dark, and much at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.flows.processors import act, hold, sleep
from tests.flows.scene import Scene
from tests.page.chromium import Page
from tests.page.gateway import Gateway
from tests.page.site import Site, wait_live

LONG = "An-unbreakable-name-of-a-file-that-goes-on-and-on-" * 8
NAMED = {"button", "link", "progressbar", "textbox", "checkbox", "dialog", "navigation", "table", "image"}
# What a text must stand out from what it is drawn on, by WCAG.
CONTRAST = """(() => {
    const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const numbers = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
    const behind = (node) => {
        for (; node; node = node.parentElement) {
            const [r, g, b, a = 1] = numbers(getComputedStyle(node).backgroundColor);
            if (a === 1 && r !== undefined) return [r, g, b];
        }
        return [255, 255, 255];
    };
    const poor = new Set();
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const node = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || !node.checkVisibility() || node.closest('.unseen, .skip, noscript, svg, :disabled')) continue;
        const [a, b] = [light(numbers(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) poor.add(`${ratio.toFixed(2)} ${node.tagName}.${node.className} ${texts.currentNode.data.trim().slice(0, 30)}`);
    }
    return [...poor];
})()"""


@pytest.fixture
def batch_id(site: Site) -> Iterator[UUID]:
    """A batch with something of everything, with an item in flight."""
    gate = f"looks-{uuid4()}"
    items: list[dict[str, Any]] = [{"key": LONG[:500], **act("fail", text=LONG)}, *[sleep(1)] * 60, act("permanent"), hold(gate)]
    site.scene.xadd(batch_id=LONG, items="[]")
    batch_id = site.scene.submit(items, metadata={"name": LONG})
    site.scene.wait(lambda: site.scene.batch(batch_id)["processed"] == len(items) - 1, 20, "all but one")
    yield batch_id
    site.scene.open(gate)
    site.scene.wait_end(batch_id)


def views(site: Site, page: Page, batch_id: UUID) -> Iterator[str]:
    """Every view of the page, once there is something in it."""
    for where, there in (
        ("#/", "document.querySelector('.batches tbody tr')"),
        (f"#/batches/{batch_id}", "document.querySelector('.items tbody tr') && document.querySelector('.groups details')"),
        (f"#/batches/{batch_id}?item=0", "document.querySelector('dialog pre.bad')"),
        ("#/workers", "document.querySelector('.worker')"),
        ("#/dead", "document.querySelector('[data-letter]')"),
    ):
        page.open(site.gateway.url + where)
        page.until(there)
        yield where


def test_the_keyboard_is_enough(site: Site, batch_id: UUID) -> None:
    page = site.open()
    page.until("document.querySelector('tr[data-batch]')")
    page.press("?")
    page.until("document.querySelector('dialog[open]')?.innerText.includes('Keyboard shortcuts')")
    page.press("Escape")
    page.until("!document.querySelector('dialog')")
    page.press("j")
    page.until("document.activeElement.closest('tr[data-batch]')")
    page.press("Enter")
    page.until(f"location.hash === '#/batches/{batch_id}' && document.querySelector('.batch:not([hidden])')")
    page.until("!document.querySelector('[data-action=cancel]').hidden")
    page.press("c")
    page.until("document.querySelector('dialog[open]') && document.activeElement.innerText === 'Keep as it is'")
    page.press("Enter")
    page.until("!document.querySelector('dialog')")
    page.press("g")
    page.press("w")
    page.until("document.querySelector('h1').innerText === 'Workers'")
    assert site.scene.batch(batch_id)["status"] == "processing"


def test_shortcuts_can_be_turned_off(site: Site) -> None:
    page = site.open()
    page.press("?")
    page.click("#keys-on")
    page.press("Escape")
    page.until("!document.querySelector('dialog')")
    page.reload()
    page.until("document.querySelector('h1')")
    page.press("g")
    page.press("w")
    page.click("#help")
    page.until("document.querySelector('dialog[open] #keys-on')")
    assert page.run("document.querySelector('h1').innerText") == "Batches"
    assert page.run("document.querySelector('#keys-on').checked") is False


def test_everything_has_a_name_for_those_who_listen(site: Site, batch_id: UUID) -> None:
    page = site.open()
    wait_live(page)
    for where in views(site, page, batch_id):
        nodes = page.send("Accessibility.getFullAXTree")["nodes"]
        roles = [
            (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored") and "role" in node
        ]
        assert [role for role, name in roles if role in NAMED and not name.strip()] == [], where
        assert page.run("document.title").endswith("streamworker")
        assert [role for role, _ in roles].count("heading") >= 1, where


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_sticks_out(site: Site, batch_id: UUID, width: int) -> None:
    page = site.open()
    page.emulate(width=width, height=780, mobile=width < 700)
    for where in views(site, page, batch_id):
        assert page.run("document.documentElement.scrollWidth") <= width, where
        wide = f"""(() => {{
            const out = (node) => node.getBoundingClientRect().right > {width + 1};
            const clipped = (node) => node && (getComputedStyle(node).overflowX !== 'visible' && !out(node) || clipped(node.parentElement));
            return [...document.querySelectorAll('main *, dialog *')].filter(node => out(node) && !clipped(node.parentElement))
                .map(node => node.outerHTML.slice(0, 120));
        }})()"""
        assert page.run(wide) == [], where


@pytest.mark.parametrize("dark", [False, True])
def test_texts_can_be_read(site: Site, batch_id: UUID, dark: bool) -> None:
    page = site.open()
    page.emulate(dark=dark)
    wait_live(page)
    for where in views(site, page, batch_id):
        assert page.run(CONTRAST) == [], where


def test_many_changes_cost_the_page_little(own_redis_scene: Scene, looking: Callable[[Scene, Gateway], Site]) -> None:
    scene = own_redis_scene
    scene.settings["processor"] = "tests.flows.processors:work,quiet=tests.flows.processors:quiet"
    batches = [scene.submit([sleep(2)] * 150) for _ in range(6)]
    many = scene.submit(["x"] * 20_000, processor="quiet")
    with Gateway.of(scene) as gateway:
        site = looking(scene, gateway)
        listed, batch = pages = site.open(), site.open_batch(many)
        for page in pages:
            wait_live(page)
            page.send("Performance.enable", timeDomain="threadTicks")
            page.run("window.frames_ = 0, (function count() { window.frames_ += 1; requestAnimationFrame(count); })()")
        before = [metrics(page) for page in pages]
        scene.begin_worker(batch_concurrency="7", item_concurrency="4")
        for batch_id in (*batches, many):
            scene.wait_end(batch_id, seconds=60)
            site.check_truth(listed, batch_id)
        site.check_truth(batch, many)
        for page, then in zip(pages, before, strict=True):
            now = metrics(page)
            changes = len([told for told in page.told if told["kind"] == "figure"])
            assert now["TaskDuration"] - then["TaskDuration"] < 0.03 * changes + 1, changes  # seconds of the processor
            assert now["LayoutCount"] - then["LayoutCount"] < 2 * now["frames"] + 50, changes
            assert now["Nodes"] < 12_000
        assert gateway.stop() == 0


def metrics(page: Page) -> dict[str, float]:
    """What the page has cost so far."""
    told = {metric["name"]: metric["value"] for metric in page.send("Performance.getMetrics")["metrics"]}
    return told | {"frames": page.run("window.frames_")}
