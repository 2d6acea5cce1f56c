"""A log in the memory of one process and one event loop.

Recent events are kept as objects. Older stretches of deltas are kept compactly (text, end offsets, times), and other
model events as the JSON that they came in; from both every event can be rebuilt, so that slow and late readers lose
nothing and long answers cost little memory.
Nobody holds the writer back; beyond `max_events` the oldest go, and a reader that still wants them gets CursorExpired.

Invariant: events in `_blocks`, then `_recent`, are a gapless sequence of seqs from `first_seq` to `last_seq`.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from runstream.errors import CursorExpired, UserError
from runstream.events.event import MODEL, RUN_END, Event

if TYPE_CHECKING:
    from openai.types.responses import ResponseStreamEvent

__all__ = ["MemoryLog"]

# So many events stay objects before they are packed. Few, because an event costs about 1 kB as an object and 20 bytes
# packed, and a server holds many runs.
_RECENT = 4
# While a reader that was woken has not come to read yet, up to so many: packing what it is about to take would cost
# more than it saves.
_UNREAD = 64
# A stretch of text grows up to so many deltas: adding to it copies its text.
_STRETCH = 512
# So few deltas of one agent, before another one speaks, are kept together with those of the other.
_SHORT = 64
# What differs from one delta to the next.
_VARYING: dict[str, Any] = {"delta": None, "sequence_number": None}


class _Texts:
    """A stretch of deltas of one part of the output (text, reasoning, arguments) that came one after the other."""

    __slots__ = (
        "_class",
        "_common_of",
        "_fields",
        "_given",
        "_head",
        "_number",
        "_offsets",
        "_text",
        "_times",
        "first_seq",
    )

    def __init__(self, head: Event) -> None:
        self.first_seq = head.seq
        data = head.data
        # An event's own fields, without those that differ from one delta to the next.
        self._head = (head.run_id, head.agent, head.attempt, head.path)
        self._class = data.__class__
        self._fields = {**data.__dict__, **_VARYING}
        # What an event of the stretch has in common with the head; at least two names, so that it is a tuple.
        self._common_of = _getter(tuple(name for name in self._fields if name not in _VARYING))
        self._given: set[str] = data.__pydantic_fields_set__
        self._number: int | None = data.__dict__.get("sequence_number")
        self._text = ""
        self._offsets = array("I")
        self._times = array("d")

    def extend(self, events: list[Event], start: int) -> int:
        """Take in the events from that index on, as far as they continue the stretch; return where they end."""
        _, agent, attempt, path = self._head
        delta_class, given, number = self._class, self._given, self._number
        common_of, size = self._common_of, len(self._fields)
        common = common_of(self._fields)
        taken = len(self._offsets)
        pieces: list[str] = []
        length = len(self._text)
        end = start
        limit = min(len(events), start + _STRETCH - taken)
        while end < limit:
            event = events[end]
            data = event.data
            if (
                data.__class__ is not delta_class
                or event.kind != MODEL
                or event.agent != agent
                or event.attempt != attempt
                or event.path != path
            ):
                break
            fields: dict[str, Any] = data.__dict__
            fields_set = data.__pydantic_fields_set__
            text: Any = fields.get("delta")
            if (
                text.__class__ is not str
                or fields.get("sequence_number") != (None if number is None else number + taken)
                or len(fields) != size
                or common_of(fields) != common
                or (fields_set is not given and fields_set != given)
                or data.__pydantic_extra__
            ):
                break
            pieces.append(text)
            length += len(text)
            self._offsets.append(length)
            self._times.append(event.at)
            taken += 1
            end += 1
        if pieces:
            self._text += "".join(pieces)
        return end

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self, after: int) -> list[Event]:
        skip = max(after + 1 - self.first_seq, 0)
        return self._events(skip, range(skip, len(self._offsets)))

    @property
    def key(self) -> tuple[tuple[str, ...], type[Any]]:
        """Whose deltas these are, and of which kind."""
        return self._head[3], self._class

    def read_from(self, index: int) -> list[Event]:
        """The events from that index on, numbered as if no others were among them."""
        return self._events(index, range(index, len(self._offsets)))

    def read_joined(self, after: int) -> list[Event]:
        return self._events(max(after + 1 - self.first_seq, 0), (len(self._offsets) - 1,))

    def _events(self, skip: int, ends: Sequence[int]) -> list[Event]:
        """Events that end with each of these deltas: their text is what came after the one before; the first `skip`
        deltas are left out."""
        from runstream.events.model_event import build_event

        run_id, agent, attempt, path = self._head
        common = {name: value for name, value in self._fields.items() if name in self._given}
        number = self._number
        events: list[Event] = []
        start = self._offsets[skip - 1] if skip else 0
        for index in ends:
            end = self._offsets[index]
            fields = common.copy()
            fields["delta"] = self._text[start:end]
            if number is not None:
                fields["sequence_number"] = number + index
            if "logprobs" in fields:
                fields["logprobs"] = []
            data = build_event(fields)
            events.append(Event(run_id, self.first_seq + index, self._times[index], MODEL, agent, attempt, path, data))
            start = end
        return events


@lru_cache(maxsize=64)
def _getter(names: tuple[str, ...]) -> itemgetter[Any]:
    return itemgetter(*names, "type")


class _Mixed:
    """Deltas of several agents that speak at once: a stretch for each of them, and whose turn it was each time."""

    __slots__ = ("_latest", "_stretches", "_turns", "first_seq")

    def __init__(self, texts: _Texts) -> None:
        self.first_seq = texts.first_seq
        self._stretches = [texts]
        self._turns = array("H", bytes(2 * len(texts)))
        """For each event the index of its stretch."""
        self._latest: dict[Any, int] = {texts.key: 0}
        """The stretch that an agent's deltas of one kind may continue."""

    def extend(self, events: list[Event], start: int) -> int:
        """Take in the events from that index on, as far as they are deltas; return where they end."""
        limit = min(len(events), start + _STRETCH - len(self._turns))
        while start < limit:
            event = events[start]
            key = (event.path, event.data.__class__)
            index = self._latest.get(key)
            if index is None or self._stretches[index].extend(events[start : start + 1], 0) == 0:
                if not _packable(event):
                    return start
                index = self._latest[key] = len(self._stretches)
                stretch = _Texts(event)
                stretch.extend([event], 0)
                self._stretches.append(stretch)
            self._turns.append(index)
            start += 1
        return start

    def __len__(self) -> int:
        return len(self._turns)

    def read(self, after: int) -> list[Event]:
        skip = max(after + 1 - self.first_seq, 0)
        before, left = self._turns[:skip], self._turns[skip:]
        queues = [iter(stretch.read_from(before.count(index))) for index, stretch in enumerate(self._stretches)]
        events: list[Event] = []
        for seq, index in enumerate(left, self.first_seq + skip):
            event = next(queues[index])
            event.seq = seq
            events.append(event)
        return events


class _Frames:
    """A stretch of other model events, as the JSON that they arrived in: a tenth of what they take as objects."""

    __slots__ = ("_frames", "_head", "_request_ids", "_times", "first_seq")

    def __init__(self, head: Event) -> None:
        self.first_seq = head.seq
        self._head = (head.run_id, head.agent, head.attempt, head.path)
        self._frames: list[bytes] = []
        self._times = array("d")
        self._request_ids: dict[int, str] = {}
        """By index: what a response carries that did not come with its frame but with the HTTP headers."""

    def add(self, event: Event) -> bool:
        """Take in the next event; False where it does not continue the stretch."""
        _, agent, attempt, path = self._head
        if event.frame is None or event.agent != agent or event.attempt != attempt or event.path != path:
            return False
        # Looked for in the dict: pydantic makes an error of every attribute that is missing.
        fields: dict[str, Any] = getattr(event.data, "__dict__", {})
        response: Any = fields.get("response")
        if response is not None and (request_id := getattr(response, "_request_id", None)) is not None:
            self._request_ids[len(self._frames)] = request_id
        self._frames.append(event.frame)
        self._times.append(event.at)
        return True

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, after: int) -> list[Event]:
        from runstream.events.model_event import build_event

        run_id, agent, attempt, path = self._head
        events: list[Event] = []
        for index in range(max(after + 1 - self.first_seq, 0), len(self._frames)):
            frame = self._frames[index]
            data: Any = build_event(msgspec.json.decode(frame))
            if index in self._request_ids:
                data.response._request_id = self._request_ids[index]
            at = self._times[index]
            events.append(Event(run_id, self.first_seq + index, at, MODEL, agent, attempt, path, data, None, frame))
        return events


class _Objects:
    """A stretch of events that stay what they are."""

    __slots__ = ("_events", "first_seq")

    def __init__(self, head: Event) -> None:
        self.first_seq = head.seq
        self._events: list[Event] = []

    def add(self, event: Event) -> bool:
        """Take in the next event; False where it would be better kept as a frame."""
        if event.frame is not None:
            return False
        self._events.append(event)
        return True

    def __len__(self) -> int:
        return len(self._events)

    def read(self, after: int) -> list[Event]:
        return self._events[max(after + 1 - self.first_seq, 0) :]


_Block: TypeAlias = _Texts | _Mixed | _Frames | _Objects


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
        self._blocks: list[_Block] = []
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
            if isinstance(block, _Texts):
                return block.read_joined(after)
        return self.read(after)

    def _block(self, after: int) -> _Block:
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
            if isinstance(last, _Texts | _Mixed):
                start = last.extend(recent, start)
                if start == count:
                    break
            event = recent[start]
            if _packable(event):
                if isinstance(last, _Texts) and last.key[0] != event.path and len(last) < _SHORT:
                    self._blocks[-1] = _Mixed(last)  # agents that speak at once would make a block of every delta
                    continue
                block = _Texts(event)
                start = block.extend(recent, start)
                self._add(block)
                continue
            start += 1
            fits = isinstance(last, _Frames | _Objects) and len(last) < _STRETCH and last.add(event)
            if not fits:
                stretch = _Objects(event) if event.frame is None else _Frames(event)
                stretch.add(event)
                self._add(stretch)
        while len(self._blocks) > 1 and self.last_seq + 1 - self._starts[1] >= self._max_events:
            del self._blocks[0], self._starts[0]
            self.first_seq = self._starts[0]

    def _add(self, block: _Block) -> None:
        self._blocks.append(block)
        self._starts.append(block.first_seq)


def _packable(event: Event) -> bool:
    """Whether the event can be rebuilt from its text, its time and what it shares with its neighbours."""
    from runstream.events.model_event import DELTA_CLASSES

    data = event.data
    if event.kind != MODEL or data.__class__ not in DELTA_CLASSES:
        return False
    fields: dict[str, Any] = data.__dict__
    number = fields.get("sequence_number")
    return (
        fields.get("delta").__class__ is str
        and (number is None or number.__class__ is int)
        and not fields.get("logprobs")
        and not data.__pydantic_extra__
    )
