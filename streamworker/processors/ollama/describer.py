"""Describes one file after another: look at it, ask the model, judge what it says, embed it, hand over the row."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from streamworker.errors import ConfigurationError
from streamworker.processors.api import Context, Item, Permanent, Result, Unavailable
from streamworker.processors.files.limits import Limits
from streamworker.processors.ollama.audit import Audit, audit
from streamworker.processors.ollama.configuration import Configuration
from streamworker.processors.ollama.descriptions import write_description
from streamworker.processors.ollama.dialects import Turn
from streamworker.processors.ollama.looking import Seen, look_at
from streamworker.processors.ollama.server import BadAnswer, ModelServer, connect

CORRECTION = (
    "That description is not good enough: {reasons}. Write a better one, of two to four complete sentences. "
    "Say what can be seen, plainly and with certainty, and nothing else."
)


# The prompt asks about one image: what several of them are.
SEVERAL = {
    "image": " The images are the first pages of one file.",
    "pdf": " The images are the first pages of one document.",
    "video": " The images are frames of one video, in their order.",
}


class Describer:
    """What a worker needs to describe files, open from `open` to `close`.

    The result of an item: `path`, `kind` (image, pdf, video), `width` and `height` (of an image, else null), `images` (how many the model
    saw), `thumbnail` (a data URI), `description`, `score` (0 to 100), `reasons` (what cost it points), `asked` (1, or 2 where the first
    description was below the bar), `vision_model`, `embed_model`, `dimension`.
    """

    def __init__(self, configuration: Configuration, limits: Limits) -> None:
        self._configuration, self._limits = configuration, limits
        self._open = AsyncExitStack()
        self._server: ModelServer

    async def open(self) -> str | None:
        """Connect. ConfigurationError where the server lacks a model; returns what is wrong with one that cannot tell (yet)."""
        self._server = await self._open.enter_async_context(connect(self._configuration))
        try:
            missing = await self._server.missing_models()
        except (Unavailable, Permanent, BadAnswer) as error:
            return str(error)  # it may be up by the time of the first item; compatible servers need not list their models
        if missing:
            await self.close()
            how = f": ollama pull {' '.join(missing)}" if self._configuration.api == "ollama" else ""
            raise ConfigurationError(f"the model server {self._configuration.host} has no model {', '.join(missing)}{how}")
        return None

    async def close(self) -> None:
        """Close the connections."""
        await self._open.aclose()

    async def describe(self, item: Item, context: Context) -> Result:
        """Describe the file that the item names."""
        await context.progress(5, stage="thumbnail", message="Looking at the file")
        seen = await look_at(self._limits, item.payload)
        text, verdict, asked = await self._judged(seen, context)
        await context.progress(85, stage="embedding", message=f"Asking {self._configuration.embed_model}")
        vector = await self._server.embed(text)
        await context.progress(100, stage="embedding", message="Done")
        value = self._value(seen, text, verdict, asked, len(vector))
        return Result(value, write=partial(write_description, row=self._row(item, value, vector)))

    async def _judged(self, seen: Seen, context: Context) -> tuple[str, Audit, int]:
        """A description and what is to be said about it: the better of two where the first is below the bar."""
        several = SEVERAL[seen.kind] if len(seen.images) > 1 else ""
        question = Turn("user", self._configuration.prompt + several, seen.images)
        first, judged = await self._answer([question], context, 10)
        if judged.score >= self._configuration.audit_minimum:
            return _some(first), judged, 1
        correction = Turn("user", CORRECTION.format(reasons="; ".join(judged.reasons)))
        again, judged_again = await self._answer([question, Turn("assistant", first), correction], context, 60)
        return (_some(again), judged_again, 2) if judged_again.score > judged.score else (_some(first), judged, 2)

    async def _answer(self, turns: Sequence[Turn], context: Context, percent: float) -> tuple[str, Audit]:
        again = " once more" if len(turns) > 1 else ""
        await context.progress(percent, stage="vision_analysis", message=f"Asking {self._configuration.vision_model}{again}")
        answer = await self._server.describe(turns)
        await context.progress(percent + 20, stage="audit", message="Judging the description")
        return answer.text, audit(answer.text, answer.cut)

    def _value(self, seen: Seen, text: str, verdict: Audit, asked: int, dimension: int) -> dict[str, Any]:
        return {
            "path": seen.path,
            "kind": seen.kind,
            "width": seen.width,
            "height": seen.height,
            "images": len(seen.images),
            "thumbnail": seen.thumbnail,
            "description": text,
            "score": verdict.score,
            "reasons": list(verdict.reasons),
            "asked": asked,
            "vision_model": self._configuration.vision_model,
            "embed_model": self._configuration.embed_model,
            "dimension": dimension,
        }

    def _row(self, item: Item, value: dict[str, Any], vector: list[float]) -> dict[str, Any]:
        """A row of streamworker.descriptions, as JSON."""
        place = {"batch_id": str(item.batch_id), "position": item.position, "key": item.key, "path": value["path"]}
        models = {"model": value["vision_model"], "embed_model": value["embed_model"]}
        return place | models | {"description": value["description"], "score": value["score"], "embedding": vector}


def _some(text: str) -> str:
    if not text:
        raise BadAnswer("the vision model answered with nothing")
    return text
