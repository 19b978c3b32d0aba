"""Virtual environments under .venv-bench, made from peers.txt when they are first needed."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.bench.spawned import ROOT
from tests.bench.world import Refused

PINS = Path(__file__).with_name("peers.txt")
FOLDER = ROOT / ".venv-bench"
INSTALL_SECONDS = 300.0


def pins() -> dict[str, list[str]]:
    """What each environment consists of, by name."""
    lines = [line.split() for line in PINS.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return {name: wanted for name, *wanted in lines}


@cache
def python_of(name: str) -> str:
    """The Python of an environment, which is there and complete; raises Refused, with pip's last word, when it cannot be made."""
    folder, wanted = FOLDER / name, "\n".join([*pins()[name], sys.version])
    python, stamp = folder / "bin" / "python", folder / "stamp"
    if not stamp.exists() or stamp.read_text("utf-8") != wanted:
        print(f"bench: making .venv-bench/{name} (once)", file=sys.stderr, flush=True)
        _run("venv", "--clear", "--without-pip", str(folder))
        _run("pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check", *pins()[name])
        stamp.write_text(wanted, "utf-8")
    return str(python)


def _run(module: str, *arguments: str) -> None:
    line = [sys.executable, "-m", module, *arguments]
    try:
        ended = subprocess.run(line, capture_output=True, text=True, errors="replace", timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Refused(f"{module} did not end within {INSTALL_SECONDS:g} s") from None
    if ended.returncode != 0:
        said = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
        raise Refused(f"{module}: {said[-1] if said else f'exit code {ended.returncode}'}")
