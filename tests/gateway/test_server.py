"""The gateway as a process: how it starts and ends, and what it does with bytes that are no good requests."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
from uvicorn.server import ServerState
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from streamworker.cli import main
from streamworker.gateway import garbage, protocols
from streamworker.gateway.application import build
from streamworker.gateway.protocols import Bounds, Gate, WebSocketProtocol
from streamworker.gateway.server import Server, configure, listen, place_of
from tests.gateway.conftest import OPERATOR_TOKEN, READ_TOKEN, settings_for
from tests.servers import RedisServer, die_with_parent, wait_for

ROOT = Path(__file__).resolve().parents[2]
SAYS = "streamworker: the gateway serves "
Environment = dict[str, str]


class Process:
    """`python -m streamworker gateway`, at a port that the system chose."""

    def __init__(self, environment: Environment, log: Path, *flags: str, folder: Path = ROOT) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streamworker", "gateway", "--address", "127.0.0.1:0", *flags],
                cwd=folder, env=environment | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip

    @property
    def url(self) -> str:
        """Where it says that it serves."""
        wait_for(lambda: SAYS in self.log() or self.process.poll() is not None, 40, "the gateway to serve")
        assert SAYS in self.log(), self.log()
        return next(line.removeprefix(SAYS) for line in self.log().splitlines() if line.startswith(SAYS)).rstrip("/")

    def log(self) -> str:
        return self._log.read_text("utf-8", "backslashreplace")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def environment(worker_environment: Environment) -> Environment:
    return worker_environment


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Any]:
    """Starts gateways, and is rid of them at the end."""
    processes: list[Process] = []

    def start(environment: Environment, *flags: str, folder: Path = ROOT) -> Process:
        processes.append(Process(environment, tmp_path / f"gateway-{len(processes)}.log", *flags, folder=folder))
        return processes[-1]

    yield start
    for one in processes:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def refused(environment: Environment, *flags: str) -> tuple[int, str]:
    """What a gateway says that does not start."""
    line = [sys.executable, "-m", "streamworker", "gateway", *flags]
    done = subprocess.run(line, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.stdout == ""
    return done.returncode, done.stderr


async def close_code(client: Any) -> int:
    """The code that the server closes a WebSocket with."""
    with suppress(ConnectionClosed):
        async for _ in client:
            pass
    return int(client.close_code)


class TestStart:
    def test_it_says_where_it_serves_and_ends_with_0(self, started: Any, environment: Environment) -> None:
        gateway = started(environment)
        assert httpx.get(f"{gateway.url}/healthz").text == "ok"
        assert httpx.get(f"{gateway.url}/api/batches").json() == {"batches": [], "next": None}
        assert "<html" in httpx.get(gateway.url).text
        assert gateway.end() == 0
        assert "Traceback" not in gateway.log()

    def test_with_embedded_servers(self, started: Any, clean_environment: Environment, tmp_short: Path) -> None:
        gateway = started(clean_environment, folder=tmp_short)
        url = gateway.url
        submit = [sys.executable, "-m", "streamworker", "submit", "--jsonl", "-"]
        subprocess.run(submit, cwd=tmp_short, env=clean_environment | {"PYTHONPATH": str(ROOT)}, input=b'"a"\n', check=True, timeout=60,
                       capture_output=True)  # fmt: skip
        assert [batch["total"] for batch in httpx.get(f"{url}/api/batches").json()["batches"]] == [1]
        assert gateway.end(signal.SIGINT) == 0

    @pytest.mark.parametrize(
        ("flags", "variables", "words"),
        [
            (("--address", "0.0.0.0:0"), {}, "STREAMWORKER_GATEWAY_TOKEN: not set although STREAMWORKER_GATEWAY_ADDRESS is 0.0.0.0:0"),
            (("--address", "[::]:0"), {}, "STREAMWORKER_GATEWAY_TOKEN: not set"),
            (("--address", "192.0.2.1:80"), {}, "STREAMWORKER_GATEWAY_TOKEN: not set"),
            (("--gateway-hosts", "jobs.example.com"), {}, "STREAMWORKER_GATEWAY_HOSTS names jobs.example.com; expected a token"),
            (("--gateway-hosts", "a b"), {}, "--gateway-hosts: expected host names such as"),
            (("--gateway-hosts", "http://x"), {}, "--gateway-hosts: expected host names such as"),
            (("--gateway-origins", "https://x/"), {}, "--gateway-origins: expected origins such as"),
            (("--gateway-origins", "x.com"), {}, "--gateway-origins: expected origins such as"),
            (("--gateway-origins", "https://x:443"), {}, "(no path, no :443 or :80)"),
            (("--gateway-origins", "*"), {}, "--gateway-origins: expected origins such as"),
            (("--address", "localhost"), {}, "expected host:port"),
            ((), {"GATEWAY_READ_TOKEN": "canary-r"}, "STREAMWORKER_GATEWAY_TOKEN: not set although STREAMWORKER_GATEWAY_READ_TOKEN is set"),
            ((), {"GATEWAY_READ_TOKEN": "canary-r", "GATEWAY_TOKEN": "canary-r"}, "STREAMWORKER_GATEWAY_TOKEN: the same although"),
            ((), {"GATEWAY_TOKEN": "canary r"}, "STREAMWORKER_GATEWAY_TOKEN: expected 1 to 1,000 printable ASCII characters"),
            ((), {"GATEWAY_HOST": "x"}, "did you mean STREAMWORKER_GATEWAY_HOSTS?"),
            (("--gateway-token", "t"), {}, "unrecognized arguments"),
        ],
    )
    def test_what_does_not_fit_is_code_2(
        self,
        flags: tuple[str, ...],
        variables: Environment,
        words: str,
        clean_environment: Environment,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        for name in os.environ.keys() - clean_environment.keys():
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(f"STREAMWORKER_{name}", value)
        code = main(["gateway", *flags])
        said = capsys.readouterr().err
        assert (code, said.count("\n"), words in said) == (2, 1, True), said
        assert "canary" not in said

    @pytest.mark.parametrize("address", ["192.0.2.1:80", "no-such-host.invalid:80"])
    def test_an_address_that_is_not_ours_is_code_2(self, clean_environment: Environment, address: str) -> None:
        code, said = refused(clean_environment | {"STREAMWORKER_GATEWAY_TOKEN": "t"}, "--address", address)
        assert (code, said.count("\n")) == (2, 1)
        assert said.startswith(f"streamworker: STREAMWORKER_GATEWAY_ADDRESS {address}: ")

    def test_an_occupied_port_is_code_2(self, clean_environment: Environment) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            code, said = refused(clean_environment | {"STREAMWORKER_HOME": "/nonexistent/x"}, "--address", f"127.0.0.1:{port}")
        assert (code, said) == (
            2,
            f"streamworker: STREAMWORKER_GATEWAY_ADDRESS 127.0.0.1:{port}: Address already in use; "
            "give another one with --address (port 0: any free one)\n",
        )

    def test_without_the_extra_it_says_how_to_get_it(self, environment: Environment) -> None:
        block = (
            "import sys\n"
            "class None_:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name.split('.')[0] in ('starlette', 'uvicorn'): raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
            "sys.meta_path.insert(0, None_())\n"
            "from streamworker.cli import main\n"
            "sys.exit(main(['gateway']))\n"
        )
        done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert "pip install 'streamworker[gateway]'" in done.stderr
        assert done.stderr.count("\n") == 1

    def test_servers_that_cannot_be_used(self, environment: Environment, empty_database_url: str) -> None:
        code, said = refused(environment | {"DATABASE_URL": "postgresql://user:canary-p@127.0.0.1:1/x"}, "--address", "127.0.0.1:0")
        assert (code, said.count("\n")) == (1, 1)
        assert "nothing listens there" in said
        assert "canary-p" not in said
        code, said = refused(environment | {"DATABASE_URL": empty_database_url}, "--address", "127.0.0.1:0")
        assert (code, said.count("\n"), "run `python -m streamworker migrate`" in said) == (2, 1, True)


class TestEnd:
    async def test_clients_are_shown_out_with_a_code(self, started: Any, environment: Environment) -> None:
        gateway = started(environment)
        url = gateway.url
        async with (
            connect(url.replace("http", "ws") + "/ws?batch_id=*", origin=url) as client,
            httpx.AsyncClient() as browser,
            browser.stream("GET", f"{url}/events") as events,
        ):
            assert json.loads(await client.recv())["type"] == "hello"
            lines = events.aiter_lines()
            await anext(lines)
            gateway.process.terminate()
            assert await close_code(client) == 4503
            async for _ in lines:
                pass
        assert await asyncio.to_thread(gateway.process.wait, 20) == 0
        assert "Traceback" not in gateway.log()

    async def test_a_session_that_is_given_back_closes_its_socket_and_its_stream(self, started: Any, environment: Environment) -> None:
        gateway = started(environment | {"STREAMWORKER_GATEWAY_TOKEN": OPERATOR_TOKEN})
        url = await asyncio.to_thread(lambda: gateway.url)
        async with httpx.AsyncClient(base_url=url, headers={"origin": url}, timeout=20) as page:
            await page.post("/api/session", json={"token": OPERATOR_TOKEN})
            session = {"Cookie": "; ".join(f"{name}={value}" for name, value in page.cookies.items())}
            live = url.replace("http", "ws") + "/ws?batch_id=*"
            async with connect(live, origin=url, additional_headers=session) as socket, page.stream("GET", "/events") as events:
                assert json.loads(await socket.recv())["role"] == "operator"
                assert events.status_code == 200
                await page.delete("/api/session")
                assert await close_code(socket) == 4401
                assert await asyncio.wait_for(events.aread(), 10)
            async with connect(live, origin=url, additional_headers=session) as again:
                assert await close_code(again) == 4401
        assert await asyncio.to_thread(gateway.end) == 0
        assert "Traceback" not in gateway.log()

    def test_a_signal_before_it_serves(self, started: Any, environment: Environment) -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:  # a Postgres that says nothing
            gateway = started(environment | {"DATABASE_URL": f"postgresql://u@127.0.0.1:{mute.getsockname()[1]}/x"})
            mute.settimeout(30)
            connection, _ = mute.accept()
            with connection:
                assert gateway.end() == 0
        assert "Traceback" not in gateway.log()


class TestSecrets:
    def test_no_token_is_in_the_log_and_no_line_is_forged(self, started: Any, environment: Environment) -> None:
        tokens = {"STREAMWORKER_GATEWAY_TOKEN": OPERATOR_TOKEN, "STREAMWORKER_GATEWAY_READ_TOKEN": READ_TOKEN}
        gateway = started(environment | tokens, "--log-level", "debug", "--log-format", "console")
        url = gateway.url
        with httpx.Client(base_url=url, headers={"origin": url}) as client:
            for token in (OPERATOR_TOKEN, READ_TOKEN, "wrong-token-canary"):
                client.post("/api/session", json={"token": token})
                client.get("/api/batches", headers={"authorization": f"Bearer {token}"})
                client.get(f"/api/batches?token={token}")
                client.get(f"/api/x%0d%0aFAKE%20{token}%1b[31m")
        assert gateway.end() == 0
        log = gateway.log()
        assert [token for token in (OPERATOR_TOKEN, READ_TOKEN, "wrong-token-canary") if token in log] == []
        assert "\x1b" not in log
        assert not any(line.startswith("FAKE") for line in log.splitlines())
        assert log.count("a wrong token was given") == 2

    def test_the_command_line_of_the_process_shows_none(self, started: Any, environment: Environment) -> None:
        gateway = started(environment | {"STREAMWORKER_GATEWAY_TOKEN": OPERATOR_TOKEN})
        assert gateway.url
        assert OPERATOR_TOKEN.encode() not in Path(f"/proc/{gateway.process.pid}/cmdline").read_bytes()


@pytest.fixture
def serve(redis_server: RedisServer, database_url: str) -> Any:
    """Serves a gateway in this process with bounds of the test's own; returns host and port."""

    @asynccontextmanager
    async def run(bounds: Bounds) -> AsyncIterator[tuple[str, int]]:
        app = build(settings_for(redis_server.url, database_url))
        with listen("127.0.0.1", 0) as listener:
            listening = asyncio.Event()
            server = Server(configure(app, Gate(bounds)), app.state.running, listening.set)
            async with app.router.lifespan_context(app):
                serving = asyncio.create_task(server.serve(sockets=[listener]))
                await listening.wait()
                assert place_of(listener).startswith("http://127.0.0.1:")
                yield listener.getsockname()[:2]
                server.should_exit = True
                await serving

    return run


async def exchange(place: tuple[str, int], data: bytes) -> bytes:
    """Send bytes, and read until the other side closes."""
    reader, writer = await asyncio.open_connection(*place)
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(), 15)
    writer.close()
    return answer


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


class TestBytes:
    async def test_what_is_no_good_request(self, serve: Any) -> None:
        async with serve(Bounds(head_seconds=2)) as place:
            host = f"Host: 127.0.0.1:{place[1]}\r\n".encode()
            close = b"Connection: close\r\n\r\n"
            for request, expected in [
                (b"GET /healthz HTTP/1.1\r\n" + host + close, 200),
                (b"GET /healthz HTTP/1.0\r\n\r\n", 421),
                (b"GET /healthz HTTP/1.1\r\n" + close, 400),
                (b"GET /healthz HTTP/1.1\r\n" + host + host + close, 400),
                (b"GET /healthz HTTP/1.1\r\n" + host + b"Host: evil.com\r\n" + close, 400),
                (b"GET /healthz HTTP/1.1\r\n" + host + b"X: " + b"y" * 9000 + b"\r\n" + close, 431),
                (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n" + host + close, 414),
                (b"GET /healthz HTTP/1.1\r\n" + host + b"A: b\r\n" * 130 + close, 431),
                (b"GET http://evil.com/healthz HTTP/1.1\r\n" + host + close, 404),
                (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
                (b"GET /healthz\r\n\r\n", 400),
                (b"\r\n\r\n\r\n\r\nHELLO\r\n\r\n", 400),
                (b"POST /api/session HTTP/1.1\r\n" + host + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n" + close, 403),
                (b"POST /api/session HTTP/1.1\r\n" + host + b"Content-Length: -5\r\n" + close, 400),
                (b"CONNECT 127.0.0.1:22 HTTP/1.1\r\n" + host + close, 403),
            ]:
                answer = await exchange(place, request)
                assert status(answer) == expected, (request[:60], answer[:200])
                assert b"server:" not in answer.lower()
                assert b"Traceback" not in answer

    async def test_the_log_is_not_the_clients_to_fill(self, serve: Any, caplog: pytest.LogCaptureFixture) -> None:
        async with serve(Bounds()) as place:
            host = f"Host: 127.0.0.1:{place[1]}\r\n".encode()
            for _ in range(30):
                assert status(await exchange(place, b"GET /\xff HTTP/1.1\r\n\r\n")) == 400
            reader, writer = await asyncio.open_connection(*place)
            writer.write(b"POST /api/session HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n")
            assert b" 403 " in await reader.readline()
            writer.write(b"zz\r\n\r\n")
            await asyncio.wait_for(reader.read(), 15)
            writer.close()
            upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 5\r\n\r\nhello"
            assert status(await exchange(place, b"GET /ws HTTP/1.1\r\n" + host + upgrade)) in (0, 400)
            origin = f"http://127.0.0.1:{place[1]}"
            async with connect(origin.replace("http", "ws") + "/ws", origin=origin) as client:
                client.transport.write(b"\x81\x82\0\0\0\0\xff\xfe")
                assert await close_code(client) == 1007
        assert len(caplog.records) <= 15
        assert [record for record in caplog.records if record.exc_info] == []

    async def test_who_does_not_come_to_the_point_is_cut(self, serve: Any) -> None:
        async with serve(Bounds(head_seconds=0.3)) as place:
            host = f"Host: 127.0.0.1:{place[1]}\r\n".encode()
            whole = b"GET /healthz HTTP/1.1\r\n" + host + b"\r\n"
            for opening in (b"", b"G", whole[:-2], whole + whole[:20]):
                reader, writer = await asyncio.open_connection(*place)
                writer.write(opening)
                reading = asyncio.create_task(reader.read())
                while not reading.done():
                    if opening:
                        writer.write(b"x")  # a byte now and then keeps nobody here
                    await asyncio.wait([reading], timeout=0.05)
                assert isinstance(reading.exception(), ConnectionResetError | None), opening
                writer.close()
            assert status(await exchange(place, whole[:-2] + b"Connection: close\r\n\r\n")) == 200

    async def test_there_is_room_for_so_many(self, serve: Any) -> None:
        async with serve(Bounds(of_one_address=2, loopback_too=True)) as place:
            whole = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{place[1]}\r\nConnection: close\r\n\r\n".encode()
            origin = f"http://127.0.0.1:{place[1]}"
            async with (
                connect(f"ws://127.0.0.1:{place[1]}/ws", origin=origin) as first,
                connect(f"{origin.replace('http', 'ws')}/ws", origin=origin),
            ):
                assert status(await exchange(place, whole)) == 503
                await first.close()
                while status(answer := await exchange(place, whole)) == 503:
                    pass  # its connection has yet to end over there
                assert status(answer) == 200
        async with serve(Bounds(connections=1)) as place:
            reader, writer = await asyncio.open_connection(*place)
            assert status(await exchange(place, b"GET / HTTP/1.1\r\n\r\n")) == 503
            writer.close()
            assert await reader.read() == b""

    async def test_frames_that_are_none(self, serve: Any) -> None:
        async with serve(Bounds()) as place:
            origin = f"http://127.0.0.1:{place[1]}"
            url = origin.replace("http", "ws") + "/ws"
            async with connect(url, origin=origin, compression="deflate") as client:
                assert client.response is not None
                assert "Sec-WebSocket-Extensions" not in client.response.headers
                await client.send("x" * (64 * 1024 + 1))
                assert await close_code(client) == 1009
            for frame, code in [
                (b"\x81\x02hi", 1002),  # not masked
                (b"\xf1\x80\0\0\0\0", 1002),  # reserved bits
                (b"\x83\x80\0\0\0\0", 1002),  # no such kind
                (b"\x81\x82\0\0\0\0\xff\xfe", 1007),  # no UTF-8
                (b"\x88\x82\0\0\0\0\x03\xe7", 1002),  # close code 999
                (b"\x82\x81\0\0\0\0x", 1003),  # binary
            ]:
                async with connect(url, origin=origin) as client:
                    client.transport.write(frame)
                    assert await close_code(client) == code, frame
            async with connect(url, origin=origin) as client:
                assert json.loads(await client.recv())["type"] == "hello"

    @pytest.mark.parametrize(
        ("opening", "small"),
        [(b"", b"\x89\x80\0\0\0\0"), (b"", b"\x8a\x80\0\0\0\0"), (b"\x01\x81\0\0\0\0{", b"\x00\x80\0\0\0\0")],
        ids=["ping", "pong", "continuation"],
    )
    async def test_a_flood_of_small_frames_ends_its_connection_only(self, serve: Any, opening: bytes, small: bytes) -> None:
        async with serve(Bounds()) as place:
            origin = f"http://127.0.0.1:{place[1]}"
            url = origin.replace("http", "ws") + "/ws"
            async with connect(url, origin=origin) as flooder, connect(url, origin=origin) as other:
                flooder.transport.write(opening + 500 * small)
                await (await flooder.ping())  # so many are borne
                flooder.transport.write(600 * small)
                assert await close_code(flooder) == 1008
                await (await other.ping())

    async def test_a_message_of_endless_fragments(self, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(protocols, "FRAGMENTS", 10)
        async with serve(Bounds()) as place:
            origin = f"http://127.0.0.1:{place[1]}"
            async with connect(origin.replace("http", "ws") + "/ws", origin=origin) as client:
                client.transport.write(b"\x01\x81\0\0\0\0{" + 10 * b"\x00\x80\0\0\0\0")
                await (await client.ping())
                client.transport.write(b"\x00\x80\0\0\0\0")
                assert await close_code(client) == 1008

    async def test_who_takes_no_pongs_gets_the_last_one_later(self) -> None:
        written: list[bytes] = []
        transport = mock.Mock(asyncio.Transport, write=written.append)
        transport.is_closing.return_value = False
        transport.get_extra_info.return_value = None

        async def app(_scope: object, _receive: object, _send: object) -> None:
            pass

        one = WebSocketProtocol(configure(app, Bounds()), ServerState(), {}, gate=Gate(Bounds()))
        one.connection_made(transport)
        one.data_received(
            b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        one.pause_writing()
        for letter in (b"a", b"b"):
            one.data_received(b"\x89\x81\0\0\0\0" + letter)
        assert written == []
        one.resume_writing()
        assert written == [b"\x8a\x01b"]
        await asyncio.gather(*one.tasks)


async def test_no_full_collection_stops_anything_until_connections_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LOOK_EVERY", 0.01), ("OFTEN", 0.0), ("MANY", 3)):
        monkeypatch.setattr(garbage, name, value)
    before, ended, full = gc.get_threshold(), [0], list[int]()

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            full.append(info["collected"])

    with garbage.collected_seldom(lambda: ended[0]):
        gc.callbacks.append(note)
        try:
            kept = [[number] for number in range(300_000)]
            await asyncio.sleep(0.05)
            assert (len(kept), full) == (300_000, [])
            ended[0] = 3
            async with asyncio.timeout(20):
                while not full:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        finally:
            gc.callbacks.remove(note)
    assert gc.get_threshold() == before
