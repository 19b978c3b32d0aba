"""Boundaries that only the wire shows: a worker is killed when a statement or a command of its own passes, whether or not that arrives."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from tests.flows.processors import act, hold, sleep
from tests.flows.scene import STREAM, Scene
from tests.flows.wires import Server, Wires

ITEMS = [sleep(30), act("fail", times=1), sleep(30)]
PLACES: dict[str, tuple[Server, str]] = {
    "create": ("postgres", "streamworker.submit"),
    "lock": ("postgres", "^SELECT b.status, b.pauses, b.processor"),
    "claim": ("postgres", "epoch = b.epoch \\+ 1"),
    "load": ("postgres", "SELECT i.position"),
    "record": ("postgres", "^-- The batch row is locked first"),
    "end": ("postgres", "SET status = 'completed'"),
    "announce": ("redis", "^XADD progress"),
    "note the announcement": ("postgres", "^-- Told, each"),
    "acknowledge": ("redis", "^XACK"),
    "commit the acknowledgement": ("redis", "^EXEC"),
}


def die_at(scene: Scene, server: Server, pattern: str, send: Callable[[], object], **settings: str) -> None:
    """Let a worker die when that passes, which `send` gives reason to."""
    with Wires(scene) as wires:
        worker = scene.start_worker(**wires.urls, **settings)
        wires.strike(server, pattern, worker.kill)
        send()
        assert worker.wait_ended() == -9


@pytest.mark.parametrize("place", PLACES)
def test_a_death_on_the_way_to_a_server(scene: Scene, place: str) -> None:
    batch_id = uuid4()
    die_at(scene, *PLACES[place], lambda: scene.job(ITEMS, batch_id=batch_id))
    scene.start_worker()
    row = scene.wait_end(batch_id)
    assert (row["processed"], row["total"]) == (3, 3)
    starts = scene.starts(batch_id)
    assert len(starts) == len(set(starts))
    scene.wait_announced(batch_id)


@pytest.mark.parametrize("place", ["^XADD batches:dead", "^XACK"])
def test_a_death_while_a_message_is_buried_loses_nothing(scene: Scene, place: str) -> None:
    die_at(scene, "redis", place, lambda: scene.xadd(batch_id="nonsense", note="keep me"))
    scene.start_worker()
    scene.wait(lambda: scene.letters() and scene.redis.xlen(STREAM) == 0, 15, "the letter")
    assert {letter[b"note"] for letter in scene.letters()} == {b"keep me"}
    assert len(scene.letters()) <= 2


def test_a_death_while_a_batch_is_put_on_the_stream(scene: Scene) -> None:
    found: list[UUID] = []
    die_at(scene, "redis", f"^XADD {STREAM} ", lambda: found.append(scene.submit(ITEMS)))
    scene.start_worker()
    scene.wait_end(found[0])
    assert scene.starts(found[0]) == [(0, 1), (1, 1), (1, 2), (2, 1)]


def test_a_death_while_its_entry_is_noted(scene: Scene) -> None:
    found: list[UUID] = []
    die_at(scene, "postgres", "SET entry_id", lambda: found.append(scene.submit(ITEMS)))
    scene.start_worker()
    scene.wait_end(found[0])
    starts = scene.starts(found[0])
    assert len(starts) == len(set(starts))


@pytest.mark.parametrize("place", [("postgres", "SET worker = NULL"), ("redis", "^EVALSHA .* first .* first")], ids=["release", "pass on"])
def test_a_death_while_handing_over(scene: Scene, place: tuple[Server, str]) -> None:
    with Wires(scene) as wires:
        first = scene.start_worker(**wires.urls, shutdown_timeout="0s", consumer="first")
        batch_id = scene.job([sleep(30), hold("gate"), sleep(30)])
        scene.wait_start(batch_id, 1)
        wires.strike(*place, first.kill)
        first.terminate()
        assert first.wait_ended() == -9
    scene.open("gate")
    scene.start_worker()
    assert scene.wait_end(batch_id)["succeeded"] == 3
    assert max(scene.attempts(batch_id)) <= 2
    scene.wait_announced(batch_id)
