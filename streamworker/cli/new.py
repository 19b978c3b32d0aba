"""`new`: writes a processor and its test, to begin with."""

from __future__ import annotations

import argparse
import builtins
import keyword
import sys
from importlib.util import find_spec
from pathlib import Path

import streamworker
from streamworker.cli.options import Subparsers, add_command
from streamworker.errors import ConfigurationError

_PROCESSOR = '''\
"""A processor of streamworker: what is done with each item of a batch."""

from streamworker import Context, Item, Permanent


async def {name}(item: Item, context: Context) -> dict[str, int]:
    """Count the words of a text; what is returned (any JSON) becomes the item's result, an exception is a failed attempt."""
    if not isinstance(item.payload, str):
        raise Permanent("expected a text")  # no retry can help
    await context.progress(50, stage="counting", message="Counting words")
    return {{"words": len(item.payload.split())}}
'''
_TEST = '''\
"""The processor `{name}`, without servers: pytest test_{name}.py"""

from streamworker.testing import run_processor

from {name} import {name} as processor


def test_each_item_has_its_result() -> None:
    first, second = run_processor(processor, ["two words", "one more text"])
    assert (first.result, second.result) == ({{"words": 2}}, {{"words": 3}})
    assert first.progress[0].stage == "counting"


def test_a_bad_item_fails_alone() -> None:
    bad, good = run_processor(processor, [7, "text"])
    assert (bad.status, bad.attempts, bad.error) == ("failed", 1, "expected a text")
    assert good.status == "completed"


def test_running_it_twice_does_no_harm() -> None:
    (run,) = run_processor(processor, ["two words"], crash_at=0)  # the worker dies before the result is recorded
    assert (run.attempts, run.result) == (2, {{"words": 2}})
'''


def add_to(commands: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "new", run, "write a processor and its test into this folder")
    parser.add_argument("name", metavar="NAME", help="what it is to be called, as in Python: letters, digits and _")


def run(arguments: argparse.Namespace) -> int:
    """Write both files, or none."""
    name = arguments.name
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name) or name.startswith("__"):
        raise _refusal("that a Python module can have, such as describe", name)
    if hasattr(builtins, name) or name in streamworker.__all__:
        raise _refusal("that is none of Python's or streamworker's own", name)
    if name.startswith("test_") or name.endswith("_test"):
        raise _refusal("whose file pytest does not take for a test", name)
    for folder in (Path(name), Path(f"test_{name}")):
        if folder.is_dir():
            raise ConfigurationError(f"{folder}: there is such a folder already, and Python would mistake it for the new file")
    texts = {Path(f"{name}.py"): _PROCESSOR, Path(f"test_{name}.py"): _TEST}
    for path in texts:
        if path.exists() or path.is_symlink():
            raise ConfigurationError(f"{path}: there is such a file already, and it is left as it is")
    # Last: the current folder is on the path, too, as a rule.
    if name in sys.stdlib_module_names or name == "pytest" or find_spec(name):
        raise _refusal("that no other module has, which the new file would hide", name)
    for path, text in texts.items():
        with path.open("x", encoding="utf-8") as file:
            file.write(text.format(name=name))
        print(f"wrote {path}")
    print(f"test it: python -m pytest test_{name}.py\nrun it: python -m streamworker --processor {name}:{name}")
    return 0


def _refusal(expected: str, name: str) -> ConfigurationError:
    return ConfigurationError(f"NAME: expected a name {expected}, got {name[:80]!r}")
