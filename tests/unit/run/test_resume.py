"""run/resume: the state of a run as a fold of its log, as live objects and as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runstream import Agent, RunConfig, Runner, UserError, function_tool
from runstream.events.codec import decode, encode
from runstream.events.event import Event
from runstream.run.bind import AgentBook
from runstream.run.resume import fold_from_plain, fold_of_events, fold_to_plain, turn_is_open
from runstream.testing import HandoffTo, ScriptedModel, ToolCall, Turn


@function_tool
def look() -> str:
    return "saw"


@function_tool(needs_approval=True)
def pay() -> str:
    return "paid"


def agents() -> Agent[Any]:
    model = ScriptedModel(
        [Turn(("One. ", ToolCall("look", {}, "c1"))), HandoffTo("Bob"), ToolCall("pay", {}, "c2"), "All done."]
    )
    bob = Agent(name="Bob", model=model, tools=[pay])
    return Agent(name="Ann", model=model, tools=[look], handoffs=[bob])


async def log_of(agent: Agent[Any]) -> list[Event]:
    """The events of a run in which everything happens, as another process reads them."""
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(on_approval="wait"))
    events: list[Event] = []
    async for event in result.events():
        events.append(decode(encode(event)))
        if event.kind == "item" and event.data.type == "tool_approval_item":
            await result.approve("c2")
    assert result.final_output == "All done."
    return events


async def test_the_state_after_each_event_goes_through_json() -> None:
    """What comes back folds to the same, whichever event was the last."""
    agent = agents()
    events = await log_of(agent)
    for length in range(1, len(events) + 1):
        fold = fold_of_events(events[:length], AgentBook([agent]))
        state = json.loads(json.dumps(fold_to_plain(fold)))
        restored = fold_from_plain(state, AgentBook([agent]))
        assert fold_to_plain(restored) == state
        assert restored.agent is fold.agent
        assert [type(item) for item in restored.items] == [type(item) for item in fold.items]
        assert len(restored.responses) == len(fold.responses)


async def test_a_turn_is_open_from_its_response_to_the_next_call_of_the_model() -> None:
    """Not while an answer is under way, nor after a handoff, which ends a turn."""
    agent = agents()
    events = await log_of(agent)
    seen: list[bool] = []
    for length in range(1, len(events) + 1):
        is_open = turn_is_open(fold_of_events(events[:length], AgentBook([agent])))
        last: Any = events[length - 1].data
        if events[length - 1].kind == "model":
            assert is_open == (last.type == "response.completed")
        elif getattr(last, "type", "") == "handoff_output_item":
            assert not is_open
        seen += [is_open] if not seen or seen[-1] != is_open else []
    assert seen[:2] == [False, True]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({}, "version None"),
        ({"version": "1"}, "version '1'"),
        ({"version": 1_000}, "reads up to"),
        ({"version": 1}, "not the state of a run"),
    ],
)
def test_what_is_no_state_is_refused(given: dict[str, Any], complaint: str) -> None:
    """In words, with what is wrong."""
    with pytest.raises(UserError, match=complaint):
        fold_from_plain(given, AgentBook())
