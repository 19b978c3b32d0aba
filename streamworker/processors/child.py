"""The program of a child process: one processor, loaded once, that works on one item after another.

It hears and answers frames; whatever the processor prints or logs goes to the worker's log. No driver and no engine is imported here.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import socket
import sys
from typing import Any
from uuid import UUID

import uvloop

from streamworker.errors import ConfigurationError
from streamworker.messages import clean_text, from_json
from streamworker.processors import frames, importing
from streamworker.processors.api import BatchInfo, Item, Unavailable
from streamworker.processors.calls import OpenProcessor
from streamworker.processors.channel import Channel, ForwardLogs, give_up
from streamworker.processors.child_context import ChildContext
from streamworker.processors.importing import Plugin
from streamworker.processors.life import end_with, limit_memory
from streamworker.processors.outcomes import Failed, Interrupted, Outcome
from streamworker.processors.writes import name_write


class Child:
    """Serves one worker until it says Close, or is gone."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._module = ""
        self._plugin: Plugin | None = None
        self._processor: OpenProcessor | None = None
        self._batch: BatchInfo | None = None
        self._context: ChildContext | None = None
        self._running: asyncio.Task[None] | None = None
        self._tasks = 0  # that were ever made here
        self._loop.set_task_factory(self._make_task)

    def _make_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **named: Any) -> asyncio.Task[Any]:
        self._tasks += 1
        return asyncio.Task(coroutine, loop=loop, **named)

    async def serve(self) -> None:
        """Answer until closed."""
        self._channel.listen(self._hear)
        await self._closing.wait()
        self._channel.send(frames.Closed(await self._leave()))

    def _hear(self, frame: frames.ToChild) -> None:
        match frame:
            case frames.Work():
                self._running = self._loop.create_task(self._work(frame))
            case frames.Batch(id, total, metadata):
                self._batch = BatchInfo(UUID(bytes=id), total, from_json(metadata))
            case frames.Stored():
                self._channel.stored(frame)
            case frames.Cancel():
                self._loop.call_soon(self._cancel)  # what came with it has begun by then
            case frames.Load():
                self._load(frame)
            case frames.Enter():
                self._running = self._loop.create_task(self._enter())
            case frames.Close():
                self._closing.set()

    def _load(self, wanted: frames.Load) -> None:
        logging.getLogger().setLevel(wanted.log_level)
        try:
            self._plugin = importing.load(wanted.name, wanted.spec)
            self._module = wanted.spec.partition(":")[0]
            self._channel.send(frames.Loaded())
        except ConfigurationError as error:
            self._channel.send(frames.Refused(clean_text(str(error))))

    async def _enter(self) -> None:
        assert self._plugin is not None
        try:
            self._processor = await OpenProcessor.open(self._plugin, "inline")
            self._channel.send(frames.Ready())
        except (ConfigurationError, Unavailable) as error:
            self._channel.send(frames.Refused(clean_text(str(error)), away=isinstance(error, Unavailable)))

    async def _leave(self) -> str | None:
        try:
            if self._processor is not None:
                await self._processor.close()
        except RuntimeError as error:
            return clean_text(str(error))
        return None

    async def _work(self, work: frames.Work) -> None:
        assert self._processor is not None
        assert self._batch is not None
        try:
            context = self._context = ChildContext(self._channel, self._batch, self._loop, work.deadline, work.number)
            tasks = self._tasks
            outcome = await self._processor(_item(self._batch.id, work), context)
            self._context = self._running = None
            if tasks == self._tasks and self._loop.get_task_factory() == self._make_task:
                self._end(context, outcome)
            else:  # what they say as they end, cancelled just now, is said of this item
                self._loop.call_soon(self._end, context, outcome)
        except Exception:
            give_up()

    def _end(self, context: ChildContext, outcome: Outcome) -> None:
        try:
            context.stopped = context.ended = True
            _flush()
            if self._channel.left:
                os._exit(0)  # a process that user code has forked came back from it: the other one answers
            context.send_noted()
            self._channel.send(self._answer(outcome))
        except Exception:
            give_up()

    def _answer(self, outcome: Outcome) -> frames.Answer:
        match outcome:
            case Failed(error, permanent, delay, exhausted, away):
                return frames.Failed(error, permanent, delay, exhausted, away)
            case Interrupted():
                return frames.Interrupted()
        try:
            return frames.Succeeded(outcome.value, None if outcome.write is None else name_write(outcome.write, self._module))
        except ValueError as error:
            return frames.Failed(clean_text(str(error)))

    def _cancel(self) -> None:
        if self._context is not None and self._running is not None:
            self._context.stopped = True
            self._running.cancel()


def _item(batch_id: UUID, work: frames.Work) -> Item:
    checkpoint = None if work.checkpoint is None else from_json(work.checkpoint)
    return Item(batch_id, work.position, work.key, from_json(work.payload), work.attempt, checkpoint)


def _flush() -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception:  # user code may have put anything in their place, or closed them
        return


async def _serve(channel: Channel) -> None:
    await Child(channel).serve()


def main(connection: int, worker: int, memory: int) -> None:
    """Serve the worker at the socket `connection`, and end with the pipe `worker`; `memory` in bytes, 0 for no limit."""
    end_with(worker)
    if memory:
        limit_memory(memory)
    faulthandler.enable()  # the log then tells where it crashed
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    channel = Channel(socket.socket(fileno=connection))
    logging.getLogger().addHandler(ForwardLogs(channel))
    logging.captureWarnings(True)
    uvloop.run(_serve(channel))  # the loop that a processor has in the worker, too
