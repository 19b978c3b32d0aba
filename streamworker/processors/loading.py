"""From a name to a processor: only names that the worker was started with are ever imported."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from streamworker.errors import ConfigurationError
from streamworker.processors import importing
from streamworker.processors.importing import Plugin

GROUP = "streamworker.processors"
BUILT_IN: Mapping[str, str] = {
    "documents": "streamworker.processors.documents:Documents",
    "ollama": "streamworker.processors.ollama.processor:Ollama",
}
_SPEC = re.compile(r"(?:(?P<name>[\w.-]+)=)?(?P<module>[A-Za-z_][\w.]*):(?P<attribute>[A-Za-z_][\w.]*)")


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
        return importing.load(name, self.specs[name])


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
    found = {point.name: point for point in entry_points(group=GROUP)}
    if text in found:
        return text, _target(found[text])
    known = ", ".join(sorted({*found, *BUILT_IN}))
    raise ConfigurationError(f"processor {text!r}: expected module:attribute, or one of the installed processors ({known})")


def _target(point: EntryPoint) -> str:
    """What an entry point names, which may have spaces in it, and extras behind it."""
    try:
        module, attribute = point.module, point.attr
    except (AttributeError, ValueError):  # it is no such text at all: either comes, by the version of Python
        module = attribute = ""
    if not attribute:
        raise ConfigurationError(f"processor {point.name!r}: expected its entry point to be module:attribute, got {point.value!r}")
    return f"{module}:{attribute}"
