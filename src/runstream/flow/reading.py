"""How operators hold their source: closing it, and asking a generator so that whoever waits may give up.

A reader of a run loses nothing when a wait for it is cancelled (`asyncio.wait_for(anext(reader), 1)`). An asynchronous
generator does: the cancellation ends it, and the next wait finds an ordinary end. `guarded` mends that.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Generic, TypeVar, cast

from runstream.errors import UserError

__all__ = ["Guarded", "aclose", "cancel_from_anywhere", "guarded", "iterator_of", "stopped"]

T = TypeVar("T")


def iterator_of(source: AsyncIterable[T], who: str) -> AsyncIterator[T]:
    """The source's iterator. Raises UserError for what cannot be iterated over with `async for`."""
    if not hasattr(source, "__aiter__"):
        hint = ""
        if inspect.iscoroutine(source):
            source.close()
            hint = ": an `async def` without a `yield` gives one"
        raise UserError(f"{who} reads an asynchronous iterator of events, not a {type(source).__name__}{hint}")
    return aiter(source)


def guarded(source: AsyncIterator[T]) -> AsyncIterator[T]:
    """The source itself, or, where it is a generator, with the law that a wait for it may be given up."""
    return Guarded(source) if inspect.isasyncgen(source) else source


async def aclose(source: Any) -> None:
    """Close the source, if it can be closed."""
    close = getattr(source, "aclose", None)
    if close is not None:
        await close()


async def stopped(task: asyncio.Task[Any] | None) -> None:
    """Cancel the task and return once it is over, whatever its outcome."""
    if task is None or task.done():
        return
    task.cancel()
    await asyncio.wait({task})


def cancel_from_anywhere(task: asyncio.Task[Any] | None) -> None:
    """Cancel the task: for finalizers, which the garbage collector may run in any thread, or after the loop's end."""
    if task is None or task.done():
        return
    loop = task.get_loop()
    if loop.is_closed():
        return
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        task.cancel()
    else:
        loop.call_soon_threadsafe(task.cancel)


class Guarded(Generic[T]):
    """Asks the source in a task of its own, which goes on when the wait for it is given up; the next wait finds it.

    The source sees one context, copied here, so that its context variables are its own and last from one event to the
    next.
    """

    def __init__(self, source: AsyncIterator[T]) -> None:
        self._source = source
        self._task: asyncio.Task[T] | None = None
        self._context = contextvars.copy_context()

    def __aiter__(self) -> Guarded[T]:
        return self

    async def __anext__(self) -> T:
        task = self._task
        if task is None:
            step = cast("Any", self._source.__anext__())
            task = self._task = asyncio.get_running_loop().create_task(_awaited(step), context=self._context)
        try:
            await asyncio.wait({task})
        except BaseException:
            # Whoever keeps the error keeps this frame, and must not thereby keep the source open.
            del self
            raise
        self._task = None
        return task.result()

    async def aclose(self) -> None:
        """Stop the source where it stands, and close it."""
        task, self._task = self._task, None
        await stopped(task)
        if task is not None and not task.cancelled():
            task.exception()  # nobody asks for it any more
        await aclose(self._source)

    def __del__(self) -> None:
        cancel_from_anywhere(self._task)


async def _awaited(step: Any) -> Any:
    try:
        return await step
    except asyncio.CancelledError as error:
        # A cancelled task keeps its error, which must not keep the frames of the source and what they hold.
        raise error.with_traceback(None) from None
