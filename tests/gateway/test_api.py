"""The REST API: what it answers, page by page, and what it says to requests that make no sense."""

from __future__ import annotations

import base64
import json
import logging
import random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from streamworker.gateway import actions, recent
from streamworker.messages import dead_letter
from tests.gateway.asgi import ask
from tests.gateway.conftest import HOST, ORIGIN, MakeApp, end, submit
from tests.servers import RedisServer

HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m\u202e"
PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
NOBODY = "0b1f6a52-5e1c-4f5e-9a57-0d6f3f1f2a10"


async def got(api: httpx.AsyncClient, path: str, status: int = 200) -> Any:
    answer = await api.get(path)
    assert answer.status_code == status, answer.text
    return answer.json()


async def posted(api: httpx.AsyncClient, path: str, body: Any = None, status: int = 200) -> Any:
    answer = await api.post(path, json={} if body is None else body)
    assert answer.status_code == status, answer.text
    return answer.json()


class TestBatches:
    async def test_the_newest_come_first_page_by_page(self, api: httpx.AsyncClient, database: asyncpg.Connection) -> None:
        ids = [await submit(database) for _ in range(5)]
        # Two of the same moment: their order must hold across a page's end.
        await database.execute("UPDATE streamworker.batches SET created_at = (SELECT created_at FROM streamworker.batches WHERE id = $1)"
                               " WHERE id = ANY ($2)", ids[0], ids[1:4])  # fmt: skip
        expected = [str(ids[4]), *sorted(str(one) for one in ids[:4])]
        seen, before = [], ""
        while True:
            page = await got(api, f"/api/batches?limit=2{before}")
            seen += [batch["id"] for batch in page["batches"]]
            if page["next"] is None:
                break
            before = f"&before={page['next']}"
        assert seen == expected

    async def test_by_status(self, api: httpx.AsyncClient, database: asyncpg.Connection) -> None:
        ended, pending = await submit(database), await submit(database)
        await end(database, ended, "completed", "failed", "completed")
        page = await got(api, "/api/batches?status=completed")
        assert [(batch["id"], batch["processed"], batch["failed"], batch["percent"]) for batch in page["batches"]] == [
            (str(ended), 3, 1, 100)
        ]
        assert [batch["id"] for batch in (await got(api, "/api/batches?status=pending"))["batches"]] == [str(pending)]
        assert await got(api, "/api/batches?status=failed") == {"batches": [], "next": None}

    async def test_one(self, api: httpx.AsyncClient, database: asyncpg.Connection) -> None:
        batch_id = await submit(database, metadata='{"name": "<b>"}')
        batch = await got(api, f"/api/batches/{str(batch_id).upper()}")
        assert (batch["id"], batch["status"], batch["total"], batch["metadata"]) == (str(batch_id), "pending", 3, {"name": "<b>"})


class TestItems:
    async def test_in_order_page_by_page(self, api: httpx.AsyncClient, database: asyncpg.Connection) -> None:
        batch_id = await submit(database, json.dumps([str(number) for number in range(7)]))
        first = await got(api, f"/api/batches/{batch_id}/items?limit=3")
        assert ([item["position"] for item in first["items"]], first["next"]) == ([0, 1, 2], 2)
        last = await got(api, f"/api/batches/{batch_id}/items?limit=4&after=2")
        assert ([item["key"] for item in last["items"]], last["next"]) == (["3", "4", "5", "6"], None)

    async def test_by_status(self, api: httpx.AsyncClient, database: asyncpg.Connection) -> None:
        batch_id = await submit(database)
        await end(database, batch_id, "completed", "failed", "cancelled", error=HOSTILE)
        for position, status in enumerate(("completed", "failed", "cancelled")):
            page = await got(api, f"/api/batches/{batch_id}/items?status={status}")
            assert [(item["position"], item["status"]) for item in page["items"]] == [(position, status)]
        assert (await got(api, f"/api/batches/{batch_id}/items?status=failed"))["items"][0]["error"] == HOSTILE
        assert await got(api, f"/api/batches/{batch_id}/items?status=pending") == {"items": [], "next": None}

    async def test_large_values_are_left_out_of_the_table(self, api: httpx.AsyncClient, database: asyncpg.Connection) -> None:
        items = [{"payload": {"n": 1}}, {"payload": "x" * 5000}, {"payload": ["y" * 2_000_000]}]
        batch_id = await submit(database, json.dumps(items))
        small, medium, huge = (await got(api, f"/api/batches/{batch_id}/items"))["items"]
        assert (small["payload"], "truncated" in small) == ({"n": 1}, False)
        assert (medium["payload"], medium["truncated"], huge["payload"], huge["truncated"]) == (None, True, None, True)
        assert (await got(api, f"/api/batches/{batch_id}/items/1"))["payload"] == "x" * 5000
        whole = await got(api, f"/api/batches/{batch_id}/items/2")
        assert whole["payload"] is None
        assert "2,000,004 bytes" in whole["left_out"]["payload"]

    async def test_numbers_come_as_they_were_sent(self, api: httpx.AsyncClient, database: asyncpg.Connection) -> None:
        batch_id = await submit(database, '[{"payload": {"n": 12345678901234567890123, "x": 1.10}}]')
        assert '"n": 12345678901234567890123' in (await api.get(f"/api/batches/{batch_id}/items/0")).text

    async def test_a_thumbnail(self, api: httpx.AsyncClient, database: asyncpg.Connection) -> None:
        batch_id = await submit(database)
        good = "data:image/png;base64," + base64.b64encode(PIXEL).decode()
        results = [good + "A" * 0, "data:image/svg+xml;base64,PHN2Zy8+", "data:image/png;base64,%%%"]
        for position, thumbnail in enumerate(results):
            await database.execute("UPDATE streamworker.items SET result = jsonb_build_object('thumbnail', $3::text, 'kind', 'png')"
                                   " WHERE batch_id = $1 AND position = $2", batch_id, position, thumbnail)  # fmt: skip
        line = (await got(api, f"/api/batches/{batch_id}/items"))["items"][0]
        assert (line["thumbnail"], line["result"]) == (True, {"kind": "png"})
        answer = await api.get(f"/api/batches/{batch_id}/items/0/thumbnail")
        assert (answer.content, answer.headers["content-type"], answer.headers["x-content-type-options"]) == (PIXEL, "image/png", "nosniff")
        for position in (1, 2, 9):
            assert "no thumbnail" in (await got(api, f"/api/batches/{batch_id}/items/{position}/thumbnail", 404))["error"]

    async def test_failures_by_what_they_say(self, api: httpx.AsyncClient, database: asyncpg.Connection) -> None:
        batch_id = await submit(database, json.dumps(["x"] * 30))
        await end(database, batch_id, *["failed"] * 25)
        await database.execute("SELECT set_config('streamworker.retrying', $1, false)", str(batch_id))
        await database.execute("UPDATE streamworker.items SET error = 'rare' WHERE batch_id = $1 AND position IN (3, 5)", batch_id)
        groups = (await got(api, f"/api/batches/{batch_id}/failures"))["groups"]
        assert groups[0] == {"error": "it broke", "count": 23, "positions": [0, 1, 2, 4, 6, 7, 8, 9, 10, 11]}
        assert groups[1] == {"error": "rare", "count": 2, "positions": [3, 5]}


class TestActions:
    async def test_cancel(self, api: httpx.AsyncClient, database: asyncpg.Connection) -> None:
        batch_id = await submit(database)
        assert await posted(api, f"/api/batches/{batch_id}/cancel") == {"cancelled": True}
        assert await posted(api, f"/api/batches/{batch_id}/cancel") == {"cancelled": False}
        assert (await got(api, f"/api/batches/{batch_id}"))["status"] == "cancelled"

    async def test_what_takes_long_goes_on_by_itself(
        self, api: httpx.AsyncClient, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch_id = await submit(database)
        async with database.transaction():
            await database.execute("SELECT FROM streamworker.items WHERE batch_id = $1 FOR UPDATE", batch_id)
            monkeypatch.setattr(actions, "LONGEST_WAIT", 3.0)
            assert await posted(api, f"/api/batches/{batch_id}/cancel", status=202) == {"at_work": actions.AT_WORK}
            assert (await got(api, f"/api/batches/{batch_id}"))["status"] == "pending"
        while (await got(api, f"/api/batches/{batch_id}"))["status"] != "cancelled":
            pass

    async def test_who_did_it_is_in_the_log(
        self, api: httpx.AsyncClient, database: asyncpg.Connection, caplog: pytest.LogCaptureFixture
    ) -> None:
        batch_id = await submit(database)
        with caplog.at_level(logging.INFO, "streamworker.gateway"):
            await posted(api, f"/api/batches/{batch_id}/cancel")
            await posted(api, f"/api/batches/{batch_id}/cancel")
            await posted(api, f"/api/batches/{batch_id}/retry", {"position": 2})
        lines = [
            (record.getMessage(), vars(record)["batch_id"], vars(record)["role"], vars(record)["address"])
            for record in caplog.records
            if record.name == "streamworker.gateway"
        ]
        assert lines == [(what, str(batch_id), "operator", "127.0.0.1") for what in ("batch cancelled", "items put back to pending")]

    async def test_retry_all_and_one(self, api: httpx.AsyncClient, database: asyncpg.Connection) -> None:
        batch_id = await submit(database)
        assert "has ended" in (await posted(api, f"/api/batches/{batch_id}/retry"))["reason"]
        await end(database, batch_id, "failed", "failed", "completed")
        assert await posted(api, f"/api/batches/{batch_id}/retry", {"position": 1}) == {"retried": 1}
        batch = await got(api, f"/api/batches/{batch_id}")
        assert (batch["status"], batch["processed"], batch["succeeded"], batch["failed"]) == ("pending", 2, 1, 1)
        await posted(api, f"/api/batches/{batch_id}/cancel")
        assert "nothing to retry at position 2" in (await posted(api, f"/api/batches/{batch_id}/retry", {"position": 2}))["reason"]
        assert await posted(api, f"/api/batches/{batch_id}/retry") == {"retried": 2}

    async def test_dead_letters(self, api: httpx.AsyncClient, redis_server: RedisServer) -> None:
        with redis_server.client() as redis:
            for number in range(3):
                fields = dead_letter([(b"batch_id", b"bad"), (b"items", b"x" * 5000)], "invalid_message", HOSTILE, f"{number}-1", "now")
                redis.xadd("batches:dead", dict(fields))
        page = await got(api, "/api/dead?limit=2")
        first = page["letters"][0]
        assert (len(page["letters"]), first["reason"], first["detail"], first["source_id"]) == (2, "invalid_message", HOSTILE, "0-1")
        assert (first["fields"]["batch_id"], len(first["fields"]["items"]), first["truncated"]) == ("bad", 4097, True)
        rest = await got(api, f"/api/dead?after={page['next']}")
        assert (len(rest["letters"]), rest["next"]) == (1, None)
        entry = (await posted(api, f"/api/dead/{first['id']}/requeue"))["entry"]
        with redis_server.client() as redis:
            assert redis.xrange("batches") == [(entry.encode(), {b"batch_id": b"bad", b"items": b"x" * 5000})]
        assert await posted(api, f"/api/dead/{page['next']}/drop") == {"dropped": True}
        assert "there is none" in (await posted(api, f"/api/dead/{page['next']}/drop", status=404))["error"]
        assert len((await got(api, "/api/dead"))["letters"]) == 1

    async def test_the_queue_and_the_workers(
        self, api: httpx.AsyncClient, redis_server: RedisServer, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recent, "FRESH", -1.0)
        numbers = {"length": 0, "pending": 0, "waiting": 0, "dead": 0, "progress_length": 0}
        assert await got(api, "/api/queue") == {"stream": "batches", "redis": True, **numbers}
        assert await got(api, "/api/workers") == {"workers": [], "redis": True}
        batch_id = await submit(database)
        await database.execute("UPDATE streamworker.batches SET status = 'processing', worker = 'w-1', epoch = 1,"
                               " lease_expires_at = clock_timestamp() + interval '15 s' WHERE id = $1", batch_id)  # fmt: skip
        with redis_server.client() as redis:
            for _ in range(3):
                redis.xadd("batches", {"batch_id": str(batch_id)})
            redis.xgroup_create("batches", "workers", "0")
            redis.xreadgroup("workers", "w-1", {"batches": ">"}, count=1)
            redis.xreadgroup("workers", "w-2", {"batches": ">"}, count=1)
        assert await got(api, "/api/queue") == {"stream": "batches", "redis": True, **numbers, "length": 3, "pending": 2, "waiting": 1}
        one, two = (await got(api, "/api/workers"))["workers"]
        assert (one["worker"], one["pending"], [held["batch_id"] for held in one["batches"]]) == ("w-1", 1, [str(batch_id)])
        assert 10 < one["batches"][0]["lease_seconds"] <= 15
        assert (two["worker"], two["batches"], two["idle_seconds"] < 60) == ("w-2", [], True)


BAD_PARAMETERS = [
    ("/api/batches?limit=0", "limit", "from 1 to 200"),
    ("/api/batches?limit=201", "limit", "'201'"),
    ("/api/batches?limit=1000000000", "limit", "whole number"),
    ("/api/batches?limit=-1", "limit", "'-1'"),
    ("/api/batches?limit=", "limit", "''"),
    ("/api/batches?limit=1_0", "limit", "'1_0'"),
    ("/api/batches?limit=%D9%A5", "limit", "whole number"),
    ("/api/batches?limit=1&limit=2", "limit", "twice"),
    ("/api/batches?status=done", "status", "pending, processing"),
    ("/api/batches?status=%0d%0aX", "status", "'\\r\\nX'"),
    ("/api/batches?before=xyz", "before", "the next of the page before"),
    (f"/api/batches?before={NOBODY}", "before", "the next of the page before"),
    (f"/api/batches?before=f{'_' * 31}", "before", "the next of the page before"),
    ("/api/batches?order=asc", "order", "expected only status, limit, before"),
    ("/api/batches/xyz", "batch id", "a UUID"),
    ("/api/batches/%00", "batch id", "a UUID"),
    (f"/api/batches/{NOBODY}?x=1", "x", "expected none"),
    ("/api/batches/xyz/items", "batch id", "a UUID"),
    ("/api/batches/xyz/failures", "batch id", "a UUID"),
    ("/api/batches/xyz/items/0", "batch id", "a UUID"),
    ("/api/batches/xyz/items/0/thumbnail", "batch id", "a UUID"),
    (f"/api/batches/{NOBODY}/items?after=-1", "after", "whole number"),
    (f"/api/batches/{NOBODY}/items?after=99999999999", "after", "whole number"),
    (f"/api/batches/{NOBODY}/items?after=18446744073709551616", "after", "whole number"),
    (f"/api/batches/{NOBODY}/items?status=ended", "status", "'ended'"),
    (f"/api/batches/{NOBODY}/items?status={'x' * 5000}", "status", "..."),
    (f"/api/batches/{NOBODY}/items/-1", "position", "whole number"),
    (f"/api/batches/{NOBODY}/items/2147483648", "position", "whole number"),
    (f"/api/batches/{NOBODY}/items/x/thumbnail", "position", "whole number"),
    ("/api/dead?after=5", "after", "dead letter"),
    ("/api/dead?after=18446744073709551616-0", "after", "dead letter"),
    ("/api/dead?limit=x", "limit", "whole number"),
    ("/api/workers?x=1", "x", "expected none"),
    ("/api/queue?x=1", "x", "expected none"),
]


async def test_bad_parameters_are_refused_with_a_sentence(api: httpx.AsyncClient) -> None:
    for path, name, words in BAD_PARAMETERS:
        error = (await got(api, path, 400))["error"]
        assert name in error, path
        assert words in error, path
        assert error.isprintable(), path
        assert len(error) < 300, path


UNKNOWN = [
    f"/api/batches/{NOBODY}",
    f"/api/batches/{NOBODY}/items",
    f"/api/batches/{NOBODY}/items?status=failed",
    f"/api/batches/{NOBODY}/items/0",
    f"/api/batches/{NOBODY}/failures",
]


async def test_an_unknown_batch_is_not_found(api: httpx.AsyncClient) -> None:
    for path in UNKNOWN:
        assert NOBODY in (await got(api, path, 404))["error"]


async def test_other_things_that_are_not_there(api: httpx.AsyncClient, database: asyncpg.Connection) -> None:
    batch_id = await submit(database)
    assert "no item at position 9" in (await got(api, f"/api/batches/{batch_id}/items/9", 404))["error"]
    assert NOBODY in (await posted(api, f"/api/batches/{NOBODY}/cancel", status=404))["error"]
    assert NOBODY in (await posted(api, f"/api/batches/{NOBODY}/retry", status=404))["error"]
    assert "there is none" in (await posted(api, "/api/dead/1-1/requeue", status=404))["error"]
    assert await got(api, "/api/nothing", 404) == {"error": "Not Found"}


BAD_BODIES: list[tuple[str, bytes, int]] = [
    ("cancel", b"[]", 400),
    ("cancel", b"not json", 400),
    ("cancel", b'{"x": 1}', 400),
    ("cancel", b"[" * 60_000, 400),
    ("cancel", b"\xff\xfe", 400),
    ("cancel", b" " * 70_000, 413),
    ("retry", b'{"position": -1}', 400),
    ("retry", b'{"position": "1"}', 400),
    ("retry", b'{"position": 1.5}', 400),
    ("retry", b'{"position": true}', 400),
    ("retry", b'{"position": 2147483648}', 400),
    ("retry", b'{"position": 1e400}', 400),
    ("retry", b"null", 400),
]


async def test_bad_bodies_are_refused_and_nothing_happens(api: httpx.AsyncClient, database: asyncpg.Connection) -> None:
    batch_id = await submit(database)
    for action, body, status in BAD_BODIES:
        answer = await api.post(f"/api/batches/{batch_id}/{action}", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == status, body[:20]
        assert answer.json()["error"].startswith("body: expected"), body[:20]
    assert await database.fetchval("SELECT status FROM streamworker.batches WHERE id = $1", batch_id) == "pending"


async def test_a_body_without_end_is_cut(api: httpx.AsyncClient) -> None:
    async def endless() -> Any:
        while True:
            yield b" " * 1000

    answer = await api.post(f"/api/batches/{uuid4()}/cancel", content=endless(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


async def test_methods(api: httpx.AsyncClient, database: asyncpg.Connection) -> None:
    batch_id: UUID = await submit(database)
    assert (await api.head(f"/api/batches/{batch_id}")).status_code == 200
    for method, path in (("DELETE", f"/api/batches/{batch_id}"), ("OPTIONS", "/api/batches"), ("GET", f"/api/batches/{batch_id}/cancel")):
        answer = await api.request(method, path)
        assert (answer.status_code, answer.json()) == (405, {"error": "Method Not Allowed"})


PIECES = [
    *("%00", "%ff", "%0d%0a", "%F0%9F%98%80", "\u0665", "-1", "1e9", "NaN", "null", "true", "..", "*", "'", '"', "%27%3B--", "%", "%zz"),
    *("+", "&", "=", "=x", "[]", "{id}", "0-0", "1-1", "limit=5", "limit", "status=failed", "after=3", "before="),
    *(" ", "9" * 30, NOBODY, NOBODY.upper(), "x" * 300),
]
PLACES = [
    *(["/api/batches?{}", "/api/batches/{}", "/api/batches/{}/items", "/api/dead?{}", "/api/dead/{}/drop"]),
    *(["/api/{}", "/api/queue?{}", "/static/{}", "/{}", "/events?{}"]),
    *(f"/api/batches/{NOBODY}/items?{{}}", f"/api/batches/{NOBODY}/items/{{}}", f"/api/batches/{NOBODY}/{{}}"),
]


async def test_whatever_is_asked_nothing_breaks(looked_at: MakeApp) -> None:
    app, draw = await looked_at(), random.Random(4711)
    for _ in range(400):
        words = "".join(draw.choice(PIECES) for _ in range(draw.randint(1, 4)))
        path = draw.choice(PLACES).format(words)
        method = draw.choice(["GET", "GET", "GET", "HEAD", "POST"])
        given = [("host", HOST), ("origin", ORIGIN), ("content-type", "application/json")]
        answer = await ask(app, method, path, given, draw.choice([b"", b"{}", b"\xff", b'{"position": 5}']))
        assert answer.status < 500, (method, path, answer)
        if answer.status >= 400 and method != "HEAD":
            assert isinstance(answer.json["error"], str), (method, path)
