"""The page and its files: those of the folder `static`, read once, and no other file of this machine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from streamworker.gateway.answers import Refusal
from streamworker.gateway.parameters import shown

KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "ico": "image/x-icon",
    "woff2": "font/woff2",
    "json": "application/json",
    "webmanifest": "application/manifest+json",
}


@dataclass(frozen=True, slots=True)
class File:
    """A file of the page."""

    content: bytes
    kind: str
    tag: str


def load_files() -> dict[str, File]:
    """All files of the page by their name."""
    found = {}
    for entry in files("streamworker.gateway").joinpath("static").iterdir():
        kind = KINDS.get(entry.name.rpartition(".")[2])
        if kind is not None and entry.is_file():
            content = entry.read_bytes()
            found[entry.name] = File(content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return found


async def show_page(request: Request) -> Response:
    """The page."""
    return _serve(request, "index.html")


async def show_file(request: Request) -> Response:
    """A file that the page asks for."""
    return _serve(request, request.path_params["name"])


def _serve(request: Request, name: str) -> Response:
    pages: dict[str, File] = request.app.state.files
    file = pages.get(name)
    if file is None:
        raise Refusal(404, f"{shown(name)}: there is no such file")
    headers = {"ETag": file.tag, "Cache-Control": "no-cache"}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")]
    if file.tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.kind, headers=headers)


ROUTES = (
    Route("/", show_page),
    Route("/static/{name}", show_file),
)
