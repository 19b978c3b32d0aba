"""The command line: `streamworker [COMMAND]`, one file a command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import asyncpg
from redis.exceptions import RedisError

from streamworker.cli.parser import parse
from streamworker.cli.text import escape
from streamworker.errors import ConfigurationError, InvalidSubmission, SchemaError, StreamworkerError
from streamworker.settings import mask_urls

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 it failed, 2 usage or configuration."""
    _fill_closed_streams()
    _never_choke_on_output()
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
        code: int = arguments.command(arguments)
        sys.stdout.flush()
    except SystemExit as end:  # argparse, after it has printed help or the version
        return int(end.code or 0)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (ConfigurationError, SchemaError, InvalidSubmission) as error:
        return _refuse(error, USAGE)
    except (StreamworkerError, RedisError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        return _refuse(error, FAILED)
    return code


def _refuse(error: Exception, code: int) -> int:
    text = escape(mask_urls(str(error) or type(error).__name__))
    print(f"streamworker: {text}", file=sys.stderr)
    return code


def _fill_closed_streams() -> None:
    """Put the null device in the place of each standard stream that is closed: the next file opened would get its number otherwise."""
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)  # the number alone: who wants to read is told that there is nothing
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _never_choke_on_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
