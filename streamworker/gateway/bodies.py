"""What a POST brings: one small JSON object of a known shape."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from starlette.requests import Request

from streamworker.gateway.answers import Refusal
from streamworker.gateway.limits import read_body
from streamworker.gateway.parameters import LARGEST_POSITION

Position = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_POSITION)]


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """An action that needs no more than its address."""


class Retry(msgspec.Struct, forbid_unknown_fields=True):
    """What to retry: all, or the one item at a position."""

    position: Position | None = None


class Login(msgspec.Struct, forbid_unknown_fields=True):
    """A token, to be changed for a session."""

    token: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


EXPECTED = {
    Nothing: "{} or nothing",
    Retry: '{} or {"position": a whole number from 0}',
    Login: '{"token": a text of 1 to 1,000 characters}',
}
Body = TypeVar("Body", Nothing, Retry, Login)


async def read_object(request: Request, kind: type[Body]) -> Body:
    """The body as an object of this kind; an empty one counts as `{}`."""
    raw = await read_body(request, request.app.state.limits.body_bytes)
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except (ValueError, RecursionError):
        # Not msgspec's own words: they may hold what was sent, and that may be a token.
        raise Refusal(400, f"body: expected JSON, {EXPECTED[kind]}") from None
