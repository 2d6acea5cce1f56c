"""What the readers of one run share: each stretch of events is fetched, decoded and encoded once, however many read.

A ring of the newest batches, bounded in bytes; a reader is a place in it. A reader that falls out of the ring reads the
store until it has caught up: nobody waits for it, and it loses nothing.

Invariant: batches follow one another without gaps, and hold only what the store has committed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from runstream.events.event import RUN_END, Event
from runstream.server.protocols import native

__all__ = ["Batch", "Channel", "Source"]


class Batch:
    """Events that follow one another, of one epoch, and their frames."""

    __slots__ = ("_frames", "_size", "ends", "epoch", "events", "first_seq", "last_seq")

    def __init__(self, events: Sequence[Event], epoch: int) -> None:
        last = events[-1]
        self.events = events
        self.epoch = epoch
        self.first_seq = events[0].seq
        self.last_seq = last.seq
        self.ends = last.kind == RUN_END
        """Whether `run.end` is in it."""
        self._frames: bytes | None = None
        self._size: int | None = None

    @property
    def frames(self) -> bytes:
        """In the native protocol: encoded when first asked for."""
        if self._frames is None:
            self._frames = native.encode(self.events, self.epoch)
        return self._frames

    @property
    def size_bytes(self) -> int:
        """About what its frames take. Encodes only what did not come as a frame."""
        if self._size is None:
            size = 0
            for event in self.events:
                if event.frame is None:
                    size = len(self.frames)
                    break
                size += len(event.frame)
            self._size = size
        return self._size

    def after(self, seq: int) -> Batch:
        """What comes after that seq, which is in it."""
        if seq < self.first_seq:
            return self
        return Batch(self.events[seq + 1 - self.first_seq :], self.epoch)


class Source(Protocol):
    """Where a channel's events come from: calls `publish`, then `fail` if it cannot go on."""

    def begin(self) -> None:
        """Start to deliver what comes after the channel's `last_seq`."""
        ...

    def close(self) -> None:
        """Deliver nothing more."""
        ...


class Waiting(Protocol):
    """A reader as its channel sees it."""

    def wake(self) -> None:
        """There is something to look at."""
        ...

    @property
    def cursor(self) -> int:
        """Seq of the last event that it has."""
        ...


class Channel:
    """One run's events for the readers of this process."""

    __slots__ = (
        "_batches",
        "_max_bytes",
        "_readers",
        "_size",
        "_source",
        "closed",
        "ended",
        "error",
        "last_seq",
        "run_id",
    )

    def __init__(self, run_id: str, after: int, max_bytes: int) -> None:
        self.run_id = run_id
        self.last_seq = after
        """Of the newest event that was published."""
        self.ended = False
        self.error: Exception | None = None
        """Why nothing more comes, where that is not the end."""
        self.closed = False
        """Whether nothing is fetched any more, since nobody reads."""
        self._max_bytes = max_bytes
        self._batches: deque[Batch] = deque()
        self._size = 0
        self._readers: set[Waiting] = set()
        self._source: Source | None = None

    def begin(self, source: Source) -> None:
        """Fill from that source, in place of the one before."""
        self._source = source
        source.begin()

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.ended or self.closed or self.error is not None

    def join(self, reader: Waiting) -> bool:
        """Have the reader woken from now on. False where events that it lacks have left the ring already."""
        if reader.cursor < self.first_after:
            return False
        self._readers.add(reader)
        return True

    @property
    def first_after(self) -> int:
        """The earliest place from which the ring has everything."""
        return self._batches[0].first_seq - 1 if self._batches else self.last_seq

    def leave(self, reader: Waiting) -> None:
        """A reader goes away. With the last one the channel is closed: nothing is fetched any more."""
        self._readers.discard(reader)
        if self._readers:
            return
        self.closed = True
        if self._source is not None:
            self._source.close()
            self._source = None

    def publish(self, events: Sequence[Event], epoch: int) -> None:
        """The next events, all of one epoch, are committed."""
        batch = Batch(events, epoch)
        self.last_seq = batch.last_seq
        self._batches.append(batch)
        self._size += batch.size_bytes
        if len(self._batches) > 1:
            self._trim()
        self.ended = batch.ends
        for reader in self._readers:
            reader.wake()

    def end(self) -> None:
        """There is nothing after `last_seq`: the end is there already."""
        self.ended = True
        self._wake()

    def _trim(self) -> None:
        """Let go of what every reader has, and of what is beyond the bound."""
        batches = self._batches
        while len(batches) > 1:
            oldest = batches[0]
            if self._size <= self._max_bytes:
                for reader in self._readers:
                    if reader.cursor < oldest.last_seq:
                        return
            self._size -= oldest.size_bytes
            batches.popleft()

    def fail(self, error: Exception) -> None:
        """Nothing more can be read."""
        self.error = error
        self._wake()

    def _wake(self) -> None:
        for reader in self._readers:
            reader.wake()

    def read(self, after: int) -> Sequence[Batch] | None:
        """What the ring has after that seq; None where it has lost some of that."""
        if after >= self.last_seq:
            return ()
        if self._batches and self._batches[-1].first_seq == after + 1:
            return (self._batches[-1],)
        if after < self.first_after:
            return None
        found: list[Batch] = []
        for batch in reversed(self._batches):
            if batch.last_seq <= after:
                break
            found.append(batch.after(after))
        found.reverse()
        return found
