"""Seed 000: what streaming is, in its own statements and its example "Hello"."""

from typing import Any, get_args

import pytest
from openai.types.responses import ResponseTextDeltaEvent

from runstream import Agent, Runner, RunResult, RunResultStreaming, StreamEvent, function_tool
from runstream.run.result import RunResultBase
from runstream.testing import Fault, ToolCall, say

pytestmark = pytest.mark.system


@function_tool
def get_time() -> str:
    """The time of day."""
    return "noon"


async def test_hello_comes_letter_by_letter(serving: Any, agent: Agent[Any]) -> None:
    """Each piece that the model sends is one event; `event.data.delta` holds it."""
    letters: list[str] = []
    async with serving(say("Hello", chunks="char")):
        async for event in Runner.run_streamed(agent, "Say hello.").stream_events():
            if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
                letters.append(event.data.delta)
    assert letters == ["H", "e", "l", "l", "o"]


async def test_the_big_steps_come_as_items(serving: Any, agent: Agent[Any]) -> None:
    """The tool call, its result and the finished message, in this order."""
    agent.tools.append(get_time)
    async with serving([ToolCall("get_time"), "It is noon."]):
        events = [event async for event in Runner.run_streamed(agent, "What time is it?").stream_events()]
    items = [event.item for event in events if event.type == "run_item_stream_event"]
    assert [item.type for item in items] == ["tool_call_item", "tool_call_output_item", "message_output_item"]
    assert items[1].output == "noon"


async def test_a_normal_run_waits_and_a_streamed_one_does_not(serving: Any, agent: Agent[Any]) -> None:
    """`run` returns when the output is there; `run_streamed` returns before anything was even asked for."""
    async with serving(["One.", "Two."]) as endpoint:
        normal = await Runner.run(agent, "Count.")
        assert isinstance(normal, RunResult)
        assert normal.final_output == "One."

        streamed = Runner.run_streamed(agent, "Count.")
        assert len(endpoint.requests) == 1
        assert isinstance(streamed, RunResultStreaming)
        assert isinstance(streamed, RunResultBase)
        assert (streamed.is_complete, streamed.final_output) == (False, None)
        async for _ in streamed.stream_events():
            pass
        assert (streamed.is_complete, streamed.final_output) == (True, "Two.")


async def test_stream_events_gives_stream_events(serving: Any, agent: Agent[Any]) -> None:
    """Every object is a StreamEvent with a `type` and the data that belongs to it."""
    data = {"raw_response_event": "data", "run_item_stream_event": "item", "agent_updated_stream_event": "new_agent"}
    async with serving("Hello!"):
        events = [event async for event in Runner.run_streamed(agent, "Hi.").stream_events()]
    assert {event.type for event in events} == data.keys()
    for event in events:
        assert isinstance(event, get_args(StreamEvent))
        assert getattr(event, data[event.type]) is not None


async def test_parts_are_seen_before_the_output_is_there(serving: Any, agent: Agent[Any]) -> None:
    """Text that has come is shown while the model is still at work, and `cancel()` ends the wait."""
    seen: list[str] = []
    async with serving(say("One two three four.", fault=Fault("silence", after=2))) as endpoint:
        result = Runner.run_streamed(agent, "Count.")
        async for event in result.stream_events():
            if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
                seen.append(event.data.delta)
                if len(seen) == 2:
                    assert not result.is_complete
                    result.cancel()
        assert seen == ["One", " two"]
        assert result.is_complete
        await endpoint.wait_disconnected()
