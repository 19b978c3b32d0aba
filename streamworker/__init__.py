"""Durable batch processing, item after item, for hours or days."""

from importlib import import_module
from typing import TYPE_CHECKING

from streamworker.processors.api import Context, Item, Permanent, Result, RetryAfter, Unavailable

if TYPE_CHECKING:
    from streamworker.client import Client

__all__ = ["Client", "Context", "Item", "Permanent", "Result", "RetryAfter", "Unavailable", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # The client brings the drivers of both servers along: a child process that only runs a processor must start without them.
    if name == "Client":
        return import_module(f"{__name__}.client").Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
