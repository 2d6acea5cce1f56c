"""The owner of a run's tasks. Nothing that a run starts outlives it, and ending takes a bounded time.

Unlike `asyncio.TaskGroup`, whose end waits for ever for a task that ignores cancellation, a scope gives its tasks a
limit; one that is still running then is reported and left behind, its result dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, TypeVar, cast

from runstream.clock import Clock

__all__ = ["Scope", "done", "settle"]

_T = TypeVar("_T")
_logger = logging.getLogger("runstream")


class Scope:
    """Spawn tasks; `close` cancels those that are left and waits for them."""

    __slots__ = ("_clock", "_left", "_tasks", "_timeout_s")

    def __init__(self, clock: Clock, timeout_s: float) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._tasks: set[asyncio.Task[Any]] = set()
        self._left: tuple[asyncio.Task[Any], ...] = ()

    @property
    def has_tasks(self) -> bool:
        """Whether anything that was spawned still runs."""
        return bool(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, _T], name: str) -> asyncio.Task[_T]:
        """Start work as a task of this scope. An error that the caller does not ask for is dropped."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        _drop(task)

    async def stop(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        """Cancel these tasks and wait for them within the limit. Never raises their errors."""
        waiting = {task for task in tasks if not task.done()}
        for task in waiting:
            task.cancel()
        if waiting:
            await _wait(waiting, self._clock, self._timeout_s)
        for task in waiting:
            if not task.done():
                _logger.warning("%s ignored its cancellation for %g s: left behind", task, self._timeout_s)
                self._left += (task,)
                cast("Any", task)._log_destroy_pending = False  # asyncio need not tell of it a second time
                self._tasks.discard(task)  # waited for once is enough

    def has_left(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether the task was left behind: what it still brings comes too late."""
        return task in self._left

    async def close(self) -> None:
        """Stop every task that is left."""
        await self.stop(self._tasks)


def done(task: asyncio.Task[Any]) -> asyncio.Future[None]:
    """What is done once the task is; who waits for it and is cancelled leaves the task alone. `asyncio.wait` for one
    task, at a fifth of its memory: every run waits for its turns like this."""
    waiter: asyncio.Future[None] = task.get_loop().create_future()
    task.add_done_callback(partial(_release, waiter))
    return waiter


def _release(waiter: asyncio.Future[None], task: asyncio.Task[Any]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _drop(task: asyncio.Task[Any]) -> None:
    """Mark the outcome as seen: who wanted it has it, or it came too late to matter."""
    if task.done() and not task.cancelled():
        task.exception()


async def _wait(tasks: set[asyncio.Task[Any]], clock: Clock, timeout_s: float) -> bool:
    """Wait until all are done; False after `timeout_s`."""
    timer = asyncio.get_running_loop().create_task(clock.sleep(timeout_s))
    try:
        while not timer.done():
            await asyncio.wait({timer, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            tasks = {task for task in tasks if not task.done()}
            if not tasks:
                return True
        return False
    finally:
        timer.cancel()


async def settle(
    work: Callable[[], Coroutine[Any, Any, None]], clock: Clock, timeout_s: float
) -> tuple[Exception | None, bool]:
    """Carry out work that must not be given up when the caller is cancelled, within a limit.

    At the end of an event loop every task is cancelled, the one that does the work as well: it is begun once more
    then, since the loop waits for the caller. Returns the work's error (a TimeoutError past the limit) and whether the
    caller was cancelled meanwhile.
    """
    task = asyncio.get_running_loop().create_task(work())
    interrupted = begun_again = False
    while True:
        try:
            in_time = await _wait({task}, clock, timeout_s)
        except asyncio.CancelledError:
            interrupted = True
            continue
        if not (task.done() and task.cancelled() and interrupted) or begun_again:
            break
        begun_again = True
        task = asyncio.get_running_loop().create_task(work())
    if not in_time:
        task.cancel()
        task.add_done_callback(_drop)
        return TimeoutError(
            f"the end of the run was not done within {timeout_s:g} s: its session may not be saved"
        ), interrupted
    if task.cancelled():
        # With the caller at the end of the event loop; or by itself, and then the work is not done.
        return (None if interrupted else RuntimeError("it was cancelled by something that it waited for")), interrupted
    outcome = task.exception()
    return (outcome if isinstance(outcome, Exception) else None), interrupted
