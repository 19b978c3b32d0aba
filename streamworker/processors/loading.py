"""From a name to a processor: only names that the worker was started with are ever imported."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from streamworker.errors import ConfigurationError

GROUP = "streamworker.processors"
BUILT_IN: Mapping[str, str] = {
    "documents": "streamworker.processors.documents:Documents",
    "ollama": "streamworker.processors.ollama.processor:Ollama",
}
_SPEC = re.compile(r"(?:(?P<name>[\w.-]+)=)?(?P<module>[A-Za-z_][\w.]*):(?P<attribute>[A-Za-z_][\w.]*)")


@dataclass(frozen=True, slots=True)
class Plugin:
    """A processor that was found: what the user named, not opened yet."""

    name: str
    target: Any


@dataclass(frozen=True, slots=True)
class Registry:
    """The processors that this worker serves, by name; the first is the default."""

    specs: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """All names served, the default first."""
        return list(self.specs)

    def resolve(self, name: str | None) -> str | None:
        """The name to use for a batch that asks for `name`; None when it is not served."""
        if name is None:
            return next(iter(self.specs))
        return name if name in self.specs else None

    def load(self, name: str) -> Plugin:
        """Import the processor called `name`, which must be one of `names`; ConfigurationError says what does not fit."""
        return Plugin(name, _import(name, self.specs[name]))


def registry(given: Sequence[str]) -> Registry:
    """Read the names given to the worker: `module:attribute`, `name=module:attribute`, an entry point or a built-in.

    Nothing is imported yet.
    """
    if not given:
        return Registry(dict(BUILT_IN))
    specs: dict[str, str] = {}
    for text in given:
        name, spec = _read(text)
        if specs.setdefault(name, spec) != spec:
            raise ConfigurationError(f"processor {name!r} is given twice with different targets: {specs[name]} and {spec}")
    return Registry(specs)


def _read(text: str) -> tuple[str, str]:
    if match := _SPEC.fullmatch(text):
        spec = f"{match['module']}:{match['attribute']}"
        return match["name"] or spec, spec
    if text in BUILT_IN:
        return text, BUILT_IN[text]
    found = {point.name: point.value for point in entry_points(group=GROUP)}
    if text in found:
        return text, found[text]
    known = ", ".join(sorted({*found, *BUILT_IN}))
    raise ConfigurationError(f"processor {text!r}: expected module:attribute, or one of the installed processors ({known})")


def _import(name: str, spec: str) -> Any:
    module_name, _, path = spec.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # like `python -m`: a processor beside the user is found, also from the installed script
    try:
        found: Any = importlib.import_module(module_name)
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
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigurationError(f"processor {name!r}: module {module_name} has no attribute {path!r}") from None
    check(name, found)
    return found


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
    arguments = (None, None, None) if inspect.isclass(target) else (None, None)
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


def is_async(call: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine."""
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004
