"""The SDK's inner helpers under the alias: thin forms of ours."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import omit
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessage
from openai.types.responses import Response, ResponseOutputMessage
from pydantic import BaseModel

from runstream import Agent, HandoffInputData, InputItem, UserError, function_tool, handoff
from runstream.agent.items import CompactionItem, HandoffOutputItem, MessageOutputItem, ReasoningItem, ToolCallItem
from runstream.agent.output import AgentOutputSchema
from runstream.compat import chat_completions, decorators, event_log, responses
from runstream.compat.handoff_filters import remove_all_tools
from runstream.compat.handoff_prompt import RECOMMENDED_PROMPT_PREFIX, prompt_with_handoff_instructions

AGENT = Agent(name="Ann")


class City(BaseModel):
    name: str


@function_tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return city


# Chat Completions


def test_items_become_messages_and_messages_items() -> None:
    """The converter goes both ways, with what it cannot express refused."""
    convert = chat_completions.Converter
    assert convert.items_to_messages("hi") == [{"role": "user", "content": "hi"}]
    message = ChatCompletionMessage(role="assistant", content="hello")
    [item] = convert.message_to_output_items(message, {"model": "m"})
    assert (item.type, item.content[0].text) == ("message", "hello")
    assert convert.items_to_messages([item])[0]["content"] == "hello"
    with pytest.raises(UserError, match="preserve_thinking_blocks"):
        convert.items_to_messages("hi", preserve_thinking_blocks=True)


def test_content_is_converted_and_checked() -> None:
    """Content parts of either API are taken; `extract_text_content` takes text only."""
    convert = chat_completions.Converter
    image = {"type": "input_image", "image_url": "data:x", "detail": "low"}
    assert convert.extract_all_content([image])[0]["type"] == "image_url"  # type: ignore[index]
    assert convert.extract_text_content("a") == "a"
    assert convert.extract_text_content([{"type": "input_text", "text": "a"}]) == [{"type": "text", "text": "a"}]
    with pytest.raises(UserError, match="Only text content"):
        convert.extract_text_content([image])


@pytest.mark.parametrize("role", ["user", "system", "developer"])
def test_input_messages_are_recognised(role: str) -> None:
    """A message of the program is one; the model's and other items are not."""
    convert = chat_completions.Converter
    item = {"type": "message", "role": role, "content": "x"}
    assert convert.maybe_input_message(item) is item
    assert convert.maybe_input_message({**item, "role": "assistant"}) is None
    assert convert.maybe_input_message({"type": "function_call"}) is None


def test_declarations_become_arguments_of_chat_completions() -> None:
    """Tools, handoffs, choices and formats take the API's form; what is not set is the client's `omit`."""
    convert = chat_completions.Converter
    assert convert.tool_to_openai(get_weather)["function"]["name"] == "get_weather"
    assert convert.convert_handoff_tool(handoff(AGENT))["function"]["name"] == "transfer_to_ann"
    assert convert.convert_tool_choice(None) is omit
    assert convert.convert_tool_choice("auto") == "auto"
    assert convert.convert_response_format(None) is omit
    assert convert.convert_response_format(AgentOutputSchema(City))["type"] == "json_schema"


async def test_chunks_become_events() -> None:
    """The stream handler gives the events of the Responses API, from created to completed."""

    async def stream() -> AsyncIterator[ChatCompletionChunk]:
        for delta, finish in (({"content": "Hel"}, None), ({"content": "lo"}, "stop")):
            yield ChatCompletionChunk.model_validate(
                {
                    "id": "c1",
                    "created": 1,
                    "model": "m",
                    "object": "chat.completion.chunk",
                    "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
                }
            )

    asked = Response.model_construct(temperature=0.5, top_p=None, tool_choice="auto", parallel_tool_calls=True)
    events: list[Any] = [
        event async for event in chat_completions.ChatCmplStreamHandler.handle_stream(asked, stream(), model="m")
    ]
    assert [event.type for event in events][:1] == ["response.created"]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello"
    assert (events[-1].type, events[-1].response.temperature) == ("response.completed", 0.5)


# Responses


def test_declarations_become_arguments_of_responses() -> None:
    """Tools, handoffs, choices and formats take the API's form; what is not set is the client's `omit`."""
    convert = responses.Converter
    converted = convert.convert_tools([get_weather], [handoff(AGENT)])
    assert [tool["name"] for tool in converted.tools] == ["get_weather", "transfer_to_ann"]
    assert converted.includes == []
    assert convert.convert_tool_choice(None) is omit
    assert convert.convert_tool_choice("get_weather") == {"type": "function", "name": "get_weather"}
    named = function_tool(get_weather.__wrapped__, name_override="computer")
    assert convert.convert_tool_choice("computer", tools=[named]) == {"type": "function", "name": "computer"}
    assert convert.convert_tool_choice("computer") == {"type": "computer"}
    assert convert.get_response_format(None) is omit
    assert convert.get_response_format(AgentOutputSchema(City))["format"]["name"] == "final_output"


# The rest


def test_the_short_name_of_the_decorator() -> None:
    """`agents.decorators.tool` is `function_tool`."""
    assert decorators.tool is function_tool


def test_the_prompt_speaks_of_handoffs() -> None:
    """The prefix comes first, and the prompt follows whole."""
    prompt = prompt_with_handoff_instructions("You sell shoes.")
    assert prompt.startswith(RECOMMENDED_PROMPT_PREFIX)
    assert prompt.endswith("You sell shoes.")
    assert "transfer_to_" in RECOMMENDED_PROMPT_PREFIX


def test_verbose_logging_prints_our_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's logger is given the lowest level and a handler on the standard output."""
    logger = event_log.logger
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    event_log.enable_verbose_stdout_logging()
    assert logger.level == logging.DEBUG
    assert [handler.stream for handler in logger.handlers if isinstance(handler, logging.StreamHandler)] == [sys.stdout]


def message(text: str) -> MessageOutputItem:
    raw = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }
    return MessageOutputItem(AGENT, ResponseOutputMessage.model_validate(raw))


def test_remove_all_tools_keeps_messages_only() -> None:
    """Calls, outputs, handoffs, approvals and reasoning go, from the history as from the run's items."""
    raw: Any = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
    output: Any = {"type": "function_call_output", "call_id": "1", "output": "x"}
    said = message("hello")
    ours = InputItem(AGENT, {"role": "user", "content": "more"})
    compact = CompactionItem(AGENT, {"type": "compaction", "encrypted_content": "x"})
    others: list[Any] = [
        ToolCallItem(AGENT, raw),
        HandoffOutputItem(AGENT, output, source_agent=AGENT, target_agent=AGENT),
        ReasoningItem(AGENT, {"type": "reasoning", "id": "r", "summary": []}),  # type: ignore[arg-type]
    ]
    history: list[Any] = [{"role": "user", "content": "hi"}, {"type": "item_reference", "id": "m_1"}]
    tools = "function_call function_call_output reasoning program mcp_approval_request web_search_call program_output"
    data = HandoffInputData(
        input_history=(*history, *({"type": kind} for kind in tools.split())),  # type: ignore[arg-type]
        pre_handoff_items=(said, *others),
        new_items=(*others, ours, compact),
        input_items=(*others, said),
    )
    left = remove_all_tools(data)
    assert list(left.input_history) == history
    assert left.pre_handoff_items == (said,)
    assert left.new_items == (ours, compact)
    assert left.input_items == (said,)
    assert remove_all_tools(HandoffInputData("hi", (), ())) == HandoffInputData("hi", (), ())
