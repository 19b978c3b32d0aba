"""`Result.write` across processes: named where the processor runs, looked up and called where the record is written.

The worker imports for it nothing but the processor's own module and the modules of its package.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from streamworker.messages import clean_text, to_json
from streamworker.processors.frames import Named
from streamworker.processors.importing import look_here
from streamworker.processors.outcomes import named as text_of

Write = Callable[[Any], Awaitable[Any]]
_EXPECTED = "write: expected, with isolation process, an async function of a module, or functools.partial of one with JSON arguments"


def belongs(module: str, processor: str) -> bool:
    """Whether a module is that of the processor, or in the same package."""
    package = processor.rpartition(".")[0] or processor
    return module in (processor, package) or module.startswith((f"{processor}.", f"{package}."))


def name_write(write: Any, processor: str) -> Named:
    """Name a write, for the worker to call. ValueError says why it has no name that the worker could use."""
    function, arguments = write, (())
    keywords: dict[str, Any] = {}
    if isinstance(write, functools.partial):
        function, arguments, keywords = write.func, write.args, write.keywords
    name, module = getattr(function, "__qualname__", type(function).__name__), getattr(function, "__module__", None)
    found = vars(sys.modules[module]).get(name) if module in sys.modules else None
    if found is not function or not inspect.isfunction(function):
        raise ValueError(f"{_EXPECTED}; got {clean_text(str(name), 200)}")
    if not belongs(str(module), processor):
        raise ValueError(f"write: expected a function of {processor} or of its package, got {module}.{name}")
    try:
        return Named(str(module), name, to_json({"args": list(arguments), "kwargs": keywords}))
    except ValueError as error:
        raise ValueError(f"write: its arguments must be JSON: {error}") from None


def find_write(named: Named, processor: str) -> Write:
    """The write that was named. Imports its module where need be, for which this may take a while; ValueError says what does not fit."""
    if not belongs(named.module, processor):
        raise ValueError(f"write: {clean_text(named.module, 200)} does not belong to {processor}: it is not imported")
    look_here()
    try:
        module = importlib.import_module(named.module)
        arguments = json.loads(named.arguments)
        function = vars(module)[named.function]
        partial = functools.partial(function, *arguments["args"], **arguments["kwargs"])
    except BaseException as error:  # a script that is imported may well end the process
        text = clean_text(text_of(error), 1000)
        raise ValueError(f"write: the worker cannot import {clean_text(named.module, 200)}: {text}") from None
    if not inspect.isfunction(function) or function.__module__ != named.module:
        raise ValueError(f"write: {clean_text(named.function, 200)} is no function of {named.module}")
    return partial
