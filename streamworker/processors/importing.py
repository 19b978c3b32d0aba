"""From `module:attribute` to the processor that it names, or to one sentence about what does not fit."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streamworker.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Plugin:
    """A processor that was found: what the user named, not opened yet."""

    name: str
    target: Any


def load(name: str, spec: str) -> Plugin:
    """Import what `spec` (`module:attribute`) names for the processor `name`; ConfigurationError says what does not fit."""
    module_name, _, path = spec.partition(":")
    look_here()
    found = _import(name, module_name)
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigurationError(f"processor {name!r}: module {module_name} has no attribute {path!r}") from None
    check(name, found)
    return Plugin(name, found)


def look_here() -> None:
    """Have the current folder on the path, like `python -m`: a processor in it is found, also from the installed script."""
    if "" not in sys.path:
        sys.path.insert(0, "")


def _import(name: str, module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name == module_name or module_name.startswith(f"{error.name}."):
            raise ConfigurationError(
                f"processor {name!r}: there is no module {module_name!r} on the path (is it in this folder, or installed?)"
            ) from None
        raise ConfigurationError(f"processor {name!r}: {module_name} needs the module {error.name!r}, which is not installed") from error
    except ConfigurationError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise ConfigurationError(f"processor {name!r}: importing {module_name} failed: {type(error).__name__}: {error}") from error


def check(name: str, target: Any) -> None:
    """Refuse what cannot be a processor: it must be callable with (item, context), or have such a method `process`."""
    call = call_of(target)
    if call is None:
        raise ConfigurationError(
            f"processor {name!r}: expected a function (item, context), or a class with a method process(self, item, context), "
            f"got {type(target).__name__}"
        )
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):
        return  # a built-in that does not tell
    arguments = (None, None, None) if inspect.isclass(target) and not _is_bound(target) else (None, None)
    try:
        signature.bind(*arguments)
    except TypeError:
        raise ConfigurationError(f"processor {name!r}: it is called with (item, context), its signature is {signature}") from None


def call_of(target: Any) -> Callable[..., Any] | None:
    """The function to call: the target itself, its method `process`, or its `__call__`."""
    process = getattr(target, "process", None)
    if callable(process) and not inspect.isfunction(target):
        return process  # type: ignore[no-any-return]
    if inspect.isclass(target):
        return vars(target).get("__call__")
    return target if callable(target) else None


def _is_bound(target: type) -> bool:
    """Whether its method is called without an instance in front."""
    return isinstance(inspect.getattr_static(target, "process", None), staticmethod | classmethod)


def is_async(call: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine."""
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004
