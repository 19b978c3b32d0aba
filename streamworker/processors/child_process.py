"""The worker's side of one child process: its orders, its answers, and its end, of which it may die at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from streamworker.errors import ConfigurationError
from streamworker.messages import clean_text
from streamworker.processors import frames
from streamworker.processors.api import Context, Item, Unavailable
from streamworker.processors.frames import Budget, FromChild, ToChild, json_text
from streamworker.processors.output import LOG, Output
from streamworker.processors.spawning import spawn
from streamworker.processors.wire import Wire

# How long (seconds) an interrupted item may take to end by itself, before its process is killed.
INTERRUPT_GRACE = 0.3
# How long the processor may take to be left at the end.
CLOSE_PATIENCE = 5.0
# A process that hangs up ends within this time, or is ended.
HANG_UP_PATIENCE = 0.5
REAP_PAUSE = 0.02
MOST_STORING = 1_000
LOG_RATE, LOG_BURST = 1_000.0, 4_000.0
_ASIDE = (frames.Told, frames.Checkpoint, frames.Logged)


# An item and its context; and what gives the one that follows on an answer, or None where whoever asked is to see that answer.
Order = tuple[Item, Context]
Follow = Callable[[frames.Succeeded], Order | None]


class ChildDied(Exception):
    """The process has ended; `started` tells whether it had begun with what it was asked for, and `order` which item that was."""

    def __init__(self, text: str, started: bool = True) -> None:
        super().__init__(text)
        self.started = started
        self.order: Order | None = None


class ChildProcess:
    """One child. One order at a time: `load`, `enter`, then `call` again and again, then `close`. `died` is called when it has ended."""

    def __init__(self, memory: int | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._spawned = spawn(memory)
        self._wire = Wire(self._spawned.connection, self._hear, self._spoil, self._hung_up)
        self._reply: asyncio.Future[Any] | None = None
        self._item: Item | None = None
        self._context: Context | None = None
        self._batch: object = None
        self._follow: Follow | None = None
        self._storing: set[asyncio.Future[None]] = set()
        self._logs = Budget(LOG_RATE, LOG_BURST)
        self._output = Output(self._spawned.output, self._ids, self._loop)
        self._reason = ""
        self._sent_more = False  # what it went with unread may have been something else than its order
        self._ended = asyncio.Event()
        self.served = 0
        self.usable = True
        self.died: Callable[[ChildProcess], None] = lambda child: None
        self._pidfd = _pidfd(self.pid)
        if self._pidfd is not None:
            self._loop.add_reader(self._pidfd, self._reap)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._spawned.process.pid

    def _ids(self) -> dict[str, object]:
        """The fields of whatever it tells now."""
        if self._item is None:
            return {"child": self.pid}
        return {"batch_id": str(self._item.batch_id), "position": self._item.position, "attempt": self._item.attempt}

    # --- orders ---------------------------------------------------------------------------------------------------------------

    async def load(self, name: str, spec: str) -> None:
        """Import the processor. Raises ConfigurationError, or ChildDied."""
        await self._obey(frames.Load(name, spec, LOG.getEffectiveLevel()), frames.Loaded)

    async def enter(self) -> None:
        """Open the processor. Raises ConfigurationError, Unavailable, or ChildDied."""
        await self._obey(frames.Enter(), frames.Ready)

    async def call(self, item: Item, context: Context, follow: Follow | None = None) -> frames.Answer:
        """Run the processor on one item, and on those that follow it, in one go: the answer is that on the last.

        Cancelling this interrupts the item under way, at the cost of the process if need be.
        Raises ChildDied where the process died before it had begun with it.
        """
        self._follow = follow
        try:
            answer = await self._ask(self._begin(item, context))
        except asyncio.CancelledError:
            return await self._interrupt()
        except ChildDied as death:
            if not death.started:
                assert self._item is not None
                assert self._context is not None
                death.order = self._item, self._context
                raise
            return frames.Failed(str(death))
        finally:
            self._output.finish_item()
            self._item = self._context = self._reply = self._follow = None
        if isinstance(answer, frames.Answer):
            return answer
        self._spoil("an answer that does not fit")
        return frames.Failed(f"the processor's process broke the protocol and was ended: {self._reason}")

    def _begin(self, item: Item, context: Context) -> frames.Work:
        """It is the item under way from now on. Raises RecursionError where its payload cannot be passed on."""
        self._item, self._context = item, context
        if self._batch is not context.batch:
            self._batch = context.batch
            self._wire.send(frames.Batch(item.batch_id.bytes, self._batch.total, json_text(dict(self._batch.metadata))))
        self.served += 1
        checkpoint = None if item.checkpoint is None else json_text(item.checkpoint)
        return frames.Work(self.served, item.position, item.key, json_text(item.payload), item.attempt, checkpoint, context.deadline)

    def _go_on(self, answer: Any) -> bool:
        """Send the item that follows, from within the callback that hears the end of the one before; False where none does."""
        if self._follow is None or not self.usable or type(answer) is not frames.Succeeded:
            return False
        following = self._follow(answer)
        if following is None:
            return False
        self._output.finish_item()
        self._send_order(self._begin(*following))
        return True

    async def close(self) -> str | None:
        """End it in good order; returns the error of the processor's own closing, if any."""
        error: str | None = None
        with contextlib.suppress(ChildDied, TimeoutError):
            async with asyncio.timeout(CLOSE_PATIENCE):
                closed = await self._ask(frames.Close())
                error = closed.error if isinstance(closed, frames.Closed) else None
                await self._ended.wait()
        self.kill("closed")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_PATIENCE):
                await self._ended.wait()
        return error

    def kill(self, reason: str) -> None:
        """End it at once, with all that it has started."""
        self.usable = False
        self._reason = self._reason or reason
        self._spawned.kill()
        if self._pidfd is None:
            self._reap()

    async def _obey(self, order: ToChild, expected: type) -> None:
        answer = await self._ask(order)
        if isinstance(answer, frames.Refused):
            raise (Unavailable if answer.away else ConfigurationError)(clean_text(answer.text))
        if not isinstance(answer, expected):
            self._spoil("an answer that does not fit")
            raise ChildDied(f"it broke the protocol: {self._reason}")

    async def _ask(self, order: ToChild) -> Any:
        if not self.usable:
            raise ChildDied(self._reason or "it has ended", started=False)
        self._reply = self._loop.create_future()
        self._send_order(order)
        return await self._reply

    def _send_order(self, order: ToChild) -> None:
        self._sent_more = False
        self._wire.unread = not self._wire.send(order)

    async def _interrupt(self) -> frames.Interrupted:
        """Its result is not wanted: ask it to end, then make it."""
        self._follow = None
        if self._reply is not None and self._reply.cancelled():
            self._reply = self._loop.create_future()
            self._send_more(frames.Cancel())
            deadline = self._loop.time() + INTERRUPT_GRACE
            while not self._reply.done() and (left := deadline - self._loop.time()) > 0:
                with contextlib.suppress(asyncio.CancelledError):  # interrupted already: asking twice changes nothing
                    await asyncio.wait([self._reply], timeout=left)
            if not self._reply.done() or self._reply.exception() is not None:
                self._reply = None  # nobody waits for it
                self.kill("interrupted")
        return frames.Interrupted()

    # --- the channel ----------------------------------------------------------------------------------------------------------

    def _send_more(self, frame: ToChild) -> None:
        self._sent_more = True
        self._wire.send(frame)

    def _hear(self, frame: FromChild) -> None:
        if not isinstance(frame, _ASIDE):
            self._answered(frame)
        elif isinstance(frame, frames.Logged):
            self._log(frame)
        elif self._context is None or frame.item != self.served:
            self._refuse(frame)
        elif isinstance(frame, frames.Told):
            self._context.progress(frame.percent, frame.stage, frame.message)
        else:
            self._store(self._context, frame)

    def _answered(self, answer: Any) -> None:
        if self._reply is None or self._reply.done():
            return
        try:
            if not self._go_on(answer):
                self._reply.set_result(answer)
        except Exception as error:
            self._reply.set_exception(error)

    def _log(self, told: frames.Logged) -> None:
        level = min(max(told.level, logging.DEBUG), logging.CRITICAL)
        if not LOG.isEnabledFor(level) or not self._logs.take():
            return
        record = logging.LogRecord(clean_text(told.logger, 200), level, "", 0, "%s", (told.text,), None)
        record.stack_info = told.trouble
        given = [(name, value) for name, value in told.fields.items() if name not in vars(record)]
        vars(record).update(dict(given[:20]) | self._ids())
        LOG.handle(record)

    def _store(self, context: Context, wanted: frames.Checkpoint) -> None:
        try:
            if not wanted.number:
                context.checkpoint(json.loads(wanted.state), wait=False)
                return
            storing: asyncio.Future[None] = asyncio.ensure_future(_await(context.checkpoint(json.loads(wanted.state))))
        except (ValueError, RecursionError) as error:
            return self._spoil(f"a checkpoint: {error}")
        self._storing.add(storing)
        if len(self._storing) > MOST_STORING:
            self._spoil("checkpoints that nobody waits for")
        storing.add_done_callback(lambda ended: self._stored(wanted.number, ended))

    def _refuse(self, frame: frames.Told | frames.Checkpoint) -> None:
        """It comes from what has outlived its item."""
        if isinstance(frame, frames.Checkpoint) and frame.number and self.usable:
            self._send_more(frames.Stored(frame.number, "the item has ended"))

    def _stored(self, number: int, ended: asyncio.Future[None]) -> None:
        self._storing.discard(ended)
        error = "interrupted" if ended.cancelled() else ended.exception()
        if self.usable:
            self._send_more(frames.Stored(number, None if error is None else clean_text(str(error) or type(error).__name__)))

    # --- its end --------------------------------------------------------------------------------------------------------------

    def _spoil(self, what: str) -> None:
        self.kill(clean_text(f"it broke the protocol: {what}", 300))

    def _hung_up(self) -> None:
        if self._pidfd is None:
            self._reap()
        else:
            self._loop.call_later(HANG_UP_PATIENCE, self.kill, "it closed the connection to its worker")

    def _reap(self) -> None:
        """It has ended, or is about to: settle what is open, and clear away what it has left."""
        if self._ended.is_set():
            return
        self._spawned.kill()  # those it has started; its own number is still taken
        if self._spawned.process.poll() is None:
            if self._pidfd is None:
                self._loop.call_later(REAP_PAUSE, self._reap)
            return
        self.usable, self._follow = False, None
        while self._wire.read():
            pass
        if self._ended.is_set():
            return  # the last read has told of the end, and all is settled
        self._ended.set()
        self._output.close()
        if self._reply is not None and not self._reply.done():
            started = self._sent_more or (self._wire.sent_all and not self._wire.unread)
            self._reply.set_exception(ChildDied(self._epitaph(), started))
        self._let_go()
        self.died(self)

    def _epitaph(self) -> str:
        status = self._spawned.process.returncode
        if self._reason:
            return f"the processor's process was ended: {self._reason}"
        if status >= 0:
            return f"the processor's process died: exit status {status}"
        name = signal.Signals(-status).name if -status in set(signal.Signals) else "unknown"
        hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
        return f"the processor's process died: signal {-status} ({name}){hint}"

    def _let_go(self) -> None:
        self._wire.close()
        os.close(self._spawned.life)
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        for storing in self._storing:
            storing.cancel()


async def _await(awaitable: Awaitable[None]) -> None:
    await awaitable


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)  # tells of its end, and of nothing else
    except (AttributeError, OSError):
        return None
