"""What a gateway remembers of a batch: few samples, whatever its length, and what is in flight now."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import msgspec

from streamworker.gateway.chronicle import MOST_BATCHES, MOST_SAMPLES, Chronicle
from streamworker.messages import ItemEvent, ProgressEvent, encode_event, timestamp
from tests.gateway.conftest import submit
from tests.servers import RedisServer

START = datetime(2026, 1, 1, tzinfo=UTC)


def event(seconds: float, processed: int, *, batch_id: str = "b", revision: int | None = None, **more: Any) -> ProgressEvent:
    fields: dict[str, Any] = {"status": "processing", "epoch": 1, "items": [], "failed": 0, **more}
    return ProgressEvent(
        v=1, batch_id=batch_id, revision=processed if revision is None else revision, at=timestamp(START + timedelta(seconds=seconds)),
        total=10**6, processed=processed, succeeded=processed - fields["failed"], percent=0.0, eta_seconds=None, worker="w", error=None,
        **fields,
    )  # fmt: skip


def item(position: int, status: str = "processing", **more: Any) -> ItemEvent:
    return ItemEvent(position, f"item {position}", status, 1, **more)


def told(chronicle: Chronicle) -> list[tuple[str, int]]:
    return [(sample.at[11:19], sample.processed) for sample in chronicle.samples("b")]


class TestSamples:
    def test_one_a_second_and_the_newest(self) -> None:
        chronicle = Chronicle()
        for number in range(31):
            chronicle.hear(event(number / 10, number))
        assert told(chronicle) == [("00:00:00", 0), ("00:00:01", 10), ("00:00:02", 20), ("00:00:03", 30)]
        chronicle.hear(event(3.5, 35))
        assert told(chronicle)[-1] == ("00:00:03", 35)

    def test_of_a_long_batch_they_stay_few_and_reach_from_its_begin_to_its_end(self) -> None:
        chronicle = Chronicle()
        for number in range(100_000):
            chronicle.hear(event(number, number))
        samples = told(chronicle)
        assert len(samples) <= MOST_SAMPLES
        assert len(samples) > MOST_SAMPLES // 3
        assert (samples[0][1], samples[-1][1]) == (0, 99_999)
        steps = [after[1] - before[1] for before, after in pairwise(samples[:-1])]
        assert max(steps) < 2 * min(steps)

    def test_the_end_is_always_one(self) -> None:
        chronicle = Chronicle()
        chronicle.hear(event(0, 0))
        chronicle.hear(event(0.1, 5, status="completed"))
        assert told(chronicle) == [("00:00:00", 0), ("00:00:00", 5)]

    def test_a_retry_begins_anew(self) -> None:
        chronicle = Chronicle()
        for seconds, processed, revision in [(0, 0, 1), (5, 10, 2), (9, 8, 3), (12, 9, 4)]:
            chronicle.hear(event(seconds, processed, revision=revision))
        assert told(chronicle) == [("00:00:09", 8), ("00:00:12", 9)]

    def test_what_comes_late_tells_nothing(self) -> None:
        chronicle = Chronicle()
        chronicle.hear(event(5, 10))
        chronicle.hear(event(9, 7, items=[item(1)]))
        assert (told(chronicle), chronicle.in_flight("b")) == ([("00:00:05", 10)], [])

    def test_what_no_worker_of_ours_wrote_is_no_sample(self) -> None:
        chronicle = Chronicle()
        for change in (
            {"at": "yesterday"},
            {"at": ""},
            {"at": "0001-01-01T00:00:00"},
            {"at": "9999-12-31T23:59:59.9999999Z"},
            {"processed": -1},
            {"processed": 2**70},
            {"failed": 2**70},
        ):
            chronicle.hear(msgspec.structs.replace(event(0, 5), **change))
        assert told(chronicle) == []

    def test_so_many_batches_are_known(self) -> None:
        chronicle = Chronicle()
        for number in range(MOST_BATCHES + 2):
            chronicle.hear(event(0, 1, batch_id=str(number)))
            chronicle.hear(event(0, 1, batch_id="b"))
        assert (len(chronicle.samples("b")), chronicle.samples("0"), len(chronicle.samples("2"))) == (1, [], 0)
        assert len(chronicle.samples(str(MOST_BATCHES + 1))) == 1


class TestInFlight:
    def test_an_item_is_there_from_its_start_to_its_end(self) -> None:
        chronicle = Chronicle()
        chronicle.hear(event(0, 0, items=[item(0), item(1, percent=5.0)]))
        chronicle.hear(event(1, 1, items=[item(0, "completed"), item(1, percent=50.0, stage="ocr")]))
        assert [(one.position, one.percent, one.stage) for one in chronicle.in_flight("b")] == [(1, 50.0, "ocr")]

    def test_another_worker_begins_anew_and_the_end_is_the_end(self) -> None:
        chronicle = Chronicle()
        chronicle.hear(event(0, 0, items=[item(0)]))
        chronicle.hear(event(1, 0, revision=1, epoch=2, items=[item(3)]))
        assert [one.position for one in chronicle.in_flight("b")] == [3]
        chronicle.hear(event(2, 1, revision=2, epoch=2, status="cancelled"))
        assert chronicle.in_flight("b") == []


async def test_the_api_tells_it(api: httpx.AsyncClient, database: asyncpg.Connection, redis_server: RedisServer) -> None:
    batch_id, unseen = await submit(database), await submit(database)
    await database.execute("UPDATE streamworker.batches SET status = 'processing', worker = 'w', epoch = 1,"
                           " lease_expires_at = clock_timestamp() + interval '15 s' WHERE id = $1", batch_id)  # fmt: skip
    with redis_server.client() as redis:
        for number in range(3):
            told = event(number * 2, number, batch_id=str(batch_id), items=[item(number, stage="ocr")])
            redis.xadd("progress", {"batch_id": str(batch_id), "event": encode_event(told)})
    async with asyncio.timeout(10):
        while len(samples := (await api.get(f"/api/batches/{batch_id}/history")).json()["samples"]) < 3:  # noqa: ASYNC110 by way of Redis
            await asyncio.sleep(0.02)
    assert samples[1] == {"at": "2026-01-01T00:00:02.000Z", "processed": 1, "failed": 0}
    (worker,) = (await api.get("/api/workers")).json()["workers"]
    assert [(one["position"], one["stage"]) for one in worker["batches"][0]["current"]] == [(0, "ocr"), (1, "ocr"), (2, "ocr")]
    assert (await api.get(f"/api/batches/{unseen}/history")).json() == {"samples": []}
    assert (await api.get(f"/api/batches/{uuid4()}/history")).status_code == 404
