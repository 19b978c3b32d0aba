"""The README's examples against real servers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from streamworker.processors.importing import check

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def processors() -> list[Callable[..., Any]]:
    """Whatever of the Python examples is meant as a processor."""
    found = []
    for snippet in blocks("python"):
        if not re.search(r"^(async )?def |^class ", snippet, re.MULTILINE) or snippet.startswith("# test_"):
            continue
        names: dict[str, Any] = {"__name__": "readme"}
        exec(snippet, names)
        found += [value for value in names.values() if getattr(value, "__module__", None) == "readme"]
    return found


@pytest.mark.parametrize("statement", blocks("sql"))
async def test_sql_is_accepted(statement: str, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        batch_id = await connection.fetchval(statement)
        assert await connection.fetchval("SELECT total FROM streamworker.batches WHERE id = $1", batch_id) == 2
    finally:
        await connection.close()


@pytest.mark.parametrize("processor", processors(), ids=lambda processor: processor.__name__)
def test_a_processor_is_one(processor: Callable[..., Any]) -> None:
    check(processor.__name__, processor)
