"""What a reader may ask of a log, whatever keeps it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from runstream.events.event import Event

__all__ = ["Log"]


class Log(Protocol):
    """The reading side. Cursors are seqs: 0 is before the first event."""

    @property
    def last_seq(self) -> int:
        """The seq of the newest event; 0 in an empty log."""
        ...

    @property
    def sealed(self) -> bool:
        """Whether `run.end` is written: nothing comes after `last_seq` any more."""
        ...

    def read(self, after: int) -> Sequence[Event]:
        """The next events after that seq, in order, at least one if there is any, at most a few hundred.

        Raises CursorExpired where they are no longer kept.
        """
        ...

    def wait(self, after: int) -> Awaitable[None]:
        """Awaiting it returns once there is an event after that seq, or the log is sealed."""
        ...
