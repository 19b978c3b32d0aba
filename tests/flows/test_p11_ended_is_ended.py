"""P11: a terminal batch never changes again, except by an explicit retry; and what cancel and retry do."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.flows.processors import act, hold
from tests.flows.scene import Scene


@pytest.fixture(scope="module", autouse=True)
def _worker(module_scene: Scene) -> None:
    module_scene.start_worker()
