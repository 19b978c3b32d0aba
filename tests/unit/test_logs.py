"""Logs and events: one record is one line, no secret gets in, and no listener can harm the core."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamworker.observe import events
from streamworker.observe.events import BatchAcquired, BatchFinished, Event, Events, ItemFinished, ServerAway, Step
from streamworker.observe.logs import configure_logging, log_event, log_fields

ID = UUID("123e4567-e89b-42d3-a456-426614174000")
CANARY = "canary-s3cret"
NASTY = ["\r\nFAKE 2026 critical", "\x1b[31mred\x1b[0m", "\u202egpj.exe", "\x9b2J", "\u2028x", "a\0b", "\ud800", "\x7f", "\U000e0041"]
log = logging.getLogger("streamworker.test")


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    root.handlers[:] = [handler for handler in root.handlers if type(handler).__module__.startswith("_pytest.")]
    root.setLevel(level)
    logging.captureWarnings(False)


class Out(io.StringIO):
    """A log that is read back by the line."""

    def lines(self) -> list[str]:
        assert self.getvalue().endswith("\n")
        return self.getvalue()[:-1].split("\n")

    def records(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.lines()]


def logging_to(format: str, level: str = "debug", secrets: tuple[str, ...] = ()) -> Out:
    out = Out()
    configure_logging(level, format, secrets, out)
    return out


def test_a_json_line() -> None:
    out = logging_to("json")
    with log_fields(batch_id=ID, epoch=3):
        log.info("item %d done", 6, extra={"position": 6, "worker": "host-1", "share": 0.5, "tags": ("a", "b"), "none": None})
    (record,) = out.records()
    assert str(record.pop("at")).endswith("Z")
    assert record == {
        "level": "info",
        "logger": "streamworker.test",
        "message": "item 6 done",
        "batch_id": str(ID),
        "epoch": 3,
        "position": 6,
        "worker": "host-1",
        "share": 0.5,
        "tags": "a, b",
        "none": None,
    }


def test_a_console_line() -> None:
    out = logging_to("console")
    with log_fields(batch_id=ID):
        log.warning("slow", extra={"key": "my cat.jpg", "none": None, "empty": ""})
    logging.getLogger("elsewhere").error("x")
    first, second = out.lines()
    assert first.endswith(f"warning  slow batch_id={ID} key='my cat.jpg' empty=''")
    assert second.endswith("error    elsewhere: x")


@pytest.mark.parametrize("format", ["json", "console"])
@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_data_stays_on_its_line_and_moves_nothing(format: str, text: str) -> None:
    out = logging_to(format)
    with log_fields(stage=text):
        log.info(f"key {text}", extra={"key": text, text: 1})
        logging.getLogger(text).info("%s", text)
    assert all(line.isprintable() for line in out.lines())
    assert len(out.lines()) == 2


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_a_traceback_cannot_pass_for_a_line(text: str) -> None:
    out = logging_to("console")
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("it failed")
    first, *rest = out.lines()
    assert "it failed" in first
    assert all(line.startswith("    ") and line.isprintable() for line in rest)


def test_a_traceback_is_a_field_in_json() -> None:
    out = logging_to("json")
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("it failed")
    assert "ValueError: broken" in str(out.records()[0]["exception"])


@pytest.mark.parametrize("format", ["json", "console"])
def test_secrets_are_masked_wherever_they_stand(format: str) -> None:
    out = logging_to(format, secrets=("t0ken-" + CANARY, CANARY, ""))
    log.info("connect to redis://:hidden-pw@host/0 and 'postgresql://u:hidden-pw@host/db?sslpassword=hidden-pw'")
    log.info("login with %s failed", CANARY, extra={"url": "rediss://x:hidden-pw@h", "note": f"t0ken-{CANARY}", "list": [CANARY]})
    try:
        raise OSError(f"refused redis://u:hidden-pw@h for {CANARY}")
    except OSError:
        log.exception("x" * 20_000 + "redis://u:hidden-pw@h")
    assert CANARY not in out.getvalue()
    assert "hidden-pw" not in out.getvalue()
    assert "t0ken" not in out.getvalue()
    assert "redis://:***@host/0" in out.getvalue()


@pytest.mark.parametrize("format", ["json", "console"])
def test_whatever_is_logged_a_line_comes_out(format: str) -> None:
    class Rude:
        def __str__(self) -> str:
            raise RuntimeError

    logging.getLogger().handlers.clear()  # pytest's own raise where a record does not fit
    out = logging_to(format)
    log.info("%d", "no number")
    log.info(
        "value",
        extra={"rude": Rude(), "big": 10**5000, "large": 2**70, "nan": float("nan"), "deep": [[[Rude()]]], "at": "later", "level": "x"},
    )
    log.info("x" * 10_000_000)
    assert len(out.lines()) == 3
    assert "arguments do not fit" in out.lines()[0]
    assert len(out.getvalue()) < 100_000


def test_fields_belong_to_their_context() -> None:
    out = logging_to("json")

    async def run(number: int) -> None:
        with log_fields(batch_id=number):
            await asyncio.sleep(0)
            with log_fields(position=number):
                log.info("inside")
            await asyncio.to_thread(log.info, "thread")

    async def both() -> None:
        await asyncio.gather(run(1), run(2))

    asyncio.run(both())
    log.info("outside")
    *inside, outside = [(r["message"], r.get("batch_id"), r.get("position")) for r in out.records() if r["logger"] == "streamworker.test"]
    assert sorted(inside) == [("inside", 1, 1), ("inside", 2, 2), ("thread", 1, None), ("thread", 2, None)]
    assert outside == ("outside", None, None)


def test_configuring_again_replaces_and_leaves_the_handlers_of_others() -> None:
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    first, second = logging_to("json"), logging_to("console", "error")
    log.warning("no")
    log.error("once")
    assert first.getvalue() == ""
    assert len(second.lines()) == 1
    assert other in logging.getLogger().handlers


def test_every_subscriber_hears_every_event_until_it_unsubscribes() -> None:
    hub, first, second = Events(), list[Event](), list[Event]()
    stop = hub.subscribe(first.append)
    hub.subscribe(second.append)
    hub.emit(ServerAway("redis", "gone"))
    stop()
    hub.emit(ServerAway("redis", "gone again"))
    assert [len(first), len(second)] == [1, 2]


def test_a_subscriber_that_fails_is_told_of_once_and_harms_nobody() -> None:
    out, hub, heard = logging_to("json"), Events(), list[Event]()

    def broken(event: Event) -> None:
        raise RuntimeError("boom")

    hub.subscribe(broken)
    hub.subscribe(heard.append)
    for _ in range(3):
        hub.emit(ServerAway("redis", "gone"))
    assert len(heard) == 3
    (record,) = out.records()
    assert "broken raised on ServerAway" in str(record["message"])
    assert "boom" in str(record["exception"])


def test_events_may_come_from_any_thread() -> None:
    hub, heard = Events(), list[Event]()
    hub.subscribe(heard.append)

    def emit() -> None:
        for _ in range(100):
            hub.emit(ServerAway("redis", "x"))

    threads = [threading.Thread(target=emit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(heard) == 400


def test_a_step_may_stop_the_flow() -> None:
    hub, seen = Events(), list[Step]()
    hub.step(Step("record", "before", ID, 0))
    hub.on_step(seen.append)
    hub.step(Step("record", "after", ID, 0))
    assert seen == [Step("record", "after", ID, 0)]

    def die(step: Step) -> None:
        raise KeyboardInterrupt

    hub.on_step(die)
    with pytest.raises(KeyboardInterrupt):
        hub.step(Step("ack", "before"))


def test_events_are_frozen_and_fit_into_log_records() -> None:
    reserved = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
    kinds = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)]
    assert len(kinds) > 15
    assert not [(kind, field.name) for kind in kinds for field in fields(kind) if field.name in reserved]
    with pytest.raises(FrozenInstanceError):
        ServerAway("redis", "x").server = "y"  # type: ignore[misc]


def test_events_become_log_lines() -> None:
    out, hub = logging_to("json"), Events()
    hub.subscribe(log_event)
    hub.emit(BatchAcquired(ID, 3, "host-1", 100))
    hub.emit(ItemFinished(ID, 3, 6, "cat.jpg", 1, "completed", 0.5))
    hub.emit(ItemFinished(ID, 3, 7, "dog.jpg", 2, "failed", 0.5, error="no dog"))
    hub.emit(BatchFinished(ID, 3, "failed", 100, 1, 1, 9.5, error="too many"))
    hub.emit(ServerAway("redis", "refused redis://:hidden@h"))
    shown = [(r["level"], r["message"], r.get("batch_id"), r.get("position"), r.get("error")) for r in out.records()]
    assert shown == [
        ("info", "batch acquired", str(ID), None, None),
        ("debug", "ItemFinished", str(ID), 6, None),
        ("warning", "item failed", str(ID), 7, "no dog"),
        ("warning", "batch failed", str(ID), None, "too many"),
        ("warning", "server away, trying again", None, None, "refused redis://:***@h"),
    ]


@given(
    st.text(st.characters()), st.dictionaries(st.text(st.characters(), min_size=1), st.text(st.characters()) | st.integers() | st.floats())
)
@settings(max_examples=300, deadline=None)
def test_fuzz_lines(message: str, more: dict[str, object]) -> None:
    for format in ("json", "console"):
        out = logging_to(format)
        record = logging.makeLogRecord({"name": "x", "levelname": "INFO", "levelno": 20, "msg": message})
        vars(record).update({name: value for name, value in more.items() if name not in vars(record)})
        logging.getLogger().handle(record)
        assert len(out.lines()) == 1
        assert out.lines()[0].isprintable()
