"""The nemesis: draws faults from a seed, does them to the world, and writes down what was in force from when to when."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from contextlib import suppress
from typing import Any

import redis

from tests.chaos.load import Load
from tests.chaos.processors import AWAY
from tests.chaos.world import Spawned, World, socket_of
from tests.servers import wait_for

REPLIES = (
    "^COMMIT",
    "^COMMIT",
    "^BEGIN",
    "UPDATE streamworker",
    "^SELECT",
    "^XADD progress",
    "^EXEC",
    "^XREADGROUP",
    "^EVALSHA",
    "^XAUTOCLAIM",
)

# Each kind with its weight; its method has the same name.
KINDS: dict[str, int] = {
    "kill": 6,
    "term": 3,
    "stop": 3,
    "stop in transaction": 3,
    "redis kill": 2,
    "redis flush": 2,
    "redis destroy group": 1,
    "redis delete consumer": 1,
    "redis trim": 1,
    "redis delete stream": 1,
    "redis failover": 2,
    "redis pause": 1,
    "postgres restart": 2,
    "postgres immediate": 2,
    "terminate backend": 3,
    "cut": 3,
    "cut at byte": 3,
    "lose reply": 4,
    "partition": 2,
    "hold": 3,
    "slow": 1,
    "away": 4,
    "duplicate": 2,
    "poison": 2,
    "block": 2,
}


class Nemesis:
    """One fault at a time, each with an end."""

    def __init__(self, world: World, load: Load, chance: random.Random) -> None:
        self.world = world
        self.load = load
        self.chance = chance
        self.kinds = KINDS

    async def rage(self, until: float) -> list[str]:
        """Faults with calm between them; each kind once first, in a drawn order, then by weight. Returns the kinds that struck."""
        first = list(self.kinds)
        self.chance.shuffle(first)
        kinds, weights = list(self.kinds), list(self.kinds.values())
        struck = set()
        while time.monotonic() < until:
            kind = first.pop() if first else self.chance.choices(kinds, weights)[0]
            await self._await_work(until)
            if await self.strike(kind):
                struck.add(kind)
            await asyncio.sleep(self.chance.uniform(0.3, 3.0))
        return sorted(struck)

    async def _await_work(self, until: float) -> None:
        """A fault that meets no item in flight proves nothing."""
        while not self._busy() and time.monotonic() < until:  # noqa: ASYNC110 the processors' log is a file
            await asyncio.sleep(0.02)

    async def strike(self, kind: str) -> bool:
        """One fault of a kind; False if there was nothing to hit."""
        done: bool = await getattr(self, kind.replace(" ", "_"))()
        return done

    # --- workers ----------------------------------------------------------------------------------------------------------

    def _alive(self) -> list[Spawned]:
        return [worker for worker in self.world.fleet.values() if worker.process.returncode is None]

    def _busy(self) -> list[Spawned]:
        return [worker for worker in self._alive() if worker.label in self.world.progress.running()]

    def _worker(self) -> Spawned | None:
        """Mostly one with an item in flight."""
        alive, busy = self._alive(), self._busy()
        return self.chance.choice(busy if busy and self.chance.random() < 0.8 else alive) if alive else None

    def _busy_label(self) -> str | None:
        worker = self._worker()
        return worker.label if worker else None

    async def kill(self) -> bool:
        """SIGKILL."""
        worker = self._worker()
        return worker is not None and self.world.kill(worker)

    async def term(self) -> bool:
        """SIGTERM, and sometimes SIGKILL a moment later."""
        worker = self._worker()
        began = time.monotonic()
        if worker is None or not worker.signal(signal.SIGTERM):
            return False
        if self.chance.random() < 0.2:
            await asyncio.sleep(self.chance.uniform(0, 0.5))
            self.world.kill(worker, planned=False)
        with suppress(TimeoutError):
            async with asyncio.timeout(self.world.terms.shutdown_timeout + 10):
                await worker.process.wait()
        if worker.signal(signal.SIGKILL):
            self.world.note("slow shutdown", worker.label, planned=False)
        self.world.note("term", worker.label, began)
        return True

    async def stop(self) -> bool:
        """SIGSTOP for longer than the lease, then SIGCONT."""
        worker = self._worker()
        began = time.monotonic()
        if worker is None or not worker.signal(signal.SIGSTOP):
            return False
        await asyncio.sleep(self.world.terms.lease_ttl + self.chance.uniform(0.5, 2.5))
        worker.signal(signal.SIGCONT)
        self.world.note("stop", worker.label, began)
        return True

    async def stop_in_transaction(self) -> bool:
        """SIGSTOP between BEGIN and the write; when it goes on, its write arrives long after its lease."""
        worker = self._worker()
        if worker is None:
            return False
        trap = self.world.postgres_proxy.hold("^UPDATE streamworker.batches AS b SET revision", worker.label)
        with suppress(TimeoutError):
            async with asyncio.timeout(3):
                await trap.fired.wait()
        trap.left = 0
        if not trap.hits:
            return False
        began = time.monotonic()
        worker.signal(signal.SIGSTOP)
        await asyncio.sleep(self.world.terms.lease_ttl + self.chance.uniform(0.7, 2.5))
        self.world.postgres_proxy.heal(worker.label)
        await asyncio.sleep(0.05)
        worker.signal(signal.SIGCONT)
        self.world.note("stop in transaction", worker.label, began)
        return True

    # --- Redis --------------------------------------------------------------------------------------------------------------

    async def redis_kill(self) -> bool:
        """Kill -9 and, after a while, a restart with nothing in it."""
        began = time.monotonic()
        await asyncio.to_thread(self.world.redis.kill)
        await asyncio.sleep(self.chance.uniform(0, 2.0))
        await asyncio.to_thread(self.world.redis.start)
        self.world.note("redis kill", began=began)
        return True

    async def _redis(self, kind: str, *commands: tuple[Any, ...]) -> bool:
        began = time.monotonic()

        def run() -> None:
            with self.world.redis.client() as client:
                for command in commands:
                    with suppress(redis.ResponseError):
                        client.execute_command(*command)

        await asyncio.to_thread(run)
        self.world.note(kind, began=began)
        return True

    async def redis_flush(self) -> bool:
        """FLUSHALL."""
        return await self._redis("redis flush", ("FLUSHALL",))

    async def redis_destroy_group(self) -> bool:
        """XGROUP DESTROY."""
        return await self._redis("redis destroy group", ("XGROUP", "DESTROY", "batches", "workers"))

    async def redis_delete_consumer(self) -> bool:
        """XGROUP DELCONSUMER for all that live: their pending entries vanish."""
        labels = [worker.label for worker in self.world.fleet.values()]
        return await self._redis("redis delete consumer", *(("XGROUP", "DELCONSUMER", "batches", "workers", label) for label in labels))

    async def redis_trim(self) -> bool:
        """XTRIM to nothing."""
        return await self._redis("redis trim", ("XTRIM", "batches", "MAXLEN", "0"))

    async def redis_delete_stream(self) -> bool:
        """DEL of the stream, with its group."""
        return await self._redis("redis delete stream", ("DEL", "batches"))

    async def redis_failover(self) -> bool:
        """A replica that lacks the last writes becomes the master."""
        old, new = self.world.redis, self.world.new_redis()
        window = self.chance.uniform(0.2, 1.0)
        await asyncio.to_thread(self._follow, old, new)
        began = time.monotonic()
        await asyncio.to_thread(self._fail_over, old, new, window)
        self.world.redis = new
        await self.world.redis_proxy.switch(socket_of(new))
        self.world.note("redis failover", began=began)
        await asyncio.to_thread(old.close)
        return True

    @staticmethod
    def _follow(old: Any, new: Any) -> None:
        new.start()
        with new.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", old.server.options["port"])
            wait_for(lambda: client.info("replication").get("master_link_status") == "up", about="the replica")

    @staticmethod
    def _fail_over(old: Any, new: Any, window: float) -> None:
        new.pause()
        with old.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "replica")
        time.sleep(window)
        old.kill()
        new.resume()
        with new.client() as client:
            client.execute_command("REPLICAOF", "NO", "ONE")

    async def redis_pause(self) -> bool:
        """SIGSTOP of the server: connections hang."""
        began = time.monotonic()
        self.world.redis.pause()
        try:
            await asyncio.sleep(self.chance.uniform(1, 4))
        finally:
            self.world.redis.resume()
        self.world.note("redis pause", began=began)
        return True

    # --- Postgres -----------------------------------------------------------------------------------------------------------

    async def postgres_restart(self) -> bool:
        """A restart in good order; the sessions are ended."""
        return await self._restart("postgres restart", "fast")

    async def postgres_immediate(self) -> bool:
        """Stopped as if it had crashed."""
        return await self._restart("postgres immediate", "immediate")

    async def _restart(self, kind: str, mode: str) -> bool:
        began = time.monotonic()
        await asyncio.to_thread(self.world.postgres.stop, mode)
        await asyncio.sleep(self.chance.uniform(0, 3.0))
        await asyncio.to_thread(self.world.postgres.start)
        self.world.note(kind, began=began)
        return True

    async def terminate_backend(self) -> bool:
        """pg_terminate_backend of one to three sessions."""
        began = time.monotonic()
        async with self.world.database() as connection:
            rows = await connection.fetch(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> 'chaos' ORDER BY pid"
            )
            pids = [row["pid"] for row in rows]
            for pid in self.chance.sample(pids, min(len(pids), self.chance.randint(1, 3))):
                await connection.execute("SELECT pg_terminate_backend($1)", pid)
        self.world.note("terminate backend", began=began)
        return bool(pids)

    # --- the network --------------------------------------------------------------------------------------------------------

    def _proxies(self) -> list[Any]:
        both = [self.world.redis_proxy, self.world.postgres_proxy]
        return self.chance.choice(([both[0]], [both[1]], both))

    async def cut(self) -> bool:
        """All connections of one worker, to one server or both."""
        worker, proxies = self._worker(), self._proxies()
        if worker is None:
            return False
        for proxy in proxies:
            await proxy.cut(worker.label)
        self.world.note("cut", worker.label)
        return True

    async def cut_at_byte(self) -> bool:
        """The connection that carries the k-th byte from now ends with it."""
        worker, proxy = self._worker(), self._proxies()[-1]
        if worker is None or worker.label not in proxy.labels():
            return False
        began = time.monotonic()
        direction = self.chance.choice(("requests", "replies"))
        proxy.cut_after(self.chance.randint(1, 3000), direction, worker.label)
        cut = proxy.weather(worker.label).cut_after
        for _ in range(100):
            if direction not in cut:
                break
            await asyncio.sleep(0.05)
        passed = direction in cut
        cut.clear()
        if not passed:
            self.world.note("cut at byte", worker.label, began)
        return not passed

    async def lose_reply(self) -> bool:
        """A request arrives, its reply does not, and the connection is gone."""
        pattern = self.chance.choice(REPLIES)
        proxy = self.world.redis_proxy if pattern.startswith(("^X", "^E")) else self.world.postgres_proxy
        began = time.monotonic()
        trap = proxy.lose_reply(pattern, times=self.chance.randint(1, 3))
        with suppress(TimeoutError):
            async with asyncio.timeout(3):
                await trap.fired.wait()
                await asyncio.sleep(0.2)
        trap.left = 0
        for _, label, _ in trap.hits:
            self.world.note("lose reply", label, began)
        return bool(trap.hits)

    async def partition(self) -> bool:
        """Nothing passes between one worker and one server or both; no connection is closed."""
        worker, proxies = self._worker(), self._proxies()
        if worker is None or worker.label not in proxies[0].labels():
            return False
        began = time.monotonic()
        for proxy in proxies:
            proxy.black_hole(worker.label)
        await asyncio.sleep(self.chance.choice((0.5, self.world.terms.lease_ttl + 0.7, self.world.terms.lease_ttl + 2.5)))
        for proxy in proxies:
            proxy.heal(worker.label)
            if self.chance.random() < 0.3:
                await proxy.cut(worker.label)
        self.world.note("partition", worker.label, began)
        return True

    async def hold(self) -> bool:
        """Stuck in the middle of a transaction, for longer than the lease; what was held arrives late."""
        pattern = self.chance.choice(("^UPDATE streamworker.batches", "FOR UPDATE", "^COMMIT"))
        began = time.monotonic()
        trap = self.world.postgres_proxy.hold(pattern, self._busy_label())
        with suppress(TimeoutError):
            async with asyncio.timeout(3):
                await trap.fired.wait()
        trap.left = 0
        for _, label, _ in trap.hits:
            await asyncio.sleep(self.world.terms.lease_ttl + self.chance.uniform(0.5, 2.5))
            self.world.postgres_proxy.heal(label)
            self.world.note("hold", label, began)
        return bool(trap.hits)

    async def slow(self) -> bool:
        """A slow network for everybody."""
        began = time.monotonic()
        proxies = self._proxies()
        for proxy in proxies:
            proxy.slow(self.chance.uniform(0.02, 0.15))
        await asyncio.sleep(self.chance.uniform(1, 4))
        for proxy in proxies:
            proxy.heal()
        self.world.note("slow", began=began)
        return True

    # --- work that hurts ------------------------------------------------------------------------------------------------------

    async def away(self) -> bool:
        """What some items need is away for a while."""
        await self.load.needy()
        began, marker = time.monotonic(), self.world.processor_log.with_name(AWAY)
        marker.touch()
        await asyncio.sleep(self.chance.uniform(0.3, 4.0))
        marker.unlink()
        self.world.note("away", began=began)
        return True

    async def duplicate(self) -> bool:
        """The same batch asked for several times."""
        await self.load.duplicates()
        self.world.note("duplicate")
        return True

    async def poison(self) -> bool:
        """A batch with an item that ends its worker."""
        await self.load.poison()
        self.world.note("poison")
        return True

    async def block(self) -> bool:
        """A batch with an item that blocks its worker for longer than the lease."""
        await self.load.blocking()
        self.world.note("block")
        return True
