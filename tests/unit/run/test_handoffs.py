"""Handoffs in a run: who takes over, with what input, and what the next agent sees."""

from typing import Any

import pytest
from pydantic import BaseModel

from runstream import (
    Agent,
    ModelBehaviorError,
    RunConfig,
    RunContextWrapper,
    RunItemStreamEvent,
    Runner,
    UserError,
    function_tool,
    handoff,
)
from runstream.agent.handoff import Handoff, HandoffInputData
from runstream.sessions.memory import InMemorySession
from runstream.testing import HandoffTo, ScriptedModel, ToolCall


@function_tool
async def ping() -> str:
    """Ping."""
    return "pong"


def _pair(
    *steps: Any, handoffs: list[Any] | None = None, **fields: Any
) -> tuple[ScriptedModel, Agent[Any], Agent[Any]]:
    """A model and two agents of it, Ann and Bob; Ann may hand over to Bob."""
    model = ScriptedModel(steps)
    bob = Agent(name="Bob", model=model, instructions="You are Bob.", tools=[ping])
    ann = Agent(name="Ann", model=model, tools=[ping], handoffs=handoffs if handoffs is not None else [bob], **fields)
    return model, ann, bob


def _kinds(items: Any) -> list[str]:
    return [item.get("type", item.get("role")) for item in items]


async def test_the_next_agent_goes_on_with_the_whole_conversation() -> None:
    """After a handoff the other agent answers, with its own instructions and everything said so far."""
    model, ann, bob = _pair(HandoffTo("Bob"), "I am Bob")
    result = await Runner.run(ann, "hi")
    assert (result.final_output, result.last_agent) == ("I am Bob", bob)
    call = model.calls[1]
    assert call.system_instructions == "You are Bob."
    assert _kinds(call.input) == ["user", "function_call", "function_call_output"]
    assert call.input[2]["output"] == '{"assistant": "Bob"}'
    call_item, output_item, message = result.new_items
    assert (call_item.type, output_item.type, message.agent.name) == ("handoff_call_item", "handoff_output_item", "Bob")
    assert (output_item.source_agent, output_item.target_agent) == (ann, bob)  # type: ignore[union-attr]


async def test_of_several_handoffs_the_first_is_made() -> None:
    """The others are answered as ignored; every call has its output, before the agent changes."""
    model = ScriptedModel([[HandoffTo("Bob", call_id="b"), HandoffTo("Cid", call_id="c")], "done"])
    bob, cid = (Agent(name=name, model=model) for name in ("Bob", "Cid"))
    result = Runner.run_streamed(Agent(name="Ann", model=model, handoffs=[bob, cid]), "hi")
    names = [event.name async for event in result.stream_events() if isinstance(event, RunItemStreamEvent)]
    assert result.last_agent is bob
    assert names[:4] == ["handoff_requested", "handoff_requested", "tool_output", "handoff_occured"]
    outputs = {
        item["call_id"]: item["output"] for item in model.calls[1].input if item.get("type") == "function_call_output"
    }
    assert outputs == {"b": '{"assistant": "Bob"}', "c": "Multiple handoffs detected, ignoring this one."}


async def test_overrides_of_name_and_description() -> None:
    """The model sees the handoff as it was named and described."""
    bob = Agent(name="Bob", model=(model := ScriptedModel([ToolCall("go_to_bob"), "hi"])))
    target = handoff(bob, tool_name_override="go_to_bob", tool_description_override="Bob knows.")
    result = await Runner.run(Agent(name="Ann", model=model, handoffs=[target]), "hi")
    assert result.last_agent is bob
    [seen] = model.calls[0].handoffs
    assert (seen.tool_name, seen.tool_description) == ("go_to_bob", "Bob knows.")


class _Reason(BaseModel):
    why: str


@pytest.mark.parametrize("is_async", [False, True])
async def test_on_handoff_gets_the_context_and_the_input(is_async: bool) -> None:
    """What the model gives along arrives as a value of `input_type`."""
    seen: list[Any] = []

    def on_handoff(context: RunContextWrapper[Any], reason: _Reason) -> None:
        seen.append((context.context, reason))

    async def on_handoff_async(context: RunContextWrapper[Any], reason: _Reason) -> None:
        on_handoff(context, reason)

    model = ScriptedModel([HandoffTo("Bob", {"why": "angry"}), "done"])
    target = handoff(
        Agent(name="Bob", model=model), on_handoff=on_handoff_async if is_async else on_handoff, input_type=_Reason
    )
    await Runner.run(Agent(name="Ann", model=model, handoffs=[target]), "hi", context="mine")
    assert seen == [("mine", _Reason(why="angry"))]


async def test_wrong_handoff_input_ends_the_run() -> None:
    """Input that does not fit is the model's error; the call is answered, so that the next run works."""
    session = InMemorySession("s")
    model = ScriptedModel([HandoffTo("Bob", {"reason": 1}, call_id="c1"), "works"])
    target = handoff(Agent(name="Bob", model=model), on_handoff=lambda context, reason: None, input_type=_Reason)
    ann = Agent(name="Ann", model=model, handoffs=[target])
    with pytest.raises(ModelBehaviorError, match="handoff to Bob"):
        await Runner.run(ann, "hi", session=session)
    assert _kinds(await session.get_items()) == ["user", "function_call", "function_call_output"]
    assert (await Runner.run(ann, "again", session=session)).final_output == "works"


@pytest.mark.parametrize("on_run", [False, True])
async def test_an_input_filter_chooses_what_the_next_agent_sees(on_run: bool) -> None:
    """The handoff's filter, else the run's, replaces the input of the next agent; new_items keep everything."""
    seen: list[HandoffInputData] = []

    def only_the_input(data: HandoffInputData) -> HandoffInputData:
        seen.append(data)
        return data.clone(pre_handoff_items=(), new_items=())

    def forbidden(data: HandoffInputData) -> HandoffInputData:
        raise AssertionError("the handoff's own filter comes first")

    model = ScriptedModel([ToolCall("ping"), HandoffTo("Bob"), "done"])
    bob = Agent(name="Bob", model=model)
    target: Any = bob if on_run else handoff(bob, input_filter=only_the_input)
    config = RunConfig(handoff_input_filter=only_the_input if on_run else forbidden)
    result = await Runner.run(Agent(name="Ann", model=model, tools=[ping], handoffs=[target]), "hi", run_config=config)
    assert model.calls[2].input == [{"role": "user", "content": "hi"}]
    [data] = seen
    assert data.input_history == "hi"
    assert [item.type for item in data.pre_handoff_items] == ["tool_call_item", "tool_call_output_item"]
    assert [item.type for item in data.new_items] == ["handoff_call_item", "handoff_output_item"]
    assert len(result.new_items) == 5


async def test_a_filter_that_copies_items_doubles_no_events() -> None:
    """Whatever a filter returns, each item has one event, and the session gets it once."""
    session = InMemorySession("s")

    async def copy(data: HandoffInputData) -> HandoffInputData:
        from dataclasses import replace

        return data.clone(new_items=tuple(replace(item) for item in data.new_items))

    model = ScriptedModel([HandoffTo("Bob"), "done"])
    target = handoff(Agent(name="Bob", model=model), input_filter=copy)
    result = Runner.run_streamed(Agent(name="Ann", model=model, handoffs=[target]), "hi", session=session)
    items = [event.item async for event in result.stream_events() if isinstance(event, RunItemStreamEvent)]
    assert [item.type for item in items] == ["handoff_call_item", "handoff_output_item", "message_output_item"]
    assert _kinds(await session.get_items()) == ["user", "function_call", "function_call_output", "message"]
    assert _kinds(model.calls[1].input) == ["user", "function_call", "function_call_output"]


async def test_a_filter_that_returns_something_else_is_refused() -> None:
    """The error names what was returned."""
    model = ScriptedModel([HandoffTo("Bob")])
    target = handoff(Agent(name="Bob", model=model), input_filter=lambda data: list(data.new_items))  # type: ignore[arg-type, return-value]
    with pytest.raises(UserError, match="must return HandoffInputData, not list"):
        await Runner.run(Agent(name="Ann", model=model, handoffs=[target]), "hi")


async def test_a_filter_needs_the_history_here() -> None:
    """Where the provider keeps the history a filter cannot work: a clear error instead of a silent leak."""
    model = ScriptedModel([HandoffTo("Bob")])
    target = handoff(Agent(name="Bob", model=model), input_filter=lambda data: data)
    with pytest.raises(UserError, match="cannot be combined with conversation_id"):
        await Runner.run(Agent(name="Ann", model=model, handoffs=[target]), "hi", conversation_id="conv_1")


async def test_is_enabled_hides_a_handoff() -> None:
    """A handoff that is not enabled is not offered."""
    asked: list[str] = []

    def ask(context: RunContextWrapper[Any], agent: Any) -> bool:
        asked.append(agent.name)
        return True

    model = ScriptedModel(["no"])
    bob, cid = (Agent(name=name, model=model) for name in ("Bob", "Cid"))
    ann = Agent(name="Ann", model=model, handoffs=[handoff(bob, is_enabled=False), handoff(cid, is_enabled=ask)])
    await Runner.run(ann, "hi")
    assert model.calls[0].tool_names == ("transfer_to_cid",)
    assert asked == ["Ann"]


async def test_a_handoff_and_a_tool_of_one_name_are_refused() -> None:
    """The model could not tell them apart; nothing is sent."""
    model = ScriptedModel()
    ann = Agent(name="Ann", model=model, tools=[ping], handoffs=[handoff(Agent(name="Bob"), tool_name_override="ping")])
    with pytest.raises(UserError, match="a handoff and a tool of the name 'ping'"):
        await Runner.run(ann, "hi")
    assert not model.calls


async def test_a_handoff_must_give_an_agent() -> None:
    """A hand-written handoff that returns something else is refused."""

    async def invoke(context: RunContextWrapper[Any], arguments: str) -> Any:
        return "Bob"

    model = ScriptedModel([ToolCall("go")])
    odd: Handoff[Any, Any] = Handoff("go", "", {}, invoke, "Bob")
    with pytest.raises(UserError, match="'go' must give an Agent, not 'Bob'"):
        await Runner.run(Agent(name="Ann", model=model, handoffs=[odd]), "hi")


async def test_tools_of_the_turn_run_before_the_handoff() -> None:
    """Outputs of tools called beside a handoff are there for the next agent."""
    model, ann, _ = _pair([ToolCall("ping", call_id="p"), HandoffTo("Bob", call_id="h")], "done")
    await Runner.run(ann, "hi")
    sent = model.calls[1].input
    assert [item["call_id"] for item in sent if item.get("type") == "function_call_output"] == ["p", "h"]


async def test_a_handoff_counts_as_a_turn() -> None:
    """max_turns bounds agents that hand over to each other for ever."""
    from runstream import MaxTurnsExceeded

    model = ScriptedModel([HandoffTo("Bob"), HandoffTo("Ann")], repeat=True)
    ann = Agent(name="Ann", model=model)
    bob = Agent(name="Bob", model=model, handoffs=[ann])
    ann.handoffs.append(bob)
    with pytest.raises(MaxTurnsExceeded) as caught:
        await Runner.run(ann, "hi", max_turns=5)
    assert len(model.calls) == 5
    assert caught.value.run_data is not None
    assert caught.value.run_data.last_agent is bob
