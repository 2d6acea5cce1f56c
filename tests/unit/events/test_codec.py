"""events/codec: what is stored is read again, by this version and by later ones; nothing live leaves the process."""

from __future__ import annotations

import dataclasses
import enum
import json
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseOutputMessage, ResponseTextDeltaEvent

from runstream.events import codec
from runstream.events.event import (
    AgentStart,
    ApprovalResolved,
    AttemptDiscarded,
    ErrorInfo,
    Event,
    GuardrailChecked,
    InputAdded,
    ItemAdded,
    RunEnd,
    RunQueued,
    RunStart,
    ToolProgress,
)
from runstream.events.model_event import UnknownModelEvent, build_event

# Each line was written once, by version 1, and is never written again: it stands for what users have stored. What comes
# to version 1 comes after the lines that are there.
GOLDEN = Path(__file__).parents[2] / "data" / "records" / "v1.jsonl"

MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "content": [{"annotations": [], "text": "Grüße 🙂", "type": "output_text", "logprobs": []}],
    "role": "assistant",
    "status": "completed",
    "type": "message",
}
OUTPUT = {"call_id": "call_1", "output": "21 °C", "type": "function_call_output"}
USAGE = {"requests": 2, "input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
FRAME = (
    b'{"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_1","output_index":0,"content_index":0,'
    b'"delta":"Gr\\u00fc\\u00dfe","logprobs":[],"obfuscation":"xQ9"}'
)


class _Live:
    """Stands for an agent, an item, an exception: it must never be looked at."""

    def __repr__(self) -> str:
        raise AssertionError("the live object was looked at")

    __str__ = __repr__


def model(fields: dict[str, Any]) -> Any:
    return build_event(json.loads(json.dumps(fields)))


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


def event(seq: int, kind: str, data: Any, **more: Any) -> Event:
    fields: dict[str, Any] = {"agent": "Desk", "attempt": 0, "path": (), **more}
    return Event("run_1", seq, 1_700_000_000.25 + seq, kind, data=data, **fields)


EVENTS = [
    event(1, "run.start", RunStart("Weather in Paris?", 10), agent=None),
    event(2, "run.start", RunStart([{"role": "user", "content": "Hi"}]), live=_Live()),
    event(3, "agent.start", AgentStart(), live=_Live()),
    event(4, "agent.start", AgentStart("Triage"), agent="Weather"),
    event(5, "model", build_event(json.loads(FRAME)), attempt=1, frame=FRAME),
    event(6, "model", model(text_delta(delta=" there", sequence_number=5)), attempt=2, path=("call_1", "call_2")),
    event(
        7,
        "model",
        model({"type": "response.output_item.done", "item": MESSAGE, "output_index": 0, "sequence_number": 6}),
        attempt=1,
    ),
    event(8, "model", model({"type": "server.progress", "percent": 50, "detail": {"step": [1, None]}}), attempt=1),
    event(
        9,
        "item",
        ItemAdded("message_output_created", "message_output_item", ResponseOutputMessage.model_validate(MESSAGE)),
        live=_Live(),
    ),
    event(10, "item", ItemAdded("tool_output", "tool_call_output_item", OUTPUT)),
    event(11, "run.end", RunEnd("completed", None, {"answer": 42}, USAGE), live=_Live()),
    event(12, "run.end", RunEnd("failed", ErrorInfo("UserError", "wrong", "user_error"))),
    event(13, "run.end", RunEnd("cancelled", ErrorInfo("APIConnectionError", "lost", None, True), "part", USAGE)),
    event(14, "later.kind", {"anything": [1, 2.5, True, None, "x"]}, agent=None),
    event(15, "run.start", RunStart("Hi", 10, {"store": "x", "limits": [1]}, {"run": "run_0", "after": 7})),
    event(16, "agent.start", AgentStart("Triage", [{"role": "user", "content": "Hi"}]), agent="Weather"),
    event(17, "attempt.discarded", AttemptDiscarded(5, "retry", "the connection broke"), attempt=1),
    event(18, "attempt.discarded", AttemptDiscarded(5, "takeover")),
    event(19, "approval.resolved", ApprovalResolved("call_1", "pay", False, True, "Too much.", 3)),
    event(20, "approval.resolved", ApprovalResolved("call_1", "pay", True)),
    event(21, "input.added", InputAdded([{"role": "user", "content": "Wait!"}], 4)),
    event(22, "tool.progress", ToolProgress("call_2", "search", {"done": 3, "of": 10}, 1), path=("call_1",)),
    event(
        23,
        "guardrail",
        GuardrailChecked(
            *("no_keys", "tool_output", "rejected", 1_700_000_022.0, 0.25, 0.25, 0.0, 1, 0),
            *("search", "call_2", "Withheld."),
        ),
    ),
    event(24, "run.queued", RunQueued(2)),
]
# What version 1 wrote before these fields came to it.
_ADDED = {"options", "resumed", "history", "next_model"}
_BEFORE_THEM = (0, 1, 2, 3, 16, 17)


def golden() -> list[bytes]:
    return GOLDEN.read_bytes().splitlines()


def shown(value: Any) -> Any:
    """Everything that can be seen of an event's data."""
    return value.model_dump() if isinstance(value, pydantic.BaseModel) else value


def envelope(event: Event) -> tuple[Any, ...]:
    return (event.run_id, event.seq, event.at, event.kind, event.agent, event.attempt, event.path)


@pytest.mark.parametrize("index", range(len(EVENTS)))
def test_each_kind_is_written_as_version_1_has_it(index: int) -> None:
    """The records of version 1 are what this version writes, byte for byte where no official type orders the fields."""
    assert len(golden()) == len(EVENTS)
    written = codec.encode(EVENTS[index])
    record = json.loads(written)
    if index in _BEFORE_THEM:
        for name in _ADDED & record["data"].keys():
            assert record["data"].pop(name) is None
    assert record == json.loads(golden()[index])
    if index not in (6, 8, *_BEFORE_THEM):
        assert written == golden()[index]


@pytest.mark.parametrize("index", range(len(EVENTS)))
def test_each_record_of_version_1_is_read(index: int) -> None:
    """A stored record gives the event back: envelope, class of the data, and every field."""
    written, read = EVENTS[index], codec.decode(golden()[index])
    assert envelope(read) == envelope(written)
    if written.kind == "item":
        assert (read.data.name, read.data.type) == (written.data.name, written.data.type)
        assert read.data.raw == codec.plain(written.data.raw)
    else:
        assert type(read.data) is type(written.data)
        assert shown(read.data) == shown(written.data)
    assert read.live is None
    assert read.frame is None
    assert codec.decode(codec.encode(read)).data == read.data


def test_nothing_live_is_written() -> None:
    """No record has a word of the live object, which is not even looked at."""
    assert not any(b"live" in record for record in golden())
    assert any(event.live is not None for event in EVENTS)


def test_what_is_empty_is_left_out() -> None:
    """agent, attempt and path are written only where they say something."""
    record = json.loads(codec.encode(EVENTS[0]))
    assert list(record) == ["v", "run", "seq", "at", "kind", "data"]


def test_frames_are_written_as_they_came() -> None:
    """A delta's record holds the model's own bytes, escapes and unknown fields included."""
    assert FRAME in codec.encode(EVENTS[4])
    assert json.loads(golden()[4])["data"]["obfuscation"] == "xQ9"
    assert not hasattr(codec.decode(golden()[4]).data, "obfuscation")


def test_a_record_is_one_line() -> None:
    """A frame of several lines, which JSON allows and SSE can carry, does not break a file of lines."""
    fields = text_delta(delta="a\nb")
    frame = json.dumps(fields, indent=2).encode()
    assert b"\n" in frame
    record = codec.encode(event(1, "model", model(fields), frame=frame))
    assert b"\n" not in record
    assert codec.decode(record).data == model(fields)


@pytest.mark.parametrize("version", [2, 99, "1", None, 1.5])
def test_a_newer_form_is_refused_clearly(version: Any) -> None:
    """A record of a version that this one cannot know says which versions it reads."""
    record = json.dumps({**json.loads(golden()[0]), "v": version}).encode()
    with pytest.raises(ValueError, match="reads up to 1") as caught:
        codec.decode(record)
    assert repr(version) in str(caught.value)


def test_unknown_kinds_survive() -> None:
    """A kind of a later version is read as plain data and written again as it was."""
    record = codec.encode(event(1, "later.kind", {"since": 3, "reason": {"code": "x"}}))
    read = codec.decode(record)
    assert (read.kind, read.data) == ("later.kind", {"since": 3, "reason": {"code": "x"}})
    assert codec.encode(read) == record


def test_unknown_types_of_model_events_survive() -> None:
    """A model event that the client does not know keeps every field, in order."""
    read = codec.decode(golden()[7])
    assert isinstance(read.data, UnknownModelEvent)
    assert codec.encode(read) == golden()[7]


@pytest.mark.parametrize("index", [0, 2, 9, 10, 11, 16, 18, 20])
def test_fields_that_a_newer_version_added_are_ignored(index: int) -> None:
    """More fields in the envelope, in the data and in the error do not keep this version from reading."""
    record = json.loads(golden()[index])
    record["epoch"] = "3f"
    record["data"]["later"] = {"x": 1}
    if record["data"].get("error"):
        record["data"]["error"]["later"] = 1
    assert codec.decode(json.dumps(record).encode()).data == codec.decode(golden()[index]).data


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"3",
        b'"v"',
        b"{}",
        b'{"v":1}',
        b'{"v":1,"run":"r","seq":1,"at":0.5,"kind":"run.start"}',
        b'{"v":1,"run":"r","seq":1,"at":0.5,"kind":"run.start","data":{}}',
        b'{"v":1,"run":"r","seq":1,"at":0.5,"kind":"run.end","data":{"status":"failed","error":"x"}}',
        b'{"v":1,"run":"r","seq":1,"at":0.5,"kind":"item","data":[1]}',
        b'{"v":1,"run":"r","seq":1,"at":0.5,"kind":"attempt.discarded","data":{"reason":"retry"}}',
        b'{"v":1,"run":"r","seq":1,"at":0.5,"kind":"model","data":{"delta":"x"}}',
        b'{"v":1,"run":"r","seq":1,"at":0.5,"kind":"model"}',
        b"\xff\xfe",
        b'{"v":1,"run":"\xff"}',
    ],
)
def test_what_is_no_record_is_a_value_error(record: bytes) -> None:
    """Whatever is no record of an event raises ValueError and shows what it was."""
    with pytest.raises(ValueError, match="record"):
        codec.decode(record)


class _Colour(enum.Enum):
    RED = "red"


class _Text(str):
    __slots__ = ()


class _Number(float):
    pass


@dataclasses.dataclass
class _Point:
    x: int
    tags: set[str]


class _Report(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    title: str
    pages: int = 1
    owner: Any = None


class _Odd:
    def __str__(self) -> str:
        return "odd"

    def __repr__(self) -> str:  # part of a test's id, which must be the same in every process
        return "_Odd()"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (3, 3),
        ("x", "x"),
        ((1, [2]), [1, [2]]),
        ({"a"}, ["a"]),
        ({1: "a", _Colour.RED: "b"}, {"1": "a", "red": "b"}),
        (_Colour.RED, "red"),
        (_Text("x"), "x"),
        (_Number(1.5), 1.5),
        (_Point(1, {"t"}), {"x": 1, "tags": ["t"]}),
        (_Report(title="t"), {"title": "t", "pages": 1, "owner": None}),
        (_Report(title="t", owner=_Odd()), {"title": "t", "pages": 1, "owner": "odd"}),
        (_Odd(), "odd"),
        (_Point, str(_Point)),
        (ResponseTextDeltaEvent.construct(**text_delta()), text_delta()),
    ],
    ids=repr,
)
def test_any_final_output_becomes_plain(value: Any, expected: Any) -> None:
    """Whatever type an output has, it is written as JSON; defaults of users' types are part of it."""
    assert codec.plain(value) == expected
    assert (
        codec.decode(codec.encode(event(1, "run.end", RunEnd("completed", None, value)))).data.final_output == expected
    )


def test_plain_values_are_of_plain_types() -> None:
    """Subclasses of strings and numbers do not pass: no encoder would know them."""
    assert type(codec.plain(_Text("x"))) is str
    assert type(codec.plain(_Number(1.5))) is float


def test_half_a_surrogate_pair_does_not_break_a_record() -> None:
    """Text that is no Unicode (a tool read bytes as text) is written with a replacement character."""
    data = ItemAdded("tool_output", "tool_call_output_item", {"output": "a\ud83d", "\udc00": ["🙂", "\ud83d\ude42", 1]})
    read = codec.decode(codec.encode(event(1, "item", data)))
    assert read.data.raw == {"output": "a\ufffd", "\ufffd": ["🙂", "🙂", 1]}


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    data=_JSON.filter(lambda value: isinstance(value, dict)),
    agent=st.none() | st.text(max_size=10),
    attempt=st.integers(0, 9),
    path=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    at=st.floats(0, 4e9),
)
def test_any_event_of_plain_data_comes_back(
    data: Any, agent: str | None, attempt: int, path: tuple[str, ...], at: float
) -> None:
    """What is plain comes back equal, the time to the microsecond."""
    written = Event("run_1", 7, at, "later.kind", agent, attempt, path, data)
    read = codec.decode(codec.encode(written))
    assert read.data == data
    assert (read.run_id, read.seq, read.kind, read.agent, read.attempt, read.path) == (
        "run_1",
        7,
        "later.kind",
        agent,
        attempt,
        path,
    )
    assert read.at == pytest.approx(at, abs=1e-6)
