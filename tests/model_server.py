"""A model server for tests: real HTTP, in the wire formats of Ollama and of OpenAI, and in every way that such a server goes wrong.

Its vision model names the colour in the middle of a picture; its embedding model counts words:
descriptions can be foreseen, and searched.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
import sys
import threading
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 30, 30), "green": (30, 160, 60), "blue": (30, 60, 220), "yellow": (240, 220, 40), "black": (10, 10, 10),
    "orange": (250, 140, 20), "purple": (130, 30, 160), "white": (250, 250, 250),
}  # fmt: skip
DIMENSION = 64
Fault = Callable[["Handler"], None]
REFUSAL = "I'm sorry, but I cannot see any image in this conversation."


class QuietServer(ThreadingHTTPServer):
    """Clients of tests are killed, or hang up: that is no news."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class ModelServer:
    """Answers until it is told otherwise: `then(path, fault)` has the next request to a path go wrong; `requests` keeps what was asked."""

    def __init__(self) -> None:
        self.models = ["qwen2.5vl:latest", "nomic-embed-text:latest"]
        self.dimension = DIMENSION
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self._http = QuietServer(("127.0.0.1", 0), type("Bound", (Handler,), {"server_of_models": self}))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def then(self, path: str, *faults: Fault) -> None:
        """Have the next requests to a path go wrong."""
        self._faults[path].extend(faults)

    def fault(self, path: str) -> Fault | None:
        """What is to go wrong now, if anything."""
        return self._faults[path].popleft() if self._faults[path] else None

    def asked(self, path: str) -> list[Any]:
        """The bodies of all requests to a path."""
        return [body for at, _, body in self.requests if at == path]

    def close(self) -> None:
        """Refuse connections from now on."""
        self._http.shutdown()
        self._http.server_close()


@contextmanager
def model_server() -> Iterator[ModelServer]:
    """A server, closed at the end."""
    server = ModelServer()
    try:
        yield server
    finally:
        server.close()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_of_models: ModelServer

    def do_GET(self) -> None:
        self._serve(None)

    def do_POST(self) -> None:
        self._serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _serve(self, body: Any) -> None:
        models = self.server_of_models
        models.requests.append((self.path, dict(self.headers), body))
        self.body = body
        (models.fault(self.path) or answers)(self)

    def reply(self, status: int, value: Any, **headers: str) -> None:
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(raw)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


# --- what goes wrong ------------------------------------------------------------------------------------------------------------------


def status(code: int, value: Any, **headers: str) -> Fault:
    """An error of the server."""
    return lambda handler: handler.reply(code, value, **headers)


BUSY = status(503, {"error": "server busy, please try again.  maximum pending requests exceeded"})
LIMITED = status(429, {"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}})


def says(text: str, reason: str = "stop") -> Fault:
    """The vision model says this."""
    return lambda handler: handler.reply(200, (_chat if handler.path == "/api/chat" else _completion)(text, reason))


def answers(handler: Handler) -> None:
    """Nothing goes wrong."""
    handler.reply(200, ANSWERS[handler.path](handler.server_of_models, handler.body))


def raw(content: bytes) -> Fault:
    """Not what it should be."""
    return lambda handler: handler.reply(200, content)


def breaks_off(handler: Handler) -> None:
    """Half of an answer, then the end of the connection."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"message": {"content": "A red')
    handler.close_connection = True


def hangs_up(handler: Handler) -> None:
    """The end of the connection, without a word."""
    handler.close_connection = True


def trickles(handler: Handler) -> None:
    """A stream of single bytes that never ends by itself."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    pause = threading.Event()
    try:
        while not pause.wait(0.02):
            handler.wfile.write(b"1\r\n \r\n")
    except OSError:
        handler.close_connection = True


class Gate:
    """A request that waits: `arrived` tells that it is there, `open` lets it go on, with what comes `then`."""

    def __init__(self, then: Fault | None = None) -> None:
        self.arrived, self.open, self._then = threading.Event(), threading.Event(), then or hangs_up

    def __call__(self, handler: Handler) -> None:
        self.arrived.set()
        self.open.wait(60)
        self._then(handler)


# --- what it answers ------------------------------------------------------------------------------------------------------------------


def _chat(text: str, reason: str = "stop") -> dict[str, Any]:
    return {
        "model": "qwen2.5vl", "created_at": "2026-01-01T00:00:00.000000Z", "message": {"role": "assistant", "content": text},
        "done_reason": reason, "done": True, "total_duration": 5191566416, "load_duration": 2154458, "prompt_eval_count": 26,
        "prompt_eval_duration": 383809000, "eval_count": 298, "eval_duration": 4799921000,
    }  # fmt: skip


def _completion(text: str, reason: str = "stop") -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": None, "finish_reason": reason}
    usage = {"prompt_tokens": 26, "completion_tokens": 298, "total_tokens": 324}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1767225600,
        "model": "qwen2.5vl",
        "choices": [choice],
        "usage": usage,
    }


def _embed(models: ModelServer, body: Any) -> dict[str, Any]:
    vector = vector_of(body["input"], models.dimension)
    return {"model": body["model"], "embeddings": [vector], "total_duration": 14143917, "load_duration": 1019500, "prompt_eval_count": 8}


def _embeddings(models: ModelServer, body: Any) -> dict[str, Any]:
    datum = {"object": "embedding", "index": 0, "embedding": vector_of(body["input"], models.dimension)}
    return {"object": "list", "data": [datum], "model": body["model"], "usage": {"prompt_tokens": 8, "total_tokens": 8}}


def _tags(models: ModelServer, _body: Any) -> dict[str, Any]:
    details = {"format": "gguf", "family": "qwen2", "families": None, "parameter_size": "7.6B", "quantization_level": "Q4_K_M"}
    more = {"modified_at": "2026-01-01T00:00:00.0Z", "size": 4683087332, "digest": "845dbda0ea48", "details": details}
    return {"models": [{"name": name, "model": name, **more} for name in models.models]}


def _listed(models: ModelServer, _body: Any) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [{"id": name.removesuffix(":latest"), "object": "model", "owned_by": "library"} for name in models.models],
    }


def _described(_models: ModelServer, body: Any) -> dict[str, Any]:
    return _chat(description(body["messages"][0]["images"][0]))


def _completed(_models: ModelServer, body: Any) -> dict[str, Any]:
    url = body["messages"][0]["content"][1]["image_url"]["url"]
    return _completion(description(url.removeprefix("data:image/jpeg;base64,")))


ANSWERS: dict[str, Callable[[ModelServer, Any], Any]] = {
    "/api/chat": _described, "/api/embed": _embed, "/api/tags": _tags,
    "/v1/chat/completions": _completed, "/v1/embeddings": _embeddings, "/v1/models": _listed,
}  # fmt: skip


def description(image: str) -> str:
    """What the vision model sees in a picture: the colour in its middle."""
    with Image.open(io.BytesIO(base64.b64decode(image))) as picture:
        middle = picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2))
    colour = min(COLOURS, key=lambda name: math.dist(COLOURS[name], middle))
    return f"A large {colour} circle stands in the middle of a plain grey background. Nothing else is to be seen in the picture."


def vector_of(text: str, dimension: int) -> list[float]:
    """A text as the embedding model sees it: how often which words are in it."""
    vector = [0.0] * dimension
    for word in re.findall(r"\w+", text.lower()):
        vector[zlib.crc32(word.encode()) % dimension] += 1.0
    return vector


def picture_of(colour: str, size: int = 200) -> Image.Image:
    """A picture that the vision model sees the colour of."""
    image = Image.new("RGB", (size, size), (128, 128, 128))
    ImageDraw.Draw(image).ellipse((size // 10, size // 10, size * 9 // 10, size * 9 // 10), fill=COLOURS[colour])
    return image
