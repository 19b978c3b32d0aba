"""How a child process ends with its worker, whatever kills that, and what it may use until then."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import select
import signal
import sys
import threading

PR_SET_PDEATHSIG = 1
F_SETSIG = 10  # fcntl has no name for it before Python 3.13


def end_with(worker: int) -> None:
    """End this process and its group when the other end of the pipe `worker` is closed: however that process ends, it closes it.

    On Linux the kernel does it, also while native code holds the interpreter lock, and also to the children of this process:
    the pipe's only event, its end, is turned into a SIGKILL for the whole group.
    """
    os.set_inheritable(worker, False)
    if not _kernel_ends_us(worker):
        threading.Thread(target=_end_after, args=(worker,), name="end-with-worker", daemon=True).start()
    elif select.select([worker], [], [], 0)[0]:  # it was closed before anybody could be told
        end_group()


def _kernel_ends_us(worker: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        fcntl.fcntl(worker, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(worker, F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(worker, fcntl.F_SETFL, fcntl.fcntl(worker, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError:  # a kernel that only resembles Linux
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        return False
    return True


def _end_after(worker: int) -> None:
    os.read(worker, 1)
    end_group()


def end_group() -> None:
    """Kill this process and all that it has started."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


def limit_memory(size: int) -> None:
    """Let this process, and each that it starts, have no more than `size` bytes of its own (Linux).

    Not the address space: number crunchers reserve far more of that than they use, and map their models from files.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
