"""A reader's place in a log of the SQLite store. It belongs to the event loop; the reader's thread feeds it.

Replayed page by page, a page at a time; at the end of the log it becomes live, and what comes is put into its queue.
A follower that is too slow for its queue reads pages again, once it has come to the queue's end.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from runstream.errors import StoreError, UserError
from runstream.log.base import Page, Segment
from runstream.log.sqlite_reader import Feed, Follower

if TYPE_CHECKING:
    from collections.abc import Callable

    from runstream.errors import AgentsException
    from runstream.log.sqlite_reader import Reader

__all__ = ["SQLiteTail"]

_QUEUE_BYTES = 1_000_000
_QUEUE_SEGMENTS = 1000


class SQLiteTail:
    """Implements `Tail`. `reader` gives the open store's reader, or raises StoreError."""

    def __init__(self, reader: Callable[[], Reader], run_id: str, after: int) -> None:
        self._reader = reader
        self._run_id = run_id
        self._received = after
        self._last_seq = 0
        self._ended = False
        self._is_closed = False
        self._queue: list[Segment] = []
        self._queue_bytes = 0
        self._error: AgentsException | None = None
        # Names the present feed; None while there is none. What a former one still delivers is not listened to.
        self._feed: object | None = None
        self._run: int | None = None
        self._waiters: list[asyncio.Future[None]] = []

    async def next(self) -> Page:
        while True:
            if self._is_closed:
                raise StoreError(f"the place in the log of {self._run_id} was given back")
            if self._queue:
                segments, self._queue, self._queue_bytes = self._queue, [], 0
                return Page(segments, max(self._last_seq, segments[-1].last_seq), self._ended)
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._ended and self._received >= self._last_seq:
                return Page((), self._last_seq, True)
            if self._feed is None:
                self._feed = object()
                follower = Follower(self._feed, self._run_id, self._run, partial(self._receive, self._feed))
                try:
                    self._reader().follow(follower, self._received)
                except BaseException:
                    self._feed = None
                    raise
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    async def aclose(self) -> None:
        self._is_closed = True
        self._wake()
        try:
            self._stop()
        except (StoreError, UserError):
            pass  # the store is closed, or its loop is: nobody feeds this any more

    def _stop(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            self._reader().unfollow(feed)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _receive(self, key: object, feed: Feed) -> None:
        if key is not self._feed:
            return
        for segment in feed.segments:
            if segment.last_seq > self._received:
                self._queue.append(segment)
                self._queue_bytes += len(segment.body)
                self._received = segment.last_seq
        self._last_seq = max(self._last_seq, feed.last_seq)
        self._ended = self._ended or feed.ended
        self._error = feed.error
        self._run = feed.run if self._run is None else self._run
        if not feed.live:
            self._feed = None
        elif self._queue_bytes > _QUEUE_BYTES or len(self._queue) > _QUEUE_SEGMENTS:
            self._stop()
        self._wake()
