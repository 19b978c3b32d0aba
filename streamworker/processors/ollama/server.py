"""The model server: one host, one time limit, bounded answers; whatever goes wrong is told apart by who can mend it."""

from __future__ import annotations

import asyncio
import math
import re
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from streamworker.errors import StreamworkerError
from streamworker.messages import clean_text
from streamworker.processors.api import Permanent, Unavailable
from streamworker.processors.ollama.configuration import Configuration, require_parts
from streamworker.processors.ollama.dialects import DIALECTS, Answer, Turn

if TYPE_CHECKING:
    import httpx

MAX_REPLY = 4 * 1024 * 1024
MAX_DIMENSION = 16_000  # what pgvector's type holds
CONNECT_TIMEOUT = 10.0
_AWAY = (429, 502, 503, 504)
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)
Value = TypeVar("Value")


class BadAnswer(StreamworkerError):
    """The server answered with something that is no answer: another attempt may fare better."""


class ModelServer:
    """A connection to the configured server; open one with `async with connect(configuration) as server`.

    Every call ends within `configuration.timeout` seconds. Unavailable: the server is away or has too much to do. Permanent: it will never
    answer this. BadAnswer: this time it did not.
    """

    def __init__(self, configuration: Configuration, client: httpx.AsyncClient) -> None:
        self._configuration = configuration
        self._dialect = DIALECTS[configuration.api]
        self._client = client
        base = configuration.host
        # Both are in use: http://host and http://host/v1.
        self._base = base.removesuffix("/v1") if configuration.api == "openai" else base

    async def describe(self, turns: Sequence[Turn]) -> Answer:
        """The vision model's next turn; text only, whatever else the model thought."""
        body = self._dialect.chat_body(self._configuration.vision_model, turns)
        answer = await self._ask("POST", self._dialect.chat_path, body, self._dialect.read_answer)
        return Answer(clean_text(_THOUGHTS.sub("", answer.text).strip(), 10_000), answer.cut)

    async def embed(self, text: str) -> list[float]:
        """The embedding model's vector for a text: finite numbers, not all of them zero."""
        body = self._dialect.embed_body(self._configuration.embed_model, text)
        return _vector(await self._ask("POST", self._dialect.embed_path, body, self._dialect.read_vectors))

    async def missing_models(self) -> list[str]:
        """Which of the configured models the server says that it does not have."""
        names = set(await self._ask("GET", self._dialect.models_path, None, self._dialect.read_models))
        wanted = (self._configuration.vision_model, self._configuration.embed_model)
        return [model for model in dict.fromkeys(wanted) if not {model, f"{model}:latest"} & names]

    async def _ask(self, method: str, path: str, body: Any, read: Callable[[bytes], Value]) -> Value:
        place = f"{self._base}{path}"
        status, raw = await self._exchange(method, place, None if body is None else msgspec.json.encode(body))
        _judge(place, status, raw)
        try:
            return read(raw)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise BadAnswer(f"{place} answered with something unexpected: {clean_text(str(error), 200)}") from None

    async def _exchange(self, method: str, place: str, body: bytes | None) -> tuple[int, bytes]:
        import httpx  # noqa: PLC0415

        timeout = self._configuration.timeout
        try:
            # One limit for the whole of it: a stream that trickles for ever meets no limit between two bytes.
            async with asyncio.timeout(timeout), self._client.stream(method, place, content=body) as response:
                return response.status_code, await _bounded(response, place)
        except TimeoutError:
            raise BadAnswer(f"{place} gave no complete answer within {timeout:g} s (STREAMWORKER_OLLAMA_TIMEOUT)") from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unavailable(f"the model server cannot be reached: {place}: {_text(error)}") from None
        except httpx.HTTPError as error:
            # It may be this very item that it died of, so this does count as an attempt.
            raise BadAnswer(f"{place} broke off its answer: {_text(error)}") from None


@asynccontextmanager
async def connect(configuration: Configuration) -> AsyncIterator[ModelServer]:
    """A client for the configured server and no other: no redirects are followed, no proxies taken from the environment."""
    require_parts("httpx")
    import httpx  # noqa: PLC0415

    headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
    if configuration.key:
        headers["Authorization"] = f"Bearer {configuration.key}"
    client = httpx.AsyncClient(
        headers=headers,
        timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT),
        limits=httpx.Limits(max_connections=None),  # as many as items at the same time: waiting for one would count as the server's time
        follow_redirects=False,
        trust_env=False,
        verify=_trust(configuration.host),
    )
    async with client:
        yield ModelServer(configuration, client)


def _trust(host: str) -> ssl.SSLContext:
    """Whom to trust: the system's authorities; where there is nothing to encrypt nobody, which saves the reading of their certificates."""
    return ssl.create_default_context() if host.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def _bounded(response: httpx.Response, place: str) -> bytes:
    raw = bytearray()
    async for piece in response.aiter_raw():
        raw += piece
        if len(raw) > MAX_REPLY:
            raise BadAnswer(f"{place} answered with more than {MAX_REPLY:,} bytes")
    return bytes(raw)


def _judge(place: str, status: int, raw: bytes) -> None:
    """Nothing for an answer; else the error whose kind says what comes next."""
    if status == 200:
        return
    told = f"{place} answered {status}{_reason(raw)}"
    if status in _AWAY:
        raise Unavailable(f"the model server has no time: {told}")
    if status in (401, 403):
        raise Permanent(f"{told}: is STREAMWORKER_OLLAMA_KEY right?")
    if 400 <= status < 500:
        raise Permanent(told)
    raise BadAnswer(f"{told}: a redirect, which is not followed" if 300 <= status < 400 else told)


def _reason(raw: bytes) -> str:
    """What the server says about an error, in whichever of the two ways."""
    try:
        error = msgspec.json.decode(raw)["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (msgspec.MsgspecError, ValueError, LookupError, TypeError, RecursionError):
        return ""
    return f" ({clean_text(text, 200)})" if isinstance(text, str) else ""


def _vector(vectors: list[list[float]]) -> list[float]:
    if len(vectors) != 1:
        raise BadAnswer(f"the embedding model answered with {len(vectors)} vectors, expected one")
    vector = vectors[0]
    if not 1 <= len(vector) <= MAX_DIMENSION:
        raise BadAnswer(f"the embedding model answered with a vector of {len(vector):,} numbers, expected 1 to {MAX_DIMENSION:,}")
    if not all(map(math.isfinite, vector)) or not any(vector):
        raise BadAnswer("the embedding model answered with a vector that has no direction")
    return vector


def _text(error: Exception) -> str:
    return clean_text(str(error), 200) or type(error).__name__
