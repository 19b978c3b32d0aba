"""`gateway`: the live page, the REST API, WebSocket and SSE, until it is told to stop."""

from __future__ import annotations

import argparse
import os
import sys

import uvloop

from streamworker.cli.options import SERVERS, Subparsers, add_command, add_settings, load_settings
from streamworker.errors import ConfigurationError
from streamworker.observe.logs import configure_logging
from streamworker.settings import built_in_secrets

SETTINGS = SERVERS | {
    "stream", "group", "progress_stream", "dead_stream", "log_level", "log_format",
    "gateway_address", "gateway_hosts", "gateway_origins",
}  # fmt: skip
NEEDS = "`gateway` needs starlette, uvicorn and websockets: pip install 'streamworker[gateway]'"


def add_to(commands: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "gateway", run, "serve the live page, the REST API, WebSocket and SSE until SIGTERM")
    parser.add_argument("--address", dest="setting_gateway_address", metavar="ADDRESS", help="short for --gateway-address")
    add_settings(parser, SETTINGS)


def run(arguments: argparse.Namespace) -> int:
    """Serve; returns the exit code."""
    settings = load_settings(arguments)
    settings.require_gateway_token()
    configure_logging(settings.log_level, settings.log_format, (*settings.secrets, *built_in_secrets(os.environ)))
    try:
        from streamworker.gateway.server import serve  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(f"{NEEDS} ({error})") from None
    return uvloop.run(serve(settings, _say))


def _say(where: str) -> None:
    print(f"streamworker: the gateway serves {where}", file=sys.stderr, flush=True)
