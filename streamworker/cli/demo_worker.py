"""The demo's worker: it is killed half-way, and another one goes on."""

from __future__ import annotations

from pathlib import Path

from streamworker.cli.demo_process import DemoProcess


class DemoWorker(DemoProcess):
    """One worker at a time; it may read the files of `folder`."""

    def __init__(self, home: Path, folder: Path) -> None:
        super().__init__(home, "worker", ("run", "--processor", "documents"), {"STREAMWORKER_DOCUMENTS_ROOT": str(folder)})

    async def broken(self) -> str:
        """Wait until a worker has ended that nobody ended; returns a sentence about it."""
        code = await self.ended()
        return f"the demo's worker ended by itself with exit code {code}: {self.last_words()} (its log: {self.log})"
