"""The page shows what happens, as it happens."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from tests.flows.processors import act, hold, sleep
from tests.page.chromium import Page
from tests.page.gateway import Mounted
from tests.page.site import Site, figures, wait_live

# A server for the client module that answers what is said to it with the frames that `answer(said)` returns.
SERVER = """globalThis.WebSocket = class {
    readyState = 1;
    constructor() {
        setTimeout(() => (this.say({type: 'hello', role: 'read', redis: true}), this.onopen()));
    }
    say(frame) {
        this.onmessage({data: JSON.stringify(frame)});
    }
    send(text) {
        const said = JSON.parse(text);
        if (said.type === 'subscribe') for (const frame of ANSWER) this.say(frame);
    }
    close() {}
};"""
# What the client module tells of a watch of this id: the types of its frames, and what it throws.
WATCHED = """(async () => {
    const client = (await import('/static/streamworker.js')).connect();
    const told = [];
    try {
        for await (const { type } of client.watch(ID)) told.push(type);
    } catch (error) {
        told.push(error.message);
    }
    client.close();
    return told;
})()"""


def row(batch_id: object, condition: str) -> str:
    """A condition about the row of a batch in the list."""
    return f"(row => row && {condition})(document.querySelector('tr[data-batch=\"{batch_id}\"]'))"


def shown(page: Page) -> list[int]:
    """The positions in the table of items."""
    return [int(position) for position in page.run("[...document.querySelectorAll('.items tbody tr')].map(row => row.dataset.position)")]


def test_progress_moves_in_the_list(site: Site) -> None:
    page = site.open()
    wait_live(page)
    batch_id = site.scene.submit([hold("list-1"), hold("list-2"), sleep(1)])
    page.until(row(batch_id, "row.querySelector('.done').textContent === '1 of 3 items'"))
    site.scene.open("list-1")
    page.until(row(batch_id, "row.querySelector('.done').textContent === '2 of 3 items'"))
    site.scene.open("list-2")
    page.until(row(batch_id, "row.dataset.status === 'completed'"))
    assert page.run(row(batch_id, "row.querySelector('.badge').textContent")) == "completed"
    assert figures(page, batch_id)[-3:] == [1, 2, 3]
    site.check_truth(page, batch_id)


def test_the_item_in_flight_shows_its_stage_and_percent(site: Site) -> None:
    words = {"stage": "reading", "message": "Reading page 7 of 9", "percent": 62, "gate": "stage"}
    batch_id = site.scene.submit([{"key": "seven.pdf", "payload": words}], processor="speak")
    page = site.open_batch(batch_id)
    page.until("document.querySelector('.running [role=progressbar]')?.getAttribute('aria-valuenow') === '62'")
    line = page.run("document.querySelector('.running').innerText")
    assert "seven.pdf" in line
    assert "Reading page 7 of 9" in line
    assert "62 %" in line
    site.scene.open("stage")
    page.until("document.querySelector('.batch').dataset.status === 'completed'")
    assert page.run("document.querySelectorAll('.running li').length") == 0


def test_a_failure_shows_its_reason(site: Site) -> None:
    text = "the scanner's lamp is broken\nsee page 4"
    batch_id = site.scene.submit([sleep(1), act("fail", text=text), act("fail", text=text), act("permanent")])
    site.scene.wait_end(batch_id)
    page = site.open_batch(batch_id)
    page.until("document.querySelectorAll('.groups details').length === 2")
    assert page.run("document.querySelector('.groups summary').innerText").split("\n") == ["2", "the scanner's lamp is broken"]
    page.click(".groups summary")
    page.until("document.querySelector('.groups details').open")
    assert "see page 4" in page.run("document.querySelector('.groups details').innerText")
    page.click(".groups a")
    page.until("document.querySelector('dialog pre.bad')?.textContent.includes('see page 4')")
    page.press("Escape")
    page.click(".items ~ .pager, [data-filter] a[data-status=failed]")
    page.until("[...document.querySelectorAll('.items tbody tr')].every(row => row.dataset.status === 'failed')")
    page.until("document.querySelectorAll('.items tbody tr').length === 3")
    assert shown(page) == [1, 2, 3]


def test_items_are_paged_and_filtered_by_the_server(site: Site) -> None:
    items = [act("permanent") if position % 40 == 39 else sleep(0) for position in range(130)]
    batch_id = site.scene.submit(items)
    site.scene.wait_end(batch_id)
    page = site.open_batch(batch_id)
    page.until("document.querySelectorAll('.items tbody tr').length === 50")
    assert shown(page) == list(range(50))
    page.press("n")
    page.until("document.querySelector('.items tbody tr').dataset.position === '50'")
    assert shown(page) == list(range(50, 100))
    page.press("p")
    page.until("document.querySelector('.items tbody tr').dataset.position === '0'")
    page.run("document.querySelector('.go input').focus()")
    page.type("111")
    page.press("Enter")
    page.until("document.querySelector('.items tbody tr').dataset.position === '111'")
    assert shown(page) == list(range(111, 130))
    page.open(f"{site.gateway.url}#/batches/{batch_id}?items=failed")
    page.until("document.querySelector('.items tbody tr').dataset.position === '39'")
    assert shown(page) == [39, 79, 119]


def test_previous_follows_the_history_of_the_browser(site: Site) -> None:
    batch_id = site.scene.submit([sleep(0)] * 180)
    site.scene.wait_end(batch_id)
    page = site.open_batch(batch_id, "?after=9")
    first = "document.querySelector('.items tbody tr')?.dataset.position"
    page.until(f"{first} === '10'")
    for move, shown_first in (
        ("n", 60), ("n", 110), ("back", 60), ("p", 10),
        ("n", 60), ("n", 110), ("back", 60), ("forward", 110), ("p", 60), ("p", 10),
    ):  # fmt: skip
        if len(move) == 1:
            page.press(move)
        else:
            page.run(f"history.{move}()")
        page.until(f"{first} === '{shown_first}'")


def test_a_result_with_a_picture_shows_it(site: Site) -> None:
    batch_id = site.scene.submit([{"key": "white.png", "payload": {"picture": True}}], processor="speak")
    site.scene.wait_end(batch_id)
    page = site.open_batch(batch_id, "?item=0")
    page.until("document.querySelector('.items .thumb')")
    page.run("document.querySelector('.items .thumb').decode()")
    page.until("document.querySelector('dialog .json')?.innerText.includes('a white pixel')")
    page.run("document.querySelector('dialog img').decode()")


def test_a_pause_is_shown_with_its_reason(site: Site) -> None:
    batch_id = site.scene.submit([{"key": "cat.jpg", "payload": {"away": "model"}}], processor="speak")
    page, listed = site.open_batch(batch_id), site.open()
    page.until("document.querySelector('.notice:not([hidden])')?.innerText.includes('paused: the model server does not answer')")
    assert page.run("document.querySelector('.notice').dataset.kind") == "warn"
    listed.until(row(batch_id, "row.innerText.includes('the model server does not answer')"))
    site.scene.open("model")
    page.until("document.querySelector('.batch').dataset.status === 'completed'")
    page.until("document.querySelector('.notice').hidden")


def test_two_tabs_agree(site: Site) -> None:
    batch_id = site.scene.submit([hold("two"), *[sleep(3)] * 40, act("permanent")])
    lists, batch = site.open(), site.open_batch(batch_id)
    wait_live(lists)
    site.scene.open("two")
    site.scene.wait_end(batch_id)
    for page in (lists, batch):
        site.check_truth(page, batch_id)
        assert figures(page, batch_id)[-1] == 42


def test_the_chart_draws_what_happened(site: Site) -> None:
    gates = [f"chart-{number}" for number in range(8)]
    batch_id = site.scene.submit([hold(gate) for gate in gates])
    page = site.open_batch(batch_id)
    for done, gate in enumerate(gates, 1):
        site.scene.open(gate)
        page.until(f"document.querySelector('.batch').dataset.processed === '{done}'")
    drawn = "document.querySelector('.chart svg')?.getAttribute('aria-label')?.includes('100 % of 8 items')"
    page.until(drawn)
    points = "document.querySelector('.chart .edge').getAttribute('d').split('L').length"
    assert page.run(points) >= 4
    page.reload()
    page.until(drawn)
    assert page.run(points) >= 2


def test_workers_and_their_work(site: Site) -> None:
    batch_id = site.scene.submit([{"key": "slow.tif", "payload": {"message": "Rolling", "gate": "workers"}}], processor="speak")
    page = site.open("#/workers")
    page.until("document.querySelector('.worker[data-state=busy]')")
    page.until("document.querySelector('.worker').innerText.includes('slow.tif')")
    assert page.run("document.querySelectorAll('.worker').length") == 1
    assert str(batch_id)[:8] in page.run("document.querySelector('.worker').innerText")
    page.until("document.querySelector('[data-figure=length]').textContent === '1'")
    site.scene.open("workers")
    page.until("document.querySelector('.worker[data-state=idle]')")


def test_an_unknown_batch_is_told(site: Site) -> None:
    page = site.open(f"#/batches/{uuid4()}")
    page.until("document.querySelector('main').innerText.includes('Not found')")
    page.open(f"{site.gateway.url}#/batches/nonsense")
    page.until("document.querySelector('main').innerText.includes('Not found')")
    page.click("main .empty a")
    page.until("document.querySelector('h1').innerText === 'Batches'")


@pytest.mark.parametrize("spelt", [str, lambda id: str(id).upper(), lambda id: id.hex])
def test_the_client_knows_an_id_however_it_is_spelt(site: Site, spelt: Callable[[UUID], str]) -> None:
    batch_id = site.scene.submit([sleep(0)])
    site.scene.wait_end(batch_id)
    page = site.open()
    assert page.run(WATCHED.replace("ID", repr(spelt(batch_id)))) == ["snapshot", "end"]


def test_a_watch_that_is_refused_throws(site: Site) -> None:
    page = site.open()
    wait_live(page)
    page.run(SERVER.replace("ANSWER", "[{type: 'error', code: 4400, message: `not ${said.batch_id}`, batch_id: said.batch_id}]"))
    assert page.run(WATCHED.replace("ID", "'nonsense'")) == ["error", "not nonsense"]


def test_what_nobody_looks_at_is_forgotten(site: Site) -> None:
    page = site.open()
    known = """import('/static/batches.js').then(({ Batches }) => {
        const batches = new Batches((id) => id === '1');
        const made = Array.from({length: 2000}, (_, n) => batches.of(String(n)));
        return ['0', '1', '1999'].map((id) => batches.find(id) === made[id]);
    })"""
    assert page.run(known) == [False, True, True]


def test_the_client_forgets_the_oldest_revisions(site: Site) -> None:
    page = site.open()
    wait_live(page)
    page.run(
        SERVER.replace("ANSWER", "[...Array(10_001).keys()].map((n) => told(n, 2)).concat(told(0, 1), told(10_000, 1), told('last', 1))")
    )
    page.run("globalThis.told = (n, revision) => ({type: 'event', batch_id: `${n}`, event: {revision}})")
    revisions = """import('/static/streamworker.js').then(async ({ connect }) => {
        const seen = {};
        for await (const { batch_id, event } of connect().watch('*')) {
            seen[batch_id] = event.revision;
            if (batch_id === 'last') return [seen[0], seen[10_000]];
        }
    })"""
    assert page.run(revisions) == [1, 2]  # what is older is dropped where something newer is remembered


def test_below_a_path_of_another_app(site: Site) -> None:
    batch_id = site.scene.submit([{"key": "white.png", "payload": {"picture": True, "gate": "mounted"}}], processor="speak")
    with Mounted.of(site.scene) as mounted:
        page = site.open(f"#/batches/{batch_id}", url=mounted.url)
        wait_live(page)
        page.until("document.querySelector('.running li')")
        site.scene.open("mounted")
        page.until("document.querySelector('.batch').dataset.status === 'completed'")
        page.until("document.querySelector('.items .thumb')")
        page.run("document.querySelector('.items .thumb').decode()")
        assert page.run("location.pathname") == "/shop/progress/"
        page.close()


def test_nothing_yet(site: Site) -> None:
    page = site.open("#/?status=cancelled")
    page.until("document.querySelector('main').innerText.includes('No batch is cancelled')")
