"""events/segment: what a store keeps of a run gives back every event exactly, however its deltas were put together."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseTextDeltaEvent

from runstream.events import codec
from runstream.events.event import Event, ItemAdded
from runstream.events.model_event import build_event
from runstream.events.segment import decode_segment, encode_segment

# Written once, by version 1. Never to be written again: it stands for what users have stored.
GOLDEN = Path(__file__).parents[2] / "data" / "records" / "segment_v1.jsonl"

LOGPROB = {"token": "a", "logprob": -0.5, "top_logprobs": []}


# One event of each kind and more.
KINDS = [codec.decode(line) for line in GOLDEN.with_name("v1.jsonl").read_bytes().splitlines()]


def text_delta(delta: Any, number: Any, **more: Any) -> dict[str, Any]:
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    return {
        "type": "response.output_text.delta",
        **place,
        "delta": delta,
        "sequence_number": number,
        "logprobs": [],
    } | more


def deltas(texts: list[str], first_seq: int = 1, at: float = 1_700_000_000.1234567, step: float = 0.25) -> list[Event]:
    return [
        Event("run_1", first_seq + i, at + i * step, "model", "Desk", 1, (), build_event(text_delta(text, 4 + i)))
        for i, text in enumerate(texts)
    ]


def seen(event: Event) -> tuple[Any, ...]:
    """Everything of an event that is kept."""
    data = event.data
    if hasattr(data, "model_dump"):
        fields_set = data.model_fields_set & type(data).model_fields.keys()
        data = (type(data), data.model_dump(warnings=False), data.to_dict(warnings=False), fields_set)
    elif event.kind == "item":
        data = (data.name, data.type, codec.plain(data.raw))
    return (event.run_id, event.seq, event.at, event.kind, event.agent, event.attempt, event.path, data)


def records(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in body.splitlines()]


def golden_events() -> list[Event]:
    """Every kind, then stretches: with times of their own, with one time, of arguments within a tool call."""
    name = "response.function_call_arguments.delta"
    nested = [
        build_event({"type": name, "item_id": "fc_1", "output_index": 1, "delta": text, "sequence_number": 9 + i})
        for i, text in enumerate(['{"a"', ":1}"])
    ]
    return [
        *KINDS[:22],  # those that there were then
        *deltas(["Gr", "üße", " 🙂", ""], 101),
        *deltas(["a", "b"], 105, step=0.0),
        *(Event("run_1", 107 + i, 7.5, "model", "Sub", 2, ("c1", "c2"), data) for i, data in enumerate(nested)),
    ]


def test_what_version_1_wrote_is_read() -> None:
    """Stored segments give every event back."""
    read = decode_segment(GOLDEN.read_bytes(), "run_1")
    assert [seen(event) for event in read] == [seen(event) for event in golden_events()]


def test_version_1_is_written() -> None:
    """This version writes what version 1 has written."""
    assert records(encode_segment(golden_events())) == records(GOLDEN.read_bytes())


@pytest.mark.parametrize("index", range(len(KINDS)))
def test_each_kind_comes_back(index: int) -> None:
    """A segment of one event of any kind gives it back."""
    (read,) = decode_segment(encode_segment([KINDS[index]]), "run_1")
    assert seen(read) == seen(KINDS[index])
    assert read.live is None
    assert read.frame is None


def test_the_run_is_not_written() -> None:
    """The run's id is told by whoever kept the segment."""
    body = encode_segment(golden_events())
    assert b"run_1" not in body
    assert {event.run_id for event in decode_segment(body, "other")} == {"other"}


def test_deltas_are_put_together() -> None:
    """Deltas of one part of the output share one record, whose texts are a list."""
    (record,) = records(encode_segment(deltas(["a", "b", "c"], 7)))
    assert record["deltas"] == ["a", "b", "c"]
    assert record["seq"] == 7
    assert len(record["at"]) == 3
    assert "delta" not in record["data"]
    assert record["data"]["sequence_number"] == 4


def test_deltas_of_one_read_share_their_time() -> None:
    """One time is written for deltas that came together."""
    (record,) = records(encode_segment(deltas(["a", "b"], step=0.0)))
    assert record["at"] == 1_700_000_000.1234567


def test_a_single_delta_keeps_its_frame() -> None:
    """A delta without neighbours, whose frame is there, is written with the model's own bytes."""
    frame = json.dumps(text_delta("Hi", 4, obfuscation="xQ9")).encode()
    assert frame in encode_segment(
        [Event("run_1", 1, 0.5, "model", "Desk", 1, (), build_event(json.loads(frame)), None, frame)]
    )


def test_a_frame_of_several_lines_is_one_record() -> None:
    """Line ends between a frame's values, which JSON allows, do not end the record."""
    fields = {"type": "server.progress", "percent": 50}
    frame = json.dumps(fields, indent=1).encode().replace(b"\n", b"\r\n")
    written = Event("run_1", 1, 0.5, "model", "Desk", 1, (), build_event(fields), None, frame)
    assert [seen(event) for event in decode_segment(encode_segment([written]), "run_1")] == [seen(written)]


_CHANGES: dict[str, dict[str, Any]] = {
    "logprobs": {"logprobs": [LOGPROB]},
    "null logprobs": {"logprobs": None},
    "extra": {"extra": [1]},
    "null number": {"sequence_number": None},
    "null delta": {"delta": None},
    "odd number": {"sequence_number": "7"},
    "odd delta": {"delta": 3},
    "obfuscation": {"obfuscation": "xyz"},
    "item": {"item_id": "msg_2"},
    "part": {"content_index": 1},
    "arguments": {"type": "response.function_call_arguments.delta"},
}
_LEFT_OUT = {"no logprobs": "logprobs", "no number": "sequence_number", "no item": "item_id", "no delta": "delta"}
_DELTAS = st.tuples(
    st.text(max_size=4),
    st.sampled_from([*([None] * 20), *_CHANGES, *_LEFT_OUT, "arguments event", "item event", "unknown"]),
    st.sampled_from([1, 1, 1, 1, 1, 0, 5]),
    st.sampled_from([0.0, 0.0, 0.015, 1 / 3]),
)
_ENVELOPES = st.tuples(
    st.sampled_from(["Desk", "Desk", "Other", None]),
    st.sampled_from([1, 1, 2, 0]),
    st.sampled_from([(), (), ("call",)]),
    st.booleans(),
)


def _event(seq: int, at: float, envelope: tuple[Any, ...], text: str, change: str | None, number: int) -> Event:
    agent, attempt, path, framed = envelope
    if change == "item event":
        return Event("run_1", seq, at, "item", agent, 0, path, ItemAdded("tool_output", "x", {"output": text}))
    if change == "unknown":
        fields: dict[str, Any] = {"type": "server.progress", "text": text}
    elif change == "arguments event":
        name = "response.function_call_arguments.delta"
        fields = {"type": name, "item_id": "fc", "output_index": 1, "delta": text, "sequence_number": number}
    else:
        fields = text_delta(text, number) | _CHANGES.get(change or "", {})
        fields.pop(_LEFT_OUT.get(change or "", ""), None)
    frame = json.dumps(fields).encode() if framed else None
    return Event("run_1", seq, at, "model", agent, attempt, path, build_event(copy.deepcopy(fields)), None, frame)


@given(
    writes=st.lists(st.tuples(_ENVELOPES, st.lists(_DELTAS, min_size=1, max_size=20)), max_size=6),
    cuts=st.lists(st.integers(0, 40), max_size=6),
)
def test_any_events_come_back_however_they_are_cut(writes: list[Any], cuts: list[int]) -> None:
    """Odd deltas, other kinds and places in between: each event comes back as it was, from segments of any size."""
    events: list[Event] = []
    at, number = 1_700_000_000.1234567, 0
    for envelope, entries in writes:
        for text, change, step, delay in entries:
            number += step
            at += delay
            events.append(_event(len(events) + 1, at, envelope, text, change, number))
    edges = sorted({0, len(events), *(min(cut, len(events)) for cut in cuts)})
    bodies = [encode_segment(events[start:end]) for start, end in itertools.pairwise(edges)]
    read = [event for body in bodies for event in decode_segment(body, "run_1")]
    assert [seen(event) for event in read] == [seen(event) for event in events]
    again = decode_segment(encode_segment(read), "run_1")
    assert [seen(event) for event in again] == [seen(event) for event in events]


def test_no_event_is_no_record() -> None:
    """An empty segment is empty both ways."""
    assert encode_segment([]) == b""
    assert decode_segment(b"", "run_1") == []


def test_lists_of_a_stretch_are_its_events_own() -> None:
    """Events read from one record share nothing that a reader could change."""
    first, second = decode_segment(encode_segment(deltas(["a", "b"])), "run_1")
    assert isinstance(first.data, ResponseTextDeltaEvent)
    assert first.data.logprobs is not second.data.logprobs


def test_half_a_surrogate_pair_does_not_break_a_segment() -> None:
    """Text that is no Unicode is written with a replacement character, alone, in a stretch, and in other kinds."""
    item = Event("run_1", 3, 0.5, "item", "Des\ud83dk", 0, (), ItemAdded("tool_output", "x", {"output": "a\ud83d"}))
    read = decode_segment(encode_segment([*deltas(["a\ud83d", "b"]), item]), "run_1")
    assert [event.data.delta for event in read[:2]] == ["a\ufffd", "b"]
    assert (read[2].data.raw, read[2].agent) == ({"output": "a\ufffd"}, "Des\ufffdk")
    (alone,) = decode_segment(encode_segment(deltas(["\ud83d"])), "run_1")
    assert alone.data.delta == "\ufffd"


@pytest.mark.parametrize("version", [2, 99, "1", None, 1.5])
def test_a_newer_form_is_refused_clearly(version: Any) -> None:
    """A record of a version that this one cannot know says which versions it reads, whatever else is new in it."""
    body = json.dumps({"v": version, "seq": "new", "shape": []}).encode()
    with pytest.raises(ValueError, match="reads up to 1") as caught:
        decode_segment(encode_segment(deltas(["a"])) + body, "run_1")
    assert repr(version) in str(caught.value)


def test_fields_that_a_newer_version_added_are_ignored() -> None:
    """More fields in the envelope and in the data do not keep this version from reading."""
    for written in KINDS:
        if written.kind in ("model", "later.kind"):
            continue
        record = json.loads(encode_segment([written]))
        record["later"] = {"x": 1}
        record["data"]["later"] = 1
        (read,) = decode_segment(json.dumps(record).encode(), "run_1")
        assert seen(read) == seen(written)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"null",
        b"[]",
        b"{}",
        b'{"v":1}',
        b'{"v":1,"seq":1,"at":[0.5],"kind":"run.end","data":{"status":"completed"}}',
        b'{"v":1,"seq":1,"at":0.5,"kind":"run.start","data":{}}',
        b'{"v":1,"seq":1,"at":0.5,"kind":"model"}',
        b'{"v":1,"seq":1,"at":0.5,"kind":"model","deltas":["a"]}',
        b'{"v":1,"seq":1,"at":[0.5],"kind":"model","data":{"type":"response.output_text.delta"},"deltas":["a","b"]}',
        b'{"v":1,"seq":1,"at":0.5,"kind":"model","data":{},"deltas":["a","b"]}',
        b'{"v":1,"seq":1,"at":0.5,"kind":"model","data":{},"deltas":"ab"}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_segment_is_a_value_error(body: bytes) -> None:
    """Whatever has no records of events raises ValueError."""
    with pytest.raises(ValueError, match="record"):
        decode_segment(body, "run_1")
