"""What a run knows of those who wait for it and those who read it."""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections.abc import Callable
from typing import Any

from runstream.run.feed import StoredFeed

__all__ = ["Place", "RunTask"]


class RunTask(asyncio.Task[None]):
    """The task of a run, which knows whether anybody waits for it: such a run is not abandoned.

    Every way to wait for a task (`await`, `asyncio.wait`, `gather`, `wait_for`, `shield`) adds a callback, and those
    that give up take it away again.
    """

    on_await: Callable[[], None] | None = None
    on_leave: Callable[[], None] | None = None
    on_cancel: Callable[[], bool] | None = None
    """Asked before the task is cancelled, whether it is to be."""
    _waiters = 0

    @property
    def claimed(self) -> bool:
        """Whether somebody awaits the task, and thus the end of the run: no turn waits for a reader any more."""
        return self._waiters > 0

    def forget(self) -> None:
        """Tell nobody any more."""
        self.on_await = self.on_leave = self.on_cancel = None

    def cancel(self, msg: Any | None = None) -> bool:
        """As every task does, unless somebody takes the wish to end otherwise."""
        if self.on_cancel is not None and not self.on_cancel():
            return False
        return super().cancel(msg)

    def add_done_callback(self, fn: Any, /, *, context: contextvars.Context | None = None) -> None:
        super().add_done_callback(fn, context=context)
        self._waiters += 1
        if self.on_await is not None:
            self.on_await()

    def remove_done_callback(self, fn: Any, /) -> int:
        removed = super().remove_done_callback(fn)
        self._waiters -= removed
        if removed and not self._waiters and self.on_leave is not None:
            self.on_leave()
        return removed


class Place:
    """What a run knows of an in-process reader."""

    __slots__ = ("cursor", "feed", "paces_turns", "silenced", "task", "waits")

    def __init__(self, cursor: int, *, paces_turns: bool) -> None:
        self.cursor = cursor
        """The seq of the last event that it was handed."""
        self.paces_turns = paces_turns
        """Whether the next turn waits until it has been handed the last event of this one."""
        self.silenced = False
        """Whether an immediate cancel came while it was open: the SDK's view yields nothing more then."""
        self.task: weakref.ref[asyncio.Task[Any]] | None = None
        """The task that opened it. Weakly: a task that was cancelled holds its frames, and a reader in one of them."""
        self.waits = False
        """Whether it waits for the next event."""
        self.feed: StoredFeed | None = None
        """Its own place in a store, where it reads from there."""
