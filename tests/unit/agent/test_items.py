"""Laws of the run items."""

import copy
import gc
import json
import pickle
import weakref
from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

import pytest
from openai.types.responses import ResponseFileSearchToolCall, ResponseFunctionToolCall

from runstream.agent import items
from runstream.agent.items import (
    CompactionItem,
    HandoffCallItem,
    HandoffOutputItem,
    InputItem,
    MCPApprovalRequestItem,
    MCPApprovalResponseItem,
    MCPListToolsItem,
    MessageOutputItem,
    ModelResponse,
    ReasoningItem,
    RunItem,
    RunItemBase,
    ToolApprovalItem,
    ToolCallItem,
    ToolCallOutputItem,
    ToolSearchCallItem,
    ToolSearchOutputItem,
)
from runstream.errors import UserError


@dataclass(eq=False)
class Agent:
    name: str


AGENT = Agent("agent")
CALL = ResponseFunctionToolCall(id="i", arguments='{"x": 1}', call_id="c", name="f", type="function_call")
OUTPUT: Any = {"type": "function_call_output", "call_id": "c", "output": "ok"}


def test_the_union_has_every_item_and_each_has_its_type():
    """The wire strings are for ever."""
    types = {kind.__name__: kind.type for kind in get_args(RunItem)}
    assert types == {
        "InputItem": "input_item",
        "MessageOutputItem": "message_output_item",
        "ToolSearchCallItem": "tool_search_call_item",
        "ToolSearchOutputItem": "tool_search_output_item",
        "HandoffCallItem": "handoff_call_item",
        "HandoffOutputItem": "handoff_output_item",
        "ToolCallItem": "tool_call_item",
        "ToolCallOutputItem": "tool_call_output_item",
        "ReasoningItem": "reasoning_item",
        "MCPListToolsItem": "mcp_list_tools_item",
        "MCPApprovalRequestItem": "mcp_approval_request_item",
        "MCPApprovalResponseItem": "mcp_approval_response_item",
        "CompactionItem": "compaction_item",
        "ToolApprovalItem": "tool_approval_item",
    }


def test_the_module_has_the_sdks_names():
    """Aliases and `ModelResponse` are found beside the items, and annotations resolve without openai."""
    assert items.ModelResponse is ModelResponse
    assert {"TResponse", "TResponseInputItem", "TResponseOutputItem", "TResponseStreamEvent"} <= set(items.__all__)
    assert all(hasattr(items, name) for name in items.__all__)
    for kind in (*get_args(RunItem), ModelResponse):
        assert get_type_hints(kind)


def test_positional_construction_in_the_sdks_order():
    """Fields come in the SDK's order; those that only keywords may set stay last."""
    names = {kind.__name__: [entry.name for entry in fields(kind)] for kind in get_args(RunItem)}
    assert names["InputItem"] == ["agent", "raw_item", "type", "input_id"]
    assert names["ToolCallItem"] == ["agent", "raw_item", "type", "description", "title", "tool_origin"]
    assert names["ToolCallOutputItem"] == [
        "agent",
        "raw_item",
        "output",
        "type",
        "tool_origin",
        "custom_data",
        "outcome",
    ]
    assert {entry.name: entry.kw_only for entry in fields(ToolCallOutputItem)}["outcome"]
    assert names["HandoffOutputItem"] == ["agent", "raw_item", "source_agent", "target_agent", "type"]
    assert names["ToolApprovalItem"][:6] == [
        "agent",
        "raw_item",
        "tool_name",
        "type",
        "tool_namespace",
        "tool_origin",
    ]
    assert ToolApprovalItem(AGENT, CALL, "f", "tool_approval_item").tool_name == "f"


def test_a_released_agent_is_held_weakly():
    """An item keeps its agent until it is released, then only as long as somebody else does."""
    agent = Agent("gone")
    item = MessageOutputItem(agent, CALL)  # type: ignore[arg-type]
    gone = weakref.ref(agent)
    item.release_agent()
    item.release_agent()
    assert item.agent is agent
    assert "gone" in repr(item)
    del agent
    gc.collect()
    assert gone() is None
    assert item.agent is None
    assert "agent=None" in repr(item)
    item.agent = AGENT
    assert item.agent is AGENT


def test_a_handoff_releases_all_three_agents():
    """The agents at both ends of a handoff are let go too."""
    agents = [Agent("owner"), Agent("source"), Agent("target")]
    item = HandoffOutputItem(agents[0], OUTPUT, agents[1], agents[2])
    item.release_agent()
    assert [item.agent, item.source_agent, item.target_agent] == agents
    agents.clear()
    gc.collect()
    assert (item.agent, item.source_agent, item.target_agent) == (None, None, None)


def test_an_item_without_an_agent_can_be_released():
    """None has nothing to let go."""
    item = ReasoningItem(None, CALL)  # type: ignore[arg-type]
    item.release_agent()
    assert item.agent is None


def test_a_misspelt_attribute_is_an_error():
    """Only agents may be missing from an item."""
    with pytest.raises(AttributeError, match="'ToolCallItem' object has no attribute 'outptu'"):
        _ = ToolCallItem(AGENT, CALL).outptu  # type: ignore[attr-defined]


def test_items_can_be_copied_and_pickled():
    """A copy equals its original."""
    item = ToolCallOutputItem(AGENT, OUTPUT, "ok", custom_data={"a": 1})
    assert copy.copy(item) == item
    twin = pickle.loads(pickle.dumps(item))
    assert (twin.agent.name, twin.raw_item, twin.custom_data) == ("agent", OUTPUT, {"a": 1})


@pytest.mark.parametrize(
    "kind",
    [
        InputItem,
        MessageOutputItem,
        ToolSearchCallItem,
        ToolSearchOutputItem,
        HandoffCallItem,
        ToolCallItem,
        ReasoningItem,
        MCPListToolsItem,
        MCPApprovalRequestItem,
        MCPApprovalResponseItem,
    ],
)
def test_items_become_plain_input(kind):
    """Official objects and dicts alike become a new dict without `created_by`; nothing of ours is sent."""
    expected = {"id": "i", "arguments": '{"x": 1}', "call_id": "c", "name": "f", "type": "function_call"}
    assert kind(AGENT, CALL).to_input_item() == expected
    raw = {**expected, "created_by": "x"}
    item = kind(AGENT, raw)
    assert item.to_input_item() == expected
    assert item.raw_item is raw
    assert raw["created_by"] == "x"


def test_a_compaction_is_sent_back_as_it_is():
    """What the provider encrypted is not touched."""
    raw: Any = {"type": "compaction", "encrypted_content": "x", "created_by": "y"}
    assert CompactionItem(AGENT, raw).to_input_item() is raw


def test_each_input_item_has_an_id_of_its_own():
    """Two occurrences of one input are told apart."""
    raw: Any = {"role": "user", "content": "hi"}
    assert InputItem(AGENT, raw).input_id != InputItem(AGENT, raw).input_id


def test_the_call_joins_its_output():
    """Calls and outputs name the same id, and fall back to the item's own where there is no call id."""
    assert ToolCallItem(AGENT, CALL, title="F", description="does f").tool_name == "f"
    assert ToolCallItem(AGENT, CALL).call_id == ToolCallOutputItem(AGENT, OUTPUT, "ok").call_id == "c"
    search = ResponseFileSearchToolCall(id="s", queries=[], status="completed", type="file_search_call")
    assert ToolCallItem(AGENT, search).call_id == "s"
    assert ToolCallItem(AGENT, search).tool_name is None
    assert ToolCallItem(AGENT, {"name": "d", "call_id": "e"}).tool_name == "d"
    assert ToolCallOutputItem(AGENT, {"output": "ok"}, "ok").call_id is None


def test_outputs_of_local_shells_lose_their_book_keeping():
    """The API refuses what only the local shell's bookkeeping needs."""
    raw = {
        "type": "shell_call_output",
        "call_id": "c",
        "status": "completed",
        "shell_output": [],
        "provider_data": {},
        "output": [{"stdout": "hi", "created_by": "x"}],
    }
    item = ToolCallOutputItem(AGENT, raw, "hi")
    assert item.to_input_item() == {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "hi"}]}
    assert raw["status"] == "completed"
    assert ToolCallOutputItem(AGENT, OUTPUT, "ok").to_input_item() == OUTPUT


def test_an_approval_is_filled_from_its_call():
    """Name, namespace, arguments and call id are read from the raw item, official or dict."""
    item = ToolApprovalItem(AGENT, CALL)
    assert (item.tool_name, item.name, item.call_id, item.arguments) == ("f", "f", "c", '{"x": 1}')
    assert (item.tool_namespace, item.qualified_name, item.tool_lookup_key) == (None, "f", ("bare", "f"))
    spaced = ToolApprovalItem(AGENT, {"type": "function_call", "name": "f", "namespace": "billing", "call_id": "c"})
    assert (spaced.qualified_name, spaced.tool_lookup_key) == ("billing.f", ("namespaced", "billing", "f"))
    deferred = ToolApprovalItem(AGENT, {"type": "function_call", "name": "f", "namespace": "f", "call_id": "c"})
    assert (deferred.qualified_name, deferred.tool_lookup_key) == ("f", None)


def test_approvals_of_other_tools():
    """A name may be given, or be found elsewhere; arguments that are objects are shown as JSON."""
    shell = ToolApprovalItem(AGENT, {"type": "shell_call", "id": "s", "input": {"commands": ["ls"]}}, "shell")
    assert (shell.name, shell.call_id, shell.tool_lookup_key) == ("shell", "s", None)
    assert json.loads(shell.arguments or "") == {"commands": ["ls"]}
    nameless = ToolApprovalItem(AGENT, {"tool_name": "other"})
    assert (nameless.name, nameless.qualified_name, nameless.arguments) == ("other", None, None)


def test_approvals_are_compared_by_identity():
    """Two approvals of equal calls are two, and can be keys."""
    first, second = ToolApprovalItem(AGENT, CALL), ToolApprovalItem(AGENT, CALL)
    assert first != second
    assert len({first, second}) == 2


def test_an_approval_is_never_sent():
    """Turning it into input is a mistake that is told."""
    with pytest.raises(UserError, match="cannot be converted to an input item"):
        ToolApprovalItem(AGENT, CALL).to_input_item()


def test_items_have_a_common_base():
    """Programs may ask for any run item at once."""
    assert all(issubclass(kind, RunItemBase) for kind in get_args(RunItem))
