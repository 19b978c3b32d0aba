"""`streamworker.testing.run_processor`: what it shows to the author of a processor, and how it names his mistakes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from streamworker import Permanent, Result, RetryAfter, Unavailable
from streamworker.errors import ConfigurationError
from streamworker.processors.loading import registry
from streamworker.testing import run_processor, run_processor_async


async def double(item: Any, context: Any) -> Any:
    await context.progress(50, stage="doubling", message=f"Doubling {item.payload}")
    return {"twice": item.payload * 2}


def plain(item: Any, context: Any) -> Any:
    context.progress(150)
    return [item.key, item.attempt, context.batch.total, dict(context.batch.metadata)]


async def paged(item: Any, context: Any) -> Any:
    done = item.checkpoint or []
    for page in range(len(done), 5):
        done.append((page, item.attempt))
        await context.checkpoint(done)
    return done


class Counting:
    opened = closed = 0

    async def __aenter__(self) -> None:
        Counting.opened += 1

    async def __aexit__(self, *_: object) -> None:
        Counting.closed += 1

    async def process(self, item: Any, context: Any) -> int:
        return item.payload


class NoSuchThing(Exception):
    pass


class Static:
    @staticmethod
    async def process(item: Any, context: Any) -> Any:
        return [item.payload]


class OfTheClass:
    @classmethod
    def process(cls, item: Any, context: Any) -> Any:
        return [item.payload]


class Inherited(Static):
    pass


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Counting.opened = Counting.closed = 0


def test_each_payload_has_its_run() -> None:
    first, second = run_processor(double, [3, 4])
    assert (first.position, first.key, first.payload, first.status, first.attempts) == (0, "0", 3, "completed", 1)
    assert (first.result, second.result, first.error) == ({"twice": 6}, {"twice": 8}, None)
    assert first.progress == ((50.0, "doubling", "Doubling 3"),)


def test_a_plain_function_and_the_batch() -> None:
    (run,) = run_processor(plain, ["a.jpg"], metadata={"by": "me"})
    assert run.result == ["a.jpg", 1, 1, {"by": "me"}]
    assert run.progress == ((100.0, None, None),)


@pytest.mark.parametrize("process", [Static, Static(), OfTheClass, OfTheClass(), Inherited])
def test_a_method_that_needs_no_instance(process: Any) -> None:
    assert run_processor(process, ["a"])[0].result == ["a"]


def test_a_built_in_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("a few words")
    assert run_processor("documents", ["note.txt"])[0].result["text"] == "a few words"


def test_fail_has_an_item_run_twice() -> None:
    runs = run_processor(plain, ["a", "b"], fail={1})
    assert [(run.status, run.attempts, run.error) for run in runs] == [("completed", 1, None), ("completed", 2, "failed on purpose")]
    assert run_processor(plain, ["a", "b"], fail=1) == runs
    assert run_processor(plain, ["a"], fail={0}, max_attempts=1)[0].status == "failed"


@pytest.mark.parametrize(
    ("error", "status", "attempts"),
    [
        (Permanent("no"), "failed", 1),
        (RetryAfter(3600, "no"), "completed", 2),
        (SystemExit("no"), "completed", 2),
        (NoSuchThing, "completed", 2),
    ],
)
def test_fail_takes_the_error_that_it_is_given(error: BaseException | type[BaseException], status: str, attempts: int) -> None:
    (run,) = run_processor(plain, ["a"], fail={0: error})
    assert (run.status, run.attempts) == (status, attempts)
    assert run.error in ("no", "SystemExit: no", "NoSuchThing")


def test_an_error_of_its_own_is_retried_and_kept() -> None:
    async def process(item: Any, context: Any) -> int:
        if item.attempt == 1:
            raise ValueError("the first time")
        return item.attempt

    (run,) = run_processor(process, [None])
    assert (run.status, run.attempts, run.result, run.error) == ("completed", 2, 2, "the first time")


def test_what_is_away_costs_no_attempt() -> None:
    starts: list[int] = []

    async def away(item: Any, context: Any) -> int:
        starts.append(item.attempt)
        if item.payload == "for ever" or len(starts) < 4:
            raise Unavailable("the model server is away")
        if len(starts) == 4:
            raise ValueError("and then it fails")
        return len(starts)

    there, never = run_processor(away, ["for a while", "for ever"])
    assert (there.status, there.attempts, there.result, starts[:5]) == ("completed", 2, 5, [1, 1, 1, 1, 2])
    assert (never.status, never.attempts, never.error, len(starts)) == ("pending", 0, "the model server is away", 15)


def test_a_death_after_a_checkpoint_goes_on_from_there() -> None:
    (run,) = run_processor(paged, ["book"], crash_at={0: 2})
    assert run.result == [[0, 1], [1, 1], [2, 2], [3, 2], [4, 2]]
    assert (run.attempts, run.error, run.checkpoint) == (2, "worker died while processing", run.result)


def test_a_death_in_a_thread() -> None:
    def process(item: Any, context: Any) -> Any:
        if item.checkpoint is None:
            context.checkpoint("half")
        return item.checkpoint

    assert run_processor(process, [1], crash_at={0: 1})[0].result == "half"


def test_a_death_at_the_end_opens_the_processor_afresh() -> None:
    runs = run_processor(Counting, [1, 2, 3], crash_at=1)
    assert [run.attempts for run in runs] == [1, 2, 1]
    assert (Counting.opened, Counting.closed) == (2, 1)


async def test_inside_a_loop_it_is_awaited() -> None:
    (run,) = await run_processor_async(double, [1])
    assert run.result == {"twice": 2}
    with pytest.raises(RuntimeError, match="use `await run_processor_async"):
        run_processor(double, [1])


def test_without_a_connection_a_write_is_not_called() -> None:
    async def never(connection: Any) -> None:
        raise AssertionError

    async def process(item: Any, context: Any) -> Result:
        return Result("value", write=never)

    assert run_processor(process, [1])[0].result == "value"


async def test_a_write_has_the_connection_and_may_fail(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE TABLE mine (n int PRIMARY KEY)")

    async def process(item: Any, context: Any) -> Result:
        return Result(item.payload, write=lambda connection: connection.execute("INSERT INTO mine VALUES ($1)", item.payload))

    runs = await run_processor_async(process, [1, 2, 1], connection=connection)
    assert [run.status for run in runs] == ["completed", "completed", "failed"]
    assert "duplicate key" in (runs[2].error or "")
    assert await connection.fetchval("SELECT count(*) FROM mine") == 2
    await connection.close()


# --- mistakes of authors: one sentence each, naming the fix ---------------------------------------------------------------------


def no_arguments() -> None: ...
def one_argument(item: Any) -> None: ...


class NoMethod:
    pass


class BadMethod:
    def process(self, item: Any) -> None: ...


class BadStatic:
    @staticmethod
    def process(self: Any, item: Any, context: Any) -> None: ...


class BadInit:
    def __init__(self, path: str) -> None: ...

    def process(self, item: Any, context: Any) -> None: ...


class BadOpening(Counting):
    async def __aenter__(self) -> Any:
        return 5


@pytest.mark.parametrize(
    ("process", "told"),
    [
        (no_arguments, "processor 'no_arguments': it is called with (item, context), its signature is ()"),
        (one_argument, "processor 'one_argument': it is called with (item, context), its signature is (item: 'Any')"),
        (NoMethod, "expected a function (item, context), or a class with a method process(self, item, context), got type"),
        (BadMethod, "processor 'BadMethod': it is called with (item, context)"),
        (BadStatic, "processor 'BadStatic': it is called with (item, context)"),
        (BadInit, "processor 'BadInit' could not start: TypeError: "),
        (BadOpening, "__aenter__ returned int, not a processor"),
        (5, "got int"),
        ("documentz", "expected module:attribute, or one of the installed processors ("),
        ("missing_module:process", "there is no module 'missing_module' on the path (is it in this folder, or installed?)"),
        ("broken_here:process", "importing broken_here failed: ZeroDivisionError: division by zero"),
        ("needs_more:process", "needs_more needs the module 'not_installed', which is not installed"),
        ("tests:nothing", "module tests has no attribute 'nothing'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(process: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_here.py").write_text("1 / 0")
    (tmp_path / "needs_more.py").write_text("import not_installed")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError) as refused:
        run_processor(process, [1])
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    for name in ("broken_here", "needs_more"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"max_attempts": 0}, "max_attempts: expected a whole number from 1, got 0"),
        ({"max_attempts": "2"}, "max_attempts: expected a whole number from 1, got '2'"),
        ({"fail": 2}, "fail: expected the position, from 0, of one of 2 payloads, got 2"),
        ({"fail": {-1: ValueError()}}, "fail: expected the position, from 0, of one of 2 payloads, got -1"),
        ({"fail": "1"}, "fail: expected the position, from 0, of one of 2 payloads, got '1'"),
        ({"crash_at": {0, 2}}, "crash_at: expected the position, from 0, of one of 2 payloads, got 2"),
        ({"crash_at": {2: 1}}, "crash_at: expected the position, from 0, of one of 2 payloads, got 2"),
        ({"crash_at": {1: 0}}, "crash_at: position 1: expected the number of a checkpoint, from 1, got 0"),
        ({"crash_at": {0, 1}, "fail": 1}, "fail: expected no position that is in crash_at as well, got 1"),
        ({"crash_at": {1: 1}}, "crash_at: the first attempt at position 1 ended before its checkpoint 1"),
        ({"fail": {0: "no"}}, "fail: position 0: expected an exception, got 'no'"),
        ({"fail": {0: int}}, "fail: position 0: expected an exception, got <class 'int'>"),
        ({"fail": {0: RetryAfter}}, "fail: position 0: expected an exception, got a class that needs arguments: RetryAfter"),
    ],
)  # fmt: skip
def test_an_argument_that_does_not_fit_is_one_sentence(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        run_processor(plain, ["a", "b"], **given)
    assert str(refused.value).startswith(told)


def test_a_death_that_was_not_to_be_had_is_one_sentence() -> None:
    class Failing(Counting):
        async def process(self, item: Any, context: Any) -> None:  # type: ignore[override]
            for number in range(item.payload):
                await context.checkpoint(number)
            raise ValueError("too soon")

    with pytest.raises(ConfigurationError) as refused:
        run_processor(Failing, [5, 2], crash_at={0: 5, 1: 3})
    assert str(refused.value) == "crash_at: the first attempt at position 1 ended before its checkpoint 3: too soon"
    assert (Counting.opened, Counting.closed) == (2, 1)  # the one that died is not closed


def offer(folder: Path, target: str) -> None:
    (folder / "offered.py").write_text("async def process(item, context):\n    return item.key\n")
    installed = folder / "offered-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[streamworker.processors]\nby-key = {target}\n")


@pytest.mark.parametrize("target", ["offered:process", "offered:process [fast]", "offered : process"])
def test_an_installed_package_offers_a_processor_by_name(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(tmp_path, target)
    monkeypatch.syspath_prepend(tmp_path)
    found = registry(["by-key"])
    assert found.specs == {"by-key": "offered:process"}
    assert run_processor("by-key", ["a"])[0].result == "a"
    assert run_processor("short=offered:process", ["a"])[0].result == "a"
    with pytest.raises(
        ConfigurationError, match=r"expected module:attribute, or one of the installed processors \(by-key, documents, ollama"
    ):
        registry(["by-kee"])


@pytest.mark.parametrize("target", ["offered", "offered [fast]", "offered:", "-", ""])
def test_an_entry_point_that_names_no_attribute_is_one_sentence(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(tmp_path, target)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError) as refused:
        registry(["by-key"])
    assert str(refused.value) == f"processor 'by-key': expected its entry point to be module:attribute, got {target!r}"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({1, 2}, "result cannot be stored: $: set is not JSON; expected dict, list, str, int, float, bool or None"),
        ({"a": [b"x"]}, "result cannot be stored: $.a[0]: bytes is not JSON"),
        (float("nan"), "result cannot be stored: $: nan is not JSON"),
        ({1: 2}, "result cannot be stored: $: a key is int, expected str"),
        (object(), "result cannot be stored: $: object is not JSON"),
    ],
)  # fmt: skip
def test_a_result_that_cannot_be_stored_is_one_sentence(value: Any, told: str) -> None:
    async def process(item: Any, context: Any) -> Any:
        return value

    (run,) = run_processor(process, [1])
    assert run.status == "failed"
    assert (run.error or "").startswith(told)


async def forgotten(item: Any) -> None: ...


def yields(item: Any, context: Any) -> Any:
    yield 1


async def yields_asynchronously(item: Any, context: Any) -> Any:
    yield 1


@pytest.mark.filterwarnings("ignore:coroutine 'forgotten' was never awaited")
@pytest.mark.parametrize(
    ("process", "told"),
    [
        (lambda item, context: forgotten(item), "$: coroutine is not JSON; expected what it gives when it is awaited, in an async"),
        (lambda item, context: {"text": forgotten(item)}, "$.text: coroutine is not JSON; expected what it gives when it is awaited"),
        (yields, "$: generator is not JSON; expected a list of what it yields"),
        (yields_asynchronously, "$: async_generator is not JSON; expected a list of what it yields"),
    ],
    ids=["coroutine", "inside", "generator", "async generator"],
)  # fmt: skip
def test_what_was_not_awaited_or_gone_through_is_one_sentence(process: Any, told: str) -> None:
    (run,) = run_processor(process, [1])
    assert run.status == "failed"
    assert (run.error or "").startswith(f"result cannot be stored: {told}")


def test_a_checkpoint_that_cannot_be_stored_is_one_sentence() -> None:
    async def process(item: Any, context: Any) -> None:
        await context.checkpoint({1, 2})

    (run,) = run_processor(process, [1])
    assert (run.error or "").startswith("checkpoint cannot be stored: $: set is not JSON")


def test_a_payload_that_cannot_be_submitted_is_refused() -> None:
    with pytest.raises(ValueError, match="set is not JSON"):
        run_processor(double, [{1}])
