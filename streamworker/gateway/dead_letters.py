"""The REST API for dead letters: what could not be run, with its reason; sent back, or dropped."""

from __future__ import annotations

from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from streamworker.broker import dead_stream
from streamworker.broker.replies import Entry
from streamworker.gateway import parameters
from streamworker.gateway.access import note
from streamworker.gateway.answers import Refusal, reply
from streamworker.gateway.bodies import Nothing, read_object
from streamworker.gateway.endpoints import route, services_of
from streamworker.gateway.parameters import limit_of
from streamworker.gateway.rights import is_allowed, require
from streamworker.gateway.services import Services

FIELD_CHARACTERS = 4096
MOST_FIELDS = 100


async def list_letters(request: Request) -> Response:
    """A page of dead letters, the oldest first."""
    given = parameters.query_parameters(request, ("after", "limit"))
    after = parameters.entry_id(given["after"], "after") if "after" in given else None
    limit = limit_of(given)
    await require(request, None)
    services = await services_of(request)
    letters, following = await dead_stream.page(services.redis, services.settings.dead_stream, after, limit)
    allowed = [letter for letter in letters if await _is_allowed(request, letter)]
    return reply({"letters": [_as_json(letter) for letter in allowed], "next": following})


async def requeue_letter(request: Request) -> Response:
    """Put the message on the stream again, as it was sent."""
    services, letter = await _chosen(request)
    settings = services.settings
    entry = await dead_stream.requeue(services.redis, settings.dead_stream, settings.stream, letter)
    note(request, "dead letter sent back", letter=letter.id.decode(), entry=entry)
    return reply({"requeued": True, "entry": entry})


async def drop_letter(request: Request) -> Response:
    """Delete the message for good."""
    services, letter = await _chosen(request)
    count = await dead_stream.drop(services.redis, services.settings.dead_stream, [letter.id.decode()])
    note(request, "dead letter dropped", letter=letter.id.decode())
    return reply({"dropped": count > 0})


async def _chosen(request: Request) -> tuple[Services, Entry]:
    parameters.query_parameters(request, ())
    entry_id = parameters.entry_id(request.path_params["entry"])
    await require(request, None)
    await read_object(request, Nothing)
    services = await services_of(request)
    letter = await dead_stream.find(services.redis, services.settings.dead_stream, entry_id)
    if letter is None or not await _is_allowed(request, letter):
        raise Refusal(404, f"dead letter {entry_id}: there is none with this id")
    return services, letter


async def _is_allowed(request: Request, letter: Entry) -> bool:
    """Whether this client may see each batch that a letter names. One that names none, or none that can be read, is for nobody here."""
    if request.app.state.authorise is None:
        return True
    try:
        ids = {UUID(value.decode().strip()) for name, value in letter.fields if name.strip() == b"batch_id"}
    except ValueError:
        return False
    return bool(ids) and all([await is_allowed(request, batch_id) for batch_id in ids])


def _as_json(entry: Entry) -> dict[str, object]:
    letter = dead_stream.read(entry)
    fields: dict[str, str] = {}
    for name, value in letter.fields[:MOST_FIELDS]:
        text = _text(name, 200)
        fields[text if text not in fields else f"{text} (again)"] = _text(value, FIELD_CHARACTERS)
    long = len(letter.fields) > MOST_FIELDS or any(len(value) > FIELD_CHARACTERS for _, value in letter.fields)
    return {
        "id": entry.id.decode(),
        "reason": letter.reason,
        "detail": letter.detail,
        "source_id": letter.source_id,
        "died_at": letter.died_at,
        "fields": fields,
        "truncated": long,
    }


def _text(raw: bytes, limit: int) -> str:
    text = raw[: 4 * limit].decode("utf-8", "backslashreplace")
    return text if len(raw) <= limit or len(text) <= limit else text[:limit] + "…"


ROUTES = (
    route("/api/dead", list_letters),
    route("/api/dead/{entry}/requeue", requeue_letter, "POST"),
    route("/api/dead/{entry}/drop", drop_letter, "POST"),
)
