"""What clients do during a run: submit batches of many kinds, cancel, retry, send bad messages, and watch. Each operation is logged."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import redis.exceptions

from streamworker import Client
from streamworker.messages import encode_event
from tests.chaos.history import Operation, Reading
from tests.chaos.world import World

Items = list[dict[str, Any]]

# What leaves the outcome unknown; an error that the server itself told is a plain no.
UNKNOWN = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    redis.exceptions.RedisError,
    asyncio.IncompleteReadError,
)
PATIENT = 1000  # max_attempts where deaths must not fail an item

_SUBMIT = "SELECT streamworker.submit($1::jsonb, $2::uuid, processor => $3, max_attempts => $4)"


class Load:
    """The clients. `random` decides everything, so that a seed repeats what was asked (not when)."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world = world
        self.chance = chance
        self.batches: set[str] = set()
        self.retried: set[str] = set()
        self.reader_errors: list[str] = []
        self._later: set[asyncio.Task[None]] = set()

    # --- kinds of batches -------------------------------------------------------------------------------------------------

    async def steady(self, size: int, low: int = 2, high: int = 40) -> str:
        """Items of a few milliseconds; all must succeed."""
        return await self.submit([self._item(ms=self.chance.randint(low, high)) for _ in range(size)], expect="completed")

    async def effects(self) -> str:
        """Each item writes a row in the transaction that records it; some of the writes fail first."""
        size = self.chance.randint(5, 40)
        items = [self._item(do="effect", ms=self.chance.randint(1, 20), times=self.chance.choice((0, 0, 0, 1))) for _ in range(size)]
        return await self.submit(items, expect="completed", effects=True)

    async def thread(self) -> str:
        """The plain function, in a thread."""
        items = [self._item(ms=self.chance.randint(1, 30)) for _ in range(self.chance.randint(5, 30))]
        return await self.submit(items, processor="tests.chaos.processors:work_in_thread", expect="completed")

    async def stumbling(self) -> str:
        """Some items fail a few times before they succeed."""
        items = [self._item(do="fail", times=self.chance.choice((0, 0, 1, 3)), ms=5) for _ in range(self.chance.randint(5, 30))]
        return await self.submit(items, expect="completed")

    async def needy(self) -> str:
        """Items that need a service, and perhaps write a row each; one start is enough, however often the service is away."""
        writes = self.chance.random() < 0.5
        terms: dict[str, Any] = {"do": "effect", "times": 0} if writes else {"do": "sleep"}
        items = [self._item(needs=True, ms=self.chance.randint(1, 40), **terms) for _ in range(self.chance.randint(5, 60))]
        return await self.submit(items, expect="completed", effects=writes)

    async def failing(self) -> str:
        """Every other item fails for good; retried once it has ended."""
        items = [self._item(do="fail", times=99 * (n % 2), ms=5) for n in range(self.chance.randint(4, 16))]
        batch = await self.submit(items, attempts=2, watch=False)
        self._soon(self._retry(batch))
        return batch

    async def cancelled(self) -> str:
        """Cancelled at some moment."""
        batch = await self.submit([self._item(ms=30) for _ in range(self.chance.randint(10, 60))], watch=self.chance.random() < 0.5)
        self._soon(self._cancel(batch, self.chance.uniform(0, 2)))
        return batch

    async def poison(self) -> str:
        """One item ends its worker, twice."""
        position = self.chance.randrange(8)
        items = [self._item(do="poison" if n == position else "sleep", ms=10) for n in range(8)]
        return await self.submit(items, attempts=2, poison=position)

    async def blocking(self) -> str:
        """Items that hold the loop, or the interpreter, for longer than the lease."""
        long = round(self.world.terms.lease_ttl * self.chance.uniform(1200, 1800))
        items = [self._item(do=self.chance.choice(("block", "burn")), ms=long), *(self._item(ms=10) for _ in range(3))]
        return await self.submit(items, expect="completed")

    async def message(self) -> str:
        """Sent as a job with its items, past Postgres."""
        return await self._send([self._item(ms=self.chance.randint(1, 20)) for _ in range(self.chance.randint(1, 20))])

    async def crowd(self) -> None:
        """Many batches of one quick item at once, then something longer; a slow one and one that fails first may be among them."""
        kinds = [{"ms": 0}] * 20 + [{"ms": 60}, {"do": "fail", "times": 1, "ms": 0}, {"do": "effect", "ms": 0}]
        terms = [self.chance.choice(kinds) for _ in range(self.chance.randint(20, 60))]
        await asyncio.gather(*(self._send([self._item(**one)], effects=one.get("do") == "effect") for one in terms))
        await self.steady(self.chance.randint(20, 60))

    async def _send(self, items: Items, **detail: Any) -> str:
        batch = str(uuid4())
        fields = {"batch_id": batch, "items": json.dumps(items), "max_attempts": str(PATIENT)}
        await self._logged("xadd", batch, lambda: self._xadd(fields), {"items": len(items), "expect": "completed", **detail})
        self.batches.add(batch)
        return batch

    async def duplicates(self) -> str:
        """One batch asked for again and again, in both ways."""
        batch = await self.steady(20)
        for _ in range(self.chance.randint(1, 4)):
            with suppress(*UNKNOWN):
                await self._xadd({"batch_id": batch})
        return batch

    async def bad_message(self) -> None:
        """A message that belongs on the dead stream."""
        name, value, reason = self.chance.choice(
            (
                ("batch_id", "not-a-uuid", "invalid_message"),
                ("items", "[1]", "invalid_message"),
                ("items", "{}", "invalid_message"),
                ("items", "[", "invalid_message"),
                ("colour", "green", "invalid_message"),
                ("processor", "os:system", "unknown_processor"),
            )
        )
        fields = {"batch_id": str(uuid4()), "items": '["a"]', name: value}
        began = time.monotonic()
        entry, outcome = "", "ok"
        try:
            entry = await self._xadd(fields)
        except UNKNOWN:
            return  # it may stand in the stream, and nobody could name it
        detail = {"reason": reason, "fields": list(fields.items()), "entry": entry}
        self.world.operations.add(asdict(Operation("bad", fields["batch_id"], began, time.monotonic(), outcome, detail)))

    def kinds(self) -> list[Callable[[], Awaitable[Any]]]:
        """What a mixed run submits all the time; the nemesis adds poison, blocking and duplicates."""
        return [
            lambda: self.steady(self.chance.randint(10, 80)),
            lambda: self.steady(self.chance.randint(100, 250), 5, 70),
            self.effects, self.thread, self.stumbling, self.needy, self.failing, self.cancelled, self.message, self.crowd, self.bad_message,
        ]  # fmt: skip

    # --- the operations ---------------------------------------------------------------------------------------------------

    async def submit(
        self, items: Items, *, attempts: int = PATIENT, processor: str | None = None, watch: bool = True, **detail: Any
    ) -> str:
        """Submit through Postgres; an unknown outcome is asked for again, under the same id, until it is known."""
        batch = str(uuid4())
        self.batches.add(batch)

        async def ask() -> None:
            async with self.world.client_database() as connection:
                await connection.execute(_SUBMIT, json.dumps(items), UUID(batch), processor, attempts)

        known = False
        while not known:
            known = await self._logged("submit", batch, ask, {"items": len(items), **detail})
            await asyncio.sleep(0 if known else 0.2)
        if watch and self.chance.random() < 0.5:
            self._soon(self._watch(batch))
        return batch

    async def _xadd(self, fields: dict[str, str]) -> str:
        async with self.world.client_redis() as client:
            entry: bytes = await client.xadd("batches", fields)  # type: ignore[arg-type, assignment]
            return entry.decode()

    async def _retry(self, batch: str) -> None:
        if await self._ends(batch):
            self.retried.add(batch)
            await self._logged("retry", batch, lambda: self._call("SELECT streamworker.retry($1::uuid) > 0", batch), {})

    async def _cancel(self, batch: str, after: float) -> None:
        await asyncio.sleep(after)
        await self._logged("cancel", batch, lambda: self._call("SELECT streamworker.cancel($1::uuid)", batch), {})

    async def _call(self, sql: str, batch: str) -> bool:
        async with self.world.client_database() as connection:
            return bool(await connection.fetchval(sql, UUID(batch)))

    async def _logged(self, action: str, batch: str, ask: Callable[[], Awaitable[Any]], detail: dict[str, Any]) -> bool:
        """Do it and log it; True if the outcome is known. An answer of False is a fail: it was not done."""
        began = time.monotonic()
        try:
            outcome = "fail" if await ask() is False else "ok"
        except UNKNOWN:
            outcome = "info"
        except asyncpg.PostgresError:
            outcome = "info"  # the server is starting or going down, or ended the session: it may have been in a commit
        self.world.operations.add(asdict(Operation(action, batch, began, time.monotonic(), outcome, detail)))
        return outcome != "info"

    async def _watch(self, batch: str) -> None:
        """Read a batch as `watch` gives it, until its end."""
        redis_url, database_url = self.world.client_urls("reader")
        name = f"watch-{batch[:8]}"
        while True:
            try:
                async with Client.connect(redis_url, database_url) as client:
                    async for event in client.watch(batch):
                        kind = "event" if event.items else "snapshot"
                        body = encode_event(event).decode()
                        reading = Reading(time.monotonic(), name, batch, kind, event.revision, event.processed, event.status, body)
                        self.world.readings.add(asdict(reading))
                return
            except ConnectionError:
                await asyncio.sleep(0.2)  # it could not begin: nothing was read yet
            except Exception as error:
                self.reader_errors.append(f"{name}: {type(error).__name__}: {error}")
                return

    async def _ends(self, batch: str) -> bool:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with suppress(*UNKNOWN, asyncpg.PostgresError):
                if await self._call("SELECT finished_at IS NOT NULL FROM streamworker.batches WHERE id = $1::uuid", batch):
                    return True
            await asyncio.sleep(0.1)
        return False

    # --- running it -------------------------------------------------------------------------------------------------------

    async def keep_busy(self, batches: int, until: float) -> None:
        """Keep up to so many batches open, of all kinds; now and then so few that workers stand idle."""
        wanted, change = batches, time.monotonic()
        while time.monotonic() < until:
            if time.monotonic() > change:
                wanted, change = self.chance.choice((1, 2, batches)), time.monotonic() + self.chance.uniform(2, 10)
            if await self.open_batches() < wanted:
                await self.chance.choice(self.kinds())()
            else:
                await asyncio.sleep(0.05)

    async def open_batches(self) -> int:
        """How many batches are open now; many while Postgres is away."""
        try:
            async with self.world.database() as connection:
                return int(await connection.fetchval("SELECT count(*) FROM streamworker.batches WHERE finished_at IS NULL"))
        except (*UNKNOWN, asyncpg.PostgresError):
            await asyncio.sleep(0.1)
            return 1_000_000

    async def finish(self, patience: float) -> None:
        """Wait for readers, retries and cancels that are under way."""
        if self._later:
            _, late = await asyncio.wait(self._later, timeout=patience)
            for one in late:
                one.cancel()
                self.reader_errors.append(f"{one.get_name()} did not end")
            await asyncio.gather(*late, return_exceptions=True)

    def _soon(self, work: Any) -> None:
        later = asyncio.create_task(work, name=work.__qualname__)
        self._later.add(later)

    @staticmethod
    def _item(**payload: Any) -> dict[str, Any]:
        return {"payload": payload}
