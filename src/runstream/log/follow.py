"""Replay, then tail: how every reader goes over a log. Written once, whatever the log and whatever the view.

A follower waits on the log, never on the writer. Its cursor moves only when an event is handed over, so that a wait
that is cancelled (`asyncio.wait_for(anext(...))`) loses nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from runstream.errors import UserError
from runstream.events.event import Event
from runstream.log.base import Log

__all__ = ["Follower"]


class Follower:
    """A cursor on a log. `next_nowait()` takes what is there; `wait()` waits until there is something."""

    __slots__ = ("_batch", "_index", "_log", "cursor")

    def __init__(self, log: Log, after: int = 0) -> None:
        if after < 0 or after > log.last_seq:
            raise UserError(f"after={after} is not a cursor of this log: it holds the events 1 to {log.last_seq}")
        self._log = log
        self._batch: Sequence[Event] = ()
        self._index = 0
        self.cursor = after
        """The seq of the last event that was handed over."""

    def next_nowait(self) -> Event | None:
        """The next event, or None where the log has no more at present."""
        index = self._index
        if index >= len(self._batch):
            if self.cursor >= self._log.last_seq:
                self._batch = ()
                self._index = 0
                return None
            self._batch = self._log.read(self.cursor)
            index = 0
        event = self._batch[index]
        index += 1
        if index < len(self._batch):
            self._index = index
        else:
            self._batch = ()  # nothing here holds on to events that were handed over
            self._index = 0
        self.cursor = event.seq
        return event

    @property
    def at_end(self) -> bool:
        """Whether every event of a finished log was handed over."""
        return self._log.sealed and self.cursor >= self._log.last_seq

    def wait(self) -> Awaitable[None]:
        """Awaiting it returns once `next_nowait` has an event, or the log is at its end."""
        return self._log.wait(self.cursor)
