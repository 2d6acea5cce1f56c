"""Calls that need a person's approval, where the run ends for their sake and goes on from its state."""

from typing import Any

import pytest
from openai.types.responses.response_output_item import McpApprovalRequest

from runstream import (
    Agent,
    HostedMCPTool,
    InMemorySession,
    MCPApprovalResponseItem,
    ModelBehaviorError,
    ModelSettings,
    RunConfig,
    RunHooks,
    Runner,
    RunState,
    UserError,
    function_tool,
)
from runstream.run.approvals import REJECTED_OUTPUT
from runstream.testing import HandoffTo, ScriptedModel, ToolCall

BOTH = pytest.mark.parametrize("streamed", [False, True], ids=["run", "streamed"])
JSON = pytest.mark.parametrize("through_json", [False, True], ids=["live", "json"])


class Shop:
    """Tools that note what they do."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.asked: list[tuple[dict[str, Any], str]] = []

        @function_tool(needs_approval=True)
        def refund(number: int) -> str:
            self.done.append(f"refund {number}")
            return f"refunded {number}"

        @function_tool
        def look(number: int) -> str:
            self.done.append(f"look {number}")
            return f"saw {number}"

        async def is_large(context: Any, arguments: dict[str, Any], call_id: str) -> bool:
            self.asked.append((arguments, call_id))
            return arguments["number"] > 5

        @function_tool(needs_approval=is_large)
        def pay(number: int) -> str:
            self.done.append(f"pay {number}")
            return f"paid {number}"

        self.tools: list[Any] = [refund, look, pay]

    def agent(self, *turns: Any, **fields: Any) -> Agent[Any]:
        return Agent(name="Ann", model=ScriptedModel(turns), tools=[*self.tools], **fields)


def refund(number: int) -> ToolCall:
    return ToolCall("refund", {"number": number}, call_id=f"r{number}")


def look(number: int) -> ToolCall:
    return ToolCall("look", {"number": number}, call_id=f"l{number}")


def pay(arguments: Any, call_id: str = "p1") -> ToolCall:
    return ToolCall("pay", arguments, call_id=call_id)


async def play(agent: Agent[Any], given: Any, *, streamed: bool = False, **options: Any) -> tuple[Any, list[str]]:
    """The result, and what the SDK's view showed of it."""
    if not streamed:
        return await Runner.run(agent, given, **options), []
    result = Runner.run_streamed(agent, given, **options)
    shown = [getattr(event, "name", event.type) async for event in result.stream_events()]
    return result, [name for name in shown if name != "raw_response_event"]


async def state_of(result: Any, agent: Agent[Any], *, through_json: bool = False) -> RunState[Any, Any]:
    state = result.to_state()
    return await RunState.from_string(agent, state.to_string()) if through_json else state


def types(items: Any) -> list[str]:
    return [item.type.removesuffix("_item") for item in items]


def outputs(result: Any) -> dict[str, str]:
    return {item.call_id: item.output for item in result.new_items if item.type == "tool_call_output_item"}


@BOTH
@JSON
async def test_a_run_goes_on_from_its_answers(streamed: bool, through_json: bool) -> None:
    """Nothing is said, called, counted or saved twice; what stands beside a waiting call runs first, and once."""
    shop, session = Shop(), InMemorySession("s")
    agent = shop.agent(["Let me see.", look(1), refund(1), refund(2)], "Done.")
    first, shown = await play(agent, "hi", streamed=streamed, session=session)
    assert [item.call_id for item in first.interruptions] == ["r1", "r2"]
    assert (first.final_output, shop.done) == (None, ["look 1"])
    assert shown[1:] == (["message_output_created", *["tool_called"] * 3, "tool_output"] if streamed else [])
    assert [item.get("role") for item in await session.get_items()] == ["user"]

    state = await state_of(first, agent, through_json=through_json)
    state.approve(state.get_interruptions()[0])
    second, shown = await play(agent, state, streamed=streamed, session=session)
    assert [item.call_id for item in second.interruptions] == ["r2"]
    assert shop.done == ["look 1", "refund 1"]
    assert shown == (["agent_updated_stream_event", "tool_output"] if streamed else [])

    state = await state_of(second, agent, through_json=through_json)
    state.reject(second.interruptions[0], rejection_message="Too much.")
    third, shown = await play(agent, state, streamed=streamed, session=session)
    assert third.final_output == "Done."
    assert third.interruptions == []
    assert shop.done == ["look 1", "refund 1"]
    assert outputs(third) == {"l1": "saw 1", "r1": "refunded 1", "r2": "Too much."}
    assert types(third.new_items) == [
        "message_output",
        *["tool_call"] * 3,
        *["tool_approval"] * 2,
        *["tool_call_output"] * 3,
        "message_output",
    ]
    assert shown[1:] == (["tool_output", "message_output_created"] if streamed else [])
    assert len(third.raw_responses) == 2
    assert third.context_wrapper.usage.requests == 2
    assert agent.model.calls[1].input == third.to_input_list()[:-1]  # type: ignore[union-attr]
    assert await session.get_items() == third.to_input_list()


@BOTH
async def test_the_turns_count_on(streamed: bool) -> None:
    """The state's max_turns holds for the whole run, whatever the one that goes on is given."""
    shop = Shop()
    agent = shop.agent(refund(1), "Done.")
    result, _ = await play(agent, "hi", streamed=streamed, max_turns=1)
    state = result.to_state()
    state.approve("r1")
    with pytest.raises(Exception, match=r"Max turns \(1\) exceeded") as caught:
        await play(agent, state, streamed=streamed, max_turns=10)
    assert types(caught.value.run_data.new_items) == [  # type: ignore[attr-defined]
        "tool_call",
        "tool_approval",
        "tool_call_output",
    ]


@JSON
async def test_an_agent_reached_by_handoff(through_json: bool) -> None:
    """The run goes on with the agent that asked, found by its name; the events begin with it."""
    shop = Shop()
    model = ScriptedModel([HandoffTo("Bob"), refund(1), "Done."])
    bob = Agent(name="Bob", model=model, tools=[*shop.tools])
    ann = Agent(name="Ann", model=model, handoffs=[bob])
    first = await Runner.run(ann, "hi")
    state = await state_of(first, ann, through_json=through_json)
    state.approve(state.get_interruptions()[0])
    result = Runner.run_streamed(ann, state)
    events = [event async for event in result.stream_events()]
    assert events[0].new_agent is bob  # type: ignore[union-attr]
    assert (result.final_output, result.last_agent, result.current_turn) == ("Done.", bob, 3)


@BOTH
async def test_a_handoff_beside_a_waiting_call(streamed: bool) -> None:
    """The handoff is made once the call is answered."""
    shop = Shop()
    agent = shop.agent([refund(1), HandoffTo("Bob"), look(1)])
    agent.handoffs = [Agent(name="Bob", model=ScriptedModel(["Bob here."]))]
    first, _ = await play(agent, "hi", streamed=streamed)
    assert "handoff_output" not in types(first.new_items)
    state = first.to_state()
    state.approve("r1")
    second, shown = await play(agent, state, streamed=streamed)
    assert second.final_output == "Bob here."
    assert shop.done == ["look 1", "refund 1"]
    assert shown.count("handoff_occured") == int(streamed)
    assert len(second.to_input_list()) == 8


async def test_the_providers_history_gets_what_is_new() -> None:
    """With previous_response_id only the outputs are sent, after an id of the latest response."""
    shop = Shop()
    agent = shop.agent([look(1), refund(1)], "Done.")
    first = await Runner.run(agent, "hi", previous_response_id="before")
    state = await state_of(first, agent, through_json=True)
    state.approve("r1")
    await Runner.run(agent, state)
    call = agent.model.calls[1]  # type: ignore[union-attr]
    assert [item["type"] for item in call.input] == ["function_call_output"] * 2
    assert call.previous_response_id == first.raw_responses[0].response_id


@JSON
async def test_tool_choice_stays_reset(through_json: bool) -> None:
    """An agent that has used its tools is not forced to use them again."""
    agent = Shop().agent(refund(1), "Done.", model_settings=ModelSettings(tool_choice="required"))
    state = await state_of(await Runner.run(agent, "hi"), agent, through_json=through_json)
    state.approve("r1")
    await Runner.run(agent, state)
    choices = [call.model_settings.tool_choice for call in agent.model.calls]  # type: ignore[union-attr]
    assert choices == ["required", None]


@pytest.mark.parametrize(
    ("behavior", "expected"),
    [("stop_on_first_tool", "saw 1"), ({"stop_at_tool_names": ["refund"]}, REJECTED_OUTPUT)],
)
async def test_tool_use_behavior_sees_all_results_of_the_turn(behavior: Any, expected: str) -> None:
    """Outputs from before the interruption count, and so does what a rejected call was answered with."""
    agent = Shop().agent([look(1), refund(1)], tool_use_behavior=behavior)
    state = (await Runner.run(agent, "hi")).to_state()
    state.reject("r1")
    assert (await Runner.run(agent, state)).final_output == expected


async def test_hooks_are_called_once() -> None:
    """Neither the agent's start nor a tool's is told again when the run goes on."""
    told: list[str] = []

    class Hooks(RunHooks[Any]):
        async def on_agent_start(self, context: Any, agent: Any) -> None:
            told.append("agent")

        async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
            told.append("end")

        async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
            told.append(tool.name)

    agent = Shop().agent([look(1), refund(1)], "Done.")
    state = (await Runner.run(agent, "hi", hooks=Hooks())).to_state()
    state.approve("r1")
    await Runner.run(agent, state, hooks=Hooks())
    assert told == ["agent", "look", "refund", "end"]


# Who is asked.


async def test_a_function_says_which_calls_need_approval() -> None:
    """It gets the parsed arguments and the call id, and is not asked again when the run goes on."""
    shop = Shop()
    agent = shop.agent([pay({"number": 9}, "p9"), pay({"number": 1}, "p1")], "Done.")
    first = await Runner.run(agent, "hi")
    assert [item.call_id for item in first.interruptions] == ["p9"]
    assert shop.done == ["pay 1"]
    state = first.to_state()
    state.approve("p9")
    await Runner.run(agent, state)
    assert shop.done == ["pay 1", "pay 9"]
    assert shop.asked == [({"number": 9}, "p9"), ({"number": 1}, "p1")]


@pytest.mark.parametrize("arguments", ["{broken", "[1]"])
async def test_arguments_that_no_function_can_judge_need_a_person(arguments: str) -> None:
    """Nothing runs on the strength of arguments that cannot be read."""
    shop = Shop()
    result = await Runner.run(shop.agent(pay(arguments)), "hi")
    assert [item.arguments for item in result.interruptions] == [arguments]
    assert shop.asked == []


@BOTH
async def test_a_function_that_fails_ends_the_run(streamed: bool) -> None:
    """No tool of the turn has run then."""
    shop = Shop()
    with pytest.raises(UserError, match="Error running tool pay: its needs_approval failed: 'number'"):
        await play(shop.agent([look(1), pay({})]), "hi", streamed=streamed)
    assert shop.done == []


async def test_broken_arguments_that_were_approved_are_told_to_the_model() -> None:
    """Approval does not make them right."""
    agent = Shop().agent(ToolCall("refund", "{broken", call_id="r1"), "Done.")
    state = (await Runner.run(agent, "hi")).to_state()
    state.approve("r1")
    assert "valid JSON" in outputs(await Runner.run(agent, state))["r1"]


# Answers.


async def test_rejections_say_what_the_person_or_the_formatter_says() -> None:
    """The person's words, even none, go before the formatter's, and those before the default."""

    async def formatted(arguments: Any) -> str:
        return f"{arguments.kind}: {arguments.tool_name} {arguments.call_id}"

    async def told(config: RunConfig, message: str | None) -> str:
        agent = Shop().agent(refund(1), "Done.")
        state = (await Runner.run(agent, "hi")).to_state()
        state.reject("r1", rejection_message=message)
        return outputs(await Runner.run(agent, state, run_config=config))["r1"]

    with_formatter = RunConfig(tool_error_formatter=formatted)
    assert await told(RunConfig(), None) == REJECTED_OUTPUT
    assert await told(with_formatter, None) == "approval_rejected: refund r1"
    assert await told(with_formatter, "No.") == "No."
    assert await told(with_formatter, "") == ""


@JSON
@pytest.mark.parametrize("approved", [True, False])
async def test_an_answer_for_good(through_json: bool, approved: bool) -> None:
    """It holds for the other calls of the tool, in this turn and later ones."""
    shop = Shop()
    agent = shop.agent([refund(1), refund(2)], refund(3), "Done.")
    state = await state_of(await Runner.run(agent, "hi"), agent)
    if approved:
        state.approve("r1", always_approve=True)
    else:
        state.reject("r1", always_reject=True, rejection_message="Never.")
    if through_json:
        state = await RunState.from_string(agent, state.to_string())
    result = await Runner.run(agent, state)
    assert set(outputs(result).values()) == ({f"refunded {n}" for n in (1, 2, 3)} if approved else {"Never."})
    assert len(shop.done) == (3 if approved else 0)


async def test_one_answer_is_about_one_call() -> None:
    """A later turn's call of the same id is asked for again, though it is the same call."""
    shop = Shop()
    agent = shop.agent(refund(1), refund(1), "Done.")
    state = (await Runner.run(agent, "hi")).to_state()
    state.approve("r1")
    second = await Runner.run(agent, state)
    assert ([item.call_id for item in second.interruptions], shop.done) == (["r1"], ["refund 1"])
    state = await state_of(second, agent, through_json=True)
    assert (await Runner.run(agent, state)).interruptions != []
    state.reject("r1")
    assert (await Runner.run(agent, state)).final_output == "Done."
    assert shop.done == ["refund 1"]


@JSON
async def test_an_id_with_other_arguments_is_the_models_fault(through_json: bool) -> None:
    """An approval is no approval of something else."""
    shop = Shop()
    agent = shop.agent(refund(1), ToolCall("refund", {"number": 1000}, call_id="r1"))
    state = (await Runner.run(agent, "hi")).to_state()
    state.approve("r1")
    if through_json:
        state = await RunState.from_string(agent, state.to_string())
    with pytest.raises(ModelBehaviorError, match="unique call ID"):
        await Runner.run(agent, state)
    assert shop.done == ["refund 1"]


async def test_twins_are_called_once() -> None:
    """One call that the model made twice under one id is one call: one request, one execution, both answered."""
    shop = Shop()
    agent = shop.agent([refund(1), refund(1)], "Done.")
    first = await Runner.run(agent, "hi")
    assert len(first.interruptions) == 1
    state = first.to_state()
    state.approve("r1")
    result = await Runner.run(agent, state)
    assert shop.done == ["refund 1"]
    assert types(result.new_items).count("tool_call_output") == 2


async def test_a_call_without_an_id_cannot_be_approved() -> None:
    """Nobody could say which call is meant."""
    call: Any = {"type": "function_call", "name": "refund", "arguments": '{"number": 1}', "call_id": "", "id": "fc"}
    with pytest.raises(ModelBehaviorError, match="without a call id"):
        await Runner.run(Shop().agent([call]), "hi")


# Hosted MCP servers.


def hosted(answer: Any = None) -> HostedMCPTool:
    config: Any = {"type": "mcp", "server_label": "shop", "server_url": "http://x", "require_approval": "always"}
    return HostedMCPTool(config, on_approval_request=answer)


def asked(request_id: str = "m1", name: str = "buy") -> McpApprovalRequest:
    return McpApprovalRequest(
        id=request_id, type="mcp_approval_request", arguments='{"n": 1}', name=name, server_label="shop"
    )


@BOTH
@pytest.mark.parametrize("answer", [{"approve": True}, {"approve": False, "reason": "No."}])
async def test_a_function_answers_a_hosted_server(streamed: bool, answer: Any) -> None:
    """The model gets the answer in its next turn."""
    seen: list[Any] = []

    async def decide(request: Any) -> Any:
        seen.append((request.ctx_wrapper.context, request.data.name))
        return answer

    agent = Agent(name="Ann", model=ScriptedModel([[asked()], "Done."]), tools=[hosted(decide)])
    result, shown = await play(agent, "hi", streamed=streamed, context="mine")
    assert (result.final_output, seen) == ("Done.", [("mine", "buy")])
    expected = {"type": "mcp_approval_response", "approval_request_id": "m1", **answer}
    assert agent.model.calls[1].input[-1] == expected  # type: ignore[union-attr]
    assert shown[1:3] == (["mcp_approval_requested", "mcp_approval_response"] if streamed else [])


@BOTH
@JSON
@pytest.mark.parametrize("approved", [True, False])
async def test_a_person_answers_a_hosted_server(streamed: bool, through_json: bool, approved: bool) -> None:
    """Without a function the run ends for the person's sake; the tools beside it run meanwhile."""
    shop = Shop()
    agent = Agent(name="Ann", model=ScriptedModel([[asked(), look(1)], "Done."]), tools=[hosted(), *shop.tools])
    first, _ = await play(agent, "hi", streamed=streamed)
    assert ([item.name for item in first.interruptions], shop.done) == (["buy"], ["look 1"])
    assert not [item for item in first.to_input_list() if item.get("type") == "mcp_approval_request"]
    state = await state_of(first, agent, through_json=through_json)
    if approved:
        state.approve("m1")
    else:
        state.reject("m1", rejection_message="No.")
    second, _ = await play(agent, state, streamed=streamed)
    [response] = [item.raw_item for item in second.new_items if isinstance(item, MCPApprovalResponseItem)]
    assert (second.final_output, response["approve"], response.get("reason")) == (
        "Done.",
        approved,
        None if approved else "No.",
    )


async def test_an_answer_for_good_to_a_hosted_server() -> None:
    """It holds for that tool of that server, and for no other."""
    agent = Agent(name="Ann", model=ScriptedModel([[asked()], [asked("m2"), asked("m3", "sell")]]), tools=[hosted()])
    state = (await Runner.run(agent, "hi")).to_state()
    state.approve("m1", always_approve=True)
    second = await Runner.run(agent, state)
    assert [item.call_id for item in second.interruptions] == ["m3"]


async def test_an_answer_that_is_none_is_an_error() -> None:
    """A function that answers a hosted server with something else ends the run."""
    agent = Agent(name="Ann", model=ScriptedModel([[asked()]]), tools=[hosted(lambda request: True)])
    with pytest.raises(UserError, match="must return a dict with 'approve'"):
        await Runner.run(agent, "hi")
