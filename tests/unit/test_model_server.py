"""The client of the model server: what it asks, what it makes of every kind of answer, and whom it asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from streamworker import Permanent, Unavailable
from streamworker.errors import ConfigurationError
from streamworker.processors.ollama.configuration import Configuration
from streamworker.processors.ollama.dialects import Answer, Turn
from streamworker.processors.ollama.server import MAX_REPLY, BadAnswer, connect
from streamworker.settings import Settings
from tests.model_server import (
    BUSY,
    LIMITED,
    Fault,
    ModelServer,
    breaks_off,
    hangs_up,
    model_server,
    raw,
    says,
    status,
    trickles,
)  # fmt: skip

CHAT = {"ollama": "/api/chat", "openai": "/v1/chat/completions"}
EMBED = {"ollama": "/api/embed", "openai": "/v1/embeddings"}
QUESTION = [Turn("user", "What is it?", ("aW1hZ2U=",))]


@pytest.fixture
def models() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture(params=["ollama", "openai"])
def configuration(request: pytest.FixtureRequest, models: ModelServer, monkeypatch: pytest.MonkeyPatch) -> Configuration:
    monkeypatch.setenv("STREAMWORKER_OLLAMA_HOST", models.url)
    monkeypatch.setenv("STREAMWORKER_OLLAMA_API", request.param)
    return Configuration.read()


async def test_a_picture_is_sent_with_the_question(models: ModelServer, configuration: Configuration) -> None:
    models.then(CHAT[configuration.api], says("  <think>Is it?\n</think>A cat. \0\n"))
    async with connect(replace(configuration, key="s3cret")) as server:
        assert await server.describe([*QUESTION, Turn("assistant", "A dog."), Turn("user", "Really?")]) == Answer("A cat. \ufffd")
    ((path, headers, body),) = models.requests
    image = {
        "ollama": {"role": "user", "content": "What is it?", "images": ["aW1hZ2U="]},
        "openai": {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,aW1hZ2U="}},
            ],
        },
    }
    further = [{"role": "assistant", "content": "A dog."}, {"role": "user", "content": "Really?"}]
    assert body == {"model": "qwen2.5vl", "messages": [image[configuration.api], *further], "stream": False}
    assert (path, headers["Authorization"]) == (CHAT[configuration.api], "Bearer s3cret")
    assert "s3cret" not in repr(replace(configuration, key="s3cret"))


async def test_a_text_is_embedded(models: ModelServer, configuration: Configuration) -> None:
    async with connect(configuration) as server:
        vector = await server.embed("a red circle")
    assert (len(vector), sum(vector)) == (64, 3)
    more = {"encoding_format": "float"} if configuration.api == "openai" else {}
    assert models.asked(EMBED[configuration.api]) == [{"model": "nomic-embed-text", "input": "a red circle", **more}]


async def test_an_answer_that_was_cut_short_says_so(models: ModelServer, configuration: Configuration) -> None:
    models.then(CHAT[configuration.api], says("A cat sits on", reason="length"))
    async with connect(configuration) as server:
        assert await server.describe(QUESTION) == Answer("A cat sits on", cut=True)


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        (BUSY, Unavailable, "has no time: .* answered 503 .server busy"),
        (LIMITED, Unavailable, "answered 429 .Rate limit reached"),
        (status(502, b"<html>Bad Gateway"), Unavailable, "answered 502$"),
        (status(500, {"error": "llama runner process has terminated: exit status 2"}), BadAnswer, "answered 500 .llama runner"),
        (status(500, b"\xff" * 100), BadAnswer, "answered 500$"),
        (status(404, {"error": "model 'qwen2.5vl' not found"}), Permanent, "404 .model 'qwen2.5vl' not found"),
        (status(401, {"error": {"message": "Incorrect API key"}}), Permanent, "Incorrect API key.: is STREAMWORKER_OLLAMA_KEY right"),
        (status(400, {"error": {"message": 5}}), Permanent, "answered 400$"),
        (status(200, b"", **{"Content-Length": "0"}), BadAnswer, "answered with something unexpected"),
        (raw(b"<html>Hello</html>"), BadAnswer, "answered with something unexpected: JSON is malformed"),
        (raw(b'{"message": {"content": "A red'), BadAnswer, "answered with something unexpected: Input data was truncated"),
        (raw(b'{"message": {"content": 5}, "choices": [], "embeddings": 5}'), BadAnswer, "answered with something unexpected"),
        (raw(b"[" * 100_000), BadAnswer, "answered with something unexpected"),
        (raw(b"\xff\xfe{}"), BadAnswer, "answered with something unexpected"),
        (raw(b" " * (MAX_REPLY + 1)), BadAnswer, "answered with more than 4,194,304 bytes"),
        (breaks_off, BadAnswer, "broke off its answer"),
        (hangs_up, BadAnswer, "broke off its answer"),
        (trickles, BadAnswer, "gave no complete answer within 0.3 s"),
    ],
)
async def test_what_is_no_answer_is_told_apart(
    models: ModelServer, configuration: Configuration, fault: Fault, kind: type[Exception], told: str
) -> None:
    models.then(CHAT[configuration.api], fault)
    models.then(EMBED[configuration.api], fault)
    async with connect(replace(configuration, timeout=0.3) if fault is trickles else configuration) as server:
        for asking in (server.describe(QUESTION), server.embed("text")):
            with pytest.raises(kind, match=told) as raised:
                await asking
            assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("vectors", "told"),
    [
        ([], "answered with 0 vectors"), ([[1.0], [2.0]], "answered with 2 vectors"), ([[]], "a vector of 0 numbers"),
        ([[0.0, 0.0]], "no direction"), ([[1.0] * 16_001], "a vector of 16,001 numbers"), ([["1"]], "something unexpected"),
    ],
)  # fmt: skip
async def test_a_vector_has_a_direction(models: ModelServer, configuration: Configuration, vectors: Any, told: str) -> None:
    models.then(EMBED[configuration.api], status(200, {"embeddings": vectors, "data": [{"embedding": vector} for vector in vectors]}))
    async with connect(configuration) as server:
        with pytest.raises(BadAnswer, match=told):
            await server.embed("text")


async def test_infinite_numbers_are_no_vector(models: ModelServer, configuration: Configuration) -> None:
    models.then(EMBED[configuration.api], raw(b'{"embeddings": [[1e400]], "data": [{"embedding": [1e400]}]}'))
    async with connect(configuration) as server:
        with pytest.raises(BadAnswer):
            await server.embed("text")


async def test_nobody_there_is_nobodys_fault(models: ModelServer, configuration: Configuration) -> None:
    models.close()
    async with connect(configuration) as server:
        with pytest.raises(Unavailable, match=f"the model server cannot be reached: {models.url}"):
            await server.describe(QUESTION)


async def test_only_the_configured_server_is_asked(
    models: ModelServer, configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    with model_server() as stranger:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, stranger.url)
        models.then(CHAT[configuration.api], status(302, b"", Location=f"{stranger.url}{CHAT[configuration.api]}"))
        async with connect(configuration) as server:
            with pytest.raises(BadAnswer, match="answered 302: a redirect, which is not followed"):
                await server.describe(QUESTION)
            assert len(await server.embed("text")) == 64
        assert (len(models.requests), stranger.requests) == (2, [])


async def test_missing_models_are_known(models: ModelServer, configuration: Configuration) -> None:
    async with connect(configuration) as server:
        assert await server.missing_models() == []
        models.models = ["qwen2.5vl:3b", "nomic-embed-text:latest"]
        assert await server.missing_models() == ["qwen2.5vl"]


async def test_a_base_url_may_end_like_openais(models: ModelServer, configuration: Configuration) -> None:
    if configuration.api == "openai":
        async with connect(replace(configuration, host=f"{models.url}/v1")) as server:
            assert len(await server.embed("text")) == 64


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("HOST", "127.0.0.1:11434", "expected a URL such as"), ("HOST", "ftp://models", "expected a URL"),
        ("HOST", "http://user:canary@models", "expected a URL"), ("HOST", "http://models/?q=canary", "expected a URL"),
        ("HOST", "http://models:99999", "expected a URL"), ("HOST", "http://", "expected a URL"), ("HOST", "http://a b", "expected a URL"),
        ("API", "grpc", "expected one of ollama, openai"), ("VISION_MODEL", "a b", "expected a name"), ("PROMPT", " ", "expected a text"),
        ("PROMPT", "x" * 4001, "got one of 4,001"), ("AUDIT_MINIMUM", "101", "expected a whole number from 0 to 100"),
        ("TIMEOUT", "5", "expected a duration"), ("KEY", "can ary", "(not shown)"), ("MODEL", "x", "unknown variable; did you mean"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_at_start(monkeypatch: pytest.MonkeyPatch, name: str, text: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings.load(environ={f"STREAMWORKER_OLLAMA_{name}": text})
    told = str(refused.value)
    assert told.startswith(f"STREAMWORKER_OLLAMA_{name}: ")
    assert expected in told
    assert "canary" not in told
    assert "can ary" not in told
