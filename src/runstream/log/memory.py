"""A log in the memory of one process and one event loop.

Recent events are kept as objects. Older stretches of deltas are kept compactly (text, end offsets, times), and other
model events as the JSON that they came in; from both every event can be rebuilt, so that slow and late readers lose
nothing and long answers cost little memory.
Nobody holds the writer back; beyond `max_events` the oldest go, and a reader that still wants them gets CursorExpired.

Invariant: events in `_blocks`, then `_recent`, are a gapless sequence of seqs from `first_seq` to `last_seq`.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runstream.errors import CursorExpired, UserError
from runstream.events.event import MODEL, RUN_END, Event
from runstream.log.packed import STRETCH, Block, Frames, Mixed, Objects, Texts, packable

if TYPE_CHECKING:
    from openai.types.responses import ResponseStreamEvent

__all__ = ["MemoryLog"]

# So many events stay objects before they are packed. Few, because an event costs about 1 kB as an object and 20 bytes
# packed, and a server holds many runs.
_RECENT = 4
# While a reader that was woken has not come to read yet, up to so many: packing what it is about to take would cost
# more than it saves.
_UNREAD = 64
# So few deltas of one agent, before another one speaks, are kept together with those of the other.
_SHORT = 64


class MemoryLog:
    """Implements `Log`; `append`, `extend` and `extend_model` are the writing side, for one owner alone.

    A log that begins in the middle (`after`) holds the later part of one that is kept elsewhere.
    """

    __slots__ = (
        "_blocks",
        "_loop",
        "_max_events",
        "_rare",
        "_recent",
        "_starts",
        "_waiters",
        "_woken",
        "first_seq",
        "last_seq",
        "pending",
        "readers_woken",
        "run_id",
        "sealed",
    )

    def __init__(self, run_id: str, *, max_events: int = 1_000_000, after: int = 0) -> None:
        if max_events < 1:
            raise UserError(f"max_log_events must be at least 1, not {max_events}")
        self.run_id = run_id
        self.first_seq = after + 1
        self.last_seq = after
        self.sealed = False
        self.pending: list[Event] | None = None
        """Where events go that are to be kept elsewhere as well; whoever keeps them takes them out."""
        self._max_events = max_events
        self._blocks: list[Block] = []
        self._starts: list[int] = []
        self._recent: list[Event] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rare = False
        """Whether the recent events have some that take much more memory as objects than packed."""
        self._woken = 0
        """How many of the readers that were woken last have not read since."""
        self.readers_woken = False
        """Whether readers were woken of which none has read since."""

    @property
    def path(self) -> tuple[str, ...]:
        """The path under which this log's own events stand."""
        return ()

    @property
    def next_seq(self) -> int:
        """The seq that the next event will have."""
        return self.last_seq + 1

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
        """Write one event, and wake the readers. Writing after `run.end` is a bug of the writer: RuntimeError."""
        if self.sealed:
            raise RuntimeError(f"the log of {self.run_id} is sealed: {kind!r} cannot be written after run.end")
        if len(self._recent) >= (_UNREAD if self.readers_woken else _RECENT):
            self._pack()
        self.last_seq += 1
        event = Event(self.run_id, self.last_seq, at, kind, agent, attempt, path, data, live)
        self._recent.append(event)
        if self.pending is not None:
            self.pending.append(event)
        if kind == RUN_END:
            self.sealed = True
        if self._waiters:
            self._wake()
        return event

    def extend(self, events: Sequence[Event]) -> None:
        """Take in events that have their seqs already: the next ones of a log that is kept elsewhere."""
        if not events:
            return
        if self.sealed or events[0].seq != self.last_seq + 1:
            raise RuntimeError(f"the log of {self.run_id} stands at {self.last_seq}: {events[0].seq} does not follow")
        if len(self._recent) >= (_UNREAD if self.readers_woken else _RECENT):
            self._pack()
        self._recent += events
        self.last_seq = events[-1].seq
        self.sealed = events[-1].kind == RUN_END
        if self._waiters:
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
        """Write the model events of one read, which share their time, and wake the readers once."""
        if self.sealed:
            raise RuntimeError(f"the log of {self.run_id} is sealed: no model event can be written after run.end")
        if len(self._recent) >= (_UNREAD if self.readers_woken else _RECENT):
            self._pack()
        if events and not (events[0].type.endswith(".delta") and events[-1].type.endswith(".delta")):
            self._rare = True
        run_id = self.run_id
        seq = self.last_seq
        add = self._recent.append
        for data, frame in zip(events, frames, strict=True):
            seq += 1
            add(Event(run_id, seq, at, MODEL, agent, attempt, path, data, None, frame))
        self.last_seq = seq
        if self.pending is not None and events:
            self.pending += self._recent[-len(events) :]
        if self._waiters:
            self._wake()

    def read(self, after: int) -> Sequence[Event]:
        self.readers_woken = False
        recent = self._recent
        if recent and after + 1 >= recent[0].seq:
            if self._rare:
                self._woken -= 1
                if self._woken <= 0:
                    # All who waited have them: the begin and the end of a response are not kept as objects until more
                    # comes, for a run holds them for long and many runs do so at once.
                    self._pack()
            skip = after + 1 - recent[0].seq
            return recent[skip:] if skip else recent.copy()
        if after + 1 < self.first_seq:
            raise CursorExpired(after, self.first_seq)
        if not self._blocks:
            return []
        return self._block(after).read(after)

    def read_joined(self, after: int) -> Sequence[Event]:
        """As `read`, but a stretch of deltas may come as one event: with their whole text, and the seq of the last."""
        if after + 1 >= self.first_seq and self._blocks and not (self._recent and after + 1 >= self._recent[0].seq):
            block = self._block(after)
            if isinstance(block, Texts):
                return block.read_joined(after)
        return self.read(after)

    def _block(self, after: int) -> Block:
        return self._blocks[bisect_right(self._starts, after + 1) - 1]

    def wait(self, after: int) -> asyncio.Future[None]:
        # Not a coroutine: a reader that keeps up waits once for every token.
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # Readers of one log share its writer's loop: futures of another loop could not be woken safely.
            if self._loop is not None and self._waiters:
                raise UserError("this run is read from another event loop; read it in the loop that it runs in")
            self._loop = loop
        waiter = loop.create_future()
        if self.last_seq > after or self.sealed:
            waiter.set_result(None)
            return waiter
        waiters = self._waiters
        if len(waiters) & (len(waiters) - 1) == 0:
            # Each reader that gave up waiting has left a cancelled future behind. Looking for them whenever there are
            # a power of two keeps them fewer than the others, at little cost.
            self._waiters = waiters = [other for other in waiters if not other.done()]
        waiters.append(waiter)
        return waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        self.readers_woken = True
        self._woken = len(waiters)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _pack(self) -> None:
        """Turn the recent objects into blocks."""
        self.readers_woken = self._rare = False
        recent, self._recent = self._recent, []
        start, count = 0, len(recent)
        while start < count:
            last = self._blocks[-1] if self._blocks else None
            if isinstance(last, Texts | Mixed):
                start = last.extend(recent, start)
                if start == count:
                    break
            event = recent[start]
            if packable(event):
                if isinstance(last, Texts) and last.key[0] != event.path and len(last) < _SHORT:
                    self._blocks[-1] = Mixed(last)  # agents that speak at once would make a block of every delta
                    continue
                block = Texts(event)
                start = block.extend(recent, start)
                self._add(block)
                continue
            start += 1
            fits = isinstance(last, Frames | Objects) and len(last) < STRETCH and last.add(event)
            if not fits:
                stretch = Objects(event) if event.frame is None else Frames(event, self._latest_text())
                stretch.add(event)
                self._add(stretch)
        while len(self._blocks) > 1 and self.last_seq + 1 - self._starts[1] >= self._max_events:
            del self._blocks[0], self._starts[0]
            self.first_seq = self._starts[0]

    def _latest_text(self) -> str:
        """What the deltas at the end of the blocks have said, those of one part of the output."""
        stretches: list[Texts] = []
        for block in reversed(self._blocks):
            if not isinstance(block, Texts) or (stretches and not block.goes_on_in(stretches[-1])):
                break
            stretches.append(block)
        return "".join(stretch.text for stretch in reversed(stretches))

    def _add(self, block: Block) -> None:
        self._blocks.append(block)
        self._starts.append(block.first_seq)
