"""Laws of the run's context and of the decisions about tool calls."""

from types import SimpleNamespace
from typing import Any

import pytest
from openai.types.responses import ResponseFunctionToolCall
from openai.types.responses.response_output_item import McpApprovalRequest

from runstream.agent.approvals import tool_key
from runstream.agent.context import AgentHookContext, RunContextWrapper
from runstream.agent.items import ToolApprovalItem
from runstream.errors import ModelBehaviorError, UserError

AGENT = SimpleNamespace(name="agent")


def call(call_id: str | None = "call-1", name: str = "tool", agent: Any = AGENT, **raw: Any) -> ToolApprovalItem:
    item = {"type": "function_call", "name": name, "call_id": call_id, "arguments": "{}", **raw}
    return ToolApprovalItem(agent=agent, raw_item=item)


def hosted(request_id: str, server: str = "server", name: str = "tool") -> ToolApprovalItem:
    raw = McpApprovalRequest(id=request_id, type="mcp_approval_request", arguments="{}", name=name, server_label=server)
    return ToolApprovalItem(agent=AGENT, raw_item=raw)


def context() -> RunContextWrapper[None]:
    return RunContextWrapper(context=None)


def test_contexts_are_compared_by_identity():
    """Two wrappers of one object are two; a wrapper can be a key."""
    first, second = RunContextWrapper("x"), RunContextWrapper("x")
    assert first != second
    assert len({first, second}) == 2
    assert isinstance(AgentHookContext("x"), RunContextWrapper)


def test_a_derived_context_shares_usage_and_decisions():
    """What is decided through one context of a run holds for all of them."""
    parent, child = context(), AgentHookContext(context=None)
    parent.share_with(child)
    child.approve_tool(call())
    child.usage.requests += 1
    assert parent.is_tool_approved("tool", "call-1") is True
    assert parent.usage.requests == 1


@pytest.mark.parametrize("approved", [True, False])
def test_a_decision_holds_for_its_call_only(approved):
    """Another call id needs another decision."""
    run = context()
    run.approve_tool(call()) if approved else run.reject_tool(call())
    assert run.is_tool_approved("tool", "call-1") is approved
    assert run.get_approval_status("tool", "call-1", existing_pending=call()) is approved
    assert run.get_approval_status("tool", "call-1") is approved
    assert run.is_tool_approved("tool", "call-2") is None
    assert run.get_approval_status("tool", "call-2", existing_pending=call("call-2")) is None
    assert run.is_tool_approved("other", "call-1") is None


@pytest.mark.parametrize("approved", [True, False])
def test_a_permanent_decision_holds_for_later_calls_of_that_tool(approved):
    """Every later call of the tool by the agent is decided; other tools are not."""
    run = context()
    if approved:
        run.approve_tool(call(), always_approve=True)
    else:
        run.reject_tool(call(), always_reject=True, rejection_message="no")
    later = call("call-2", arguments='{"x": 1}')
    assert run.is_tool_approved("tool", "call-2") is approved
    assert run.get_approval_status("tool", "call-2", existing_pending=later) is approved
    assert run.get_rejection_message("tool", "call-2") == (None if approved else "no")
    assert run.get_approval_status("other", "call-3", existing_pending=call("call-3", "other")) is None


def test_a_permanent_decision_is_the_agents_own():
    """An agent with a tool of the same name does not profit; by name alone it would be ambiguous."""
    run, other = context(), SimpleNamespace(name="other")
    run.approve_tool(call(), always_approve=True)
    assert run.get_approval_status("tool", "call-2", existing_pending=call("call-2", agent=other)) is None
    assert run.get_approval_status("tool", "call-2") is None
    run.reject_tool(call("call-3", agent=other), always_reject=True)
    assert run.is_tool_approved("tool", "call-4") is None
    assert run.get_approval_status("tool", "call-4", existing_pending=call("call-4")) is True


def test_a_decision_about_a_call_goes_before_a_permanent_one():
    """Exceptions to a permanent decision hold for their call, whichever was made first."""
    run = context()
    run.approve_tool(call("sticky"), always_approve=True)
    run.reject_tool(call("exception"), rejection_message="not this one")
    assert run.is_tool_approved("tool", "exception") is False
    assert run.get_rejection_message("tool", "exception") == "not this one"
    assert run.is_tool_approved("tool", "another") is True
    run.reject_tool(call("sticky"), always_reject=True, rejection_message="never")
    run.approve_tool(call("allowed"))
    assert run.is_tool_approved("tool", "allowed") is True
    assert run.get_rejection_message("tool", "allowed") is None
    assert run.get_rejection_message("tool", "another") == "never"


def test_the_latest_decision_wins():
    """A person may change their mind, about a call and for ever."""
    run = context()
    run.approve_tool(call())
    run.reject_tool(call(), rejection_message="no")
    assert run.is_tool_approved("tool", "call-1") is False
    run.approve_tool(call())
    assert run.is_tool_approved("tool", "call-1") is True
    assert run.get_rejection_message("tool", "call-1") is None
    run.reject_tool(call(), always_reject=True)
    assert run.is_tool_approved("tool", "call-1") is False


def test_an_approval_does_not_cover_other_arguments():
    """The same id with other arguments is the model's fault, not an approved call; spelling does not count."""
    run = context()
    run.approve_tool(call(arguments='{"path": "a", "n": 1}'))
    same = call(arguments='{"n":1,"path":"a"}')
    assert run.get_approval_status("tool", "call-1", current_invocation=same) is True
    with pytest.raises(ModelBehaviorError, match="unique call ID"):
        run.get_approval_status("tool", "call-1", current_invocation=call(arguments='{"path": "b", "n": 1}'))


def test_official_objects_and_dicts_are_one_call():
    """The raw item's kind does not matter, nor does an argument string that is no JSON."""
    official = ResponseFunctionToolCall(type="function_call", name="tool", call_id="call-1", arguments="not json")
    run = context()
    run.approve_tool(ToolApprovalItem(agent=AGENT, raw_item=official))
    assert run.get_approval_status("tool", "call-1", existing_pending=call(arguments="not json")) is True


def test_arguments_may_be_objects():
    """The actions of shells and the like are compared by content, official objects included."""
    run = context()
    action = SimpleNamespace(model_dump=lambda mode: {"commands": ["ls"]})
    run.approve_tool(ToolApprovalItem(agent=AGENT, raw_item={"type": "shell_call", "call_id": "s", "action": action}))
    same = ToolApprovalItem(
        agent=AGENT, raw_item={"type": "shell_call", "call_id": "s", "action": {"commands": ["ls"]}}
    )
    assert run.get_approval_status("shell_call", "s", existing_pending=same) is True


def test_namespaces_are_apart():
    """A decision about a tool in a namespace says nothing about the bare name, nor the other way round."""
    run = context()
    run.approve_tool(call(), always_approve=True)
    billing = call("call-2", namespace="billing")
    assert run.get_approval_status("tool", "call-2", existing_pending=billing) is None
    run.reject_tool(billing, rejection_message="no")
    assert run.is_tool_approved("billing.tool", "call-2") is False
    assert run.get_approval_status("tool", "call-2", tool_namespace="billing") is False
    assert run.get_rejection_message("tool", "call-2", tool_namespace="billing") == "no"
    assert run.get_rejection_message("tool", "call-2", tool_lookup_key=tool_key("tool")) is None


def test_a_deferred_tool_is_apart_from_a_visible_one():
    """A namespace that repeats the name means a deferred tool: its calls show by name, permanent decisions do not."""
    run = context()
    run.approve_tool(call(namespace="tool"))
    assert run.is_tool_approved("tool", "call-1") is True
    run.approve_tool(call(namespace="tool"), always_approve=True)
    assert run.is_tool_approved("tool", "call-2") is None
    assert run.get_approval_status("tool", "call-2", existing_pending=call("call-2", namespace="tool")) is True
    assert run.get_approval_status("tool", "call-2", existing_pending=call("call-2")) is None


def test_hosted_tools_belong_to_their_server():
    """A permanent decision about a server's tool holds for that server alone, whichever agent asks."""
    run = context()
    run.reject_tool(hosted("r1", "a"), always_reject=True, rejection_message="no")
    assert run.get_approval_status("tool", "r2", existing_pending=hosted("r2", "a")) is False
    assert run.get_rejection_message("tool", "r2", existing_pending=hosted("r2", "a")) == "no"
    assert run.get_approval_status("tool", "r3", existing_pending=hosted("r3", "b")) is None
    assert run.is_tool_approved("tool", "r1") is False
    assert run.is_tool_approved("tool", "r2") is None


def test_a_hosted_call_is_found_by_name_before_a_function():
    """The exact decision about a hosted request is not hidden by a permanent one about a function of that name."""
    run = context()
    run.approve_tool(call(), always_approve=True)
    run.reject_tool(hosted("r1"), rejection_message="no")
    assert run.is_tool_approved("tool", "r1") is False
    assert run.is_tool_approved("tool", "call-9") is True
    assert run.get_rejection_message("tool", "r1") == "no"


def test_a_hosted_request_inside_a_tool_call():
    """The request may come wrapped in a hosted tool call; its own id counts, else the call's."""
    data = {"type": "mcp_approval_request", "id": "r1", "server_label": "server", "name": "tool", "arguments": "{}"}
    run = context()
    run.approve_tool(ToolApprovalItem(agent=AGENT, raw_item={"type": "hosted_tool_call", "provider_data": data}))
    assert run.is_tool_approved("tool", "r1") is True
    outer = {"type": "hosted_tool_call", "call_id": "r2", "provider_data": {**data, "id": None}}
    run.approve_tool(ToolApprovalItem(agent=AGENT, raw_item=outer))
    assert run.is_tool_approved("tool", "r2") is True


def test_calls_that_cannot_be_identified_are_refused():
    """A decision needs a call id; a hosted one its request id, server and tool."""
    run = context()
    with pytest.raises(ModelBehaviorError, match="non-empty call ID"):
        run.approve_tool(call(call_id=""))
    with pytest.raises(ModelBehaviorError, match="non-empty call ID"):
        run.get_approval_status("tool", "")
    nameless = {"type": "mcp_approval_request", "id": "r1", "server_label": "server"}
    with pytest.raises(UserError, match="non-empty server_label and tool name"):
        run.approve_tool(ToolApprovalItem(agent=AGENT, raw_item=nameless), always_approve=True)
    with pytest.raises(ModelBehaviorError, match="canonical invocation identity"):
        run.approve_tool(ToolApprovalItem(agent=AGENT, raw_item=nameless))
    with pytest.raises(UserError, match="non-empty request id"):
        run.reject_tool(ToolApprovalItem(agent=AGENT, raw_item={**nameless, "id": 7}))
    assert run.is_tool_approved("tool", "r1") is None


def test_one_id_used_by_two_agents_is_ambiguous_without_the_item():
    """Only the item tells whose call is meant."""
    run, other = context(), SimpleNamespace(name="other")
    run.approve_tool(call())
    run.reject_tool(call(agent=other))
    assert run.get_approval_status("tool", "call-1") is None
    assert run.get_approval_status("tool", "call-1", existing_pending=call()) is True
    assert run.get_approval_status("tool", "call-1", existing_pending=call(agent=other)) is False
