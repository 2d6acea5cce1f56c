"""Things that belong to one event loop each, and are closed when it shuts down.

An event loop closes the asynchronous generators that were begun in it when it shuts down (`asyncio.run` does so): the
one hook that a library has to release connections and threads in time.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["LoopLocal"]

T = TypeVar("T")


class _Things(dict[Hashable, T]):
    """The things of one event loop."""

    keeper: AsyncGenerator[None, None] | None = None


class LoopLocal(Generic[T]):
    """A mapping for each event loop; `close` is awaited for each thing when its loop shuts down."""

    def __init__(self, close: Callable[[T], Awaitable[None]]) -> None:
        self._close = close
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Things[T]] = weakref.WeakKeyDictionary()

    def of_running_loop(self) -> dict[Hashable, T]:
        """The things of the running event loop. Raises RuntimeError where none is running."""
        loop = asyncio.get_running_loop()
        things = self._loops.get(loop)
        if things is None:
            for other in [other for other in self._loops if other.is_closed()]:
                # Closed without a shutdown of its asynchronous generators: its things can only be let go.
                del self._loops[other]
            things = self._loops[loop] = _Things[T]()
            things.keeper = self._close_at_shutdown(things)
            try:
                things.keeper.asend(None).send(None)
            except StopIteration:
                pass
        return things

    async def _close_at_shutdown(self, things: _Things[T]) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            for thing in list(things.values()):
                await self._close(thing)
            things.clear()
            things.keeper = None  # a generator holds on to its loop, and this would keep the loop for ever
