"""The isolations, and one worker after another for the tests of a file that run in each of them."""

from __future__ import annotations

from tests.flows.scene import Scene
from tests.flows.workers import WorkerProcess

# An isolation, and the processor to name: `work` is async, `plain` a plain def, which runs in a thread of its own in each of them.
MODES = [("inline", "work"), ("inline", "plain"), ("thread", "work"), ("process", "work"), ("process", "plain")]
NAMES = ["inline-async", "inline-plain", "thread-async", "process-async", "process-plain"]


class Succession:
    """Workers of one scene that serve the same processors, each in another isolation; there is never more than one."""

    def __init__(self, scene: Scene, processors: str) -> None:
        self._scene = scene
        self._processors = processors
        self._now: tuple[str, WorkerProcess] | None = None

    def worker(self, isolation: str) -> WorkerProcess:
        """The worker of this isolation; one of another isolation ends first."""
        if self._now is None or self._now[0] != isolation:
            if self._now is not None:
                assert self._now[1].end() == 0
            self._now = isolation, self._scene.start_worker(processor=self._processors, isolation=isolation)
        return self._now[1]
