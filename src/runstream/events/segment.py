"""Events as one blob and back: the form in which stores keep them. Records as in `events/codec`, each on a line.

A record is without the run's id, which the key of the blob tells. Two or more deltas of one part of the output, one
after the other, are one record (a stretch): `data` is the first one's without its text, `deltas` are the texts, and
`at` is one time for all of them or a list of theirs; seqs and sequence numbers count on from the first. What cannot be
told from its neighbours in this way is a record of its own.

Invariant: whatever is written comes back, times included, but for what is live and for the frames.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from operator import itemgetter
from types import ModuleType
from typing import Any, cast

import msgspec

from runstream.errors import StoreError
from runstream.events.codec import VERSION, decode_data, encode_data, plain, whole_characters
from runstream.events.event import MODEL, Event

__all__ = ["decode_segment", "encode_segment"]

# What a payload codec wrote begins so (`log/payload`), then comes the length of its name, and that. No JSON does.
_CODED = b"\xff"
# What differs from one delta to the next.
_VARYING = ("delta", "sequence_number")


class _Record(msgspec.Struct, omit_defaults=True, gc=False):
    v: int
    seq: int
    at: float | list[float]
    kind: str
    agent: str | None = None
    attempt: int = 0
    path: tuple[str, ...] = ()
    data: Any = None
    deltas: list[str] | None = None


_encode_lines = msgspec.json.Encoder(enc_hook=plain).encode_lines
_decode_record = msgspec.json.Decoder(_Record).decode
_decode_any = msgspec.json.Decoder().decode


@functools.cache
def _model_event() -> ModuleType:
    # It imports openai. An import statement in each call would cost more than the rest.
    from runstream.events import model_event

    return model_event


_delta_classes: frozenset[type[Any]] = frozenset()


def _find_delta_classes() -> frozenset[type[Any]]:
    # A global: it is asked for with every delta.
    global _delta_classes
    _delta_classes = frozenset(_model_event().DELTA_CLASSES)
    return _delta_classes


def encode_segment(events: Sequence[Event]) -> bytes:
    """Events that follow one another in one run, as one blob."""
    records: list[_Record] = []
    index, count = 0, len(events)
    if count == 1 and events[0].frame is not None:  # so do deltas come from slow models: there is nothing to find out
        event = events[0]
        data: Any = encode_data(event)
        records.append(_Record(VERSION, event.seq, event.at, event.kind, event.agent, event.attempt, event.path, data))
        index = 1
    while index < count:
        event = events[index]
        data = event.data
        if event.kind == MODEL and _is_plain_delta(data):
            end = _stretch_end(events, index) if index + 1 < count else index + 1
            if end - index > 1:
                records.append(_stretch(events[index:end]))
                index = end
                continue
            if event.frame is None and len(data.__pydantic_fields_set__) == len(data.__dict__):
                data = data.__dict__  # all of it is plain
            else:
                data = encode_data(event)
        else:
            data = encode_data(event)
        records.append(_Record(VERSION, event.seq, event.at, event.kind, event.agent, event.attempt, event.path, data))
        index += 1
    try:
        return _encode_lines(records)
    except UnicodeEncodeError:
        for record in records:
            for name in record.__struct_fields__:
                setattr(record, name, whole_characters(getattr(record, name)))
        return _encode_lines(records)


def _is_plain_delta(data: Any) -> bool:
    """Whether it is a delta that its text, its number and what it shares with its neighbours tell."""
    if data.__class__ not in (_delta_classes or _find_delta_classes()):
        return False
    fields: dict[str, Any] = data.__dict__
    number = fields.get("sequence_number")
    return (
        fields.get("delta").__class__ is str
        and (number is None or number.__class__ is int)
        and not fields.get("logprobs")
        and not data.__pydantic_extra__
    )


@functools.lru_cache(maxsize=64)
def _common_of(names: tuple[str, ...]) -> Any:
    """A function from a delta's fields to a tuple of those that do not vary."""
    # At least two names, so that it is a tuple.
    return itemgetter(*(name for name in names if name not in _VARYING), "type")


def _stretch_end(events: Sequence[Event], start: int) -> int:
    """The index after the last of the deltas that can be told from the one at `start`."""
    head = events[start]
    agent, attempt, path = head.agent, head.attempt, head.path
    delta_class, given = head.data.__class__, head.data.__pydantic_fields_set__
    fields: dict[str, Any] = head.data.__dict__
    size = len(fields)
    common_of = _common_of(tuple(fields))
    common = common_of(fields)
    number: Any = fields.get("sequence_number")
    for index in range(start + 1, len(events)):
        event = events[index]
        data = event.data
        if (
            data.__class__ is not delta_class
            or event.kind != MODEL
            or event.agent != agent
            or event.attempt != attempt
            or event.path != path
        ):
            return index
        fields = data.__dict__
        if number is not None:
            number += 1
        try:
            if (
                fields["delta"].__class__ is not str
                or fields.get("sequence_number") != number
                or len(fields) != size
                or common_of(fields) != common
                or (data.__pydantic_fields_set__ is not given and data.__pydantic_fields_set__ != given)
                or data.__pydantic_extra__
            ):
                return index
        except KeyError:
            return index
    return len(events)


def _stretch(events: Sequence[Event]) -> _Record:
    head = events[0]
    given: set[str] = head.data.__pydantic_fields_set__
    data: dict[str, Any] = {
        name: value for name, value in head.data.__dict__.items() if name != "delta" and name in given
    }
    deltas: list[str] = [event.data.__dict__["delta"] for event in events]
    at: Any = [event.at for event in events]
    if at.count(at[0]) == len(at):
        at = at[0]
    return _Record(VERSION, head.seq, at, MODEL, head.agent, head.attempt, head.path, data, deltas)


def decode_segment(body: bytes, run_id: str, *, deltas: bool = True) -> list[Event]:
    """The events of a blob; with `deltas=False` without the frequent ones, for those who need the state alone.

    Raises ValueError where it is none, or has records of a form this version cannot know; StoreError where a payload
    codec has written it, which this reader does not have.
    """
    if body[:1] == _CODED and len(body) > 2 and len(body) >= 2 + body[1]:
        name = body[2 : 2 + body[1]].decode(errors="replace")
        raise StoreError(
            f"the events of {run_id} were stored with the payload codec {name!r}: "
            "open the store with it, as open_store(url, codec=...)"
        )
    events: list[Event] = []
    for line in body.split(b"\n"):
        if not line:
            continue  # after the last record
        try:
            record = _decode_record(line)
            if record.v > VERSION:
                raise _refusal(line, None)
            kind, at = record.kind, record.at
            if not deltas and (record.deltas is not None or (kind == MODEL and _is_delta(record.data))):
                continue
            if record.deltas is not None:
                _read_stretch(record, record.deltas, run_id, events)
                continue
            if at.__class__ is list:
                raise TypeError("several times for one event")
            data = _model_event().build_event(record.data) if kind == MODEL else decode_data(kind, record.data)
            events.append(
                Event(run_id, record.seq, cast("float", at), kind, record.agent, record.attempt, record.path, data)
            )
        except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
            raise _refusal(line, error) from error
    return events


def _is_delta(data: Any) -> bool:
    return data["type"].endswith(".delta")


def _read_stretch(record: _Record, deltas: list[str], run_id: str, events: list[Event]) -> None:
    build_event = _model_event().build_event
    seq, agent, attempt, path, common = record.seq, record.agent, record.attempt, record.path, record.data
    times = record.at if isinstance(record.at, list) else [record.at] * len(deltas)
    if len(times) != len(deltas):
        raise TypeError(f"{len(deltas)} deltas with {len(times)} times")
    number = common.get("sequence_number")
    has_logprobs = "logprobs" in common
    for delta, at in zip(deltas, times, strict=False):
        fields = common.copy()
        fields["delta"] = delta
        if number is not None:
            fields["sequence_number"] = number
            number += 1
        if has_logprobs:
            fields["logprobs"] = []
        events.append(Event(run_id, seq, at, MODEL, agent, attempt, path, build_event(fields)))
        seq += 1


def _refusal(line: bytes, error: Exception | None) -> ValueError:
    """Why a line is no record that this version can read."""
    try:
        version: Any = _decode_any(line)["v"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        version = VERSION
    if not isinstance(version, int) or version > VERSION:
        return ValueError(f"the record has version {version!r}; this version of runstream reads up to {VERSION}")
    return ValueError(f"not an event record ({error!r}): {line[:200]!r}")
