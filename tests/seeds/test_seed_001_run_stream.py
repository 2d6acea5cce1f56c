"""Seed 001: `Runner.run_stream`, the name that it gives to streaming, and the errors that it warns of."""

import asyncio
from typing import Any

import pytest
from openai.types.responses import ResponseTextDeltaEvent

from runstream import Agent, Runner, RunResultStreaming, UserError
from runstream.testing import say

pytestmark = pytest.mark.system

STEPS = (
    "Theek hai, mai check karta hu...\n",
    "Step 1: Please restart your router...\n",
    "Step 2: Check for loose cables...\n",
)
QUESTION = "Mujhe batao ke mere internet ka issue kyun aaraha hai?"


async def test_what_it_returns_is_iterated_at_once(serving: Any, agent: Agent[Any]) -> None:
    """`async for` over `Runner.run_stream(...)` itself: the support chatbot's answer comes step by step."""
    chunks: list[str] = []
    async with serving(say(STEPS)) as endpoint:
        async for event in Runner.run_stream(agent, QUESTION):
            if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
                chunks.append(event.data.delta)
    assert tuple(chunks) == STEPS
    assert endpoint.requests[0].user_text == QUESTION


async def test_it_gives_the_result_of_run_streamed(serving: Any, agent: Agent[Any]) -> None:
    """The same object and the same events as from `run_streamed`."""
    async with serving(["Hello!", "Hello!"]):
        result = Runner.run_stream(agent, "Hi.")
        assert isinstance(result, RunResultStreaming)
        given = [event.type async for event in result]
        other = [event.type async for event in Runner.run_streamed(agent, "Hi.").stream_events()]
    assert given == other
    assert result.final_output == "Hello!"


async def test_error_1_run_sync_works_inside_a_running_loop(serving_thread: Any, agent: Agent[Any]) -> None:
    """No "This event loop is already running": what a notebook's cell does works, once and again."""
    assert asyncio.get_running_loop().is_running()
    with serving_thread(["One.", "Two."]):
        assert Runner.run_sync(agent, "Count.").final_output == "One."
        assert Runner.run_sync(agent, "Go on.").final_output == "Two."


async def test_error_1_a_plain_for_works_inside_a_running_loop(serving_thread: Any, agent: Agent[Any]) -> None:
    """A notebook's cell may also read the stream without `async`."""
    with serving_thread(say(STEPS)):
        result = Runner.run_stream(agent, QUESTION)
        chunks = [
            event.data.delta
            for event in result
            if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent)
        ]
    assert tuple(chunks) == STEPS
    assert result.final_output == "".join(STEPS)


def test_a_program_without_asyncio_streams_too(serving_thread: Any, agent: Agent[Any]) -> None:
    """Outside of any loop a plain `for` drives the run to its end."""
    with serving_thread(say(STEPS)):
        result = Runner.run_stream(agent, QUESTION)
        assert [event.type for event in result][-1] == "run_item_stream_event"
    assert result.final_output == "".join(STEPS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((None, "Hi."), "must be an Agent, not NoneType"),
        (("Assistant", "Hi."), "must be an Agent, not str: 'Assistant'"),
        ((Agent, "Hi."), "must be an Agent, not type"),
        ((Agent(name="A"), None), "input must be a string or a list of input items, not NoneType"),
        ((Agent(name="A"), 42), "input must be a string or a list of input items, not int"),
        ((Agent(name="A"), ["Hi."]), "input holds the plain string 'Hi.'"),
    ],
)
async def test_error_2_an_agent_or_task_that_is_none_is_an_error(
    serving: Any, arguments: tuple[Any, Any], words: str
) -> None:
    """Not a stream of nothing: the call itself says what is wrong with the agent or the task, before any request."""
    async with serving("Hello!") as endpoint:
        with pytest.raises(UserError, match=words):
            Runner.run_stream(*arguments)
    assert endpoint.requests == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tools": [print]}, "decorate it with @function_tool"),
        ({"handoffs": ["Billing Agent"]}, "give an Agent or handoff"),
    ],
)
async def test_error_2_an_agent_that_is_not_well_defined(fields: dict[str, Any], words: str) -> None:
    """What is wrong with an agent's parts is said when the agent is made."""
    with pytest.raises(UserError, match=words):
        Agent(name="Assistant", **fields)
