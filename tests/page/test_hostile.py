"""What people who do not mean well can put into a batch, or on a page of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from uuid import UUID

import pytest

from tests.flows.processors import hold
from tests.page.payloads import PAYLOADS
from tests.page.site import Site

ITEM_CONCURRENCY = "100"
# How many nodes each row is made of: always the same.
CELLS = "[...document.querySelectorAll('.items tbody tr')].map(row => row.querySelectorAll('*').length)"
# Everything that is no part of the page, wherever it stands.
MARKUP = "script, iframe, object, embed, video, math, style, template, meta, base, textarea, body title, link, bdi *"
# Everything that could be no part of the page, wherever it stands.
FOREIGN = f"""[...document.querySelectorAll('{MARKUP}')].map(node => node.outerHTML.slice(0, 80)).join('\\n')
    + [...document.querySelectorAll('*')].flatMap(node => [...node.attributes])
        .filter(({{name, value}}) => name.startsWith('on') || /^\\s*javascript:/i.test(value)).length"""
OWN = """Promise.all([
    fetch('api/batches').then(answer => answer.json()).then(({batches}) => batches.length > 0),
    new Promise(resolve => { new WebSocket(location.origin.replace('http', 'ws') + '/ws').onmessage = ({data}) => resolve(data); }),
]).then(([read, hello]) => read && JSON.parse(hello).type)"""


def submit(site: Site, words: tuple[str, ...], gate: str) -> UUID:
    """A batch whose items say these words everywhere they can, wait, and then fail with them."""
    items = [{"key": word[:512], "payload": {"stage": word, "message": word, "error": word, "gate": gate}} for word in words]
    metadata = {"name": words[0], words[-1]: words[1]}
    return site.scene.submit(items, processor="speak", metadata=metadata)


@pytest.mark.parametrize("words", [PAYLOADS[:100], PAYLOADS[100:]], ids=["one", "two"])
def test_no_payload_becomes_more_than_text(site: Site, words: tuple[str, ...]) -> None:
    gate = f"hostile-{words[0]}"[:20].replace("/", "")
    batch_id = submit(site, words, gate)
    page = site.open("#/")
    clean = page.run(FOREIGN)
    page.until(f"document.querySelector('tr[data-batch=\"{batch_id}\"] .badge')")
    page.open(f"{site.gateway.url}#/batches/{batch_id}")
    page.until("document.querySelectorAll('.running li').length === 8")
    for first in (0, 50):
        page.open(f"{site.gateway.url}#/batches/{batch_id}" + (f"?after={first - 1}" if first else ""))
        page.until(f"document.querySelector('.items tbody tr')?.dataset.position === '{first}'")
        page.until("document.querySelectorAll('.items tbody tr[data-status=processing]').length === 50")
        page.until("[...document.querySelectorAll('.items .words')].every(node => node.textContent.includes('40 %'))")
        assert page.run(CELLS) == [14] * 50
    site.scene.open(gate)
    site.scene.wait_end(batch_id)
    page.open(f"{site.gateway.url}#/batches/{batch_id}?items=failed")
    page.until("document.querySelectorAll('.groups details').length === 50")
    page.until("document.querySelectorAll('.items tbody tr[data-status=failed]').length === 50")
    for position in (0, 7, 29, 80, 84, 99):
        page.open(f"{site.gateway.url}#/batches/{batch_id}?items=failed&item={position}")
        page.until(f"document.querySelector('dialog h2').textContent === 'Item {position}' && document.querySelector('dialog pre.bad')")
        assert page.run("document.querySelector('dialog pre.bad bdi').children.length") == 0
    page.press("Escape")
    assert page.run(FOREIGN) == clean


def test_what_cannot_be_seen_is_spelt_out(site: Site) -> None:
    site.scene.open("hostile-3")
    batch_id = submit(site, ("\u202egnp.elif", "a\u0007b", "c\u200bd"), "hostile-3")
    site.scene.wait_end(batch_id)
    page = site.open_batch(batch_id)
    page.until("document.querySelectorAll('.items tbody tr').length === 3")
    keys = page.run("[...document.querySelectorAll('.items .name bdi')].map(node => node.textContent)")
    assert keys == ["\\u202egnp.elif", "a\\u0007b", "c\\u200bd"]
    assert page.run("document.querySelector('h1 bdi').textContent") == "\\u202egnp.elif"


def test_dead_letters_are_text(site: Site) -> None:
    for payload in PAYLOADS[::10]:
        site.scene.xadd(batch_id=payload.encode("utf-8", "replace"), items=payload.encode(), **{"x" + payload: "y"})
    page = site.open("#/dead")
    clean = page.run(FOREIGN)
    page.until("document.querySelectorAll('[data-letter]').length === 20")
    page.run("document.querySelectorAll('details').forEach(node => { node.open = true })")
    assert page.run(FOREIGN) == clean


ATTACK = """
<!doctype html><title>elsewhere</title><body><script>
const gateway = %(gateway)s, batch = %(batch)s, seen = {};
const note = (name, work) => work.then((value) => { seen[name] = "got in: " + value; }, (error) => { seen[name] = "refused"; });
const socket = (url, protocol) => new Promise((resolve, reject) => {
  const opened = new WebSocket(url, protocol);
  opened.onmessage = ({data}) => resolve(data);
  opened.onclose = opened.onerror = reject;
});
const events = () => new Promise((resolve, reject) => {
  const source = new EventSource(gateway + "events", {withCredentials: true});
  source.onmessage = source.onopen = () => resolve("opened");
  source.addEventListener("snapshot", ({data}) => resolve(data));
  source.onerror = () => { source.close(); reject(); };
});
const form = () => new Promise((resolve, reject) => {
  const frame = document.body.appendChild(Object.assign(document.createElement("iframe"), {name: "sink"}));
  const sent = document.body.appendChild(Object.assign(document.createElement("form"), {
    method: "POST", action: gateway + "api/batches/" + batch + "/cancel", target: "sink", enctype: "text/plain"}));
  frame.onload = () => { try { frame.contentDocument.body.innerText; resolve("read"); } catch { reject(); } };
  sent.submit();
});
const framed = () => new Promise((resolve, reject) => {
  const frame = document.body.appendChild(Object.assign(document.createElement("iframe"), {src: gateway}));
  frame.onload = () => { frame.contentWindow.length; try { frame.contentDocument.body.innerText; resolve("read"); } catch { reject(); } };
});
const tag = (name, path) => new Promise((resolve, reject) => {
  const node = document.createElement(name);
  Object.assign(node, {src: gateway + path, onload: () => resolve("loaded"), onerror: reject});
  document.body.append(node);
});
const post = (type, more) => fetch(gateway + "api/batches/" + batch + "/cancel",
  {method: "POST", credentials: "include", headers: {"content-type": type}, body: "{}", ...more}).then((answer) => answer.text());
Promise.allSettled([
  note("read", fetch(gateway + "api/batches", {credentials: "include"}).then((answer) => answer.text())),
  note("read without cors", fetch(gateway + "api/batches", {mode: "no-cors", credentials: "include"})
    .then((answer) => answer.text()).then((text) => text || Promise.reject())),
  note("read the page", fetch(gateway).then((answer) => answer.text())),
  note("cancel as json", post("application/json")),
  note("cancel as text", post("text/plain")),
  note("cancel without cors", post("text/plain", {mode: "no-cors"}).then((text) => text || Promise.reject())),
  note("cancel by a form", form()),
  note("socket", socket(gateway.replace("http", "ws") + "ws?batch_id=*", ["streamworker.v1"])),
  note("socket without protocol", socket(gateway.replace("http", "ws") + "ws?batch_id=*")),
  note("events", events()),
  note("frame", framed()),
  note("script", tag("script", "api/batches")),
  note("module", tag("script", "static/app.js")),
  note("image", tag("img", "static/icon.svg")),
]).then(() => { document.title = JSON.stringify(seen); });
</script>
"""


@contextmanager
def elsewhere(page: str) -> Iterator[int]:
    """A server of somebody else's; gives its port."""

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_page_elsewhere_cannot_reach_the_gateway(site: Site, name: str) -> None:
    batch_id = site.scene.submit([hold(f"elsewhere-{name}")])
    site.scene.wait_start(batch_id, 0)
    ours = site.open_batch(batch_id)
    assert ours.run(OWN) == "hello"  # what follows is refused for where it comes from
    with elsewhere(ATTACK % {"gateway": json.dumps(site.gateway.url), "batch": json.dumps(str(batch_id))}) as port:
        theirs = site.context.page()
        theirs.open(f"http://{name}:{port}/")
        seen = json.loads(theirs.until("document.title.startsWith('{') && document.title", 30))
        theirs.close()
    assert len(seen) == 14
    assert {what: outcome for what, outcome in seen.items() if outcome != "refused"} == {}
    assert site.scene.batch(batch_id)["status"] == "processing"
    site.scene.open(f"elsewhere-{name}")
    site.scene.wait_end(batch_id)
    site.check_truth(ours, batch_id)
