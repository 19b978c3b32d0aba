"""What many ask for is read once."""

from __future__ import annotations

import asyncio

import pytest

from streamworker.gateway import recent
from streamworker.gateway.recent import Recent


class Source:
    """Counts how often it is read; answers when the test says so."""

    def __init__(self) -> None:
        self.reads = 0
        self.answer = asyncio.Event()
        self.error: Exception | None = None

    async def read(self) -> int:
        self.reads += 1
        number = self.reads
        await self.answer.wait()
        if self.error is not None:
            raise self.error
        return number


async def test_many_at_once_and_soon_after_are_one_read() -> None:
    source = Source()
    value = Recent(source.read)
    waiting = [asyncio.create_task(value.get()) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    source.answer.set()
    assert await asyncio.gather(*waiting[1:]) == [1, 1, 1, 1]
    assert (await value.get(), source.reads) == (1, 1)


async def test_an_old_one_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "FRESH", -1.0)
    source = Source()
    source.answer.set()
    value = Recent(source.read)
    assert [await value.get() for _ in range(2)] == [1, 2]


async def test_an_error_is_told_and_not_kept() -> None:
    source = Source()
    source.answer.set()
    source.error = OSError("away")
    value = Recent(source.read)
    with pytest.raises(OSError, match="away"):
        await value.get()
    source.error = None
    assert await value.get() == 2
