"""A stored log as one reader sees it: fetched page by page, and decoded segment by segment, as it reads.

Readers of one run in one process that are about equally far decode each stretch of deltas once: they share its events,
as the readers of a run that is carried out here do. Whatever else is in a log each has for itself.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from runstream.errors import StoreError
from runstream.events.event import MODEL, RUN_END, Event
from runstream.events.segment import decode_segment
from runstream.log.base import Segment, Store, Tail
from runstream.run.bind import AgentBook, bind
from runstream.run.collector import promote_imports

__all__ = ["StoredFeed", "events_of", "in_background"]

_SHARED = 8
"""Segments of a run that are kept for readers that come to them next: those that follow it live are close together."""

_background: set[asyncio.Task[Any]] = set()


def in_background(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Do it as a task that is held until it is done: an event loop holds its tasks only weakly."""
    task = asyncio.get_running_loop().create_task(work)
    _background.add(task)
    task.add_done_callback(_background.discard)
    task.add_done_callback(_seen)
    return task


def _seen(task: asyncio.Task[Any]) -> None:
    """Whoever waited may have gone: its error is told elsewhere, or met again by the next wait."""
    if not task.cancelled():
        task.exception()


def events_of(
    segments: Sequence[Segment], run_id: str, after: int, book: AgentBook, *, deltas: bool = True
) -> list[Event]:
    """The events of segments that come after a seq, with their live objects; those of deltas only if wanted."""
    events: list[Event] = []
    for segment in segments:
        events += _bound(decode_segment(segment.body, run_id, deltas=deltas), segment, after, book)
    return events


def _bound(found: list[Event], segment: Segment, after: int, book: AgentBook) -> list[Event]:
    if segment.first_seq <= after:
        found = [event for event in found if event.seq > after]
    for event in found:
        bind(event, book)
    return found


class _Decoder:
    """Decodes the segments of one run for all its readers here. Held by them."""

    __slots__ = ("__weakref__", "_deltas", "store")

    def __init__(self, store: Store) -> None:
        self.store = store  # so that no other one gets its id
        self._deltas: dict[int, tuple[bytes, list[Event]]] = {}
        """By their first seq: segments that hold nothing but deltas, which nobody binds or changes."""

    @staticmethod
    def of(store: Store, run_id: str) -> _Decoder:
        key = (id(store), run_id)
        decoder = _decoders.get(key)
        if decoder is None:
            decoder = _decoders[key] = _Decoder(store)
        return decoder

    def decode(self, segment: Segment, run_id: str) -> list[Event]:
        kept = self._deltas.get(segment.first_seq)
        if kept is not None and kept[0] == segment.body:
            return kept[1]
        events = decode_segment(segment.body, run_id)
        if all(event.kind == MODEL and event.data.type.endswith(".delta") for event in events):
            self._deltas[segment.first_seq] = (segment.body, events)
            if len(self._deltas) > _SHARED:
                del self._deltas[next(iter(self._deltas))]
        return events


_decoders: weakref.WeakValueDictionary[tuple[int, str], _Decoder] = weakref.WeakValueDictionary()


class StoredFeed:
    """Implements `Log`, for one reader: what it has read is not kept.

    `on_events` is told what was decoded, and the segment that it came from, before the reader gets it. A segment is
    decoded when the reader comes to it, so that a long log holds up nobody else.
    """

    __slots__ = (
        "_book",
        "_decoder",
        "_events",
        "_fetching",
        "_on_events",
        "_run_id",
        "_segments",
        "_store",
        "_tail",
        "last_seq",
        "sealed",
    )

    def __init__(
        self,
        store: Store,
        run_id: str,
        after: int,
        book: AgentBook,
        on_events: Callable[[Sequence[Event], Segment], None] | None = None,
    ) -> None:
        self.last_seq = after
        """Of the newest event that is decoded."""
        self.sealed = False
        self._store = store
        self._run_id = run_id
        self._book = book
        self._on_events = on_events
        self._decoder = _Decoder.of(store, run_id)
        self._events: Sequence[Event] = ()
        self._segments: deque[Segment] = deque()
        self._tail: Tail | None = None
        self._fetching: asyncio.Task[None] | None = None

    def read(self, after: int) -> Sequence[Event]:
        events = self._events
        if not events or after >= self.last_seq:
            return ()
        skip = after + 1 - events[0].seq
        return events[skip:] if skip else events

    async def wait(self, after: int) -> None:
        if after < self.last_seq or self.sealed:
            return
        if not self._segments:
            # A task, so that a reader that gives up waiting breaks no read in two: the next wait finds it.
            if self._fetching is None:
                self._fetching = asyncio.get_running_loop().create_task(self._fetch())
                self._fetching.add_done_callback(_seen)
            await asyncio.shield(self._fetching)
        if self._segments and after >= self.last_seq:
            self._decode(self._segments.popleft())

    def _decode(self, segment: Segment) -> None:
        events = _bound(self._decoder.decode(segment, self._run_id), segment, self.last_seq, self._book)
        if not events:
            return
        if events[0].seq != self.last_seq + 1:
            raise StoreError(
                f"the store {self._store.url} gave the event {events[0].seq} of {self._run_id} after {self.last_seq}: "
                "its log is damaged"
            )
        if self._on_events is not None:
            self._on_events(events, segment)
        self._events = events
        self.last_seq = events[-1].seq
        self.sealed = events[-1].kind == RUN_END
        promote_imports()  # the first segment has imported what events are made of

    async def _fetch(self) -> None:
        try:
            if self._tail is None:
                self._tail = self._store.tail(self._run_id, self.last_seq)
            page = await self._tail.next()
            self._segments.extend(page.segments)
            if page.ended and not page.segments and self.last_seq >= page.last_seq:
                self.sealed = True  # a reader that had seen the end already is given no event that says so
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
