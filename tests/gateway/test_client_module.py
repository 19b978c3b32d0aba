"""The client module in a real Node.js, against the real gateway."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.gateway.conftest import OPERATOR_TOKEN
from tests.gateway.live_scene import LiveScene, gateway_on, live_scene_on

MODULE = files("streamworker.gateway").joinpath("static", "streamworker.js")
DRIVER = Path(__file__).with_name("client_module.mjs")
NODE = shutil.which("node")


def node_flags() -> list[str] | None:
    """What this Node.js needs to have WebSockets; None where it cannot have them."""
    if NODE is None:
        return None
    major = int(subprocess.run([NODE, "--version"], capture_output=True, text=True, check=True).stdout[1:].split(".")[0])
    return [] if major >= 22 else ["--experimental-websocket"] if major >= 20 else None


FLAGS = node_flags()
pytestmark = pytest.mark.skipif(FLAGS is None, reason="needs Node.js 20 or later")


class Node:
    """A running client."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def say(self, *words: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words).encode() + b"\n")

    async def hear(self) -> list[Any]:
        """What it tells next."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 30)
        assert line, "it has ended"
        found: list[Any] = json.loads(line)
        return found

    async def until(self, wanted: Callable[[list[Any]], bool]) -> list[list[Any]]:
        """What it tells up to this."""
        found = [await self.hear()]
        while not wanted(found[-1]):
            found.append(await self.hear())
        return found

    async def revisions(self, name: str, last: int) -> list[int]:
        """The revisions that a watch sees up to one."""
        told = await self.until(lambda line: line[0] == name and line[1]["type"] in ("event", "snapshot") and _revision(line) >= last)
        return [_revision(line) for line in told if line[0] == name and "event" in line[1]]


def _revision(line: list[Any]) -> int:
    return int(line[1]["event"]["revision"])


@pytest.fixture
def node(tmp_path: Path) -> Callable[..., Any]:
    """Starts clients; the constants of the module can be changed."""

    @asynccontextmanager
    async def start(**constants: str) -> AsyncIterator[Node]:
        source = MODULE.read_text("utf-8")
        for name, value in constants.items():
            before, _, after = source.partition(f"const {name} = ")
            assert after, name
            source = f"{before}const {name} = {value};{after.partition(';')[2]}"
        (tmp_path / "streamworker.mjs").write_text(source, "utf-8")
        shutil.copy(DRIVER, tmp_path)
        assert NODE is not None
        assert FLAGS is not None
        pipe = asyncio.subprocess.PIPE
        line = [NODE, "--no-warnings", *FLAGS, DRIVER.name]
        process = await asyncio.create_subprocess_exec(*line, cwd=tmp_path, stdin=pipe, stdout=pipe, limit=2**24)
        try:
            yield Node(process)
        finally:
            process.kill()
            await process.wait()

    return start


@pytest.fixture
async def scene(redis_url: str, database_url: str) -> AsyncIterator[LiveScene]:
    async with live_scene_on(redis_url, database_url, gateway_token=OPERATOR_TOKEN) as scene:
        yield scene


def url(scene: LiveScene) -> str:
    return f"http://127.0.0.1:{scene.port}/ws"


TOKEN = {"token": OPERATOR_TOKEN}


def test_it_is_small() -> None:
    assert len(MODULE.read_bytes()) < 6_000


async def test_a_batch_from_its_snapshot_to_its_end(scene: LiveScene, node: Any) -> None:
    async with node() as client:
        client.say("connect", url(scene), TOKEN)
        client.say("watch", "one", str(scene.batch_id))
        await client.until(lambda line: line[0] == "one" and line[1]["type"] == "live")
        await scene.step(1)
        await scene.step(2)
        await scene.step(3, "completed")
        told = await client.until(lambda line: line == ["one", "over"])
    assert [line[1]["type"] for line in told[:-1]] == ["event", "event", "event", "end"]


async def test_another_batch_of_the_same_id_begins_anew(scene: LiveScene, node: Any) -> None:
    async with node() as client:
        client.say("connect", url(scene), TOKEN)
        client.say("watch", "all", "*")
        await client.until(lambda line: line[0] == "all" and line[1]["type"] == "live")
        await scene.step(1)
        await client.revisions("all", 1)
        async with scene.connection.transaction():
            await scene.connection.execute("DELETE FROM streamworker.batches WHERE id = $1", scene.batch_id)
            await scene.connection.execute("SELECT streamworker.submit($1, $2)", '["a"]', scene.batch_id)
        assert await client.revisions("all", 0) == [0]
        await scene.step(1)
        assert await client.revisions("all", 1) == [1]


async def test_it_comes_back_and_goes_on_where_it_was(scene: LiveScene, node: Any, redis_url: str, database_url: str) -> None:
    async with node() as client:
        client.say("connect", url(scene), TOKEN)
        for name, id in (("one", str(scene.batch_id)), ("all", "*")):
            client.say("watch", name, id)
            await client.until(lambda line, name=name: line[0] == name and line[1]["type"] == "live")
        await scene.step(1)
        await client.revisions("one", 1)
        await scene.stop()
        assert (await client.until(lambda line: line[0] == "state"))[-1][1]["connected"] is False
        await scene.step(2)
        await scene.step(3)
        async with gateway_on(redis_url, database_url, port=scene.port, gateway_token=OPERATOR_TOKEN):
            assert await client.revisions("one", 3) == [2, 3]  # what was missed, and nothing else
            await scene.step(4)
            assert await client.revisions("one", 4) == [4]
            client.say("watch", "second", str(scene.batch_id))  # one more reader of the same batch
            assert await client.revisions("second", 4) == [4]
            await scene.step(5, "completed")
            told = await client.until(lambda line: line == ["second", "over"])
        assert ["one", "over"] in told


async def test_what_is_older_is_dropped_and_who_leaves_is_told_no_more(scene: LiveScene, node: Any) -> None:
    async with node() as client:
        client.say("connect", url(scene), TOKEN)
        client.say("watch", "one", str(scene.batch_id), 3)  # a snapshot, live, and one event
        await client.until(lambda line: line[0] == "one" and line[1]["type"] == "live")
        await scene.step(1)
        await client.until(lambda line: line == ["one", "over"])
        async with asyncio.timeout(20):
            while any(connection.wanted for connection in scene.hub._connections):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        client.say("close")
        assert (await client.until(lambda line: line[0] == "state" and bool(line[1]["closed"])))[-1][1]["connected"] is False


async def test_a_batch_that_is_not_there_ends_the_watch_alone(scene: LiveScene, node: Any) -> None:
    async with node() as client:
        client.say("connect", url(scene), TOKEN)
        client.say("watch", "one", "00000000-0000-4000-8000-000000000000")
        told = await client.until(lambda line: line == ["one", "over"])
        assert told[-2][1]["code"] == 4404
        client.say("watch", "two", str(scene.batch_id))
        assert (await client.until(lambda line: line[0] == "two"))[-1][1]["type"] == "snapshot"


@asynccontextmanager
async def other_server(code: int | None) -> AsyncIterator[tuple[str, list[object]]]:
    """A server that greets and then closes with a code, or says nothing more."""
    visits: list[object] = []

    async def serve(connection: websockets.ServerConnection) -> None:
        visits.append(connection)
        await connection.send('{"type":"hello","role":"read","redis":true}')
        if code is not None:
            return await connection.close(code, "for a reason")
        await connection.wait_closed()

    async with websockets.serve(serve, "127.0.0.1", 0, subprotocols=[websockets.Subprotocol("streamworker.v1")]) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", visits


@pytest.mark.parametrize(("code", "back"), [(4401, False), (4404, False), (4503, True), (4508, True), (1008, True), (1012, True)])
async def test_whether_it_comes_back_is_said_by_the_code(node: Any, code: int, back: bool) -> None:
    async with other_server(code) as (address, visits), node(LONGEST="50") as client:
        client.say("connect", address)
        client.say("watch", "one", "*")
        if back:
            for _ in range(3):
                await client.until(lambda line: line[0] == "state" and line[1]["connected"])
            assert len(visits) >= 3
        else:
            told = await client.until(lambda line: line[0] == "one")
            assert told[-1] == ["one", "failed", "for a reason"]
            assert len(visits) == 1


async def test_silence_is_a_lost_connection(node: Any) -> None:
    async with other_server(None) as (address, visits), node(SILENCE="200", LONGEST="50") as client:
        client.say("connect", address)
        for _ in range(3):
            await client.until(lambda line: line[0] == "state" and line[1]["connected"])
        assert len(visits) >= 3
