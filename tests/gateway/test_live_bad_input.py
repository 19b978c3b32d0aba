"""What live clients may get wrong: one clear sentence, a code, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from uuid import uuid4

import pytest
import websockets

from streamworker.messages import encode_event
from tests.gateway.live_scene import LiveScene, live_scene_on


@pytest.fixture
async def scene(redis_url: str, database_url: str) -> AsyncIterator[LiveScene]:
    async with live_scene_on(redis_url, database_url) as scene:
        yield scene


BAD_QUERIES = (
    "batch_id=x", "batch_id=", "batch_id=*&batch_id=", "batch_id=0b1f6a52-5e1c-4f5e-9a57-0d6f3f1f2a1", "batch=%00", "batch_id=' OR 1=1",
    "since=%0d%0a", f"since={'x' * 201}", "since=1&since=2", "batchid=1", "limit=1000000000",
)  # fmt: skip


@pytest.mark.parametrize("query", BAD_QUERIES)
async def test_a_query_that_cannot_be_read(scene: LiveScene, query: str) -> None:
    answer = await scene.get(query)
    assert answer.status_code == 400
    assert "expected" in answer.json()["error"]
    words = [word.partition("=") for word in query.split("&")]
    url = f"ws://127.0.0.1:{scene.port}/ws?" + "&".join(f"{name}={value.replace(' ', '%20')}" for name, _, value in words)
    async with websockets.connect(url, origin=websockets.Origin(f"http://127.0.0.1:{scene.port}")) as client:
        frames = []
        with suppress(websockets.ConnectionClosed):
            async for text in client:
                frames.append(json.loads(text))
    assert frames[-1]["type"] == "error"
    assert "expected" in frames[-1]["message"]
    assert (frames[-1]["code"], client.close_code) == (4400, 4400)


async def test_a_last_event_id_that_no_token_can_be(scene: LiveScene) -> None:
    assert (await scene.get("", **{"Last-Event-ID": "x" * 201})).status_code == 400
    async with scene.events(scene.batch_id, last_id="%0d%0aX: y") as stream:
        assert (await stream.frame() or {})["reset"]


@pytest.mark.parametrize("since", ["-1", str(2**64), "text", "9" * 200, "'; DROP TABLE"])
async def test_a_strange_since_is_answered_with_a_snapshot(scene: LiveScene, since: str) -> None:
    async with scene.events(scene.batch_id, since=since) as stream:
        snapshot = await stream.frame()
    assert snapshot is not None
    assert (snapshot["type"], snapshot["reset"]) == ("snapshot", True)


async def test_an_unknown_batch(scene: LiveScene) -> None:
    unknown = uuid4()
    answer = await scene.get(f"batch_id={unknown}")
    assert (answer.status_code, answer.json()) == (404, {"error": f"batch {unknown}: there is no batch with this id"})
    async with scene.socket(scene.batch_id, unknown) as client:
        assert await client.code() == 4404


REQUESTS = (
    "", "x", "{", "[]", "null", "{}", '{"type": "subscribe"}', '{"type": "subscribe", "batch_id": 7}',
    '{"type": "unsubscribe", "batch_id": "x"}',
    '{"type": "subscribe", "batch_id": "\\u0000"}', '{"type": "cancel", "batch_id": "x"}', '{"type": "ping"', "[" * 30_000,
    '{"type": "subscribe", "batch_id": "*", "since": "\\u0007"}', '{"type": "subscribe", "batch_id": "*", "since": []}',
)  # fmt: skip


async def test_requests_that_are_none(scene: LiveScene) -> None:
    async with scene.socket(scene.batch_id) as client:
        await client.until("live")
        for request in REQUESTS:
            await client.connection.send(request)
            error = await client.frame()
            assert (error["type"], error["code"]) == ("error", 4400), request
            assert "expected" in error["message"]
        await scene.step(1)  # and it is still told
        assert (await client.event())["event"]["revision"] == 1


async def test_the_answer_names_what_it_is_about(scene: LiveScene) -> None:
    async with scene.socket() as client:
        for kind, given in (("subscribe", "x"), ("unsubscribe", "\u2028\x00"), ("subscribe", ""), ("subscribe", "y" * 5_000)):
            await client.say(type=kind, batch_id=given)
            error = await client.frame()
            assert (error["code"], error["batch_id"]) == (4400, given[:100])
        await client.say(type="subscribe", batch_id=str(scene.batch_id).upper(), since="\u0007")
        assert (await client.frame())["batch_id"] == str(scene.batch_id).upper()
        await client.connection.send('{"type": "cancel", "batch_id": "x"}')
        assert "batch_id" not in await client.frame()


async def test_too_many_messages(scene: LiveScene) -> None:
    async with scene.socket() as client, scene.socket(scene.batch_id) as other:
        await other.until("live")
        with suppress(websockets.ConnectionClosed):
            for _ in range(20_000):
                await client.connection.send('{"type":"ping"}')
        assert await client.code() == 1008
        await scene.step(1)
        assert (await other.event())["event"]["revision"] == 1


async def test_too_many_batches(scene: LiveScene) -> None:
    ids = [uuid4() for _ in range(101)]
    answer = await scene.get("&".join(f"batch_id={id}" for id in ids))
    assert "at most 100" in answer.json()["error"]
    batches = [await scene.submit(1) for _ in range(101)]
    async with scene.socket(*(batch.batch_id for batch in batches[:100])) as client:
        await client.until("live")
        await client.say(type="subscribe", batch_id=str(batches[100].batch_id))
        error = await client.frame()
        assert "at most 100" in error["message"]
        assert error["batch_id"] == str(batches[100].batch_id)
        await client.say(type="subscribe", batch_id="*")
        assert (await client.until("live"))[-1]["batch_id"] == "*"


async def test_no_room_for_another_client(scene: LiveScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamworker.gateway.hub.MOST_CONNECTIONS", 1)
    async with scene.socket():
        async with scene.socket(greeted=False) as second:
            assert await second.code() == 4503
        answer = await scene.get("")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_strange_entries_in_the_stream_are_passed_over(scene: LiveScene) -> None:
    async with scene.socket(scene.batch_id) as client:
        await client.until("live")
        mine = str(scene.batch_id)
        for fields in ({"x": "y"}, {"batch_id": mine}, {"batch_id": mine, "event": b"\xff"}, {"batch_id": mine, "event": b'{"v": 9}'}):
            await scene.broker.xadd("progress", fields)
        forged = scene.event(7, error="\n\ndata: forged\nid: 1\u2028\u202e")
        await scene.broker.xadd("progress", {"batch_id": str(uuid4()), "event": b"{}"})
        await scene.record(7)
        await scene.publish(forged)
        async with scene.events(scene.batch_id) as stream:
            while (await stream.frame() or {}).get("event", {}).get("revision") != 7:
                pass
        assert (await client.event())["event"]["revision"] == 7


async def test_line_breaks_in_texts_break_no_event_stream(scene: LiveScene) -> None:
    async with scene.events(scene.batch_id) as stream:
        await stream.frame()
        await stream.frame()
        raw = b'{\n"v": 1,\r\n' + json.dumps(json.loads(_raw(scene)))[1:].replace('"v": 1, ', "").encode()
        await scene.record(1)
        await scene.broker.xadd("progress", {"batch_id": str(scene.batch_id), "event": raw})
        event = await stream.frame()
    assert event is not None
    assert event["event"]["error"] == "a\r\ndata: b"


def _raw(scene: LiveScene) -> bytes:
    return encode_event(scene.event(1, error="a\r\ndata: b"))


async def test_a_head_request_ends(scene: LiveScene) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", scene.port)
    writer.write(f"HEAD /events HTTP/1.1\r\nHost: 127.0.0.1:{scene.port}\r\nConnection: close\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"text/event-stream" in answer
    writer.close()
    assert not scene.hub._connections
