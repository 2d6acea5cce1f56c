"""Several streams as one, each event with the tag of its stream.

Order: a stream's own order is kept; between streams, events come as they arrive, and of streams that have some ready
each gives one in turn, so that a fast one does not hold up the others. Each stream is read ahead in a task of its own
by at most `_AHEAD` events; then it is not read until the consumer has taken one (a run's log keeps the rest).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar, cast, overload

from runstream.errors import UserError
from runstream.flow.reading import aclose, cancel_from_anywhere, iterator_of, stopped

__all__ = ["Merged", "Tagged", "merge"]

T = TypeVar("T")
K = TypeVar("K")

_AHEAD = 16


class Tagged(NamedTuple, Generic[K, T]):
    """An event and the tag of the stream that it comes from: `async for tag, event in merge(...)`."""

    tag: K
    event: T


@overload
def merge(streams: Mapping[K, AsyncIterable[T]], /, *, return_exceptions: bool = False) -> Merged[K, T]: ...
@overload
def merge(*streams: AsyncIterable[T], return_exceptions: bool = False) -> Merged[int, T]: ...


def merge(*streams: Any, return_exceptions: bool = False) -> Merged[Any, Any]:
    """The events of several streams as they come, each as `Tagged(tag, event)`; it ends when all have ended.

    A mapping names the streams; otherwise they are numbered from 0. A run's result is a stream, too. An error of one
    stream is raised after what came before it, and the others are closed, which abandons their runs; with
    `return_exceptions` it comes as that stream's last event, and the others go on. Closing the merged stream, or
    leaving it, closes them all. A wait that is given up loses nothing.
    """
    if len(streams) == 1 and isinstance(streams[0], Mapping):
        named = cast("Mapping[Any, AsyncIterable[Any]]", streams[0])
    else:
        named = cast("Mapping[Any, AsyncIterable[Any]]", dict(enumerate(streams)))
    return Merged(
        _Merging([_Lane(tag, iterator_of(each, "merge()")) for tag, each in named.items()]), return_exceptions
    )


class Merged(Generic[K, T]):
    """Iterates over the events of several streams."""

    def __init__(self, merging: _Merging, return_exceptions: bool) -> None:
        self._merging = merging
        self._merging.returns_errors = return_exceptions

    def __aiter__(self) -> Merged[K, T]:
        return self

    async def __anext__(self) -> Tagged[K, T]:
        try:
            return cast("Tagged[K, T]", await self._merging.next())
        except BaseException:
            # Whoever keeps the error keeps this frame, and must not thereby keep the sources open.
            del self
            raise

    async def aclose(self) -> None:
        """Close every stream; one that fails at that does not keep the others open."""
        await self._merging.aclose()

    def __del__(self) -> None:
        self._merging.drop()


class _Lane:
    """One stream: what was read ahead of it, and the task that reads."""

    def __init__(self, tag: Any, source: AsyncIterator[Any]) -> None:
        self.tag = tag
        self.source: AsyncIterator[Any] | None = source
        self.events: deque[Any] = deque()
        self.error: Exception | None = None
        self.task: asyncio.Task[None] | None = None
        self.room: asyncio.Future[None] | None = None
        self.is_over = False


class _Merging:
    """The lanes, and whose turn it is. Knows nothing of who holds the iterator."""

    def __init__(self, lanes: list[_Lane]) -> None:
        self._lanes = lanes
        self._open = len(lanes)
        self._turns: deque[_Lane] = deque()
        """Lanes that have something, in the order of their turns; each once."""
        self._waiter: asyncio.Future[None] | None = None
        self._is_asked = False
        self._is_begun = False
        self._is_closed = False
        self.returns_errors = False

    async def next(self) -> Tagged[Any, Any]:
        if self._is_asked:
            raise UserError("somebody waits for the next event already: a merged stream has one consumer")
        self._is_asked = True
        try:
            return await self._next()
        finally:
            self._is_asked = False

    async def _next(self) -> Tagged[Any, Any]:
        if not self._is_begun and not self._is_closed:
            self._is_begun = True
            for lane in self._lanes:
                if lane.source is not None:
                    lane.task = asyncio.get_running_loop().create_task(self._read(lane, lane.source))
        while self._open and not self._is_closed:
            if not self._turns:
                self._waiter = asyncio.get_running_loop().create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
                continue
            lane = self._turns.popleft()
            if lane.events:
                event = lane.events.popleft()
                if lane.events or lane.is_over:
                    self._turns.append(lane)
                if lane.room is not None and not lane.room.done():
                    lane.room.set_result(None)
                return Tagged(lane.tag, event)
            self._open -= 1
            error, lane.error = lane.error, None
            if error is None:
                continue
            if self.returns_errors:
                return Tagged(lane.tag, error)
            try:
                await self._close()  # what fails there is less than this
                raise error
            finally:
                del error
        self._is_closed = True
        raise StopAsyncIteration

    async def _read(self, lane: _Lane, source: AsyncIterator[Any]) -> None:
        try:
            while True:
                lane.events.append(await source.__anext__())
                if len(lane.events) == 1:
                    self._give_turn(lane)
                elif len(lane.events) >= _AHEAD:
                    lane.room = asyncio.get_running_loop().create_future()
                    await lane.room
        except StopAsyncIteration:
            pass
        except Exception as error:
            lane.error = error
        finally:
            # What was cancelled keeps its error, that this frame, and this must not keep the source.
            lane.task = lane.room = None
            del source
            lane.is_over = True
            if not lane.events:
                self._give_turn(lane)

    def _give_turn(self, lane: _Lane) -> None:
        self._turns.append(lane)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def aclose(self) -> None:
        for failure in await self._close():
            raise failure

    async def _close(self) -> list[BaseException]:
        self._is_closed = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        # All at once: each may have a run to wait for.
        ends = await asyncio.gather(*(_leave(lane) for lane in self._lanes), return_exceptions=True)
        return [end for end in ends if end is not None]

    def drop(self) -> None:
        """The iterator is gone: let go of the streams, though an error that somebody keeps may hold on to this."""
        for lane in self._lanes:
            cancel_from_anywhere(lane.task)
            lane.source = None
        self._lanes.clear()
        self._turns.clear()


async def _leave(lane: _Lane) -> None:
    await stopped(lane.task)
    await aclose(lane.source)
