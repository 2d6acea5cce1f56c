"""The log of a nested run: a part of another run's log, the events under one path.

Nothing is kept here: events are written into the log of the whole run, with its seqs, and read back from it. What would
be said of a run that is not the whole (`run.start`, `run.end`) is not written.

Invariant: once the log is closed, or the whole run's is sealed, nothing is written any more, whoever still tries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runstream.events.event import RUN_START, Event
from runstream.log.memory import MemoryLog

if TYPE_CHECKING:
    from openai.types.responses import ResponseStreamEvent

__all__ = ["NestedLog"]


class NestedLog(MemoryLog):
    """The events of `whole` under the path of `outer` with `call_id` added; `outer` may be nested itself.

    Its seqs are those of the whole log, with gaps.
    """

    __slots__ = ("_begin", "_closed", "_path", "whole")

    def __init__(self, outer: MemoryLog, call_id: str) -> None:
        super().__init__(outer.run_id)
        self.whole: MemoryLog = outer.whole if isinstance(outer, NestedLog) else outer
        """The log that keeps the events."""
        self._path = (*outer.path, call_id)
        self._begin = self.whole.last_seq
        self._closed = False

    @property
    def path(self) -> tuple[str, ...]:
        return self._path

    @property
    def next_seq(self) -> int:
        return self.whole.last_seq + 1

    @property
    def readers_woken(self) -> bool:
        """Whether readers of the whole log were woken of which none has read since."""
        return self.whole.readers_woken

    @readers_woken.setter
    def readers_woken(self, value: bool) -> None:
        """The whole log knows."""

    def close(self) -> None:
        """Nothing more is written: the call has its output."""
        self._closed = True

    @property
    def _is_open(self) -> bool:
        return not self._closed and not self.whole.sealed

    def append(
        self,
        kind: str,
        at: float,
        agent: str | None,
        data: Any,
        *,
        live: Any = None,
        attempt: int = 0,
        path: tuple[str, ...] = (),
    ) -> Event:
        if kind == RUN_START or not self._is_open:
            return Event(self.run_id, self.next_seq, at, kind, agent, attempt, self._path, data, live)
        event = self.whole.append(kind, at, agent, data, live=live, attempt=attempt, path=self._path)
        self.last_seq = event.seq
        self._wake()
        return event

    def extend(self, events: Sequence[Event]) -> None:
        """The end of the nested run: its readers are told, the whole log is not."""
        self.sealed = True
        self._wake()

    def extend_model(
        self,
        at: float,
        agent: str | None,
        attempt: int,
        path: tuple[str, ...],
        events: Sequence[ResponseStreamEvent],
        frames: Sequence[bytes | None],
    ) -> None:
        if not events or not self._is_open:
            return
        self.whole.extend_model(at, agent, attempt, self._path, events, frames)
        self.last_seq = self.whole.last_seq
        self._wake()

    def read(self, after: int) -> Sequence[Event]:
        return self._own(self.whole.read, after)

    def read_joined(self, after: int) -> Sequence[Event]:
        return self._own(self.whole.read_joined, after)

    def _own(self, read: Any, after: int) -> Sequence[Event]:
        after = max(after, self._begin)
        while after < self.last_seq:
            events: Sequence[Event] = read(after)
            own = [event for event in events if event.path == self._path]
            if own:
                return own
            after = events[-1].seq
        return []
