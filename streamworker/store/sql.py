"""The SQL of this package: the files of `queries/`, one statement each, read once."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType


def _load() -> Mapping[str, str]:
    folder = files("streamworker.store").joinpath("queries")
    return MappingProxyType(
        {entry.name.removesuffix(".sql"): entry.read_text("utf-8") for entry in folder.iterdir() if entry.name.endswith(".sql")}
    )


_QUERIES = _load()


def query(name: str) -> str:
    """The text of `queries/<name>.sql`."""
    return _QUERIES[name]
