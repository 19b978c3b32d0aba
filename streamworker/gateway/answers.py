"""What goes back to the client: JSON, and refusals of one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

JSON = "application/json"
_ENCODER = msgspec.json.Encoder(decimal_format="number")


class Refusal(HTTPException):
    """A request that is not carried out; the sentence names the thing, the value and what was expected."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, sentence, headers)


def reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as JSON."""
    return Response(_ENCODER.encode(value), status, headers, JSON)


def refused(_request: Request, error: Exception) -> Response:
    """The answer to an HTTPException, whoever raised it."""
    assert isinstance(error, HTTPException)
    return reply({"error": error.detail}, error.status_code, error.headers)


def not_found(_request: Request, error: Exception) -> Response:
    """The answer to BatchNotFound."""
    return reply({"error": str(error)}, 404)
