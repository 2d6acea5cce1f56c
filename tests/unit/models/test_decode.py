"""models/decode: frames of a Responses stream become typed events, up to the first that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseCompletedEvent, ResponseTextDeltaEvent

from runstream.errors import ModelStreamBroken
from runstream.events.model_event import UnknownModelEvent
from runstream.models.decode import build_event, decode_frames
from runstream.wire.sse import SSEDecoder, SSEFrame

RECORDINGS = sorted((Path(__file__).parents[2] / "data" / "sse").glob("*.sse"))


def text_delta(**more: Any) -> dict[str, Any]:
    return {
        "type": "response.output_text.delta",
        "item_id": "msg_1",
        "output_index": 0,
        "content_index": 0,
        "delta": "Hi",
        "sequence_number": 4,
        "logprobs": [],
        **more,
    }


def frame(data: Any) -> SSEFrame:
    return SSEFrame(data if isinstance(data, bytes) else json.dumps(data, separators=(",", ":")).encode(), b"any")


def decode_reads(reads: list[bytes]) -> list[Any]:
    sse, events = SSEDecoder(), []
    for data in reads:
        more, kept, broken = decode_frames(sse.feed(data))
        assert broken is None
        assert len(more) == len(kept)
        events += more
    assert sse.close() == b""
    return events


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_recorded_streams(path: Path) -> None:
    """A recorded stream gives one event for each frame but [DONE], the last of them the completed response."""
    data = path.read_bytes()
    events = decode_reads([data])
    frames = [each.data for each in SSEDecoder().feed(data) if each.data != b"[DONE]"]
    assert [event.type for event in events] == [json.loads(each)["type"] for each in frames]
    assert isinstance(events[-1], ResponseCompletedEvent)
    for event, each in zip(events, frames, strict=True):
        fields = json.loads(each)
        fields.pop("obfuscation", None)
        if event.type == "response.output_text.delta":
            fields.setdefault("logprobs", [])
        assert event.to_dict() == fields


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_recorded_streams_cut_at_every_place(path: Path) -> None:
    """Wherever the network cuts a recorded stream in two, the events are the same."""
    data = path.read_bytes()
    whole = decode_reads([data])
    cuts: dict[tuple[int, ...], int] = {}
    for place in range(len(data) + 1):
        sse = SSEDecoder()
        cuts.setdefault((len(sse.feed(data[:place])), len(sse.feed(data[place:]))), place)
    for place in cuts.values():  # the frames are the same at every place, see the tests of wire/sse
        assert decode_reads([data[:place], data[place:]]) == whole


def test_the_text_of_a_recorded_stream() -> None:
    """The deltas add up to the text of the completed response."""
    for path in RECORDINGS:
        events = decode_reads([path.read_bytes()])
        text = "".join(event.delta for event in events if isinstance(event, ResponseTextDeltaEvent))
        done = [event.item for event in events if event.type == "response.output_item.done"]
        assert text == "".join(part.text for item in done if item.type == "message" for part in item.content)


def test_frames_are_kept() -> None:
    """Beside each event stand the bytes that it came in."""
    frames = [
        frame({"type": "response.created", "response": {}}),
        frame(text_delta()),
        frame(text_delta(obfuscation="x")),
        frame(text_delta(logprobs=[{"token": "a", "logprob": -1.0, "top_logprobs": []}])),
        frame(b"[DONE]"),
        frame({"delta": "{}", "type": "response.function_call_arguments.delta"}),
        frame({"type": "server.progress"}),
    ]
    events, kept, broken = decode_frames(frames)
    assert broken is None
    assert [json.loads(each or b"")["type"] for each in kept] == [event.type for event in events]
    assert kept == [each.data for each in frames if each.data != b"[DONE]"]


_VALUES = st.sampled_from([None, 0, 7, -1, 2**60, 1.5, True, "", "Hi", "🙂", [], [1], {}, {"token": "a"}])
_CHANGES = st.dictionaries(st.sampled_from([*text_delta(), "obfuscation", "later"]), _VALUES, max_size=3)


@given(
    changes=_CHANGES,
    left_out=st.sets(st.sampled_from([*text_delta()][1:]), max_size=2),
    order=st.permutations(list(range(7))),
    spaced=st.booleans(),
)
def test_the_quick_way_and_the_slow_way_agree(
    changes: dict[str, Any], left_out: set[str], order: list[int], spaced: bool
) -> None:
    """A text delta in the API's own shape is decoded in a quicker way; nobody can tell, whatever its fields are."""
    changes.pop("type", None)
    fields = {name: value for name, value in text_delta(**changes).items() if name not in left_out}
    names = list(fields)
    fields = {names[index]: fields[names[index]] for index in order if index < len(names)} | fields
    data = json.dumps(fields, ensure_ascii=spaced, separators=None if spaced else (",", ":")).encode()
    (event,), kept, broken = decode_frames([SSEFrame(data)])
    expected: Any = build_event(json.loads(data))
    assert broken is None
    assert kept == [data]
    assert type(event) is type(expected)
    assert event == expected
    assert event.model_fields_set == expected.model_fields_set
    assert event.to_dict(warnings=False) == expected.to_dict(warnings=False)


def test_done_is_skipped() -> None:
    """Some servers end with [DONE], which is no event."""
    events, kept, broken = decode_frames([frame(text_delta()), frame(b"[DONE]")])
    assert (len(events), len(kept), broken) == (1, 1, None)
    assert decode_frames([frame(b"[DONE]")]) == ([], [], None)


def test_no_frames() -> None:
    """A read that completes no frame gives nothing."""
    assert decode_frames([]) == ([], [], None)


def test_unknown_types_pass_through() -> None:
    """An event of a type that nobody knows is handed on with its fields."""
    (event,), _, broken = decode_frames([frame({"type": "keepalive", "n": 1})])
    assert broken is None
    assert isinstance(event, UnknownModelEvent)
    assert event.to_dict() == {"type": "keepalive", "n": 1}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"not JSON",
        b"[done]",
        b"null",
        b"3",
        b"[]",
        b'"text"',
        b"{}",
        b'{"delta":"x"}',
        b'{"type":null}',
        b'{"type":["x"]}',
        b'{"type":"response.output_text.delta","delta":"cut',
        b'{"type":"response.output_text.delta",}',
        b'{"type":"response.completed"}',
        b'{"type":"response.completed","response":null}',
        b"\xff",
        b'{"type":"response.output_text.delta","delta":"\xff"}',
    ],
)
def test_a_frame_that_is_no_event_breaks_the_stream(data: bytes) -> None:
    """Decoding stops at it: what came before is kept, what comes after is not looked at, and the error shows it."""
    events, kept, broken = decode_frames([frame(text_delta()), SSEFrame(data), frame(text_delta())])
    assert (len(events), len(kept)) == (1, 1)
    assert isinstance(broken, ModelStreamBroken)
    assert broken.frame == data
    assert repr(data) in str(broken)
    assert broken.__cause__ is not None
    assert not broken.retryable


def test_the_error_shows_the_beginning_of_a_long_frame() -> None:
    """A frame of megabytes does not become a message of megabytes."""
    _, _, broken = decode_frames([SSEFrame(b"x" * 1_000_000)])
    assert broken is not None
    assert broken.frame == b"x" * 200
    assert len(str(broken)) < 500
