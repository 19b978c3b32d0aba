"""A processor that says what its payload tells it to say, and then waits for a gate or fails."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from streamworker import Context, Item, Permanent, Unavailable
from tests.flows.processors import FOLDER, TICK, gate_file

# One white pixel.
PICTURE = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/5+hHgAHggJ/PchI7wAAAABJRU5ErkJggg=="


async def speak(item: Item, context: Context) -> Any:
    """Payload: `stage`, `message`, `percent`, `gate` to wait for, `error` to fail with, `picture` for a result with one.

    `away` is a gate that is a service: while it is closed, nothing can be done.
    """
    said: dict[str, Any] = item.payload
    await context.progress(said.get("percent", 40), stage=said.get("stage"), message=said.get("message"))
    folder = Path(os.environ[FOLDER])
    if (away := said.get("away")) and not gate_file(folder, away).exists():
        raise Unavailable("the model server does not answer")
    if gate := said.get("gate"):
        while not gate_file(folder, gate).exists():  # noqa: ASYNC110 the gate is a file
            await asyncio.sleep(TICK)
    if error := said.get("error"):
        raise Permanent(error)
    return {"thumbnail": PICTURE, "summary": "a white pixel"} if said.get("picture") else {"said": said.get("message")}
