"""What one can do on the page: each asks first, does it, and shows the answer."""

from __future__ import annotations

from collections.abc import Callable

from tests.flows.processors import act, hold, sleep
from tests.flows.scene import DEAD, Scene
from tests.page.chromium import Page
from tests.page.gateway import Gateway
from tests.page.site import Site, wait_live

YES = "dialog[open] [data-confirm]"
WORDS = {"token": "operators-only-4711", "read_token": "readers-only-4711"}


def answer(page: Page, text: str) -> None:
    """Wait for an answer that says this."""
    page.until(f"[...document.querySelectorAll('.toast')].some(toast => toast.innerText.includes({text!r}))")


def test_cancel_and_then_retry(site: Site) -> None:
    batch_id = site.scene.submit([sleep(1), hold("again"), sleep(1)])
    page = site.open_batch(batch_id)
    site.scene.wait_start(batch_id, 1)
    page.click("[data-action=cancel]")
    page.until("document.querySelector('dialog[open]')?.innerText.includes('Cancel this batch?')")
    page.click(YES)
    answer(page, "is cancelled")
    site.scene.wait_end(batch_id, "cancelled")
    page.until("document.querySelector('.batch').dataset.status === 'cancelled'")
    site.check_truth(page, batch_id)
    site.scene.open("again")
    page.click("[data-action=retry]")
    page.click(YES)
    answer(page, "will be tried again")
    page.until("document.querySelector('.batch').dataset.status === 'completed'")
    assert site.scene.wait_end(batch_id)["succeeded"] == 3
    site.check_truth(page, batch_id)


def test_a_question_can_be_declined(site: Site) -> None:
    batch_id = site.scene.submit([hold("declined")])
    page = site.open_batch(batch_id)
    for decline in ("press", "click"):
        page.click("[data-action=cancel]")
        page.until("document.querySelector('dialog[open]')")
        if decline == "press":
            page.press("Escape")
        else:
            page.click("dialog .buttons button:not([data-confirm])")
        page.until("!document.querySelector('dialog')")
        assert page.run("document.activeElement.dataset.action") == "cancel"
    assert site.scene.batch(batch_id)["status"] == "processing"
    site.scene.open("declined")
    page.until("document.querySelector('.batch').dataset.status === 'completed'")


def test_retry_what_failed(site: Site) -> None:
    batch_id = site.scene.submit([sleep(1), act("permanent"), act("permanent")])
    site.scene.wait_end(batch_id)
    page = site.open_batch(batch_id)
    page.click("[data-action=retry]")
    page.click(YES)
    answer(page, "2 items will be tried again")
    site.scene.wait_start(batch_id, 2, times=2)
    site.scene.wait_end(batch_id)
    site.check_truth(page, batch_id)
    assert [start for start in site.scene.starts(batch_id) if start[0] == 0] == [(0, 1)]


def test_retry_one_item(site: Site) -> None:
    batch_id = site.scene.submit([act("permanent"), act("permanent")])
    site.scene.wait_end(batch_id)
    page = site.open_batch(batch_id, "?item=1")
    page.click("[data-action=retry-item]")
    page.click(YES)
    answer(page, "Item 1 will be tried again")
    site.scene.wait_start(batch_id, 1, times=2)
    site.scene.wait_end(batch_id)
    site.check_truth(page, batch_id)
    assert [start for start in site.scene.starts(batch_id) if start[0] == 0] == [(0, 1)]


def test_an_answer_is_read_out_by_a_region_that_is_there_before_it(site: Site) -> None:
    site.scene.xadd(batch_id="nonsense", items="[]")
    page = site.open("#/dead")
    page.until("document.querySelector('[data-letter]')")
    assert page.run("document.querySelector('#toasts').matches('[role=status][aria-live=polite][aria-atomic=false]:empty')")
    page.click("[data-action=drop]")
    page.click(YES)
    answer(page, "dropped")
    assert page.run("document.querySelectorAll('.toast[role], .toast [role], .toast [aria-live]').length") == 0


def test_the_focus_is_not_lost_after_one_item_is_retried(site: Site) -> None:
    batch_id = site.scene.submit([hold("focus")] * 3)
    page = site.open_batch(batch_id)
    site.scene.wait_start(batch_id, 1)
    page.click("[data-action=cancel]")
    page.click(YES)
    site.scene.wait_end(batch_id, "cancelled")
    page.open("about:blank")
    page.open(f"{site.gateway.url}#/batches/{batch_id}?item=1")
    page.click("[data-action=retry-item]")
    page.click(YES)
    page.until("!document.querySelector('dialog')")
    page.until("document.activeElement.id === 'main'")
    site.scene.wait_start(batch_id, 1, times=2)
    site.scene.open("focus")
    site.scene.wait_end(batch_id)
    site.check_truth(page, batch_id)
    page.open(f"{site.gateway.url}#/batches/{batch_id}?items=cancelled")
    page.until("document.querySelectorAll('.items tbody tr').length === 2")
    page.click(".items tr[data-position='0'] a")
    page.click("[data-action=retry-item]")
    page.click(YES)
    page.until("[...document.querySelectorAll('.items tbody tr')].map(row => row.dataset.position).join() === '2'")
    assert page.run("document.activeElement.closest('tr').dataset.position") == "2"
    site.scene.wait_end(batch_id)


def test_the_focus_stays_while_an_item_is_read_anew(site: Site) -> None:
    batch_id = site.scene.submit([hold("anew"), hold("later")])
    page = site.open_batch(batch_id, "?item=0")
    page.until("document.querySelector('dialog .copy')")
    page.run("document.querySelector('dialog .copy').focus()")
    site.scene.open("anew")
    page.until("document.querySelector('dialog .badge').dataset.status === 'completed'")
    assert page.run("document.activeElement.matches('dialog .copy')")
    site.scene.open("later")
    site.scene.wait_end(batch_id)


def test_a_dead_letter_is_sent_back_and_dropped(site: Site) -> None:
    site.scene.xadd(batch_id="nonsense", items='["a"]')
    page = site.open("#/dead")
    page.until("document.querySelector('[data-letter]')?.innerText.includes('Invalid message')")
    assert "batch_id" in page.run("document.querySelector('[data-letter] .detail').innerText")
    first = page.run("document.querySelector('[data-letter]').dataset.letter")
    (worker,) = site.scene.workers
    worker.stop()
    page.click("[data-action=requeue]")
    page.click(YES)
    answer(page, "on the stream again")
    page.until("document.querySelector('main').innerText.includes('No dead letters')")
    worker.resume()  # and there is as much as before, which is no news to who only counts
    page.until(f"(letter => letter && letter.dataset.letter !== '{first}')(document.querySelector('[data-letter]'))")
    page.click("[data-action=drop]")
    page.click(YES)
    answer(page, "dropped")
    page.until("document.querySelector('main').innerText.includes('No dead letters')")
    assert site.scene.redis.xlen(DEAD) == 0


def test_a_refusal_is_shown(site: Site) -> None:
    site.scene.xadd(batch_id="nonsense", items='["a"]')
    page = site.open("#/dead")
    page.until("document.querySelector('[data-letter]')")
    page.click("[data-action=drop]")
    page.until("document.querySelector('dialog[open]')")
    site.scene.redis.delete(DEAD)
    page.click(YES)
    answer(page, "Not done")


def test_tokens_and_roles(own_redis_scene: Scene, looking: Callable[[Scene, Gateway], Site]) -> None:
    scene = own_redis_scene
    scene.begin_worker()
    batch_id = scene.submit([hold("tokens")])
    with Gateway.of(scene, gateway_token=WORDS["token"], gateway_read_token=WORDS["read_token"]) as gateway:
        page = looking(scene, gateway).open()
        page.until("document.activeElement.id === 'token'")
        for token, seen in (
            ("wrong", "document.querySelector('.login .notice:not([hidden])')"),
            (WORDS["read_token"], "document.querySelector('tr')"),
        ):
            page.run("document.querySelector('#token').select()")
            page.type(token)
            page.press("Enter")
            page.until(seen)
        page.open(f"{gateway.url}#/batches/{batch_id}")
        page.until("document.querySelector('.batch:not([hidden])')")
        wait_live(page)
        assert page.run("document.querySelector('[data-action=cancel]').hidden")
        page.click("#leave")
        page.until("document.activeElement.id === 'token'")
        page.type(WORDS["token"])
        page.press("Enter")
        page.click("[data-action=cancel]")
        page.click(YES)
        answer(page, "is cancelled")
        scene.wait_end(batch_id, "cancelled")
        assert gateway.stop() == 0
