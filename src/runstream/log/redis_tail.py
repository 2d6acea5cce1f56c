"""A reader's place in a run's log on Redis: pages while it is behind, then what the hub hands out.

Invariants: what is given out is gapless and of one history; the place moves only when a page is returned, so that a
cancelled call loses nothing; a reader that is slower than the log goes back to pages, and holds no more than a bound.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from runstream.errors import RunNotFound, StoreError, StoreUnavailable
from runstream.log.base import Page, Segment
from runstream.log.cursor import Cursor, epoch_of, resolve
from runstream.log.redis_hub import Hub, Topic, entry_order
from runstream.log.redis_pages import StoredPage, decode_entry

__all__ = ["Patience", "RedisTail"]

_MAX_SEGMENTS = 512
_MAX_BYTES = 4_000_000
_PAGE_BYTES = 1_000_000
_ANOTHER_S = 10.0
"""A failure so long after the last one begins another outage."""


class Patience:
    """Sits out an outage of the server of so many seconds."""

    def __init__(self, hub: Hub) -> None:
        self._clock = hub.clock
        self._limit_s = hub.server.options.outage_s
        self._timeout_s = hub.server.options.timeout_s
        self._since: float | None = None
        self._last = 0.0
        self._pause_s = 0.02

    def success(self) -> None:
        self._since = None
        self._pause_s = 0.02

    async def failure(self, error: StoreError) -> None:
        """Waits a little; raises the error again if it does not pass by itself, or once it has gone on for too long."""
        if not isinstance(error, StoreUnavailable):
            raise error
        now = self._clock.now()
        if self._since is None or now - self._last > _ANOTHER_S + self._timeout_s:
            self._since = now
        elif now - self._since >= self._limit_s:
            self.success()
            raise error
        await self._clock.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 2, 0.5)
        self._last = self._clock.now()


class RedisTail:
    """Made by `RedisStore.tail`."""

    def __init__(
        self, hub: Hub, run_id: str, after: int, read: Callable[[str, int, int], Awaitable[StoredPage]]
    ) -> None:
        self._hub = hub
        self._run_id = run_id
        self._read = read
        self._after = after
        self._epoch: int | None = None
        """Of the last event that was given out; None before the first."""
        self._born: bytes | None = None
        self._failure: StoreError | None = None
        self._ended = False
        self._topic: Topic | None = None
        self._queue: deque[tuple[Segment, bool]] = deque()
        self._queue_bytes = 0
        self._wake = asyncio.Event()
        self._patience = Patience(hub)

    async def next(self) -> Page:
        while not self._ended:
            if self._topic is not None:
                page = self._from_queue()
                if page is not None:
                    return page
                await self._woken()
                continue
            failure = self._failure
            if failure is not None:
                await self._patience.failure(failure)
                self._failure = None
            stored = await self._stored()
            # With the epoch, so that a log that went back in a failover is noticed.
            place = self._after if self._epoch is None else str(Cursor(self._epoch, self._after))
            resolve(place, stored.epochs, stored.first_seq, stored.page.last_seq)
            page = stored.page
            if page.segments:
                self._patience.success()
                last = page.segments[-1]
                self._after, self._epoch = last.last_seq, last.epoch
                if last.last_seq == page.last_seq:
                    self._ended = page.ended
                    if not page.ended:
                        self._follow(last.epoch)
                return page
            if page.ended:
                self._ended = True
            else:
                self._follow(epoch_of(self._after, stored.epochs))
        return Page((), self._after, True)

    async def aclose(self) -> None:
        self.reread()

    async def _woken(self) -> None:
        if self._topic is not None:
            self._wake.clear()
            await self._wake.wait()

    # What the hub calls.

    def take(self, entries: Sequence[tuple[Segment, bool]]) -> None:
        self._queue.extend(entries)
        self._queue_bytes += sum(len(segment.body) for segment, _ in entries)
        if len(self._queue) > _MAX_SEGMENTS or self._queue_bytes > _MAX_BYTES:
            self.reread()
        self._wake.set()

    def reread(self, error: StoreError | None = None) -> None:
        if error is not None:
            self._failure = error
        topic, self._topic = self._topic, None
        if topic is not None:
            self._hub.leave(topic, self)
        self._queue.clear()
        self._queue_bytes = 0
        self._wake.set()

    async def _stored(self) -> StoredPage:
        while True:
            try:
                stored = await self._read(self._run_id, self._after, _PAGE_BYTES)
            except StoreUnavailable as error:
                await self._patience.failure(error)
            else:
                if self._born is None:
                    self._born = stored.born
                elif self._born != stored.born:
                    raise RunNotFound(self._run_id, self._hub.server.options.shown)
                return stored

    def _follow(self, epoch: int) -> None:
        place = (epoch, self._after)
        key_of = self._hub.server.options.run_key
        topic = self._hub.join(
            key_of(self._run_id, "log"),
            str(Cursor(*place)).encode(),
            self,
            decode=decode_entry,
            must_exist=key_of(self._run_id, "meta"),
        )
        if entry_order(topic.cursor) > place:
            # Others have been handed something since our page was read: another page first.
            self._hub.leave(topic, self)
            return
        self._topic = topic

    def _from_queue(self) -> Page | None:
        segments: list[Segment] = []
        after, epoch, ended = self._after, self._epoch or 0, False
        for segment, is_end in self._queue:
            if segment.last_seq <= after and segment.epoch <= epoch:
                continue  # it was in our page already
            if segment.first_seq > after + 1 or (segment.first_seq <= after and segment.epoch != epoch):
                self.reread()  # a gap, or another history: the page's checks tell which
                return None
            segments.append(segment)
            after, epoch, ended = segment.last_seq, segment.epoch, is_end
        self._queue.clear()
        self._queue_bytes = 0
        if not segments:
            return None
        self._patience.success()
        self._after, self._epoch, self._ended = after, epoch, ended
        return Page(segments, after, ended)
