"""What the fetcher takes next, on a real stream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from streamworker.broker.consumer import Delivery
from streamworker.engine import waiting_room
from streamworker.engine.fetcher import Fetcher
from tests.flows.test_consumer import IDS, consumer

PATIENCE = 50


async def test_those_that_find_no_room_to_wait_come_not_before_new_work(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_room, "MOST_WAITING", 0)
    async with consumer(redis_url, "first") as first:
        old = [await first.enqueue(batch_id) for batch_id in IDS[:5]]
        assert len(await first.read(5, 0.1)) == 5
        for entry_id in old:
            await first.pass_on(entry_id)
        new = await first.enqueue(IDS[5])
        taken: list[str] = []

        async def run(deliveries: Sequence[Delivery]) -> None:
            taken.extend(delivery.entry_id for delivery in deliveries)
            await first.pass_on(taken[-1])  # anybody may have it again, at once

        room = waiting_room.WaitingRoom(cast(Any, None), cast(Any, None))  # a full one asks nobody anything
        fetcher = Fetcher(first, 1, run, lambda: 1, room, lambda: None)
        for _ in range(PATIENCE):
            await fetcher.step()
            await asyncio.gather(*fetcher.busy())
        assert new in taken
        assert taken[0] in old, "what was left by others comes first"
