"""run/decide: what a response asks for is a pure question, with one answer."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from openai.types.responses import (
    ResponseFunctionToolCall,
    ResponseOutputItem,
    ResponseOutputMessage,
    ResponseReasoningItem,
)
from pydantic import BaseModel, TypeAdapter

from runstream.agent.agent import Agent
from runstream.agent.handoff import handoff
from runstream.agent.hosted_tools import CodeInterpreterTool, WebSearchTool
from runstream.agent.items import ModelResponse
from runstream.agent.output import output_schema_of
from runstream.agent.tool import FunctionTool, function_tool
from runstream.agent.usage import Usage
from runstream.errors import ModelBehaviorError, ModelRefusalError, UserError
from runstream.run.decide import Final, Plan, RunAgain, Toolbox, decide_end, plan_of

ITEMS: TypeAdapter[Any] = TypeAdapter(ResponseOutputItem)


@function_tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return "sunny"


@function_tool
def get_time() -> str:
    """The time."""
    return "noon"


BILLING = Agent(name="Billing", tools=[get_time])
DESK = Agent(name="Desk", tools=[get_weather, get_time], handoffs=[BILLING])
TO_BILLING = handoff(BILLING)
TOOLBOX = Toolbox(DESK, [get_weather, get_time], [TO_BILLING])


def message(*texts: str, refusal: str | None = None) -> ResponseOutputMessage:
    content: list[dict[str, Any]] = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    if refusal is not None:
        content.append({"type": "refusal", "refusal": refusal})
    fields = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": content}
    return ResponseOutputMessage.model_validate(fields)


def call(name: str, arguments: str = "{}", **more: Any) -> ResponseFunctionToolCall:
    fields = {"type": "function_call", "id": "fc_1", "call_id": f"call_{name}", "name": name, "arguments": arguments}
    return ResponseFunctionToolCall.model_validate({**fields, **more})


def reasoning(text: str = "hm") -> ResponseReasoningItem:
    return ResponseReasoningItem.model_validate(
        {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}
    )


def hosted(kind: str, **fields: Any) -> Any:
    return ITEMS.validate_python({"type": kind, "id": "h_1", "status": "completed", **fields})


SEARCH = hosted("web_search_call", action={"type": "search", "query": "x"})


def plan(*output: Any, toolbox: Toolbox = TOOLBOX) -> Plan:
    return plan_of(DESK, toolbox, ModelResponse(list(output), Usage(), "resp_1"))


def names(planned: Plan) -> list[str]:
    return [type(item).__name__ for item in planned.items]


# The toolbox.


def test_what_an_agent_may_call() -> None:
    """Functions and handoffs are found by their names; the provider's own tools are only sent along."""
    search, code = WebSearchTool(), CodeInterpreterTool({"type": "code_interpreter", "container": "c"})
    toolbox = Toolbox(DESK, [get_weather, search, code, search], [TO_BILLING])
    assert toolbox.functions == {"get_weather": get_weather}
    assert toolbox.handoffs == {"transfer_to_billing": TO_BILLING}
    assert toolbox.tools == [get_weather, search, code, search]
    assert toolbox.collisions == []


def named(name: str) -> FunctionTool:
    return function_tool(lambda: "x", name_override=name, description_override="x")


@pytest.mark.parametrize(
    ("tools", "handoffs", "what"),
    [
        ([named("a"), named("b"), named("a")], [], "two tools of the name 'a'"),
        ([named("transfer_to_billing")], [TO_BILLING], "a handoff and a tool of the name"),
        ([], [TO_BILLING, handoff(Agent(name="billing"))], "two handoffs of the name"),
    ],
)
def test_two_of_one_name_are_refused(tools: list[Any], handoffs: list[Any], what: str) -> None:
    """The model could not tell them apart: UserError names the agent and the name, and says what to do."""
    with pytest.raises(UserError, match=f"Agent 'Desk' has {what}") as caught:
        Toolbox(DESK, tools, handoffs)
    assert "name_override" in str(caught.value)


def test_two_of_one_name_with_a_warning() -> None:
    """Where that was asked for, the later one is kept, a handoff rather than a tool, and the collision is told."""
    first, second, transfer = named("a"), named("a"), named("transfer_to_billing")
    toolbox = Toolbox(DESK, [first, transfer, second], [TO_BILLING], on_collision="warn")
    assert toolbox.tools == [second]
    assert toolbox.functions == {"a": second}
    assert toolbox.handoffs == {"transfer_to_billing": TO_BILLING}
    assert len(toolbox.collisions) == 2


# The plan.


def test_a_message() -> None:
    """A message is an item and nothing to do."""
    planned = plan(message("Hello."))
    assert names(planned) == ["MessageOutputItem"]
    assert (planned.functions, planned.handoffs, planned.unknown, planned.error) == ([], [], [], None)
    assert not planned.used_tools
    assert not planned.is_empty


def test_an_empty_response() -> None:
    """A response of nothing, or of reasoning alone, says nothing."""
    assert plan().is_empty
    assert plan(reasoning()).is_empty
    assert not plan(SEARCH).is_empty
    assert not plan(call("get_time")).is_empty


def test_items_keep_the_models_order() -> None:
    """Each output is one item, of the agent, in the order in which the model gave them."""
    output = [
        reasoning(),
        message("First."),
        call("get_weather", '{"city":"Paris"}'),
        SEARCH,
        call("transfer_to_billing"),
    ]
    planned = plan(*output)
    assert names(planned) == [
        "ReasoningItem",
        "MessageOutputItem",
        "ToolCallItem",
        "ToolCallItem",
        "HandoffCallItem",
    ]
    assert [item.raw_item for item in planned.items] == output
    assert all(item.agent is DESK for item in planned.items)


def test_function_calls() -> None:
    """Each call is planned with its tool; the item tells what the tool does."""
    weather, time = call("get_weather", '{"city":"Paris"}'), call("get_time")
    planned = plan(weather, time)
    assert [(each.call, each.tool) for each in planned.functions] == [(weather, get_weather), (time, get_time)]
    assert planned.used_tools
    first: Any = planned.items[0]
    assert first.description == "The weather of a city."


def test_handoffs_come_before_tools() -> None:
    """A name that is a handoff is one; calls and handoffs of one response are planned beside each other."""
    planned = plan(call("get_time"), call("transfer_to_billing"), call("transfer_to_billing", call_id="call_2"))
    assert [each.handoff for each in planned.handoffs] == [TO_BILLING, TO_BILLING]
    assert [each.call.call_id for each in planned.handoffs] == ["call_transfer_to_billing", "call_2"]
    assert [each.tool for each in planned.functions] == [get_time]
    shadowed = Toolbox(DESK, [named("transfer_to_billing")], [TO_BILLING], on_collision="warn")
    assert plan(call("transfer_to_billing"), toolbox=shadowed).functions == []


def test_unknown_tools() -> None:
    """A call of a tool that the agent does not have is kept, and the message tells which tools there are."""
    planned = plan(call("get_wether"), call("get_time"))
    assert names(planned) == ["ToolCallItem", "ToolCallItem"]
    (unknown,) = planned.unknown
    assert unknown.call.name == "get_wether"
    assert unknown.message == (
        "Tool get_wether not found in agent Desk. The agent's tools are: get_time, get_weather, transfer_to_billing."
    )
    assert [each.tool for each in planned.functions] == [get_time]
    assert planned.error is None
    (alone,) = plan(call("x"), toolbox=Toolbox(DESK, [], [])).unknown
    assert alone.message.endswith("The agent's tools are: none.")


def test_hosted_calls() -> None:
    """What the provider ran itself is an item and nothing to do, also of kinds that nobody knows yet."""
    later: Any = {"type": "hologram_call", "id": "h_1"}
    output = [SEARCH, hosted("file_search_call", queries=["x"]), later]
    planned = plan(*output)
    assert names(planned) == ["ToolCallItem"] * 3
    assert planned.functions == []
    assert planned.used_tools
    assert planned.error is None


def test_outputs_of_hosted_calls() -> None:
    """An output that comes with the response is the output of a call, not a call."""
    raw: Any = {"type": "hologram_call_output", "call_id": "h_1", "output": "beam"}
    planned = plan(raw)
    assert names(planned) == ["ToolCallOutputItem"]
    item: Any = planned.items[0]
    assert item.output == "beam"


def test_mcp_items() -> None:
    """What a hosted MCP server lists is an item of its own; what it asks leave for is to be answered first."""
    listed: Any = {"type": "mcp_list_tools", "id": "m", "server_label": "docs", "tools": []}
    asked: Any = {"type": "mcp_approval_request", "id": "m", "server_label": "docs", "name": "x", "arguments": "{}"}
    planned = plan(ITEMS.validate_python(listed))
    assert (names(planned), planned.error) == (["MCPListToolsItem"], None)
    planned = plan(ITEMS.validate_python(asked))
    assert names(planned) == ["MCPApprovalRequestItem"]
    assert (planned.error, planned.used_tools) == (None, True)
    assert [request.id for request in planned.hosted_requests] == ["m"]
    assert isinstance(decide_end(planned, None), RunAgain)


@pytest.mark.parametrize(
    "kind", ["computer_call", "local_shell_call", "shell_call", "apply_patch_call", "custom_tool_call"]
)
def test_calls_that_nobody_here_can_answer(kind: str) -> None:
    """A call of a kind that this version has no tool for is kept as an item, and is an error that names it."""
    raw: Any = {"type": kind, "id": "x_1", "call_id": "call_1"}
    planned = plan(message("Wait."), raw)
    assert names(planned) == ["MessageOutputItem", "ToolCallItem"]
    assert isinstance(planned.error, ModelBehaviorError)
    assert repr(kind) in str(planned.error)


@pytest.mark.parametrize("arguments", ['{"city":"Paris"}', "", None, {"city": "Paris"}])
def test_calls_as_plain_dicts(arguments: Any) -> None:
    """A model of the user's own may give dicts: they are planned as the official objects are."""
    raw: Any = {"type": "function_call", "call_id": "c1", "arguments": arguments}
    planned = plan({**raw, "name": "get_weather"}, {**raw, "name": "transfer_to_billing"}, {**raw, "name": "nope"})
    assert names(planned) == ["ToolCallItem", "HandoffCallItem", "ToolCallItem"]
    made = [planned.functions[0].call, planned.handoffs[0].call, planned.unknown[0].call]
    assert all(isinstance(item, ResponseFunctionToolCall) and item.call_id == "c1" for item in made)
    assert json.loads(made[0].arguments) == ({"city": "Paris"} if arguments else {})
    with pytest.raises(ModelBehaviorError, match="'name' is None, not a string"):
        plan(raw)


@pytest.mark.parametrize("name", ["get_weather", "transfer_to_billing", "get_wether"])
def test_arguments_that_were_cut_off_are_never_run(name: str) -> None:
    """An incomplete call is kept as an item, planned as nothing, and is an error that shows what there was."""
    planned = plan(call(name, '{"city":"Par', status="incomplete"), call("get_time"))
    assert names(planned) == ["ToolCallItem", "ToolCallItem"]
    assert (len(planned.functions), planned.handoffs, planned.unknown) == (1, [], [])
    assert isinstance(planned.error, ModelBehaviorError)
    assert f"call of {name!r} were cut off" in str(planned.error)
    assert "Par" in str(planned.error)


def test_the_first_error_is_told() -> None:
    """Of several faults in one response the first is raised."""
    planned = plan(call("get_time", "{", status="incomplete"), call("get_weather", "[", status="incomplete"))
    assert "get_time" in str(planned.error)


def test_no_arguments_are_an_empty_object() -> None:
    """Models leave the arguments out where there are none; tools get an object all the same."""
    raw = call("get_time", "")
    planned = plan(raw)
    assert planned.functions[0].call.arguments == "{}"
    assert planned.functions[0].call is planned.items[0].raw_item
    assert raw.arguments == ""


def test_planning_is_pure() -> None:
    """Planning the same response twice gives the same plan, and does not change it."""
    output = [reasoning(), message("x"), call("get_time"), call("get_wether"), call("transfer_to_billing"), SEARCH]
    before = copy.deepcopy(output)
    first, second = plan(*output), plan(*output)
    assert output == before
    assert [item.raw_item for item in first.items] == [item.raw_item for item in second.items]
    assert (first.functions, first.handoffs, first.unknown) == (second.functions, second.handoffs, second.unknown)


# The end of a turn.


class _Answer(BaseModel):
    text: str


def test_a_message_is_the_output() -> None:
    """The text of the last message, all its parts, is the output; reasoning beside it does not matter."""
    assert decide_end(plan(message("Hello.")), None) == Final("Hello.")
    assert decide_end(plan(reasoning(), message("Hello,", " you.")), None) == Final("Hello, you.")
    assert decide_end(plan(message("First."), message("Last.")), None) == Final("Last.")
    assert decide_end(plan(SEARCH, message("Found.")), None) == Final("Found.")


def test_nothing_is_an_empty_output() -> None:
    """A response without a message, and without any tool, ends a run of text with no text."""
    assert decide_end(plan(), None) == Final("")
    assert decide_end(plan(reasoning()), None) == Final("")
    assert decide_end(plan(message("")), None) == Final("")


def test_after_tools_the_model_is_asked_again() -> None:
    """Whoever called a tool gets to see its output, also where there is text beside the call."""
    assert decide_end(plan(call("get_time")), None) == RunAgain()
    assert decide_end(plan(message("Wait."), call("get_time")), None) == RunAgain()
    assert decide_end(plan(message("Wait."), call("get_wether")), None) == RunAgain()
    assert decide_end(plan(SEARCH), None) == RunAgain()


def test_structured_output() -> None:
    """With an output type the text is read as JSON of that type."""
    schema = output_schema_of(_Answer)
    assert decide_end(plan(message('{"text":"x"}')), schema) == Final(_Answer(text="x"))
    assert decide_end(plan(message('{"response":[1,2]}')), output_schema_of(list[int])) == Final([1, 2])
    assert decide_end(plan(message("plain")), output_schema_of(str)) == Final("plain")


@pytest.mark.parametrize("text", ["{", "[]", '{"text":1}', '{"other":"x"}', "Hello."])
def test_output_that_does_not_fit(text: str) -> None:
    """Text that is not of the output type is the model's fault, with the type named."""
    with pytest.raises(ModelBehaviorError, match="_Answer"):
        decide_end(plan(message(text)), output_schema_of(_Answer))


def test_structured_output_that_is_not_there() -> None:
    """Without any text there is no output yet: the model is asked again."""
    assert decide_end(plan(), output_schema_of(_Answer)) == RunAgain()
    assert decide_end(plan(reasoning()), output_schema_of(_Answer)) == RunAgain()
    assert decide_end(plan(message("")), output_schema_of(_Answer)) == RunAgain()


@pytest.mark.parametrize("output_type", [None, _Answer])
def test_a_refusal_is_an_error(output_type: Any) -> None:
    """A model that refuses has not answered, whatever the output type; the error has its words."""
    with pytest.raises(ModelRefusalError, match="I will not") as caught:
        decide_end(plan(message(refusal="I will not.")), output_schema_of(output_type))
    assert caught.value.refusal == "I will not."


def test_only_the_last_message_counts() -> None:
    """A refusal that was followed by an answer is none."""
    assert decide_end(plan(message(refusal="No."), message("Well, yes.")), None) == Final("Well, yes.")
