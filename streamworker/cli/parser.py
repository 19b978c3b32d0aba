"""Arguments in, one command with its arguments out; every mistake is one sentence."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from streamworker.cli import batches, dead, demo, doctor, gateway, migrate, new, run, search, submit, watch
from streamworker.errors import ConfigurationError

COMMANDS = (run, submit, batches, watch, search, dead, migrate, doctor, gateway, new, demo)
# These, and no command, may come first and still mean the program as a whole.
PROGRAM_FLAGS = ("-h", "--help", "--version", "--print-completion")


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are ConfigurationErrors."""

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments."""
        raise ConfigurationError(f"{message} (see `{self.prog} --help`)")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; without a command it is `run`. The command stands in `.command`."""
    words = list(argv)
    if not words or (words[0].startswith("-") and words[0].partition("=")[0] not in PROGRAM_FLAGS):
        words.insert(0, "run")
    return build_parser().parse_args(words)


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="streamworker",
        description="Durable batch processing from a Redis Stream: item after item, for hours or days.",
        epilog="Exit codes: 0 done, 1 it failed, 2 usage or configuration. Without a command: run.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"streamworker {_version()}")
    parser.add_argument(
        "--print-completion", metavar="SHELL", action=_Completion, help="print a completion script for bash, zsh, tcsh or fish"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add_to(commands)
    return parser


class _Completion(argparse.Action):
    """Prints the completion script of a shell, if shtab is installed."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: object, values: object, option_string: str | None = None) -> None:
        try:
            import shtab  # noqa: PLC0415
        except ImportError:
            raise ConfigurationError("--print-completion needs shtab: pip install 'streamworker[cli]'") from None
        if values not in shtab.SUPPORTED_SHELLS:
            raise ConfigurationError(f"--print-completion: expected one of {', '.join(shtab.SUPPORTED_SHELLS)}, got {values!r}")
        print(shtab.complete(parser, shell=values))
        parser.exit()


def _version() -> str:
    try:
        return version("streamworker")
    except PackageNotFoundError:
        return "(not installed)"
