"""Seed 002: the three levels of events, each on its own."""

from typing import Any

import openai.types.responses as official
import pytest

from runstream import Agent, ItemHelpers, Runner, function_tool
from runstream.testing import HandoffTo, ToolCall

pytestmark = pytest.mark.system


@function_tool
def how_many_jokes() -> int:
    """How many jokes to tell."""
    return 2


joker = Agent(name="Joker", instructions="First ask the tool, then tell so many jokes.", tools=[how_many_jokes])
JOKES = "A joke. Another joke."


async def test_raw_events_have_the_format_of_the_responses_api(serving: Any) -> None:
    """Each has a type and is the official class of that type; the text deltas add up to the text."""
    async with serving(JOKES):
        result = Runner.run_streamed(joker, "Tell me some jokes.")
        raw: list[Any] = [event.data async for event in result.stream_events() if event.type == "raw_response_event"]
    assert raw[0].type == "response.created"
    assert isinstance(raw[0], official.ResponseCreatedEvent)
    assert raw[-1].type == "response.completed"
    assert isinstance(raw[-1], official.ResponseCompletedEvent)
    deltas = [event for event in raw if event.type == "response.output_text.delta"]
    assert all(isinstance(event, official.ResponseTextDeltaEvent) for event in deltas)
    assert "".join(event.delta for event in deltas) == JOKES


async def test_without_the_raw_events_there_is_the_progress(serving: Any) -> None:
    """Agent, tool call, tool output, message: one event each, when the thing is complete."""
    told: list[str] = []
    async with serving([ToolCall("how_many_jokes"), JOKES]):
        async for event in Runner.run_streamed(joker, "Hello.").stream_events():
            if event.type == "raw_response_event":
                continue
            if event.type == "agent_updated_stream_event":
                told.append(f"Agent updated: {event.new_agent.name}")
            elif event.item.type == "tool_call_item":
                told.append("Tool was called")
            elif event.item.type == "tool_call_output_item":
                told.append(f"Tool output: {event.item.output}")
            elif event.item.type == "message_output_item":
                told.append(f"Message output: {ItemHelpers.text_message_output(event.item)}")
    assert told == ["Agent updated: Joker", "Tool was called", "Tool output: 2", f"Message output: {JOKES}"]


async def test_an_agent_event_tells_of_a_handoff(serving: Any) -> None:
    """The first agent, then the one that was handed over to, as the objects that the program made."""
    desk = Agent(name="Desk", handoffs=[joker])
    async with serving([HandoffTo(joker), JOKES]):
        result = Runner.run_streamed(desk, "Tell me some jokes.")
        agents = [
            event.new_agent async for event in result.stream_events() if event.type == "agent_updated_stream_event"
        ]
    assert agents == [desk, joker]
    assert agents[1] is joker is result.last_agent
