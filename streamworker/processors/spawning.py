"""Starting a child process: a fresh interpreter in a session of its own, with three descriptors of ours and none of our secrets."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

# What the worker needs and a processor does not: where its servers are, and what opens them.
SECRET_VARIABLES = frozenset({
    "REDIS_URL", "DATABASE_URL", "STREAMWORKER_GATEWAY_TOKEN", "STREAMWORKER_GATEWAY_READ_TOKEN",
    "REDISCLI_AUTH", "PGPASSWORD", "PGPASSFILE", "PGSERVICEFILE",
})  # fmt: skip
# The same modules are found in the same places, whatever the folder is called or holds.
_BOOT = (
    "import sys; sys.path[:] = sys.argv.pop(1).split('\\n'); from streamworker.processors.child import main; main(*map(int, sys.argv[1:]))"
)


@dataclass(frozen=True, slots=True)
class Spawned:
    """A child process and our ends of what connects us; closing `life` ends it, with all that it has started."""

    process: subprocess.Popen[bytes]
    connection: socket.socket
    output: int
    life: int

    def kill(self) -> None:
        """SIGKILL to it and to its group; only before it was waited for, so that its number can be nobody else's."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)


def spawn(memory: int | None) -> Spawned:
    """Start a child that waits for its orders; `memory` limits it (bytes)."""
    ours, theirs = socket.socketpair()
    printed, printing = os.pipe()
    ended, life = os.pipe()
    numbers = (theirs.fileno(), ended, memory or 0)
    try:
        process = subprocess.Popen(  # noqa: S603 our own interpreter, our own program
            [sys.executable, "-c", _BOOT, "\n".join(sys.path), *map(str, numbers)],
            stdin=subprocess.DEVNULL,
            stdout=printing,
            stderr=printing,
            pass_fds=numbers[:2],
            env=without_secrets(os.environ),
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        os.close(printed)
        os.close(life)
        raise
    finally:
        theirs.close()
        os.close(printing)
        os.close(ended)
    ours.setblocking(False)
    return Spawned(process, ours, printed, life)


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment for user code."""
    return {name: value for name, value in environ.items() if name not in SECRET_VARIABLES}
