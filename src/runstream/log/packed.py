"""Stretches of a log that are kept compactly: text with end offsets and times, and JSON frames.

From each of them every event can be rebuilt as it was. What a stretch takes in, and what it leaves to another one, is
its own to say; in which order they stand is the log's (`log/memory.py`).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, TypeAlias

import msgspec

from runstream.events.event import MODEL, Event

__all__ = ["STRETCH", "Block", "Frames", "Mixed", "Objects", "Texts", "packable"]

# A stretch of text grows up to so many deltas: adding to it copies its text.
STRETCH = 512
# A text of so many characters is not kept again in each of the events that repeat it.
_REPEATED = 128
# What differs from one delta to the next.
_VARYING: dict[str, Any] = {"delta": None, "sequence_number": None}


class Texts:
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
        limit = min(len(events), start + STRETCH - taken)
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

    @property
    def text(self) -> str:
        """All deltas together."""
        return self._text

    def goes_on_in(self, other: Texts) -> bool:
        """Whether that one is of the same part of the output."""
        return self.key == other.key and self._fields == other._fields

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


class Mixed:
    """Deltas of several agents that speak at once: a stretch for each of them, and whose turn it was each time."""

    __slots__ = ("_latest", "_stretches", "_turns", "first_seq")

    def __init__(self, texts: Texts) -> None:
        self.first_seq = texts.first_seq
        self._stretches = [texts]
        self._turns = array("H", bytes(2 * len(texts)))
        """For each event the index of its stretch."""
        self._latest: dict[Any, int] = {texts.key: 0}
        """The stretch that an agent's deltas of one kind may continue."""

    def extend(self, events: list[Event], start: int) -> int:
        """Take in the events from that index on, as far as they are deltas; return where they end."""
        limit = min(len(events), start + STRETCH - len(self._turns))
        while start < limit:
            event = events[start]
            key = (event.path, event.data.__class__)
            index = self._latest.get(key)
            if index is None or self._stretches[index].extend(events[start : start + 1], 0) == 0:
                if not packable(event):
                    return start
                index = self._latest[key] = len(self._stretches)
                stretch = Texts(event)
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


class Frames:
    """A stretch of other model events, as the JSON that they arrived in: a tenth of what they take as objects.

    The events that end an answer repeat its whole text, four times in all: it is kept once, and of these frames what
    comes before and after it.
    """

    __slots__ = ("_frames", "_head", "_request_ids", "_text", "_times", "first_seq")

    def __init__(self, head: Event, text: str) -> None:
        """`text`: what the deltas before this stretch have said."""
        self.first_seq = head.seq
        self._text = msgspec.json.encode(text) if len(text) >= _REPEATED else b""
        self._head = (head.run_id, head.agent, head.attempt, head.path)
        self._frames: list[bytes | tuple[bytes, bytes]] = []
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
        self._frames.append(self._without_text(event.frame))
        self._times.append(event.at)
        return True

    def _without_text(self, frame: bytes) -> bytes | tuple[bytes, bytes]:
        start = frame.find(self._text) if self._text else -1
        if start < 0:
            if not self._frames:
                self._text = b""  # the first of these events repeats it, or none does
            return frame
        return frame[:start], frame[start + len(self._text) :]

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, after: int) -> list[Event]:
        from runstream.events.model_event import build_event

        run_id, agent, attempt, path = self._head
        events: list[Event] = []
        for index in range(max(after + 1 - self.first_seq, 0), len(self._frames)):
            kept = self._frames[index]
            frame = kept if isinstance(kept, bytes) else self._text.join(kept)
            data: Any = build_event(msgspec.json.decode(frame))
            if index in self._request_ids:
                data.response._request_id = self._request_ids[index]
            at = self._times[index]
            events.append(Event(run_id, self.first_seq + index, at, MODEL, agent, attempt, path, data, None, frame))
        return events


class Objects:
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


Block: TypeAlias = Texts | Mixed | Frames | Objects


def packable(event: Event) -> bool:
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
