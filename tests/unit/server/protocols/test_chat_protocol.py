"""The stream of Chat Completions, and a completion, against the official types: texts, ends, errors, requests."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_strict import frames_in, strict_chunk, strict_completion
from runstream import Agent, Runner, function_tool
from runstream.events.event import AttemptDiscarded, ErrorInfo, Event
from runstream.server.answers import Refused
from runstream.server.channel import Batch
from runstream.server.protocols.chat_completions import ChatEncoding, chat_request
from runstream.server.protocols.openai_requests import error_body
from runstream.server.protocols.responses import responses_request
from runstream.testing import Message, Reasoning, Refusal, ScriptedModel, ToolCall, Turn
from view_events import Log, message

# The names that requests are made of, and values that stand for kinds of things.
WORDS = [
    *("model", "messages", "input", "role", "content", "type", "text", "image_url", "url", "file", "tool_calls"),
    *("function", "stream", "stream_options", "conversation", "metadata", "instructions", "tools", "refusal", "format"),
    *("approval_request_id", "approve", "reason", "previous_response_id", "background", "store", "id", "name"),
]


@function_tool
async def weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


async def events_of(*script: Any) -> list[Event]:
    agent = Agent(name="Desk", tools=[weather], model=ScriptedModel(list(script)))
    return [event async for event in Runner.run_streamed(agent, "hi").events()]


def stream(events: Sequence[Event], **options: Any) -> bytes:
    return ChatEncoding(events[0].run_id, **options).encode(Batch(events, 1))


def chunks_of(body: bytes) -> list[Any]:
    """The chunks of a whole stream, which must have its end."""
    frames = [frame.data for frame in frames_in(body)]
    assert frames[-1:] == [b"[DONE]"], "it was cut"
    return [strict_chunk(data) for data in frames[:-1]]


def said(chunks: list[Any], name: str = "content") -> str:
    deltas = [choice.delta.to_dict() for chunk in chunks for choice in chunk.choices]
    return "".join(delta.get(name) or "" for delta in deltas)


def completion_of(events: Sequence[Event]) -> Any:
    encoding = ChatEncoding(events[0].run_id, is_whole=True)
    encoding.encode(Batch(events, 1))
    return encoding


async def test_a_run_is_one_completion() -> None:
    """Texts of several turns are one content; the tools that the server ran are no calls for the client."""
    log = await events_of(["Let me see.", ToolCall("weather", {"city": "Oslo"})], [Message("It is\nsunny. ☀", "char")])
    body = stream(log, has_usage=True)
    chunks = chunks_of(body)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert said(chunks) == "Let me see.\n\nIt is\nsunny. ☀"
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == log[-1].data.usage["total_tokens"]
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1
    assert b"tool_calls" not in body
    whole = strict_completion(completion_of(log).completion())
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (said(chunks), "stop")
    assert whole.usage == chunks[-1].usage
    assert [chunk.usage for chunk in chunks_of(stream(log))] == [None] * (len(chunks) - 1)
    with pytest.raises(AssertionError, match="it was cut"):
        chunks_of(body.removesuffix(b"data: [DONE]\n\n"))


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_texts_go_out_as_they_came(pieces: list[str]) -> None:
    """A delta of the model is a delta of the stream."""
    log = Log().start()
    log.created()
    for piece in pieces:
        log.delta(piece, item_id="m")
    log.item("message_output_item", message("m", "".join(pieces)))
    chunks = chunks_of(stream(log.end().events))
    sent = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
    assert sent == pieces


async def test_reasoning_and_refusals() -> None:
    """Reasoning is the field that other servers have for it; a refusal is the API's own."""
    log = await events_of(Turn((Reasoning("Hm m."), Refusal("I will not."))))
    chunks = chunks_of(stream(log))
    assert (said(chunks, "refusal"), said(chunks)) == ("I will not.", "")
    deltas = [json.loads(frame.data)["choices"][0]["delta"] for frame in frames_in(stream(log))[:-1]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Hm m."
    made = completion_of(log).completion()
    assert made["choices"][0]["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": "I will not.",
        "reasoning_content": "Hm m.",
    }
    strict_completion(made)


def test_discarded_text() -> None:
    """A stream begins anew; what is not streamed holds only what counts."""
    log = Log().start()
    log.created()
    log.delta("Half a tho")
    log.add("attempt.discarded", AttemptDiscarded(3, "retry"))
    log.created()
    log.delta("Right.", item_id="m2")
    log.item("message_output_item", message("m2", "Right."))
    events = log.end().events
    assert said(chunks_of(stream(events))) == "Half a tho\n\nRight."
    assert strict_completion(completion_of(events).completion()).choices[0].message.content == "Right."


@pytest.mark.parametrize(
    ("status", "code", "told", "http_status"),
    [
        ("failed", "max_turns_exceeded", "max_turns_exceeded", 500),
        ("failed", "input_guardrail_tripwire", "content_filter", 400),
        ("cancelled", None, "cancelled", 500),
        ("interrupted", None, "approval_needed", 500),
    ],
)
def test_a_failure_ends_the_stream(status: str, code: str | None, told: str, http_status: int) -> None:
    """As an error in the stream, without the end that would make it pass for success."""
    log = Log().start()
    log.created()
    log.delta("So far")
    error = None if code is None else ErrorInfo("X", "Bearer abcdefgh12345678", code)
    events = log.end(status, error=error).events
    frames = [frame.data for frame in frames_in(stream(events))]
    last = json.loads(frames[-1])["error"]
    assert last.keys() == {"message", "type", "param", "code"}
    assert (last["code"], "abcdefgh" in last["message"]) == (told, False)
    assert b"[DONE]" not in frames
    failed = completion_of(events).failed
    assert failed is not None
    assert failed.status == http_status


@pytest.mark.parametrize(
    ("code", "reason", "finish"),
    [("output_guardrail_tripwire", None, "content_filter"), ("model_stream_failed", "max_output_tokens", "length")],
)
def test_what_was_cut_says_so(code: str, reason: str | None, finish: str) -> None:
    """The reason why it ended is the API's."""
    log = Log().start()
    log.created()
    log.delta("So far")
    if reason is not None:
        log.model("response.incomplete", response={"output": [], "incomplete_details": {"reason": reason}})
    chunks = chunks_of(stream(log.end("failed", error=ErrorInfo("X", "m", code)).events))
    assert chunks[-1].choices[0].finish_reason == finish


def test_a_stream_that_cannot_go_on() -> None:
    """It has an error, and no end."""
    encoding = ChatEncoding("run_1")
    [frame] = frames_in(encoding.failure("store_error"))
    assert json.loads(frame.data)["error"]["code"] == "store_error"
    assert frames_in(encoding.opening + encoding.heartbeat) == []
    assert encoding.closing() == b""


def asked(trusted: bool = False, **fields: Any) -> Any:
    body = {"model": "Desk", "messages": [{"role": "user", "content": "hi"}], **fields}
    return chat_request(json.dumps(body).encode(), trusted=trusted)


def test_the_history_is_the_input() -> None:
    """What people and the assistant said, with images; the parts of messages as the Responses API has them."""
    image = {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]},
        {"role": "assistant", "content": "A cat."},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "Sure?", "name": "ann"},
    ]
    request = asked(messages=messages, stream=True, stream_options={"include_usage": True}, temperature=1, n=1)
    picture = {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"}
    assert request.given == [
        {"role": "user", "content": [{"type": "input_text", "text": "What is this?"}, picture]},
        {"role": "assistant", "content": "A cat."},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "Sure?"},
    ]
    assert (request.is_streamed, request.has_usage) == (True, True)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "c"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].image_url"),
        ({"n": 2}, "n"),
        ({"tools": [{}]}, "tools"),
        ({"functions": [{}]}, "functions"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"stop": "x"}, "stop"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"stream_options": 1}, "stream_options"),
        ({"what": 1}, "what"),
    ],
)
def test_what_is_refused_is_named(fields: dict[str, Any], param: str) -> None:
    """The error has the API's shape, and the parameter that is why."""
    with pytest.raises(Refused) as refused:
        asked(**fields)
    error = json.loads(error_body(refused.value))["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"[" * 5000])
def test_what_is_no_request(body: bytes) -> None:
    """It is refused, whatever it is."""
    with pytest.raises(Refused) as refused:
        chat_request(body, trusted=False)
    assert refused.value.code == "invalid_json"


_PLAUSIBLE = (
    "user",
    "assistant",
    "tool",
    "system",
    "message",
    "input_text",
    "image_url",
    "file",
    "mcp_approval_response",
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(_PLAUSIBLE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=10,
)
_ITEMS = st.lists(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("type", "role", "content", "tool_calls", "approve"), _VALUES)),
    min_size=1,
    max_size=2,
)


@given(_ITEMS, st.dictionaries(st.sampled_from(WORDS), _VALUES, max_size=2), st.booleans())
def test_whatever_comes_is_taken_or_refused(items: list[Any], others: dict[str, Any], trusted: bool) -> None:
    """No request makes an error of another kind."""
    for read, name in ((chat_request, "messages"), (responses_request, "input")):
        body = json.dumps({**others, "model": "Desk", name: items}).encode()
        with contextlib.suppress(Refused):
            assert isinstance(read(body, trusted=trusted).given, list)
        body = json.dumps({"model": "Desk", name: items}).encode()
        with contextlib.suppress(Refused):
            assert isinstance(read(body, trusted=trusted).given, list)


def test_a_server_that_trusts_its_clients() -> None:
    """It takes instructions, calls and outputs of tools, too."""
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "seen"},
    ]
    assert asked(True, messages=messages).given == [
        {"role": "developer", "content": "Be brief."},
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "seen"},
    ]
