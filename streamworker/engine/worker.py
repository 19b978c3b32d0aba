"""One worker process: open everything, start the loops, wait for the signal, drain in order, close."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from redis.asyncio import Redis

from streamworker.broker import connection as broker
from streamworker.broker.consumer import Address, Consumer
from streamworker.broker.publisher import Publisher
from streamworker.engine.announcer import Announcer
from streamworker.engine.attempts import backoff
from streamworker.engine.fetcher import Fetcher
from streamworker.engine.heartbeat import Heartbeat
from streamworker.engine.holds import INTERRUPT_GRACE
from streamworker.engine.loop import Loop
from streamworker.engine.outages import Outages
from streamworker.engine.processors import OpenProcessors
from streamworker.engine.reconciler import Reconciler
from streamworker.engine.runner import Runner
from streamworker.engine.services import Services
from streamworker.engine.signals import STOP_SIGNALS, StopSignals
from streamworker.engine.stuck import Rescue
from streamworker.engine.waiting_room import WaitingRoom
from streamworker.observe.events import Events, WorkerStarted, WorkerStopped, WorkerStopping
from streamworker.observe.logs import log_event
from streamworker.processors.loading import registry
from streamworker.settings import Settings
from streamworker.store import migrate as migrations
from streamworker.store.pool import CONNECTION_ERRORS, Pool, blames_url, explain, open_connection, open_pool, refusal

# After the grace: time to hand over, to write what has ended, and to publish what waits.
HAND_OVER_PATIENCE = 5.0
PUBLISH_PATIENCE = 2.0
MOST_CONNECTIONS = 20
T = TypeVar("T")


LOG = logging.getLogger("streamworker.engine")


def restart_process() -> None:
    """Become a fresh worker under the same process id: the one way to end user code that cannot be ended."""
    # What comes from now on waits, and reaches the fresh process when that begins to listen.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # it is closed
            stream.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


class Worker:
    """A worker between `run` and its end. `stop` may be called from a signal or a test; `restart` replaces the process."""

    def __init__(
        self,
        settings: Settings,
        redis_url: str,
        database_url: str,
        *,
        events: Events | None = None,
        restart: Callable[[], None] = restart_process,
        signals: StopSignals | None = None,
    ) -> None:
        self.events = events or Events()
        self.events.subscribe(log_event)
        self._settings = settings
        self._redis_url = redis_url
        self._database_url = database_url
        self._restart = restart
        self._outages = Outages(self.events)
        self._stop = asyncio.Event()
        self._reason = "stop"
        self._restarting = False
        self._signals = signals or StopSignals()
        self._heartbeat: Heartbeat | None = None
        self._registry = registry(settings.processors)

    def stop(self, reason: str = "stop") -> None:
        """Drain and end."""
        self._reason = reason
        self._stop.set()

    async def run(self) -> int:
        """Work until told to stop; returns the exit code.

        A signal before there is work is the end of the start; where user code is being imported, it waits for that.
        Raises ConfigurationError or SchemaError when there is no use in starting.
        """
        self._signals.listen()
        with self._signals.cancelling():
            await self._run()
        if self._restarting and self._signals.first is None:
            self._restart()
        return 0

    async def _run(self) -> None:
        processors = OpenProcessors(self._registry, self._settings)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(processors.close)
            if self._settings.processors:
                await processors.check()  # what the user named must be there; what a batch may name is loaded with it
            self._signals.listen()  # once more: what was imported may have set handlers of its own
            if self._settings.http_address is not None:
                LOG.warning("HTTP_ADDRESS is set, but this release serves no HTTP")
            clients = self._open_redis(stack)  # connects to nothing yet, but refuses a bad URL before anything is waited for
            pool = await self._until_up(lambda: self._open_pool(stack))
            if pool is None or not await self._until_up(self._prepare_database):
                return  # told to stop before Postgres was there
            small = await self._until_up(lambda: self._open_pool(stack, plan_once=True))
            self._signals.act = partial(self._drain_by_signal, asyncio.get_running_loop())
            if small is None or self._signals.first is not None:
                return
            gc.collect()
            gc.freeze()  # what was imported stays: no collection need look at it again
            await self._serve(self._open(stack, *clients, pool, small), processors)
        self.events.emit(WorkerStopped(worker=self._settings.consumer))

    def _drain_by_signal(self, loop: asyncio.AbstractEventLoop) -> None:
        """From a signal handler: user code may block the loop, and the heartbeat then ends the process when the grace is over."""
        assert self._signals.first is not None
        if self._heartbeat is not None:
            self._heartbeat.stop_by = time.monotonic() + self._settings.shutdown_timeout + INTERRUPT_GRACE
        loop.call_soon_threadsafe(self.stop, self._signals.first.name)

    def _stop_to_restart(self, reason: str) -> None:
        """User code in a thread cannot be ended: hand everything over, then become a fresh process."""
        if not self._stop.is_set():
            LOG.error("%s: the worker restarts to end it", reason)
            self._restarting = True
            self._reason = reason
            self._stop.set()

    def _end_at_once(self) -> None:
        """User code blocks the loop: nothing here can be closed in order."""
        if self._signals.first is not None or (self._stop.is_set() and not self._restarting):
            os._exit(0)
        self._restart()

    async def _prepare_database(self) -> bool:
        connection = await open_connection(self._database_url, application_name=f"{self._settings.consumer} migrate")
        try:
            await (migrations.migrate(connection) if self._settings.migrate else migrations.check_schema(connection))
        finally:
            await connection.close(timeout=2.0)
        return True

    async def _open_pool(self, stack: contextlib.AsyncExitStack, plan_once: bool = False) -> Pool:
        size = 4 if plan_once else min(2 + 2 * self._settings.batch_concurrency, MOST_CONNECTIONS)
        ttl = self._settings.lease_ttl
        # A worker that was stopped inside a transaction must not block its successor for longer than its lease lives.
        pool = await open_pool(
            self._database_url,
            size=size,
            application_name=self._settings.consumer,
            lock_timeout=ttl / 2,
            idle_timeout=ttl * 2 / 3,
            plan_once=plan_once,
        )
        stack.push_async_callback(pool.close)
        return pool

    async def _until_up(self, act: Callable[[], Awaitable[T]]) -> T | None:
        """Talk to Postgres, waiting for it as long as it takes; None when told to stop meanwhile."""
        failures = 0
        while not self._stop.is_set() and self._signals.first is None:  # both: a cancellation can get lost on Python 3.11
            try:
                result = await act()
            except CONNECTION_ERRORS as error:
                if blames_url(error, self._database_url):
                    raise refusal(error, self._database_url) from error
                failures += 1
                self._outages.away("postgres", "start", explain(error, self._database_url))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), backoff(failures, 1.0))
                continue
            self._outages.back("postgres", "start")
            return result
        return None

    def _open_redis(self, stack: contextlib.AsyncExitStack) -> tuple[Redis, Redis]:
        redis, reader = broker.connect(self._redis_url), broker.connect(self._redis_url, blocking=2.0)
        stack.push_async_callback(redis.aclose)
        stack.push_async_callback(reader.aclose)
        return redis, reader

    def _open(self, stack: contextlib.AsyncExitStack, redis: Redis, reader: Redis, pool: Pool, small: Pool) -> Services:
        settings = self._settings
        address = Address(settings.stream, settings.group, settings.consumer)
        rescue = Rescue(self._database_url, settings.consumer, settings.lease_ttl, self._end_at_once)
        heartbeat = Heartbeat(
            self._redis_url, self._database_url, address, settings.lease_ttl, settings.item_timeout, self._outages, rescue.end
        )
        self._heartbeat = heartbeat
        heartbeat.start()
        stack.push_async_callback(heartbeat.stop)
        explain_redis = _explainer(broker.explain, self._redis_url)
        announcer = Announcer(Publisher(redis, settings.progress_stream, settings.progress_maxlen), self._outages, explain_redis)
        return Services(
            settings,
            self.events,
            self._outages,
            redis,
            Consumer(redis, reader, address),
            pool,
            small,
            heartbeat,
            announcer,
            explain_redis,
            _explainer(explain, self._database_url),
            self._stop_to_restart,
        )

    async def _serve(self, services: Services, processors: OpenProcessors) -> None:
        """Everything that runs between the start and the signal."""
        waiting_room = WaitingRoom(services.pool, services.heartbeat)
        runner = Runner(services, processors, waiting_room)
        reconciler = Reconciler(
            self._database_url, self._settings.consumer, services.consumer, services.announcer, self.events, runner.cancelled
        )
        slots, together = self._settings.batch_concurrency, lambda: runner.pace.together
        fetcher = Fetcher(services.consumer, slots, runner.run, together, waiting_room, reconciler.entries_lost)
        explainers = {"redis": services.explain_redis, "postgres": services.explain_postgres}
        fetching, reconciling, waiting = (
            Loop(name, step, self._outages, explainers)  # type: ignore[arg-type]
            for name, step in (("fetcher", fetcher.step), ("reconciler", reconciler.step), ("waiting room", waiting_room.look))
        )
        fetcher.wake, reconciler.wake, waiting_room.wake = fetching.wake, reconciling.wake, waiting.wake
        waiting_room.offer = fetching.wake
        waiting_room.ready, waiting_room.gone = fetcher.ready, runner.not_found
        runner.free_slot, runner.forget = fetcher.free_slot, fetcher.forget
        services.announcer.start()
        for loop in (fetching, reconciling, waiting):
            loop.start()
        self.events.emit(WorkerStarted(worker=self._settings.consumer, processors=tuple(self._registry.names)))
        await self._stop.wait()
        self.events.emit(WorkerStopping(worker=self._settings.consumer, reason=self._reason, in_flight=len(fetcher.busy())))
        runner.drain()
        await fetching.stop()
        await self._drain(runner, fetcher)
        ending = [asyncio.create_task(loop.stop()) for loop in (waiting, reconciling)]
        await asyncio.wait(ending, timeout=PUBLISH_PATIENCE)  # a step may hang on a server that does not answer
        await waiting_room.give_away(services.consumer)
        await reconciler.close()
        await services.announcer.stop(PUBLISH_PATIENCE)
        await processors.close()

    async def _drain(self, runner: Runner, fetcher: Fetcher) -> None:
        """Let the items in flight end within the grace, then end them; hand every batch over."""
        if fetcher.busy() and not self._restarting:
            await asyncio.wait(fetcher.busy(), timeout=self._settings.shutdown_timeout)
        runner.interrupt()
        if fetcher.busy():
            await asyncio.wait(fetcher.busy(), timeout=HAND_OVER_PATIENCE)
        runner.give_up()
        if fetcher.busy():
            await asyncio.wait(fetcher.busy(), timeout=HAND_OVER_PATIENCE)


def _explainer(explanation: Callable[[BaseException, str], str], url: str) -> Callable[[BaseException], str]:
    return lambda error: explanation(error, url)
