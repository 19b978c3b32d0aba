"""What model servers speak: the requests and replies of Ollama, and of servers that are compatible with OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation; `images` are JPEGs in base64."""

    role: str
    text: str
    images: Sequence[str] = ()


class Answer(msgspec.Struct, frozen=True):
    """What a model said; `cut` says that it was stopped before it had ended."""

    text: str
    cut: bool = False


class Dialect:
    """Where to ask, how, and how to read the answer. Reading raises msgspec.MsgspecError for what is not such an answer."""

    chat_path: str
    embed_path: str
    models_path: str

    def chat_body(self, model: str, turns: Sequence[Turn]) -> dict[str, Any]:
        """The request for the next turn of a conversation, in one piece."""
        return {"model": model, "messages": [self._message(turn) for turn in turns], "stream": False}

    def embed_body(self, model: str, text: str) -> dict[str, Any]:
        """The request for a vector."""
        return {"model": model, "input": text}

    def read_answer(self, raw: bytes) -> Answer:
        """The answer to `chat_body`."""
        raise NotImplementedError

    def read_vectors(self, raw: bytes) -> list[list[float]]:
        """The answer to `embed_body`."""
        raise NotImplementedError

    def read_models(self, raw: bytes) -> list[str]:
        """The names of the models that the server has."""
        raise NotImplementedError

    def _message(self, turn: Turn) -> dict[str, Any]:
        raise NotImplementedError


class _Text(msgspec.Struct):
    content: str | None = None


class _Chat(msgspec.Struct):
    message: _Text
    done: bool = True
    done_reason: str | None = None


class _Embedded(msgspec.Struct):
    embeddings: list[list[float]]


class _Model(msgspec.Struct):
    name: str


class _Tags(msgspec.Struct):
    models: list[_Model]


class OllamaDialect(Dialect):
    """Ollama's own API."""

    chat_path, embed_path, models_path = "/api/chat", "/api/embed", "/api/tags"

    def read_answer(self, raw: bytes) -> Answer:
        """See Dialect."""
        reply = msgspec.json.decode(raw, type=_Chat)
        return Answer(reply.message.content or "", cut=not reply.done or reply.done_reason == "length")

    def read_vectors(self, raw: bytes) -> list[list[float]]:
        """See Dialect."""
        return msgspec.json.decode(raw, type=_Embedded).embeddings

    def read_models(self, raw: bytes) -> list[str]:
        """See Dialect."""
        return [model.name for model in msgspec.json.decode(raw, type=_Tags).models]

    def _message(self, turn: Turn) -> dict[str, Any]:
        images = {"images": list(turn.images)} if turn.images else {}
        return {"role": turn.role, "content": turn.text, **images}


class _Choice(msgspec.Struct):
    message: _Text
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]


class _Datum(msgspec.Struct):
    embedding: list[float]


class _Data(msgspec.Struct):
    data: list[_Datum]


class _Listed(msgspec.Struct):
    id: str


class _List(msgspec.Struct):
    data: list[_Listed]


class OpenAIDialect(Dialect):
    """The API that vLLM, llama.cpp, LM Studio and many others have in common with OpenAI."""

    chat_path, embed_path, models_path = "/v1/chat/completions", "/v1/embeddings", "/v1/models"

    def embed_body(self, model: str, text: str) -> dict[str, Any]:
        """See Dialect."""
        return super().embed_body(model, text) | {"encoding_format": "float"}

    def read_answer(self, raw: bytes) -> Answer:
        """See Dialect."""
        choices = msgspec.json.decode(raw, type=_Completion).choices
        if not choices:
            raise msgspec.ValidationError("`choices` is empty")
        return Answer(choices[0].message.content or "", cut=choices[0].finish_reason == "length")

    def read_vectors(self, raw: bytes) -> list[list[float]]:
        """See Dialect."""
        return [datum.embedding for datum in msgspec.json.decode(raw, type=_Data).data]

    def read_models(self, raw: bytes) -> list[str]:
        """See Dialect."""
        return [model.id for model in msgspec.json.decode(raw, type=_List).data]

    def _message(self, turn: Turn) -> dict[str, Any]:
        if not turn.images:
            return {"role": turn.role, "content": turn.text}
        images = [{"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{image}"}} for image in turn.images]
        return {"role": turn.role, "content": [{"type": "text", "text": turn.text}, *images]}


DIALECTS: Mapping[str, Dialect] = MappingProxyType({"ollama": OllamaDialect(), "openai": OpenAIDialect()})
