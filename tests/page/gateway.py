"""A gateway process of a test: started at a port of its own, ended, killed and started again there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.flows.scene import OURS, Scene
from tests.flows.workers import ROOT
from tests.servers import die_with_parent, free_port, wait_for


class Gateway:
    """`python -m streamworker gateway` on the servers of a scene; `url` stays the same over restarts."""

    serves = "the gateway serves"

    def __init__(self, redis_url: str, database_url: str, folder: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        named = {f"STREAMWORKER_{name.upper()}": value for name, value in settings.items()}
        self._environment: Mapping[str, str] = kept | {"REDIS_URL": redis_url, "DATABASE_URL": database_url} | named
        self._log = folder / f"gateway-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def of(cls, scene: Scene, **settings: str) -> Gateway:
        """A gateway on the servers of a scene."""
        return cls(scene.redis_url, scene.database_url, scene.folder, **settings)

    def __enter__(self) -> Gateway:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> Gateway:
        """Start it and wait until it serves."""
        before = self.log().count(self.serves)
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self.command()],
                cwd=ROOT, env=dict(self._environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip
        process = self._process
        wait_for(lambda: self.log().count(self.serves) > before or process.poll() is not None, 40, "the gateway to serve")
        assert process.poll() is None, self.log()
        return self

    @property
    def lives(self) -> bool:
        """Whether the process has not ended."""
        return self._process is not None and self._process.poll() is None

    def command(self) -> list[str]:
        """What Python is asked to run."""
        return ["streamworker", "gateway", "--address", f"127.0.0.1:{self.port}"]

    def stop(self) -> int:
        """End it in good order; returns the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(20)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text("utf-8", "backslashreplace") if self._log.exists() else ""


class Mounted(Gateway):
    """The same in an app of somebody's own, below a path of it, on a server of theirs."""

    serves = "Uvicorn running"

    def __init__(self, redis_url: str, database_url: str, folder: Path, **settings: str) -> None:
        super().__init__(redis_url, database_url, folder, **settings)
        self.url += "shop/progress/"

    def command(self) -> list[str]:
        """What Python is asked to run."""
        return ["uvicorn", "tests.page.mounted:app", "--port", str(self.port)]
