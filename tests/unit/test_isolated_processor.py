"""Processors in child processes without a worker around them: frames, names of writes, the environment, and the ways to end."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from streamworker.errors import ConfigurationError
from streamworker.processors import frames
from streamworker.processors.api import DONE, BatchInfo, Item
from streamworker.processors.frames import BadFrame, Budget, Frames, FromChild, Named, ToChild, pack
from streamworker.processors.isolated import IsolatedProcessor, Nursery
from streamworker.processors.outcomes import Failed, Interrupted, Outcome, Succeeded
from streamworker.processors.output import LOG, LONGEST_LINE, Output
from streamworker.processors.spawning import without_secrets
from streamworker.processors.writes import belongs, find_write, name_write
from tests.servers import process_lives, wait_for

WORK = "tests.unit.isolated:work"


class TestFrames:
    SENT = (
        frames.Succeeded('{"a":1}', Named("shop", "save", "{}")),
        frames.Told(7, 12.5, None, "große Sache"),
        frames.Logged(20, "a", "b", {"n": 1, "t": "x", "none": None, "b": True}),
    )

    @pytest.mark.parametrize("size", [1, 3, 7, 10_000])
    def test_they_come_whole_however_they_are_cut(self, size: int) -> None:
        stream, reader = b"".join(map(pack, self.SENT)), Frames(FromChild)
        pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
        assert [frame for piece in pieces for frame in reader.feed(piece)] == list(self.SENT)

    @pytest.mark.parametrize(
        "data",
        [b"no frame", b"\xff" * 8, b"\0\0\0\1\xc1", b"\0\0\0\2\x91\x63", b"\0\0\0\0", b"\0\0\0\3\x92\x17\xc0" * 1, pack(frames.Enter())],
        ids=["text", "endless", "no msgpack", "unknown", "empty", "short", "of the other side"],
    )
    def test_what_is_none_is_refused(self, data: bytes) -> None:
        reader = Frames(FromChild)
        with pytest.raises(BadFrame):
            list(reader.feed(data + b"\0" * 8))

    def test_one_too_large_is_refused_before_it_has_come(self) -> None:
        with pytest.raises(BadFrame, match="a frame of 101 bytes"):
            list(Frames(ToChild, largest=100).feed(b"\0\0\0\x65"))

    def test_a_budget_is_spent_and_comes_back(self) -> None:
        budget = Budget(rate=1e9, burst=2)
        assert [budget.take(3), budget.take(2)] == [False, True]
        wait_for(lambda: budget.take(2))


async def save(connection: Any, number: int) -> None:
    """A write with a name."""


class TestWrites:
    def test_one_with_a_name_is_found_again(self) -> None:
        write = find_write(name_write(functools.partial(save, number=7), __name__), __name__)
        assert isinstance(write, functools.partial)
        assert (write.func, write.args, write.keywords) == (save, (), {"number": 7})

    @pytest.mark.parametrize(
        ("module", "processor", "allowed"),
        [
            ("shop", "shop", True),
            ("shop.rows", "shop", True),
            ("shop.rows", "shop.vision", True),
            ("shop", "shop.vision", True),
            ("shopping", "shop", False),
            ("os", "shop", False),
            ("shop_evil.rows", "shop.vision", False),
            ("", "shop", False),
        ],
    )
    def test_only_the_processors_own_package_is_imported(self, module: str, processor: str, allowed: bool) -> None:
        assert belongs(module, processor) == allowed

    @pytest.mark.parametrize(
        "named",
        [
            Named("os", "system", '{"args": ["true"], "kwargs": {}}'),
            Named(__name__, "asyncio", '{"args": [], "kwargs": {}}'),
            Named(__name__, "wait_for", '{"args": [], "kwargs": {}}'),
            Named(__name__, "nowhere", '{"args": [], "kwargs": {}}'),
            Named(__name__, "save", "[]"),
            Named("tests.unit.nowhere", "save", '{"args": [], "kwargs": {}}'),
        ],
        ids=lambda named: f"{named.module}:{named.function}",
    )
    def test_what_a_child_may_not_name(self, named: Named) -> None:
        with pytest.raises(ValueError, match=r"^write: "):
            find_write(named, __name__)


def test_secrets_are_taken_out_of_the_environment() -> None:
    secrets = {"REDIS_URL", "DATABASE_URL", "STREAMWORKER_GATEWAY_TOKEN", "PGPASSWORD"}
    assert without_secrets({**dict.fromkeys(secrets, "x"), "PATH": "/bin", "STREAMWORKER_DOCUMENTS_ROOT": "/srv"}) == {
        "PATH": "/bin",
        "STREAMWORKER_DOCUMENTS_ROOT": "/srv",
    }


class TestOutput:
    @pytest.fixture
    def pipe(self) -> tuple[int, int]:
        return os.pipe()

    async def test_lines_are_told_and_what_is_left_at_the_end(self, pipe: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", LOG.name)
        output = Output(pipe[0], lambda: {"position": 3}, asyncio.get_running_loop())
        os.write(pipe[1], b"one\n\ntwo" + b"x" * 10_000 + b"\nthree")
        output.finish_item()
        assert caplog.messages == ["one", "two" + "x" * (LONGEST_LINE - 3) + " (cut)", "three"]
        assert {record.__dict__["position"] for record in caplog.records} == {3}
        os.close(pipe[1])
        output.close()


# --- real children --------------------------------------------------------------------------------------------------------------


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


class Told:
    """A context that keeps what it is told."""

    log: Any = None
    cancelled = False
    deadline: float | None = None

    def __init__(self, batch: BatchInfo | None = None) -> None:
        self.batch = batch or BatchInfo(uuid4(), 1, {"to": "whom"})
        self.percents: list[float | None] = []
        self.saved: list[Any] = []

    def progress(self, percent: float | None = None, stage: str | None = None, message: str | None = None) -> Any:
        """See `Context`."""
        self.percents.append(percent)
        return DONE

    async def checkpoint(self, state: Any, *, wait: bool = True) -> None:
        """See `Context`."""
        self.saved.append(state)
        if state == "refused":
            raise RuntimeError("not stored")


@asynccontextmanager
async def opened(spec: str = WORK, most_items: int | None = None) -> AsyncIterator[IsolatedProcessor]:
    nursery = Nursery(None)
    processor = IsolatedProcessor("it", spec, nursery, most_items)
    try:
        await processor.load()
        await processor.open()
        yield processor
    finally:
        await processor.close()
        await nursery.close()


async def call(processor: IsolatedProcessor, payload: Any, context: Told | None = None, checkpoint: Any = None) -> Outcome:
    context = context or Told()
    await processor.ready()
    return await processor(Item(context.batch.id, 0, "key", payload, 1, checkpoint), context)


@pytest.fixture(params=["told of its end", "not told of its end"])
def pidfd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to learn that a process has ended: not every system tells."""
    if request.param == "not told of its end":
        monkeypatch.delattr(os, "pidfd_open")


async def test_what_comes_back(pidfd: None) -> None:
    async with opened() as processor:
        context = Told()
        big = {"number": 10**40, "text": "\U0001f600" * 70_000, "nested": [[None, True, 0.5]]}
        assert await call(processor, {"echo": big}, context) == Succeeded(frames.json_text(big))
        assert await call(processor, {"raise": "Permanent"}) == Failed("no", permanent=True)
        assert await call(processor, {"raise": "RetryAfter"}) == Failed("later", delay=31_536_000.0)
        assert await call(processor, {"checkpoint": [1, "a"]}, context) == Succeeded('[[1,"a"]]')
        assert context.saved == [[1, "a"]]
        refused = await call(processor, {"checkpoint": "refused"}, context)
        assert refused == Failed("not stored")
        assert await call(processor, {"metadata": 1}, context) == Succeeded('{"to":"whom"}')


async def test_a_death_between_two_items_costs_nobody_anything(pidfd: None) -> None:
    async with opened() as processor:
        outcome = await call(processor, {"pid": 1})
        assert isinstance(outcome, Succeeded)
        first = int(outcome.value or 0)
        os.kill(first, signal.SIGKILL)  # and nobody has noticed when the next item is handed over
        after = await call(processor, {"pid": 1})
        assert isinstance(after, Succeeded)
        assert int(after.value or 0) != first


async def test_deaths_in_an_item(pidfd: None) -> None:
    async with opened() as processor:
        assert await call(processor, {"exit": 7}) == Failed("the processor's process died: exit status 7")
        assert await call(processor, {"kill": 6}) == Failed("the processor's process died: signal 6 (SIGABRT)")
        assert isinstance(await call(processor, {"pid": 1}), Succeeded)


@pytest.mark.parametrize("how", ["wait", "block", "deaf"])
async def test_a_cancelled_call_is_interrupted(pidfd: None, how: str) -> None:
    async with opened() as processor:
        context = Told()
        pid = int((await call(processor, {"pid": 1})).value or 0)  # type: ignore[union-attr]
        running = asyncio.create_task(call(processor, {how: 1}, context))
        while not context.percents:  # noqa: ASYNC110 it tells when it has begun
            await asyncio.sleep(0.01)
        running.cancel()
        assert await running == Interrupted()
        after = await call(processor, {"pid": 1})
        assert isinstance(after, Succeeded)
        assert (int(after.value or 0) == pid) == (how == "wait"), "one that listens keeps its process"


class Series:
    """Gives one payload after the other, and keeps what became of those before."""

    def __init__(self, *payloads: Any) -> None:
        self.contexts = [Told()]
        self.successes: list[str | None] = []
        self._payloads = list(payloads)
        self._next = 0
        self.between: Callable[[], None] = lambda: None

    def take(self) -> tuple[Item, Told]:
        """The next item and its context."""
        position, self._next = self._next, self._next + 1
        context = Told(self.contexts[0].batch)
        self.contexts[position:] = [context]
        return Item(context.batch.id, position, f"key {position}", self._payloads[position], 1, None), context

    def follow(self, succeeded: Succeeded) -> tuple[Item, Told] | None:
        """See `IsolatedProcessor.__call__`."""
        if self._next == len(self._payloads):
            return None
        self.successes.append(succeeded.value)
        self.between()
        return self.take()

    async def run(self, processor: IsolatedProcessor) -> Outcome:
        """All of it, as far as it goes."""
        await processor.ready()
        return await processor(*self.take(), self.follow)


async def test_items_follow_one_another_in_one_child(pidfd: None) -> None:
    async with opened() as processor:
        series = Series({"pid": 1}, {"echo": "a"}, {"echo": "\U0001f600" * 70_000}, {"pid": 1})
        last = await series.run(processor)
        assert isinstance(last, Succeeded)
        assert series.successes == [last.value, '"a"', '"' + "\U0001f600" * 70_000 + '"']


@pytest.mark.parametrize(
    ("payload", "outcome"),
    [
        ({"raise": "Permanent"}, Failed("no", permanent=True)),
        ({"exit": 7}, Failed("the processor's process died: exit status 7")),
        ({"echo": _nested(100_000)}, Failed("the payload cannot be passed on: it is nested too deeply", permanent=True)),
    ],
    ids=["fails", "dies", "cannot be passed on"],
)
async def test_what_does_not_succeed_ends_the_series(pidfd: None, payload: Any, outcome: Outcome) -> None:
    async with opened() as processor:
        series = Series({"echo": 0}, {"echo": 1}, payload, {"echo": 3})
        assert await series.run(processor) == outcome
        assert series.successes == ["0", "1"]
        assert await call(processor, {"echo": 4}) == Succeeded("4")


async def test_a_death_before_the_next_has_begun_costs_it_nothing(pidfd: None) -> None:
    async with opened() as processor:
        series = Series({"pid": 1}, {"pid": 1}, {"pid": 1})
        series.between = lambda: os.kill(int(series.successes[-1] or 0), signal.SIGKILL)
        last = await series.run(processor)
        assert isinstance(last, Succeeded)
        assert len({*series.successes, last.value}) == 3, "each in a process of its own"


async def test_the_item_under_way_is_what_is_interrupted(pidfd: None) -> None:
    async with opened() as processor:
        series = Series({"echo": 0}, {"wait": 1}, {"echo": 2})
        running = asyncio.create_task(series.run(processor))
        while not series.contexts[-1].percents:  # noqa: ASYNC110 it tells when it has begun
            await asyncio.sleep(0.01)
        running.cancel()
        assert await running == Interrupted()
        assert series.successes == ["0"], "nothing follows an interruption"


@pytest.mark.parametrize("how", ["note", "helper", "outlive"])
async def test_what_an_item_stores_is_its_own(how: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with opened() as processor:
        series = Series(*({how: position} for position in range(200)), {"echo": "the last"}, *({"checkpoint": "own"} for _ in range(50)))
        assert isinstance(await series.run(processor), Succeeded)
        await call(processor, {"doze": 0.05})
    saved = [context.saved for context in series.contexts]
    assert saved[:200] == [[] if how == "outlive" else [position] for position in range(200)]
    assert saved[200:] == [[], *(["own"] for _ in range(50))]
    assert not any(context.percents for context in series.contexts)
    told = [(record.getMessage(), vars(record)["position"]) for record in caplog.records if "helper of" in record.getMessage()]
    assert told == [(f"helper of {position}", position) for position in range(200 if how == "helper" else 0)]


async def test_a_series_ends_with_the_items_that_a_process_may_serve() -> None:
    async with opened(most_items=2) as processor:
        series = Series({"pid": 1}, {"pid": 1}, {"pid": 1})
        second = await series.run(processor)
        assert isinstance(second, Succeeded)
        assert series.successes == [second.value]
        third = await call(processor, {"pid": 1})
        assert isinstance(third, Succeeded)
        assert third.value != second.value


async def test_one_that_is_cancelled_as_it_begins_keeps_its_process() -> None:
    async with opened() as processor:
        pid = await call(processor, {"pid": 1})
        for _ in range(20):
            running = asyncio.create_task(call(processor, {"wait": 1}))
            for _ in range(3):  # it is sent by then, and perhaps not read
                await asyncio.sleep(0)
            running.cancel()
            assert await running == Interrupted()
        assert await call(processor, {"pid": 1}) == pid


async def test_so_many_items_a_process() -> None:
    async with opened(most_items=2) as processor:
        pids = [(await call(processor, {"pid": 1})).value for _ in range(5)]  # type: ignore[union-attr]
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("tests.unit.isolated:nothing", "has no attribute 'nothing'"),
        ("tests.unit.isolated:Refusing", "could not start: ValueError: not today"),
        ("tests.unit.isolated:Dying", "could not start: the processor's process died: exit status 9"),
    ],
)
async def test_what_cannot_start_says_why(spec: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        async with opened(spec):
            pass


async def test_an_error_at_the_end_is_told() -> None:
    with pytest.raises(RuntimeError, match="ValueError: cannot leave"):
        async with opened("tests.unit.isolated:Stuck"):
            pass


async def test_nothing_is_left_behind(pidfd: None) -> None:
    before = set(os.listdir("/proc/self/fd"))
    async with opened() as processor:
        pids = {child.pid for child in processor._children}
        await call(processor, {"exit": 1})
    assert not [pid for pid in pids if process_lives(pid)]
    extra = set(os.listdir("/proc/self/fd")) - before
    assert not extra, [os.readlink(f"/proc/self/fd/{number}") for number in extra if os.path.exists(f"/proc/self/fd/{number}")]


END_WITH = """
import os, sys, time
from streamworker.processors import life
if sys.argv[2] == "thread":
    life._kernel_ends_us = lambda worker: False
life.end_with(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize("how", ["kernel", "thread"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_process_ends_with_its_worker(how: str, moment: str) -> None:
    ours, theirs = os.pipe()
    if moment == "before":
        os.close(theirs)
    line = [sys.executable, "-c", END_WITH, str(ours), how]
    child = subprocess.Popen(line, pass_fds=[ours], start_new_session=True, stdout=subprocess.PIPE, text=True)
    os.close(ours)
    assert child.stdout is not None
    if moment == "after":
        assert child.stdout.readline() == "ready\n"
        os.close(theirs)
    assert child.wait(20) == -signal.SIGKILL
    child.stdout.close()
