"""SIGTERM and Ctrl-C while a worker starts: a good end at whatever point, and nothing left running."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.flows.workers import WorkerProcess
from tests.process.embedded_scene import ROOT, end_all, nothing_runs, processes_in
from tests.servers import wait_for

SIGNALS = [signal.SIGTERM, signal.SIGINT]
# Tells that it is being imported, and blocks its process until the gate is open.
SLOW_IMPORT = """
import time
from pathlib import Path
FOLDER = Path(__file__).parent
(FOLDER / "importing").touch()
while not (FOLDER / "gate").exists():
    time.sleep(0.01)
async def process(item, context):
    pass
"""
# A signal at the first instant of the command, before there is a loop.
SIGNALLED_EARLY = """
import os, signal
from streamworker.cli import main, run
load = run.load_settings
def load_signalled(arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    return load(arguments)
run.load_settings = load_signalled
raise SystemExit(main(["run"]))
"""
Begins = Callable[..., WorkerProcess]


@pytest.fixture
def begin(tmp_short: Path, clean_environment: dict[str, str]) -> Iterator[Begins]:
    """Start a worker on the embedded servers of `home`, or on others, and go on."""
    workers: list[WorkerProcess] = []

    def start(**environment: str) -> WorkerProcess:
        given = {"STREAMWORKER_HOME": str(tmp_short / "home"), "PYTHONPATH": str(tmp_short), "STREAMWORKER_LOG_FORMAT": "json"}
        workers.append(WorkerProcess(clean_environment | given | environment, tmp_short / f"worker-{len(workers)}.log"))
        return workers[-1]

    (tmp_short / "slow_import.py").write_text(SLOW_IMPORT)
    yield start
    for worker in workers:
        worker.discard()
    end_all([], tmp_short)


@pytest.mark.parametrize("number", SIGNALS)
def test_while_the_embedded_servers_are_made(begin: Begins, tmp_short: Path, number: signal.Signals) -> None:
    worker = begin()
    postgres = tmp_short / "home/postgres"
    wait_for(lambda: (postgres / "new").exists() or (postgres / "data").exists(), about="initdb")
    worker.signal(number)
    assert worker.wait_ended() == 0, worker.tail()
    assert worker.errors() == []
    nothing_runs(tmp_short)


@pytest.mark.parametrize("number", SIGNALS)
def test_while_a_processor_blocks_the_loop_with_its_import(begin: Begins, tmp_short: Path, number: signal.Signals) -> None:
    worker = begin(STREAMWORKER_PROCESSOR="slow_import:process")
    wait_for((tmp_short / "importing").exists, about="the import")
    worker.signal(number)
    (tmp_short / "gate").touch()
    assert worker.wait_ended() == 0, worker.tail()
    assert "worker started" not in worker.messages()
    nothing_runs(tmp_short)


def test_a_second_one_does_not_wait_for_the_import(begin: Begins, tmp_short: Path) -> None:
    worker = begin(STREAMWORKER_PROCESSOR="slow_import:process")
    wait_for((tmp_short / "importing").exists, about="the import")
    worker.signal(signal.SIGTERM)
    wait_for(lambda: not is_pending(worker.pid, signal.SIGTERM), about="the first signal to be taken")
    worker.signal(signal.SIGTERM)
    assert worker.wait_ended(10) == 128 + signal.SIGTERM


def test_while_a_child_process_imports_its_processor(begin: Begins, tmp_short: Path) -> None:
    worker = begin(STREAMWORKER_PROCESSOR="slow_import:process", STREAMWORKER_ISOLATION="process")
    wait_for((tmp_short / "importing").exists, about="the import")
    worker.terminate()
    assert worker.wait_ended() == 0, worker.tail()
    wait_for(lambda: not worker.strays(), about="the end of the child")
    nothing_runs(tmp_short)


def test_while_postgres_takes_connections_and_says_nothing(begin: Begins) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        url = f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/db"
        worker = begin(REDIS_URL="redis://127.0.0.1:1", DATABASE_URL=url, STREAMWORKER_PROCESSOR="tests.flows.processors:work")
        with silent.accept()[0]:
            worker.terminate()
            assert worker.wait_ended(8) == 0, worker.tail()  # before the attempt to connect would be given up


def test_before_there_is_a_loop(tmp_short: Path, clean_environment: dict[str, str]) -> None:
    environment = clean_environment | {"STREAMWORKER_HOME": str(tmp_short / "home")}
    done = subprocess.run([sys.executable, "-c", SIGNALLED_EARLY], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert processes_in(tmp_short) == []


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a process has not taken a signal yet."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return any(int(line.split()[1], 16) >> number - 1 & 1 for line in lines if line.startswith(("SigPnd", "ShdPnd")))
