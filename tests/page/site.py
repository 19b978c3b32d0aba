"""What a test of the page has: servers, workers, a gateway, and pages whose every figure is recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

from tests.flows.scene import Scene
from tests.page.chromium import Context, Page
from tests.page.gateway import Gateway

RECORDER = (Path(__file__).parent / "recorder.js").read_text()


@dataclass
class Site:
    """A gateway on the servers of a scene, and one profile of the browser to look at it."""

    scene: Scene
    gateway: Gateway
    context: Context
    pages: list[Page]

    def open(self, where: str = "#/", *, url: str = "", **size: int) -> Page:
        """A new tab at this address of the page; `url` is another way to the gateway."""
        page = self.context.page(RECORDER, **size)
        self.pages.append(page)
        page.open((url or self.gateway.url) + where)
        return page

    def open_batch(self, batch_id: UUID, query: str = "") -> Page:
        """A new tab that shows a batch, once it is connected."""
        page = self.open(f"#/batches/{batch_id}{query}")
        wait_live(page)
        page.until("document.querySelector('.batch:not([hidden])')")
        return page

    def check(self) -> None:
        """No tab broke a rule: no report of the CSP, no error, no dialog, and no number went back."""
        for page in self.pages:
            assert page.errors == []
            assert page.dialogs == []
            assert [told for told in page.told if told["kind"] != "figure"] == []
            check_figures(page.told)

    def wait_shown(self, page: Page, batch_id: UUID, processed: int) -> None:
        """Wait until the tab shows that so many items are done."""
        page.until(f"document.querySelector('[data-batch=\"{batch_id}\"]').dataset.processed === '{processed}'")

    def check_truth(self, page: Page, batch_id: UUID) -> None:
        """Wait until the tab shows of the batch what Postgres says."""
        row = self.scene.batch(batch_id)
        node = f"document.querySelector('[data-batch=\"{batch_id}\"]').dataset"
        page.until(
            f"{node}.status === '{row['status']}' && {node}.processed === '{row['processed']}' && {node}.revision === '{row['revision']}'"
        )


def wait_live(page: Page, seconds: float = 15) -> None:
    """Wait until the page says that it is live."""
    page.until("document.querySelector('#connection').dataset.state === 'live'", seconds)


def figures(page: Page, batch_id: UUID) -> list[int]:
    """How many items of the batch the page said were done, each time that changed."""
    shown: list[int] = []
    for told in page.told:
        if told["kind"] == "figure" and told["batch"] == str(batch_id) and told["processed"] not in shown[-1:]:
            shown.append(told["processed"])
    return shown


def check_figures(told: list[dict[str, Any]], retried: Collection[str] = ()) -> None:
    """No revision goes back, no number does (but by a retry, of which the end before may not have been seen), and the bar says the same."""
    batches = defaultdict(list)
    for figure in told:
        if figure["kind"] == "figure":
            batches[figure["batch"]].append(figure)
    for shown in batches.values():
        for figure in shown:
            assert figure["bar"] == figure["processed"] * 100 // figure["total"], figure
        for before, after in pairwise(shown):
            assert after["revision"] >= before["revision"], (before, after)
            anew = before["status"] in ("completed", "failed", "cancelled") or before["batch"] in retried
            assert after["processed"] >= before["processed"] or anew, (before, after)
