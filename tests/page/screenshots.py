"""The pictures in the README: the live page on a run of the processor `documents`, taken when there is something to see."""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from PIL import Image

from streamworker.cli.demo_files import draw_demo_files
from streamworker.store.migrate import migrate
from tests.flows.scene import Scene
from tests.page.chromium import Chromium, Page, find_chromium
from tests.page.gateway import Gateway
from tests.page.site import wait_live
from tests.servers import PostgresServer, RedisServer, run_async, wait_for

ROOT = Path(__file__).parents[2]
# Chromium asks for the desktop's font, and a server has none.
FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>
<dir>/usr/share/fonts</dir><dir>/usr/local/share/fonts</dir><cachedir>%s</cachedir>
<match target="pattern"><test name="family"><string>system-ui</string></test>
<edit name="family" mode="prepend" binding="strong"><string>Inter</string></edit></match></fontconfig>"""


def main() -> int:
    """Take them all."""
    parser = argparse.ArgumentParser(prog="scripts/screenshots", description=__doc__)
    parser.add_argument("--into", type=Path, default=ROOT / "docs", help="folder for the pictures (docs)")
    into = parser.parse_args().into
    program = find_chromium()
    if program is None:
        parser.error("no Chromium is installed (Debian: apt-get install chromium)")
    into.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="swt-") as folder, servers(Path(folder)) as scene, Gateway.of(scene) as gateway:
        fonts = Path(folder) / "fonts.conf"
        fonts.write_text(FONTS % folder)
        browser = Chromium(program, {**os.environ, "FONTCONFIG_FILE": str(fonts)})
        try:
            take(browser, scene, gateway, Path(folder), into)
        finally:
            browser.close()
    return 0


@contextmanager
def servers(folder: Path) -> Iterator[Scene]:
    """Servers of their own, with the schema."""
    with ExitStack() as stack:
        postgres, redis = PostgresServer(folder / "postgres"), RedisServer("valkey", folder / "redis")
        for server in (postgres, redis):
            stack.callback(server.close)
            server.start()
        run_async(prepare(postgres.url))
        yield stack.enter_context(Scene(redis.url, postgres.url, folder, processor="documents"))


async def prepare(url: str) -> None:
    """Bring the schema up to date."""
    connection = await asyncpg.connect(url)
    try:
        await migrate(connection)
    finally:
        await connection.close()


class Office:
    """The batches of a day."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        self._scene = scene
        self._files = {path.name: str(path) for path in draw_demo_files(folder / "files")}

    def submit(self, name: str, names: list[str], **more: Any) -> UUID:
        """Submit files by their names; `name*` are all that begin so. A name that no file has is submitted as well."""
        paths = []
        for wanted in names:
            found = [path for file, path in self._files.items() if wanted.endswith("*") and file.startswith(wanted[:-1])]
            paths += found or [self._files.get(wanted, wanted)]
        items = [{"key": Path(path).name, "payload": path} for path in paths]
        return self._scene.submit(items, metadata={"name": name}, **more)


def take(browser: Chromium, scene: Scene, gateway: Gateway, folder: Path, into: Path) -> None:
    """Run a day's work and take the pictures on the way."""
    office = Office(scene, folder)
    scanned = ["invoice-*", "letter-*", "receipt-*", "fax.tif", "scanned.pdf", "agreement.pdf", "hills.jpg"]
    texts = ["note.txt", "brief.txt", "lettre.txt", "carta.txt", "minutes.md", "orders.csv", "shop.json"]
    missing = ["page-014.tif"] * 3 + ["page-031.tif"]
    for number in (1, 2):
        scene.begin_worker(
            batch_concurrency="2", home=str(folder / f"home-{number}"), documents_root=str(folder / "files"), max_attempts="1"
        )
    texts_done = office.submit("Minutes and price lists", texts * 60)
    scene.wait_end(texts_done, seconds=120)
    refused = office.submit("Fax tray, Saturday", ["cut-off.png", *missing, "note.txt", *texts], max_failures=2)
    scene.wait_end(refused, "failed", 60)
    mixed = office.submit("Receipts, October", ["receipt-*", "cut-off.png", *missing, "noisy.png", *texts, "tilted.jpg", "upside-down.png"])
    scene.wait_end(mixed, seconds=180)
    stopped = office.submit("Test run", scanned * 3)
    wait_for(lambda: scene.batch(stopped)["processed"] > 2, 60, "the test run")
    scene.database.value("SELECT streamworker.cancel($1)", stopped)
    scene.wait_end(stopped, "cancelled", 60)
    scene.xadd(batch_id="2026-11-26/scans", items='["scan-001.tif"]')
    scene.xadd(batch_id="0b1f6a52-5e1c-4f5e-9a57-0d6f3f1f2a10", items='[{"path": "scan-001.tif"}]')
    archive = office.submit("Archive 1998–2004", texts * 500)
    scans = office.submit("Morning scans", scanned * 2)
    office.submit("Letters to customers", ["letter-*"])
    office.submit("Invoices, November", ["invoice-*"] * 4)
    office.submit("Delivery notes", ["delivery-note.webp"] * 12)
    with browser.context() as context:
        page = context.page()
        page.emulate(width=1280, height=800, scale=1.5)
        page.open(f"{gateway.url}#/batches/{scans}")
        wait_live(page)
        page.until("Number(document.querySelector('.batch').dataset.processed) >= 12", 240)
        page.until("document.querySelectorAll('.items .thumb').length >= 8", 60)
        page.until("document.querySelector('.running [aria-valuenow]')", 60)
        settle(page)
        shoot(page, into / "page-batch.png")
        page.emulate(width=1280, height=800, scale=1.5, dark=True)
        settle(page)
        page.until("document.querySelector('.running [aria-valuenow]')", 60)
        shoot(page, into / "page-dark.png")
        page.emulate(width=1280, height=800, scale=1.5)
        page.open(f"{gateway.url}#/")
        page.until("document.querySelectorAll('.batches tbody tr').length >= 9")
        page.until("document.querySelectorAll('tr[data-status=processing]').length >= 2", 60)
        settle(page)
        shoot(page, into / "page-list.png")
        page.open(f"{gateway.url}#/batches/{mixed}")
        page.until("document.querySelectorAll('.groups details').length >= 2")
        page.until("document.querySelectorAll('.items .thumb').length > 5")
        page.run("document.querySelector('.groups details').open = true")
        page.run("scrollTo(0, document.querySelector('.columns').offsetTop - 68)")
        settle(page)
        shoot(page, into / "page-failures.png")
        phone = context.page()
        phone.emulate(width=390, height=844, scale=2, mobile=True)
        phone.open(f"{gateway.url}#/")
        wait_live(phone)
        phone.until("document.querySelectorAll('.batches tbody tr').length >= 9")
        settle(phone)
        shoot(phone, into / "page-phone.png")
        phone.open(f"{gateway.url}#/batches/{archive}")
        phone.until("document.querySelector('.batch:not([hidden])')")
        phone.until("document.querySelector('.chart .edge').getAttribute('d') && document.querySelector('.running li')", 60)
        settle(phone)
        shoot(phone, into / "page-phone-batch.png")
    for worker in scene.workers:
        worker.kill()


def settle(page: Page) -> None:
    """Wait until pictures are there and bars stand still."""
    page.run("Promise.all([...document.images].map(image => image.decode().catch(() => {})))")
    once = "document.getAnimations().filter(({effect}) => effect.getTiming().iterations === 1)"
    page.run(f"Promise.all({once}.map(one => one.finished.catch(() => {{}})))")


def shoot(page: Page, path: Path) -> None:
    """Take the picture."""
    raw = page.shot()
    image = Image.open(io.BytesIO(raw)).convert("RGB")
    image.save(path, optimize=True)
    print(f"{path.name}: {image.width} x {image.height}, {path.stat().st_size // 1024} kB", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
