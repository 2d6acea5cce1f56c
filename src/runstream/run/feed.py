"""A stored log as one reader sees it: fetched page by page, as it reads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from runstream.events.event import Event
from runstream.events.segment import decode_segment
from runstream.log.base import Segment, Store, Tail
from runstream.log.memory import MemoryLog
from runstream.run.bind import AgentBook, bind

__all__ = ["StoredFeed", "events_of", "in_background"]

# What the reader has passed is not kept: a page is about as many events.
_KEPT_EVENTS = 4_000

_background: set[asyncio.Task[Any]] = set()


def in_background(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Do it as a task that is held until it is done: an event loop holds its tasks only weakly."""
    task = asyncio.get_running_loop().create_task(work)
    _background.add(task)
    task.add_done_callback(_background.discard)
    return task


def events_of(
    segments: Sequence[Segment], run_id: str, after: int, book: AgentBook, *, deltas: bool = True
) -> list[Event]:
    """The events of segments that come after a seq, with their live objects; those of deltas only if wanted."""
    events: list[Event] = []
    for segment in segments:
        found = decode_segment(segment.body, run_id, deltas=deltas)
        if segment.first_seq <= after:
            found = [event for event in found if event.seq > after]
        for event in found:
            bind(event, book)
        events += found
    return events


class StoredFeed(MemoryLog):
    """Implements `Log`. `on_page` is told what was fetched, before the reader gets it."""

    __slots__ = ("_book", "_fetching", "_on_page", "_store", "_tail")

    def __init__(
        self,
        store: Store,
        run_id: str,
        after: int,
        book: AgentBook,
        on_page: Callable[[Sequence[Event], Sequence[Segment]], None] | None = None,
    ) -> None:
        super().__init__(run_id, max_events=_KEPT_EVENTS, after=after)
        self._store = store
        self._book = book
        self._on_page = on_page
        self._tail: Tail | None = None
        self._fetching: asyncio.Task[None] | None = None

    def wait(self, after: int) -> Awaitable[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if after < self.last_seq or self.sealed:
            return super().wait(after)
        return self._fetch()

    async def _fetch(self) -> None:
        # A task, so that a reader that gives up waiting breaks no read in two: the next wait finds it.
        if self._fetching is None:
            self._fetching = asyncio.get_running_loop().create_task(self._next_page())
        await asyncio.shield(self._fetching)

    async def _next_page(self) -> None:
        try:
            if self._tail is None:
                self._tail = self._store.tail(self.run_id, self.last_seq)
            page = await self._tail.next()
            events = events_of(page.segments, self.run_id, self.last_seq, self._book)
            if self._on_page is not None:
                self._on_page(events, page.segments)
            self.extend(events)
        finally:
            self._fetching = None

    async def aclose(self) -> None:
        """Give the place in the store back."""
        fetching, tail = self._fetching, self._tail
        self._tail = None
        if fetching is not None:
            fetching.cancel()
            await asyncio.wait({fetching})
        if tail is not None:
            await tail.aclose()

    def abandon(self) -> None:
        """`aclose`, from where nothing can be awaited."""
        if self._fetching is not None or self._tail is not None:
            in_background(self.aclose())
