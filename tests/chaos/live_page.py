"""People who look on during a run: tabs of a real browser on a gateway that is not spared, and what they see at the end."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import ExitStack, suppress
from typing import Any

from tests.chaos.world import World
from tests.page.chromium import Chromium, Failed, Page, find_chromium
from tests.page.gateway import Gateway
from tests.page.site import RECORDER, check_figures, wait_live

NEWEST = "SELECT id::text FROM streamworker.batches ORDER BY finished_at IS NOT NULL, created_at DESC LIMIT 8"
BATCHES = "SELECT id::text, status, processed, total FROM streamworker.batches ORDER BY created_at DESC, id"
ITEMS = "SELECT position, status FROM streamworker.items WHERE batch_id = $1::uuid ORDER BY position"
ROWS = """[...document.querySelectorAll('tr[data-batch]')].map(({dataset, children}) =>
    [dataset.batch, dataset.status, Number(dataset.processed), children[2].innerText.split('\\n')[0]])"""
CONVERGES = 60.0  # seconds after the last fault; a page tries to come back within 30


class LivePage:
    """A list and three batches in four tabs. What was wrong is in `wrong` after `finish`."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world = world
        self.chance = chance
        self.wrong: list[str] = []
        self.seen = 0
        self._over = False
        self._did: Counter[str] = Counter()
        self._stack = ExitStack()
        self._gateway: Gateway
        self._tabs: list[Page] = []
        self._shown: dict[int, str] = {}

    async def start(self) -> None:
        """A gateway behind the proxies, and the tabs."""
        program = find_chromium()
        if program is None:
            raise RuntimeError("--page: no Chromium is installed (Debian: apt-get install chromium)")
        await self.world.open("page")
        self._gateway = Gateway(*self.world.client_urls("page"), self.world.folder)
        await asyncio.to_thread(self._open, program)

    async def look(self) -> None:
        """Look at what is new, load again, go offline, and lose the gateway, until `settle`."""
        steps = [self._follow] * 6 + [self._reload, self._offline, self._restart]
        while not self._over:
            await asyncio.sleep(self.chance.uniform(0.5, 3))
            with suppress(Failed, OSError):  # a tab that cannot be loaded while there is no gateway; what counts is the end
                step = self.chance.choice(steps)
                self._did[step.__name__.strip("_")] += 1
                await step()

    async def settle(self, looking: asyncio.Task[None]) -> None:
        """No more faults of our own: every tab is online, and a gateway is there."""
        self._over = True
        await looking
        for tab in self._tabs:
            await asyncio.to_thread(tab.offline, False)
        if not self._gateway.lives:
            await self._up()

    async def finish(self, retried: set[str]) -> None:
        """In fair weather, compare what the tabs show with Postgres, and look what they have shown all along; then close everything."""
        try:
            await self._compare_tabs()
            await self._compare_list()
            for tab in self._tabs:
                self._check(tab, retried)
            if self.seen < 100:
                self.wrong.append(f"the tabs showed only {self.seen} figures")
        except (Failed, AssertionError) as error:
            self.wrong.append(f"page: {str(error)[:2000]}")
        finally:
            await self.close()

    def line(self) -> str:
        """What the tabs have seen, for the report."""
        did = ", ".join(f"{times} {what}" for what, times in sorted(self._did.items()))
        return f"page · {len(self._tabs)} tabs · {self.seen:,} figures shown · {did} · {len(self.wrong)} wrong"

    async def close(self) -> None:
        """Be rid of browser and gateway."""
        await asyncio.to_thread(self._stack.close)

    # --- what people do -------------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Look at one of the batches that run now."""
        async with self.world.database() as connection:
            rows = await connection.fetch(NEWEST)
        if rows:
            number = self.chance.randrange(1, len(self._tabs))
            self._shown[number] = self.chance.choice(rows)["id"]
            await self._go(number)

    async def _reload(self) -> None:
        await asyncio.to_thread(self.chance.choice(self._tabs).reload)

    async def _offline(self) -> None:
        tab = self.chance.choice(self._tabs)
        await asyncio.to_thread(tab.offline, True)
        await asyncio.sleep(self.chance.uniform(0.2, 4))
        await asyncio.to_thread(tab.offline, False)

    async def _restart(self) -> None:
        await asyncio.to_thread(self._gateway.kill if self.chance.random() < 0.5 else self._gateway.stop)
        await asyncio.sleep(self.chance.uniform(0, 2))
        await self._up()

    async def _up(self) -> None:
        """Start the gateway; while Postgres is away it does not come up."""
        for _ in range(30):
            with suppress(AssertionError):
                await asyncio.to_thread(self._gateway.start)
                return
            await asyncio.sleep(1)
        self.wrong.append("the gateway did not come up within 30 tries")

    async def _go(self, number: int) -> None:
        where = f"{self._gateway.url}#/batches/{self._shown[number]}" if number in self._shown else f"{self._gateway.url}#/"
        await asyncio.to_thread(self._tabs[number].open, where)

    # --- the end --------------------------------------------------------------------------------------------------------------

    async def _compare_tabs(self) -> None:
        """Without a hand on them, the tabs come to what Postgres says."""
        async with self.world.database() as connection:
            for number, batch in self._shown.items():
                tab = self._tabs[number]
                if await asyncio.to_thread(tab.run, "location.protocol") != "http:":
                    await self._go(number)  # it was loaded while nobody served it
                row = await connection.fetchrow("SELECT status, processed, revision FROM streamworker.batches WHERE id = $1::uuid", batch)
                node = f"document.querySelector('[data-batch=\"{batch}\"]').dataset"
                told = " && ".join(f"{node}.{name} === '{value}'" for name, value in row.items())
                await asyncio.to_thread(tab.until, told, CONVERGES)
                items = [[row["position"], row["status"]] for row in await connection.fetch(ITEMS, batch)]
                for first in range(0, len(items), 50):
                    page = f"{self._gateway.url}#/batches/{batch}" + (f"?after={first - 1}" if first else "")
                    await asyncio.to_thread(tab.open, page)
                    rows = (
                        "[...document.querySelectorAll('.items tbody tr')].map(({dataset}) => [Number(dataset.position), dataset.status])"
                    )
                    wanted = str(items[first : first + 50]).replace(" ", "")
                    await asyncio.to_thread(tab.until, f"JSON.stringify({rows}) === JSON.stringify({wanted})", CONVERGES)

    async def _compare_list(self) -> None:
        """Page by page the list has every batch, as Postgres has it."""
        tab = self._tabs[0]
        await asyncio.to_thread(tab.open, "about:blank")
        await self._go(0)
        await asyncio.to_thread(wait_live, tab, CONVERGES)
        async with self.world.database() as connection:
            known = [[row["id"], row["status"], row["processed"], row["total"]] for row in await connection.fetch(BATCHES)]
        for first in range(0, len(known), 50):
            wanted = [
                [id, status, done, f"{done:,} of {total:,} item{'' if total == 1 else 's'}"]
                for id, status, done, total in known[first : first + 50]
            ]
            await asyncio.to_thread(tab.until, f"JSON.stringify({ROWS}) === JSON.stringify({wanted})", CONVERGES)
            if first + 50 < len(known):
                await asyncio.to_thread(tab.press, "n")

    def _check(self, tab: Page, retried: set[str]) -> None:
        figures: list[dict[str, Any]] = [told for told in tab.told if told["kind"] == "figure"]
        self.seen += len(figures)
        check_figures(figures, retried)
        others = [told for told in tab.told if told["kind"] != "figure"]
        if others or tab.errors or tab.dialogs:
            self.wrong.append(f"a tab: {[*others, *tab.errors, *tab.dialogs][:3]}")

    def _open(self, program: str) -> None:
        browser = Chromium(program)
        self._stack.callback(browser.close)
        self._gateway.start()
        self._stack.callback(self._gateway.kill)
        context = self._stack.enter_context(browser.context())
        for _ in range(4):
            tab = context.page(RECORDER)
            self._tabs.append(tab)
            tab.open(self._gateway.url)
            wait_live(tab)
