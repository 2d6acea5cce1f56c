"""run/bind: from stored events back to live objects: what is written comes back, whatever this process knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from runstream import Agent, MaxTurnsExceeded, ModelBehaviorError, StoreUnavailable, UserError, handoff
from runstream.agent.items import (
    CompactionItem,
    HandoffCallItem,
    HandoffOutputItem,
    InputItem,
    MCPApprovalRequestItem,
    MessageOutputItem,
    ReasoningItem,
    RunItem,
    ToolApprovalItem,
    ToolCallItem,
    ToolCallOutputItem,
)
from runstream.errors import RunFailed
from runstream.events.codec import decode, encode, plain
from runstream.events.event import INPUT_ADDED, ITEM, RUN_END, ErrorInfo, Event, InputAdded, ItemAdded, RunEnd
from runstream.run.bind import AgentBook, bind, more_of, official, reachable_from, restore_item
from runstream.testing import assistant_message, function_call

ANN, BOB = Agent(name="Ann"), Agent(name="Bob")
CALL = function_call("look", {"n": 1}, call_id="c1", item_id="f1")
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "seen"}
REASONING = official({"type": "reasoning", "id": "r1", "summary": [{"type": "summary_text", "text": "hm"}]})
MCP = official({"type": "mcp_approval_request", "id": "m1", "arguments": "{}", "name": "n", "server_label": "s"})


def through_the_store(event: Event) -> Event:
    return decode(encode(event))


@pytest.mark.parametrize(
    "item",
    [
        MessageOutputItem(agent=ANN, raw_item=assistant_message("hello")),
        ReasoningItem(agent=ANN, raw_item=REASONING),
        ToolCallItem(agent=ANN, raw_item=CALL, description="Looks.", title="Look"),
        ToolCallItem(agent=ANN, raw_item=CALL),
        ToolCallOutputItem(agent=ANN, raw_item=OUTPUT, output="seen", custom_data={"a": [1]}),
        ToolApprovalItem(agent=ANN, raw_item=CALL, tool_name="look"),
        HandoffCallItem(agent=ANN, raw_item=function_call("transfer_to_bob", {}, call_id="h1")),
        HandoffOutputItem(agent=ANN, raw_item={**OUTPUT, "call_id": "h1"}, source_agent=ANN, target_agent=BOB),
        MCPApprovalRequestItem(agent=ANN, raw_item=MCP),
        CompactionItem(agent=ANN, raw_item={"type": "compaction", "encrypted_content": "x"}),
        InputItem(agent=ANN, raw_item={"role": "user", "content": "and?"}, input_id="i1"),
    ],
    ids=lambda item: item.type,
)
def test_items_come_back(item: RunItem) -> None:
    """Of the same class, with the same raw item, agents and fields."""
    data = ItemAdded("name", item.type, item.raw_item, more_of(item))
    event = through_the_store(Event("run", 1, 1.0, ITEM, "Ann", 0, (), data, item))
    bind(event, AgentBook([ANN, BOB]))
    restored: Any = event.live
    assert type(restored) is type(item)
    assert restored.agent is ANN
    assert plain(restored.raw_item) == plain(item.raw_item)
    assert type(restored.raw_item) is type(item.raw_item)
    assert more_of(restored) == more_of(item)
    if isinstance(item, HandoffOutputItem):
        assert (restored.source_agent, restored.target_agent) == (ANN, BOB)
    if isinstance(item, ToolCallOutputItem):
        assert (restored.output, restored.call_id) == ("seen", "c1")


def test_an_item_of_a_later_version_has_no_object() -> None:
    """Its record is there all the same."""
    event = Event("run", 1, 1.0, ITEM, "Ann", 0, (), ItemAdded("x", "hologram_item", {"type": "hologram"}))
    bind(event, AgentBook([ANN]))
    assert event.live is None


def test_an_output_item_that_nobody_knows_stays_as_it_is() -> None:
    """A dict, or what the installed package makes of it: with all that was in it."""
    raw: Any = official({"type": "hologram", "id": "x", "depth": 3})
    depth = raw["depth"] if isinstance(raw, dict) else raw.depth
    assert depth == 3
    assert official(CALL) is CALL


def test_added_input_comes_back_as_items_with_ids_of_their_own() -> None:
    """The same in each process that reads the log."""
    data = InputAdded([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], 2)
    event = through_the_store(Event("run", 9, 1.0, INPUT_ADDED, "Ann", 0, (), data))
    bind(event, AgentBook([ANN]))
    assert [(item.raw_item["content"], item.input_id) for item in event.live] == [("a", "run-9-0"), ("b", "run-9-1")]


@dataclass
class Weather:
    city: str
    degrees: int


@pytest.mark.parametrize(
    ("output_type", "stored", "expected"),
    [
        (None, "sunny", "sunny"),
        (None, None, None),
        (Weather, {"city": "Rome", "degrees": 30}, Weather("Rome", 30)),
        (list[str], ["a", "b"], ["a", "b"]),
        (Weather, "what a tool gave", "what a tool gave"),
        (Weather, {"city": "Rome"}, {"city": "Rome"}),
    ],
)
def test_final_outputs_come_back_in_their_type(output_type: Any, stored: Any, expected: Any) -> None:
    """As objects of the agent's output type; what does not fit it is given as it is."""
    agent = Agent(name="Ann", output_type=output_type)
    event = through_the_store(Event("run", 3, 1.0, RUN_END, "Ann", 0, (), RunEnd("completed", None, stored)))
    bind(event, AgentBook([agent]))
    assert event.live == expected
    bind(event, AgentBook())
    assert event.live == stored


@pytest.mark.parametrize("error", [MaxTurnsExceeded, ModelBehaviorError, StoreUnavailable, UserError, RunFailed])
def test_errors_come_back(error: type[Exception]) -> None:
    """Of their own class where that is one of ours; else as RunFailed, which names it."""
    info = ErrorInfo(error.__name__, "it broke", "code", True)
    event = through_the_store(Event("run", 3, 1.0, RUN_END, "Ann", 0, (), RunEnd("failed", info)))
    bind(event, AgentBook())
    assert type(event.live) is error
    assert "it broke" in str(event.live)
    event.data = RunEnd("failed", ErrorInfo("OverflowError", "too much", None, False))
    bind(event, AgentBook())
    assert (type(event.live), event.live.error_type) == (RunFailed, "OverflowError")


def test_agents_are_found_through_handoffs() -> None:
    """All that can be reached, also in circles; one that nobody brought is one of that name, always the same."""
    first, second, third = (Agent(name=name) for name in ("first", "second", "third"))
    first.handoffs = [second]
    second.handoffs = [handoff(third)]
    third.handoffs = [first]
    assert set(reachable_from([first])) == {"first", "second", "third"}
    book = AgentBook([first])
    assert book.find("third") is third
    assert "nobody" not in book
    assert book.find("nobody") is book.find("nobody")
    assert book.find("nobody").name == "nobody"
    with pytest.raises(UserError, match="two agents are named 'first'"):
        reachable_from([first, Agent(name="first")])
    with pytest.raises(UserError, match="must be Agents, not str"):
        reachable_from(["first"])  # type: ignore[list-item]


def test_an_item_whose_agent_nobody_brought() -> None:
    """Has an agent of that name."""
    item: Any = restore_item(ItemAdded("x", "tool_call_output_item", OUTPUT), "Zoe", AgentBook([ANN]))
    assert item.agent.name == "Zoe"


def test_agents_that_run_as_tools_are_found() -> None:
    """A book has the agents behind tools, too, at any depth, and those that call each other; the nearer of two of one
    name is meant."""
    inner = Agent(name="Inner")
    middle = Agent(name="Middle", tools=[inner.as_tool("ask_inner", "Ask.")])
    outer = Agent(name="Outer", tools=[middle.as_tool("ask_middle", "Ask.")])
    inner.tools.append(outer.as_tool("ask_outer", "Ask."))
    middle.tools.append(Agent(name="Outer").as_tool("ask_another", "Ask."))
    book = AgentBook([outer])
    assert [book.find(name) for name in ("Outer", "Middle", "Inner")] == [outer, middle, inner]
    assert "Stranger" not in book
