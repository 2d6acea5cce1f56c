"""Items of the Responses API become the messages that say the same."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from openai.types.responses import (
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputRefusal,
    ResponseOutputText,
    ResponseReasoningItem,
)

from runstream.errors import UserError
from runstream.models.chat_messages import (
    ReasoningContentReplayContext,
    ReasoningContentSource,
    content_parts,
    default_should_replay_reasoning_content,
    to_messages,
)


def said(text: str, **fields: Any) -> dict[str, Any]:
    """A message that a model said."""
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content, **fields}


def called(call_id: str, name: str = "f", arguments: str = "{}", **fields: Any) -> dict[str, Any]:
    """A tool call."""
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, **fields}


def gave(call_id: str, output: Any = "ok") -> dict[str, Any]:
    """A tool's output."""
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def thought(summary: str = "", content: str = "", **data: Any) -> dict[str, Any]:
    """A reasoning item."""
    return {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": summary}] if summary else [],
        "content": [{"type": "reasoning_text", "text": content}] if content else None,
        "provider_data": data,
    }


def as_call(call_id: str, name: str = "f", arguments: str = "{}") -> dict[str, Any]:
    """A call as Chat Completions has it."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_text_is_a_user_message() -> None:
    """A plain string is what the user says."""
    assert to_messages("hi") == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("kind", [{}, {"type": "message"}, {"type": "message", "status": "completed"}])
@pytest.mark.parametrize("role", ["user", "system", "developer", "assistant"])
def test_roles(role: str, kind: dict[str, Any]) -> None:
    """Each role keeps its name, with and without the item's type."""
    assert to_messages([{"role": role, "content": "x", **kind}]) == [{"role": role, "content": "x"}]


def test_a_turn_is_one_assistant_message() -> None:
    """Text and calls of a turn are one message; each output is a tool message after it."""
    assert to_messages(
        [{"role": "user", "content": "q"}, said("a"), called("c1"), called("c2"), gave("c1"), gave("c2")]
    ) == [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "tool_calls": [as_call("c1"), as_call("c2")]},
        {"role": "tool", "tool_call_id": "c1", "content": "ok"},
        {"role": "tool", "tool_call_id": "c2", "content": "ok"},
    ]


def test_calls_alone_have_null_content() -> None:
    """A message of calls only says so with null, as the API wants the key."""
    assert to_messages([called("c1")]) == [{"role": "assistant", "content": None, "tool_calls": [as_call("c1")]}]


def test_text_after_calls_joins_their_message() -> None:
    """An assistant message between calls and their outputs would be refused, so its text joins that of the calls."""
    messages = to_messages([said("a"), called("c1"), said("b"), said("c"), gave("c1")])
    assert [message["role"] for message in messages] == ["assistant", "tool"]
    assert messages[0]["content"] == "a\nb\nc"


def test_messages_without_calls_stay_apart() -> None:
    """Two answers in a row remain two messages."""
    assert [message["content"] for message in to_messages([said("a"), said("b")])] == ["a", "b"]


def test_refusals() -> None:
    """A refusal goes back as one, beside the text if there is any; an empty answer is an empty text."""
    refused = {"type": "refusal", "refusal": "no"}
    assert to_messages([said("", content=[refused])]) == [{"role": "assistant", "refusal": "no"}]
    both = said("", content=[{"type": "output_text", "text": "well"}, refused])
    assert to_messages([both]) == [{"role": "assistant", "content": "well", "refusal": "no"}]
    assert to_messages([said("", content=[])]) == [{"role": "assistant", "content": ""}]


def test_official_objects() -> None:
    """Items may be the official objects, as a model returned them."""
    text = ResponseOutputText(type="output_text", text="t", annotations=[])
    refusal = ResponseOutputRefusal(type="refusal", refusal="r")
    message = ResponseOutputMessage(
        id="m", type="message", role="assistant", status="completed", content=[text, refusal]
    )
    call = ResponseFunctionToolCall(type="function_call", call_id="c1", name="f", arguments="")
    reasoning = ResponseReasoningItem(id="r", type="reasoning", summary=[])
    assert to_messages([reasoning, message, call]) == [
        {"role": "assistant", "content": "t", "refusal": "r", "tool_calls": [as_call("c1")]}
    ]


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [("", "{}"), (" ", "{}"), ('{"a":1}', '{"a":1}'), ('{"a":', '{"invalid_json":"{\\"a\\":"}'), ({"a": 1}, '{"a":1}')],
)
def test_arguments_are_valid_json(arguments: Any, sent: str) -> None:
    """A server decodes the arguments of earlier calls: broken ones must not break every later request."""
    (message,) = to_messages([called("c1", arguments=arguments)])
    assert message["tool_calls"][0]["function"]["arguments"] == sent


def test_file_search_calls() -> None:
    """A file search of the other API is shown as a call with its queries."""
    item = {"type": "file_search_call", "id": "fs_1", "queries": ["q"], "status": "completed"}
    arguments = '{"queries":["q"],"status":"completed"}'
    assert to_messages([item])[0]["tool_calls"] == [as_call("fs_1", "file_search_call", arguments)]


IMAGE = {"type": "input_image", "image_url": "https://example.com/a.png"}


def test_tool_outputs_keep_their_text() -> None:
    """A tool message holds text only; the other parts are left out, or kept for servers that take them."""
    output = [{"type": "input_text", "text": "seen"}, IMAGE]
    assert to_messages([gave("c", output)])[0]["content"] == [{"type": "text", "text": "seen"}]
    assert len(to_messages([gave("c", output)], keep_all_tool_output=True)[0]["content"]) == 2


@pytest.mark.parametrize("output", [[], [IMAGE]])
def test_tool_outputs_without_text(output: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    """Where no text is left a placeholder is sent and logged; strictly it is an error."""
    with caplog.at_level(logging.WARNING):
        assert to_messages([gave("c", output)])[0]["content"] == "[tool output omitted]"
    assert "Replacing the tool output with a placeholder" in caplog.text
    with pytest.raises(UserError, match="cannot be empty or contain only non-text content"):
        to_messages([gave("c", output)], strict=True)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"type": "item_reference", "id": "i"}, "'item_reference' are not supported"),
        ({"type": "compaction"}, "'compaction' are not supported"),
        ({"type": "web_search_call", "id": "w"}, "Unhandled item type or structure"),
        ({"no": "type"}, "Unhandled item type or structure"),
        ({"type": 7}, "Unhandled item type or structure"),
        (object(), "Unhandled item type or structure"),
        ({"role": "tool", "content": "x"}, "Unexpected role 'tool'"),
        ({"role": "system", "content": [IMAGE]}, "Only text content is supported in a system message"),
        (said("", content=[{"type": "output_audio"}]), "text and refusals"),
        ({"type": "function_call_output", "output": "x"}, "without a call_id"),
        (gave("c", {"a": 1}), "must be a string or a list"),
    ],
)
def test_what_cannot_be_expressed(item: Any, words: str) -> None:
    """What this API has no form for is a UserError that shows it."""
    with pytest.raises(UserError, match=words):
        to_messages([item])


@pytest.mark.parametrize(
    ("part", "converted"),
    [
        ({"type": "input_text", "text": "t"}, {"type": "text", "text": "t"}),
        ({"type": "text", "text": "t"}, {"type": "text", "text": "t"}),
        (IMAGE, {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "auto"}}),
        (
            {**IMAGE, "detail": "original"},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "high"}},
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "AAA=", "format": "wav"}},
            {"type": "input_audio", "input_audio": {"data": "AAA=", "format": "wav"}},
        ),
        (
            {"type": "input_file", "file_data": "data:,x", "file_id": "f", "filename": "n"},
            {"type": "file", "file": {"file_data": "data:,x", "filename": "n"}},
        ),
        ({"type": "input_file", "file_id": "f"}, {"type": "file", "file": {"file_id": "f"}}),
        (
            {"type": "video_url", "video_url": {"url": "https://example.com/v"}},
            {"type": "video_url", "video_url": {"url": "https://example.com/v"}},
        ),
    ],
)
def test_content_parts(part: dict[str, Any], converted: dict[str, Any]) -> None:
    """Each part of an input takes its form of this API, a mark for the provider's cache included."""
    assert content_parts([part]) == [converted]
    mark = {"prompt_cache_breakpoint": {"mode": "explicit"}}
    assert content_parts([part | mark]) == [converted | mark]


@pytest.mark.parametrize(
    "part",
    [
        "text",
        {"type": "output_audio"},
        {"type": "text"},
        {"type": "input_image", "file_id": "f"},
        {"type": "image_url", "image_url": "https://example.com/a.png"},
        {"type": "input_audio", "input_audio": {"format": "wav"}},
        {"type": "input_audio"},
        {"type": "input_file", "filename": "n"},
        {"type": "video_url", "video_url": {}},
    ],
)
def test_incomplete_parts(part: Any) -> None:
    """A part that lacks what it needs is a UserError that shows it."""
    with pytest.raises(UserError) as caught:
        content_parts([part])
    assert repr(part) in str(caught.value) or "image" in str(caught.value)


def test_reasoning_is_left_out() -> None:
    """Reasoning does not go back to the model, by default."""
    assert to_messages([thought("s", model="gpt"), said("a")], model="gpt") == [{"role": "assistant", "content": "a"}]


def test_reasoning_goes_back_to_deepseek() -> None:
    """DeepSeek gets its own reasoning back with the calls it led to; that of other models it does not."""
    own = to_messages([thought("s", model="deepseek-reasoner"), called("c1")], model="deepseek-chat")
    assert own == [{"role": "assistant", "content": None, "reasoning_content": "s", "tool_calls": [as_call("c1")]}]
    other = to_messages([thought("s", model="qwen"), called("c1")], model="deepseek-chat")
    assert "reasoning_content" not in other[0]


def test_reasoning_field_goes_back_to_its_model() -> None:
    """What came as `reasoning` goes back as `reasoning`, to the model that wrote it only."""
    item = thought(content="t", model="or/m", _chat_completions_reasoning_field="reasoning")
    assert to_messages([item, said("a")], model="or/m") == [{"role": "assistant", "content": "a", "reasoning": "t"}]
    assert to_messages([item, said("a")], model="or/n") == [{"role": "assistant", "content": "a"}]


def test_replay_can_be_decided() -> None:
    """The hook sees the model, the address and the item, and decides."""
    seen: list[ReasoningContentReplayContext] = []

    def decide(context: ReasoningContentReplayContext) -> bool:
        seen.append(context)
        return True

    item = thought("s", model="a")
    (message,) = to_messages(
        [item, said("x")], model="b", base_url="http://h/v1/", should_replay_reasoning_content=decide
    )
    assert message["reasoning_content"] == "s"
    (context,) = seen
    assert (context.model, context.base_url) == ("b", "http://h/v1")
    assert context.reasoning == ReasoningContentSource(item, "a", {"model": "a"})


def test_reasoning_does_not_leak_into_a_later_turn() -> None:
    """Reasoning that nothing followed is void once somebody else speaks, or once new reasoning comes."""
    old = thought("old", model="deepseek-r")
    assert to_messages([old, {"role": "user", "content": "q"}, said("a")], model="deepseek-r")[1] == {
        "role": "assistant",
        "content": "a",
    }
    foreign = thought("new", model="other")
    assert "reasoning_content" not in to_messages([old, foreign, said("a")], model="deepseek-r")[0]


@pytest.mark.parametrize(
    ("model", "origin", "data", "replayed"),
    [
        ("deepseek-chat", "DeepSeek-R1", {"model": "DeepSeek-R1"}, True),
        ("deepseek-chat", None, {}, True),
        ("deepseek-chat", None, {"thinking_blocks": []}, True),
        ("deepseek-chat", None, {"response_id": "x"}, False),
        ("deepseek-chat", "gpt", {"model": "gpt"}, False),
        ("gpt", "deepseek-r1", {"model": "deepseek-r1"}, False),
    ],
)
def test_default_replay(model: str, origin: str | None, data: dict[str, Any], replayed: bool) -> None:
    """By default only DeepSeek gets back what DeepSeek wrote, or what nobody knows who wrote."""
    context = ReasoningContentReplayContext(model, None, ReasoningContentSource({}, origin, data))
    assert default_should_replay_reasoning_content(context) is replayed


def test_gemini_gets_its_signature_back() -> None:
    """A call's signature goes back to Gemini, and to nobody else."""
    item = called("c1", provider_data={"model": "gemini-3", "thought_signature": "sig"})
    (call,) = to_messages([item], model="gemini-3-flash")[0]["tool_calls"]
    assert call["extra_content"] == {"google": {"thought_signature": "sig"}}
    assert "extra_content" not in to_messages([item], model="gpt-4")[0]["tool_calls"][0]


def test_items_are_not_changed() -> None:
    """The caller's items stay as they are."""
    items = [said("a"), called("c1"), gave("c1", [{"type": "input_text", "text": "x"}])]
    before = repr(items)
    to_messages(items)
    assert repr(items) == before
