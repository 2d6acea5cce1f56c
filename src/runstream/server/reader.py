"""One reader of one run: what the store has, then what the run's channel brings, in order and once each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from runstream.events.event import Event
from runstream.events.segment import decode_segment
from runstream.log.base import Segment, Store
from runstream.server.channel import Batch, Channel

__all__ = ["Reader", "batches_of"]

# A page of a replay: small, since what is decoded at once holds up everybody else.
_PAGE_BYTES = 65_536


class _Hub(Protocol):
    store: Store
    closing: bool

    def join(self, reader: Reader) -> Channel | None: ...

    def leave(self, reader: Reader) -> None: ...

    def now(self) -> float: ...


class Reader:
    """`next()` gives batches until there are none: `ended` tells whether that was the run's end."""

    __slots__ = (
        "_channel",
        "_hub",
        "_waiter",
        "active_at",
        "cursor",
        "dropped",
        "ended",
        "is_due",
        "run_id",
        "sending",
        "task",
    )

    def __init__(self, hub: _Hub, run_id: str, after: int, now: float) -> None:
        self._hub = hub
        self._channel: Channel | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.run_id = run_id
        self.cursor = after
        """Seq of the last event that it was given."""
        self.ended = False
        self.sending = True
        """Whether it is busy with its client, which may take its time; else it waits for events."""
        self.active_at = now
        """When it was last given something."""
        self.is_due = False
        """Whether the client should hear something, though nothing happens."""
        self.dropped = False
        """Whether its client has gone, or was too slow for too long."""
        self.task: asyncio.Task[object] | None = None
        """Who reads."""

    def join(self) -> None:
        """Follow the run from here on, without asking the store: for those who know that it has no more at present."""
        self._channel = self._hub.join(self)

    @property
    def is_live(self) -> bool:
        """Whether what it gave last has just happened, and was not read from the store."""
        return self._channel is not None

    async def next(self) -> Sequence[Batch]:
        """The next batches, after a wait if there are none yet. Empty: a heartbeat is due (`is_due`), or it is over.

        Raises CursorExpired where events after the cursor are no longer kept, RunNotFound where the run was deleted,
        StoreError.
        """
        self.sending = False
        try:
            while not (self.ended or self._hub.closing):
                channel = self._channel
                if channel is None:
                    found = await self._replay()
                else:
                    found = channel.read(self.cursor) if self.cursor < channel.last_seq else ()
                if found:
                    last = found[-1]
                    self.cursor = last.last_seq
                    self.ended = last.ends
                    self.active_at = self._hub.now()
                    return found
                if found is None:
                    # Too slow for the ring: the store has it all.
                    self._leave_channel()
                elif channel is not None and not self._is_over(channel):
                    if self.is_due:
                        self.is_due = False
                        self.active_at = self._hub.now()
                        return ()
                    self._waiter = asyncio.get_running_loop().create_future()
                    await self._waiter
            return ()
        finally:
            self.sending = True

    def _is_over(self, channel: Channel) -> bool:
        """Whether nothing more comes. Raises what the channel has failed with, once: what can be gone on after is
        asked of the store anew."""
        if channel.error is not None:
            self._leave_channel()
            raise channel.error
        self.ended = channel.ended
        return self.ended

    async def _replay(self) -> Sequence[Batch]:
        """The next page of the store. Where it has no more, the reader joins its channel, or is at the end."""
        page = await self._hub.store.read(self.run_id, self.cursor, max_bytes=_PAGE_BYTES)
        if page.segments:
            return batches_of(page.segments, self.run_id, self.cursor)
        if page.ended:
            self.ended = True
        else:
            self.join()
        return ()

    def _leave_channel(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.leave(self)

    def wake(self) -> None:
        """There is something to look at."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def beat(self) -> None:
        """A heartbeat is due."""
        self.is_due = True
        self.wake()

    def drop(self) -> None:
        """The client takes nothing: whoever reads for it is to stop."""
        if not self.dropped and self.task is not None:
            self.dropped = True
            self.task.cancel()

    def close(self) -> None:
        """Give the place back."""
        self._hub.leave(self)


def batches_of(segments: Sequence[Segment], run_id: str, after: int) -> list[Batch]:
    """The events of segments that come after that seq, those of one epoch together."""
    batches: list[Batch] = []
    events: list[Event] = []
    epoch = segments[0].epoch
    for segment in segments:
        if segment.epoch != epoch and events:
            batches.append(Batch(events, epoch))
            events = []
        epoch = segment.epoch
        found = decode_segment(segment.body, run_id)
        events += found if segment.first_seq > after else [event for event in found if event.seq > after]
    if events:
        batches.append(Batch(events, epoch))
    return batches
