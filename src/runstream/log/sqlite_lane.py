"""A thread that carries out calls for an event loop: what the SQLite store's writer and its reader have in common.

Whoever waits for a call may be cancelled, and the loop may be closed: then nobody hears how it ended. The thread ends
when it is closed, or when it finds that its loop is gone; it never keeps the process alive.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar, cast

from runstream.errors import StoreError

__all__ = ["Call", "Lane", "Outcome"]

T = TypeVar("T")
Target = TypeVar("Target")

_log = logging.getLogger("runstream.log")

# How long a thread without work waits until it looks whether its loop is still there.
_IDLE_S = 1.0
# So many calls share a transaction at the most.
_BATCH = 64


class Call(NamedTuple):
    """Something to be done in the thread, and who waits for it."""

    work: Callable[[Any], Any]
    future: asyncio.Future[Any]


class Outcome(NamedTuple):
    """How a call ended."""

    future: asyncio.Future[Any]
    value: Any
    error: BaseException | None


class Lane(Generic[Target]):
    """The queue of calls and the thread; subclasses open what it works on, and carry out batches of calls."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: SimpleQueue[Call | None] = SimpleQueue()
        self._opened: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._closing = False
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    async def start(self) -> None:
        """Raises what opening raises; the thread has ended then. A start that is cancelled goes on until `aclose`."""
        self._thread.start()
        try:
            await asyncio.shield(self._opened)
        except StoreError:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Carries out what was called before, then ends the thread. Idempotent."""
        if self._thread.ident is None:
            return  # it was never started
        self._closing = True
        self._queue.put(None)
        await asyncio.shield(self._ended)
        self._thread.join()
        if not self._opened.cancelled():
            self._opened.exception()  # whoever started it may be gone

    def call(self, work: Callable[[Target], T]) -> asyncio.Future[T]:
        """Have it done in the thread. Raises StoreError where there is none any more."""
        if self._ended.done():
            raise StoreError(f"{self._thread.name} has ended: open the store again")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(Call(cast("Callable[[Any], Any]", work), future))
        return future

    @property
    def ended(self) -> bool:
        """Whether the thread is gone, for whatever reason."""
        return self._ended.done()

    def wake(self) -> None:
        """Have the thread look around without a call; from any thread."""
        self._queue.put(None)

    # In the thread.

    def _open(self) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError

    def _carry_out(self, calls: Sequence[Call]) -> None:
        raise NotImplementedError

    def _look_around(self, idle: bool) -> None:
        """What is to be done between calls; idle: none has come for as long as `_patience_s` allowed."""
        raise NotImplementedError

    def _patience_s(self) -> float:
        """How long to wait for a call at the most."""
        return _IDLE_S

    def _main(self) -> None:
        try:
            self._open()
        except Exception as error:
            self._tell(self._settle_one, self._opened, error)
            self._tell(self._settle_one, self._ended, None)
            return
        self._tell(self._settle_one, self._opened, None)
        try:
            while True:
                calls, idle = self._take()
                if calls:
                    self._carry_out(calls)
                if self._queue.empty() and (self._closing or self._loop.is_closed()):
                    break
                self._look_around(idle)
        finally:
            try:
                self._close()
            finally:
                self._tell(self._finish)

    def _finish(self) -> None:
        """In the loop: nobody waits for a thread that is gone."""
        self._settle_one(self._ended, None)
        try:
            while True:
                call = self._queue.get_nowait()
                if call is not None:
                    _settle([Outcome(call.future, None, StoreError("the store was closed before this call was begun"))])
        except Empty:
            return

    def _take(self) -> tuple[list[Call], bool]:
        queue = self._queue
        calls: list[Call] = []
        try:
            entry = queue.get(timeout=self._patience_s())
            while True:
                # Who gave up before it began does not want it done.
                if entry is not None and not entry.future.cancelled():
                    calls.append(entry)
                if len(calls) >= _BATCH:
                    break
                entry = queue.get_nowait()
        except Empty:
            return calls, not calls
        return calls, False

    def _tell(self, callback: Callable[..., None], *arguments: Any) -> bool:
        """Have it called in the loop; False where there is no loop any more."""
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            return False
        return True

    def _settle(self, outcomes: Sequence[Outcome]) -> None:
        if not self._tell(_settle, outcomes):
            _log.debug("%s: the event loop is closed: nobody hears of %d calls", self._thread.name, len(outcomes))

    @staticmethod
    def _settle_one(future: asyncio.Future[None], error: BaseException | None) -> None:
        _settle([Outcome(future, None, error)])


def _settle(outcomes: Sequence[Outcome]) -> None:
    for future, value, error in outcomes:
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)
