"""A program whose standard streams are closed, as some supervisors start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.embedded_scene import ROOT, User, end_all, nothing_runs
from tests.servers import die_with_parent, wait_for

CLOSED = ["<&-", ">&-", "<&- >&-", "2>&-", "<&- >&- 2>&-"]


def without(closed: str, *words: str) -> list[str]:
    """The command line of a command without these streams."""
    return ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "streamworker", *words]


@pytest.mark.parametrize("closed", ["<&- >&-", "<&- >&- 2>&-"])
def test_a_worker_starts_and_ends_its_servers_as_ever(tmp_short: Path, clean_environment: dict[str, str], closed: str) -> None:
    home = tmp_short / "home"
    environment = clean_environment | {"STREAMWORKER_HOME": str(home)}
    process = subprocess.Popen(without(closed), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
    other = User(home, clean_environment)
    try:
        wait_for(lambda: other.redis("EXISTS", "batches"), about="the worker to start")
        assert "stopped" not in other.leave()
        process.send_signal(signal.SIGTERM)
        assert "Traceback" not in process.communicate(timeout=60)[1]
        assert process.returncode == 0
        nothing_runs(home)
    finally:
        process.kill()
        end_all([other], tmp_short)


@pytest.mark.parametrize("closed", CLOSED)
def test_a_command_ends_well(clean_environment: dict[str, str], closed: str) -> None:
    done = subprocess.run(
        without(closed, "--print-completion", "bash"), cwd=ROOT, env=clean_environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (">&-" not in closed.split())


@pytest.mark.parametrize("words", [("--jsonl", "-"), ("-",)])
def test_standard_input_that_is_not_there_is_one_sentence(clean_environment: dict[str, str], words: tuple[str, ...]) -> None:
    done = subprocess.run(without("<&-", "submit", *words), cwd=ROOT, env=clean_environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "streamworker: standard input: expected lines, but it is closed\n"


def test_a_complaint_does_not_go_where_results_go(clean_environment: dict[str, str]) -> None:
    done = subprocess.run(
        without("2>&-", "submit", os.devnull), cwd=ROOT, env=clean_environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
