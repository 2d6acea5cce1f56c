"""The two dialects: every event is valid, and the stream adds up to the whole answer."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from runstream.testing import (
    Fault,
    HandoffTo,
    InvalidModelStep,
    Item,
    Message,
    Reasoning,
    Refusal,
    Tokens,
    ToolCall,
    Turn,
    assistant_message,
    say,
)
from runstream.testing.chat_chunks import completion_chunks, completion_object
from runstream.testing.reply import Reply, StreamEvent
from runstream.testing.responses_events import (
    error_event,
    failed_event,
    request_echo,
    response_events,
    response_object,
)
from runstream.testing.timeline import Strike, Wait, timeline

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
PARTS = st.one_of(
    TEXT,
    st.builds(Message, TEXT),
    st.builds(Refusal, TEXT),
    st.builds(Reasoning, TEXT, raw=st.booleans(), encrypted_content=st.none() | TEXT),
    st.builds(ToolCall, st.sampled_from(["f", "g"]), st.dictionaries(TEXT, TEXT, max_size=3) | TEXT),
    st.builds(HandoffTo, st.sampled_from(["Ann", "Bob B."])),
)
TURNS = st.builds(
    Turn,
    st.lists(PARTS, max_size=5),
    chunks=st.sampled_from(["word", "char", "whole", 3]),
    usage=st.sampled_from(["auto", "none", Tokens(5, 6, 1, 2)]),
    incomplete=st.sampled_from([None, "max_output_tokens", "content_filter"]),
    interleave=st.booleans(),
)
relaxed = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


def _reply(turn: Turn, **fields: Any) -> Reply:
    return Reply(turn, 1, "abcdef", "m", 1_700_000_000, **fields)


@relaxed
@given(TURNS)
def test_response_events_are_valid_and_add_up(turn: Turn) -> None:
    """Official types, numbers without gaps, each item opened and closed, deltas equal to the final texts."""
    events = [event.data for event in response_events(_reply(turn))]
    for event in events:
        EVENTS.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    final = events[-1]["response"]
    assert final == response_object(_reply(turn))
    Response.model_validate(final)
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == final["output"]
    assert [event["item"]["id"] for event in events if event["type"] == "response.output_item.added"] == [
        item["id"] for item in done
    ]
    for index, item in enumerate(done):
        mine = [event["delta"] for event in events if "delta" in event and event["output_index"] == index]
        assert "".join(mine) == _text_of(item)
    assert [event.is_end for event in response_events(_reply(turn))] == [False] * (len(events) - 1) + [True]


def _text_of(item: dict[str, Any]) -> str:
    if item["type"] == "function_call":
        return item["arguments"]
    parts = [*item.get("summary", ()), *item.get("content", ())]
    return "".join(part["refusal"] if part["type"] == "refusal" else part["text"] for part in parts)


@relaxed
@given(TURNS, st.booleans())
def test_chat_chunks_are_valid_and_add_up(turn: Turn, include_usage: bool) -> None:
    """Official types; the deltas make the message of the whole completion."""
    chunks = [chunk.data for chunk in completion_chunks(_reply(turn), include_usage=include_usage)]
    completion = completion_object(_reply(turn))
    ChatCompletion.model_validate(completion)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    message: dict[str, Any] = completion["choices"][0]["message"]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    # Interleaved messages mix their deltas, as one message has one text.
    mix: Any = sorted if turn.interleave else list
    for field in ("content", "refusal", "reasoning_content"):
        said = "".join(delta.get(field) or "" for delta in deltas)
        assert mix(said) == mix(message.get(field) or "")
    calls: dict[int, dict[str, str]] = {}
    for delta in deltas:
        for call in delta.get("tool_calls", ()):
            known = calls.setdefault(call["index"], {"id": call.get("id"), "name": "", "arguments": ""})
            for field, text in call["function"].items():
                known[field] += text
    assert [(call["id"], call["name"], call["arguments"]) for call in calls.values()] == [
        (call["id"], call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())
    ]
    assert ("usage" in chunks[0]) == (include_usage and turn.usage != "none")
    assert completion.get("usage") == (chunks[-1].get("usage") if include_usage else completion.get("usage"))


def test_usage_counts_the_deltas() -> None:
    """One token a delta, reasoning told apart."""
    usage = response_object(_reply(Turn([Reasoning("a b"), "c d e"]), input_tokens=7))["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (7, 5, 12)
    assert usage["output_tokens_details"] == {"reasoning_tokens": 2}


def test_other_items_come_as_they_are() -> None:
    """Official objects and other types: annotations with their events, calls of hosted tools without deltas."""
    annotation = {"type": "url_citation", "url": "http://x", "title": "t", "start_index": 0, "end_index": 1}
    content = {"type": "output_text", "text": "Hi", "annotations": [annotation]}
    items: list[Any] = [
        assistant_message("Hello"),
        {"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": [content]},
        {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"type": "search", "query": "q"}},
        {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"},
    ]
    events = [event.data for event in response_events(_reply(Turn([Item(item) for item in items])))]
    for event in events:
        EVENTS.validate_python(event)
    kinds = [event["type"] for event in events]
    assert kinds.count("response.output_text.annotation.added") == 1
    assert [event["item"]["status"] for event in events if event.get("item", {}).get("id") == "ws"] == [
        "in_progress",
        "completed",
    ]
    assert events[-1]["response"]["output"][3]["id"] == "item_1_abcdef_3"


def test_chat_has_no_form_for_some_items() -> None:
    """The error names the type."""
    turn = Turn([Item({"type": "web_search_call", "id": "ws"})])
    with pytest.raises(InvalidModelStep, match="'web_search_call' has no form in Chat"):
        list(completion_chunks(_reply(turn), include_usage=False))


def test_error_events_are_valid() -> None:
    """`error` and `response.failed`, with the code and text of the fault."""
    fault = Fault("failed", message="Broke", error_code="server_error")
    for event in (error_event(fault, 4), failed_event(_reply(Turn()), fault, 4)):
        EVENTS.validate_python(event)
    assert error_event(fault, 4)["message"] == "Broke"


def test_the_request_is_repeated() -> None:
    """Known fields only, and function tools with what the response must state."""
    echo = request_echo(
        {"tools": [{"type": "function", "name": "f"}, {"type": "web_search"}], "input": "x", "user": None}
    )
    response = response_object(_reply(Turn(), echo=echo))
    Response.model_validate(response)
    assert response["tools"][0] == {"type": "function", "name": "f", "strict": True, "parameters": None}
    assert set(echo) == {"tools"}


def _moments(turn: Turn) -> list[str]:
    """The timeline in words: deltas as they are, pauses as numbers."""
    words: list[str] = []
    for moment in timeline(turn, response_events(_reply(turn))):
        if isinstance(moment, Wait):
            words.append(f"{moment.delay_s:g}s")
        elif isinstance(moment, Strike):
            words.append("strike")
        elif isinstance(moment, StreamEvent) and (moment.is_delta or moment.is_end):
            words.append(moment.data.get("delta", "end"))
    return words


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (say("a b"), ["a", " b", "end"]),
        (say("a b c", first_after_s=3, every_s=0.5), ["3s", "a", "0.5s", " b", "0.5s", " c", "end"]),
        (say("a b", fault=Fault("reset", after=0)), ["strike"]),
        (say("a b", fault=Fault("reset", after=1)), ["a", "strike"]),
        (say("a b", fault=Fault("reset", after="end")), ["a", " b", "strike"]),
        (say("a b", fault=Fault("reset", after=9)), ["a", " b", "strike"]),
        (say("a b", first_after_s=1, fault=Fault("reset", after="start")), ["1s", "strike"]),
        (say("a b", fault=Fault("silence", after=1)), ["a", "strike", " b", "end"]),
        (say("a b", fault=Fault("broken_frame", after=0)), ["strike", " b", "end"]),
        (say("a b", fault=Fault("broken_frame", after="end")), ["a", " b", "strike"]),
        (say("a b", fault=Fault("slow_first_byte")), ["strike", "a", " b", "end"]),
    ],
)
def test_timing_and_faults_lie_over_the_events(turn: Turn, expected: list[str]) -> None:
    """Pauses stand between deltas, a fault stands where it was put, and what it leaves follows it."""
    assert _moments(turn) == expected
