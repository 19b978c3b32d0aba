"""Durable batch processing, item after item, for hours or days."""

from streamworker.client import Client
from streamworker.processors.api import Context, Item, Permanent, Result, RetryAfter, Unavailable

__all__ = ["Client", "Context", "Item", "Permanent", "Result", "RetryAfter", "Unavailable", "__version__"]
__version__ = "0.1.0"
