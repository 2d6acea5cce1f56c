"""States of runs: what they tell, what they take, how often they may be used, and what they are as JSON."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from runstream import (
    Agent,
    InMemorySession,
    RunConfig,
    RunContextWrapper,
    Runner,
    RunState,
    ToolApprovalItem,
    UserError,
    function_tool,
)
from runstream.agent.handoff import HandoffInputData, handoff
from runstream.run.result import RunResult
from runstream.testing import HandoffTo, Raise, Reasoning, ScriptedModel, ToolCall

GOLDEN = Path(__file__).parents[2] / "data/states/v1.json"


@function_tool(needs_approval=True)
def refund(number: int) -> str:
    return f"refunded {number}"


@function_tool
def look() -> str:
    return "saw"


def call(number: int) -> ToolCall:
    return ToolCall("refund", {"number": number}, call_id=f"r{number}")


def agent_of(*turns: Any, name: str = "Ann", **fields: Any) -> Agent[Any]:
    return Agent(name=name, model=ScriptedModel(turns), tools=[refund, look], **fields)


async def interrupted(agent: Agent[Any], **options: Any) -> RunState[Any, Any]:
    return (await Runner.run(agent, "hi", **options)).to_state()


def model_of(agent: Agent[Any]) -> Any:
    return agent.model


# What may be answered.


async def test_what_does_not_wait_cannot_be_answered() -> None:
    """The error lists what waits: unknown ids, items of other runs, calls that were carried out."""
    state = await interrupted(agent_of([call(1), call(2)]))
    with pytest.raises(UserError, match=r"no call 'nope' waits .* what waits: 'r1', of refund\(.*'r2', of refund\("):
        state.approve("nope")
    other = (await interrupted(agent_of(ToolCall("refund", {"number": 9}, call_id="r1")))).get_interruptions()[0]
    with pytest.raises(UserError, match="belongs to another run"):
        state.reject(other)
    done = (await Runner.run(agent_of("Hi."), "hi")).to_state()
    with pytest.raises(UserError, match="nothing waits"):
        done.approve(other)


async def test_items_of_the_result_and_of_copies_name_the_same_call() -> None:
    """An item is known by its call, wherever it comes from."""
    agent = agent_of(call(1), "Done.")
    result = await Runner.run(agent, "hi")
    state = await RunState.from_json(agent, result.to_state().to_json())
    state.approve(result.interruptions[0])
    assert (await Runner.run(agent, state)).final_output == "Done."


async def test_a_later_answer_replaces_an_earlier_one() -> None:
    """Nothing has happened yet."""
    agent = agent_of(call(1), "Done.")
    state = await interrupted(agent)
    state.approve("r1")
    state.reject("r1", rejection_message="No.")
    result = await Runner.run(agent, state)
    assert model_of(agent).calls[1].input[-1]["output"] == "No."
    assert result.final_output == "Done."


async def test_answers_through_the_context_count() -> None:
    """`context_wrapper.approve_tool` before `to_state()`, also in the JSON and in the log."""
    agent = agent_of(call(1), "Done.")
    result = await Runner.run(agent, "hi")
    result.context_wrapper.approve_tool(result.interruptions[0])
    state = await RunState.from_string(agent, result.to_state().to_string())
    done = Runner.run_streamed(agent, state)
    await done.wait()
    assert done.final_output == "Done."
    assert "approval.resolved" in [event.kind async for event in done.events()]


async def test_answers_for_good_last_over_several_states() -> None:
    """What was answered in the first state holds in the JSON of the second."""
    agent = agent_of(call(1), ToolCall("refund", {"number": 2}, call_id="r2"), "Done.")
    state = await interrupted(agent)
    state.reject("r1", rejection_message="No.")
    first = await Runner.run(agent, state)
    state = await RunState.from_string(agent, first.to_state().to_string())
    state.approve("r2", always_approve=True)
    result = await Runner.run(agent, await RunState.from_string(agent, state.to_string()))
    assert [item.output for item in result.new_items if item.type == "tool_call_output_item"] == ["No.", "refunded 2"]


# How often.


async def test_a_state_stands_where_its_run_stands() -> None:
    """Given to a runner again, it goes on from there: nothing is called twice. Copies of before do not change."""
    agent = agent_of(call(1), call(2), "Done.")
    result = await Runner.run(agent, "hi")
    state, untouched = result.to_state(), result.to_state()
    state.approve("r1")
    await Runner.run(agent, state)
    assert [item.call_id for item in state.get_interruptions()] == ["r2"]
    assert [item.call_id for item in untouched.get_interruptions()] == ["r1"]
    assert result.context_wrapper.usage.requests == 1
    state.approve("r2")
    done = await Runner.run(agent, state)
    assert (done.final_output, len(done.raw_responses), state.get_interruptions()) == ("Done.", 3, [])


async def test_a_state_whose_run_goes_on_is_busy() -> None:
    """Answers go to the run's own handle then."""
    agent = agent_of(call(1), "Done.")
    state = await interrupted(agent)
    result = Runner.run_streamed(agent, state, run_config=RunConfig(on_approval="wait"))
    for use in (lambda: state.approve("r1"), lambda: state.add_input("x"), lambda: Runner.run_streamed(agent, state)):
        with pytest.raises(UserError, match=f"goes on as the run '{result.run_id}'"):
            use()
    result.cancel()
    await result.wait()
    assert state.get_interruptions() == []


async def test_unanswered_it_is_interrupted_again() -> None:
    """Without an answer nothing happens."""
    agent = agent_of(call(1))
    again = await Runner.run(agent, await interrupted(agent))
    assert [item.call_id for item in again.interruptions] == ["r1"]
    assert len(again.new_items) == 2


async def test_what_a_failure_left_can_be_gone_on_with() -> None:
    """The model is asked again; what was open has been answered."""
    agent = agent_of(ToolCall("look", call_id="l1"), Raise(ValueError("no connection")), "Done.")
    result = Runner.run_streamed(agent, "hi")
    with pytest.raises(ValueError, match="no connection"):
        await result.wait()
    done = await Runner.run(agent, await RunState.from_json(agent, result.to_state().to_json()))
    assert (done.final_output, len(done.raw_responses)) == ("Done.", 2)
    assert [item.get("type", item.get("role")) for item in model_of(agent).calls[-1].input] == [
        "user",
        "function_call",
        "function_call_output",
    ]


async def test_a_completed_run_asks_the_model_again() -> None:
    """As in the SDK."""
    agent = agent_of("One.", "Two.")
    state = await interrupted(agent)
    with pytest.raises(UserError, match="has completed"):
        state.add_input("more")
    assert (await Runner.run(agent, state)).final_output == "Two."
    assert len(model_of(agent).calls[1].input) == 2


async def test_a_run_that_has_not_begun_has_no_state() -> None:
    """Neither has a result that no run has made."""
    with pytest.raises(UserError, match="has not begun"):
        Runner.run_streamed(agent_of("Hi."), "hi").to_state()
    result: Any = await Runner.run(agent_of("Hi."), "hi")
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result) if field.init}
    with pytest.raises(UserError, match="not made by a run"):
        RunResult(**{**fields, "_standing": None}).to_state()


def test_in_code_that_is_not_asynchronous() -> None:
    """`run_sync` takes states, and a plain `for` does."""
    agent = agent_of(call(1), call(2), "Done.")
    state = Runner.run_sync(agent, "hi").to_state()
    state.approve("r1")
    result = Runner.run_streamed(agent, state)
    assert len(list(result)) > 0
    state = result.to_state()
    state.approve("r2")
    assert Runner.run_sync(agent, state).final_output == "Done."


# What is said meanwhile.


@pytest.mark.parametrize("through_json", [False, True])
async def test_added_input_is_seen_after_the_outputs(through_json: bool) -> None:
    """Once, in its order; until then it is pending; it is in the items and the session."""
    agent, session = agent_of(call(1), "Done."), InMemorySession("s")
    state = await interrupted(agent, session=session)
    state.add_input("wrong")
    state.clear_pending_input()
    state.add_input("Hurry.")
    state.add_input([{"role": "user", "content": "Please."}])
    state.pending_input.clear()
    if through_json:
        state = await RunState.from_string(agent, state.to_string())
    await Runner.run(agent, state, session=session)
    assert [item["content"] for item in state.pending_input] == ["Hurry.", "Please."]  # type: ignore[typeddict-item]
    state.approve("r1")
    result = await Runner.run(agent, state, session=session)
    assert [item.get("content") for item in model_of(agent).calls[1].input[-2:]] == ["Hurry.", "Please."]
    assert [item.type for item in result.new_items[-3:]] == ["input_item", "input_item", "message_output_item"]
    assert state.pending_input == []
    assert await session.get_items() == result.to_input_list()


async def test_input_stays_pending_where_no_turn_is_to_come() -> None:
    """After `cancel("after_turn")` it waits for the next run."""
    agent = agent_of(call(1), "Done.")
    state = await interrupted(agent)
    state.add_input("Hurry.")
    state.approve("r1")
    result = Runner.run_streamed(agent, state)
    result.cancel("after_turn")
    async for _ in result.stream_events():
        pass
    assert len(state.pending_input) == 1
    assert (await Runner.run(agent, state)).final_output == "Done."
    assert model_of(agent).calls[1].input[-1]["content"] == "Hurry."


async def test_input_that_nobody_would_see_is_refused() -> None:
    """Where no turn is left."""
    state = await interrupted(agent_of(call(1)), max_turns=1)
    with pytest.raises(UserError, match="has used its 1 turns"):
        state.add_input("Hurry.")


# Agents.


async def test_agents_are_found_by_name() -> None:
    """A program that makes its agents anew goes on with the new ones, live states and JSON alike."""

    def make(*turns: Any) -> tuple[Agent[Any], Agent[Any]]:
        bob = agent_of(*turns, name="Bob")
        return Agent(name="Ann", model=ScriptedModel([HandoffTo("Bob")]), handoffs=[bob]), bob

    ann, _ = make(call(1))
    result = await Runner.run(ann, "hi")
    for state in (result.to_state(), await RunState.from_json(ann, result.to_state().to_json())):
        other_ann, other_bob = make("Done.")
        state.approve("r1")
        done = await Runner.run(other_ann, state)
        assert (done.final_output, done.last_agent) == ("Done.", other_bob)
        assert {id(item.agent) for item in done.new_items} == {id(other_ann), id(other_bob)}
    with pytest.raises(UserError, match="needs the agent 'Bob', which is neither 'Zoe' nor"):
        await Runner.run(agent_of(name="Zoe"), result.to_state())
    with pytest.raises(UserError, match="needs the agent 'Bob', which is neither 'Zoe' nor"):
        await RunState.from_json(agent_of(name="Zoe"), result.to_state().to_json())


@pytest.mark.parametrize("through_json", [False, True])
async def test_what_a_handoffs_filter_left(through_json: bool) -> None:
    """The agent goes on with what it saw; the session has everything."""

    def last_only(data: HandoffInputData) -> HandoffInputData:
        return data.clone(input_history="only this", pre_handoff_items=())

    bob = agent_of(call(1), "Done.", name="Bob")
    ann = Agent(name="Ann", model=ScriptedModel([HandoffTo("Bob")]), handoffs=[handoff(bob, input_filter=last_only)])
    session = InMemorySession("s")
    first = await Runner.run(ann, "hi", session=session)
    state = first.to_state()
    if through_json:
        state = await RunState.from_string(ann, state.to_string())
    state.approve("r1")
    done = await Runner.run(ann, state, session=session)
    seen, seen_first = model_of(bob).calls[1].input, model_of(bob).calls[0].input
    assert seen[: len(seen_first)] == seen_first
    assert (done.input, done.final_output) == ("only this", "Done.")
    assert done.to_input_list(mode="normalized")[:-1] == seen
    stored: list[Any] = await session.get_items()
    assert [item.get("type", item.get("role")) for item in stored] == [
        "user",
        *["function_call", "function_call_output"] * 2,
        "message",
    ]


async def test_a_session_that_others_write_to_meanwhile() -> None:
    """The run goes on with what it began with, and adds what is its own."""
    agent, session = agent_of("First.", call(1), "Third.", "Fourth."), InMemorySession("s")
    await Runner.run(agent, "one", session=session)
    state = (await Runner.run(agent, "two", session=session)).to_state()
    await session.add_items([{"role": "user", "content": "aside"}])
    state = await RunState.from_string(agent, state.to_string())
    state.approve("r1")
    await Runner.run(agent, state, session=session)
    told = [item.get("content") or item["type"] for item in model_of(agent).calls[2].input]
    assert (told[0], told[2:]) == ("one", ["two", "function_call", "function_call_output"])
    stored: list[Any] = await session.get_items()
    assert [item.get("type", item.get("content")) for item in stored][2:] == [
        "two",
        "aside",
        "function_call",
        "function_call_output",
        "message",
    ]


async def test_outputs_that_are_no_text() -> None:
    """A tool's output that becomes the run's is what the tool gave, also after JSON."""

    @function_tool
    def figures() -> dict[str, Any]:
        return {"of": [1, 2]}

    agent = agent_of([ToolCall("figures", call_id="f1"), call(1)], tool_use_behavior="stop_on_first_tool")
    agent.tools.append(figures)
    state = await RunState.from_string(agent, (await interrupted(agent)).to_string())
    state.approve("r1")
    assert (await Runner.run(agent, state)).final_output == {"of": [1, 2]}


# The context.


class Order(BaseModel):
    number: int


@dataclasses.dataclass
class Basket:
    size: int


async def context_after(context: Any, *, save: Any = None, load: Any = None) -> Any:
    agent = agent_of(call(1), "Done.")
    text = (await interrupted(agent, context=context)).to_string(**(save or {}))
    state = await RunState.from_string(agent, text, **(load or {}))
    state.approve("r1")
    return (await Runner.run(agent, state)).context_wrapper.context


@pytest.mark.parametrize("context", [None, {"a": [1, {"b": None}]}, "text", [1, 2]])
async def test_a_context_that_is_json_is_kept(context: Any) -> None:
    """Of any kind."""
    assert await context_after(context, save={"strict_context": True}, load={"strict_context": True}) == context


@pytest.mark.parametrize(("context", "kept"), [(Order(number=3), {"number": 3}), (Basket(2), {"size": 2})])
async def test_a_context_with_fields_is_kept_as_a_dict(context: Any, kept: Any, caplog: Any) -> None:
    """With a warning on both ways, unless it is told how to come back."""
    assert await context_after(context) == kept
    assert len(caplog.records) == 2
    back = {"context_deserializer": lambda fields: type(context)(**fields), "strict_context": True}
    assert await context_after(context, load=back) == context


async def test_any_other_context_needs_help(caplog: Any) -> None:
    """It is left out with a warning; strict, that is an error; a serializer, an override or a new one helps."""
    context = {"connection": object()}
    assert await context_after(context) is None
    assert "is left out of the state" in caplog.text
    with pytest.raises(UserError, match="is not JSON: give a context_serializer"):
        await context_after(context, save={"strict_context": True})
    with pytest.raises(UserError, match="was left out of the state: give a context_override"):
        await context_after(context, load={"strict_context": True})
    assert await context_after(context, load={"context_override": {"x": 1}}) == {"x": 1}
    assert await context_after(context, load={"context_override": RunContextWrapper(context)}) is context
    save, load = {"context_serializer": lambda given: {"n": 1}}, {"context_deserializer": lambda kept: kept["n"]}
    assert await context_after(context, save=save, load=load) == 1
    with pytest.raises(UserError, match="must return a dict"):
        await context_after(context, save={"context_serializer": lambda given: 1})
    with pytest.raises(UserError, match=r"context_deserializer failed .* division by zero"):
        await context_after(context, save=save, load={"context_deserializer": lambda kept: 1 / 0})


async def test_a_context_given_anew_replaces_the_kept_one() -> None:
    """Usage and decisions stay."""
    agent = agent_of(call(1), "Done.")
    state = await interrupted(agent, context="old")
    state.approve("r1")
    result = await Runner.run(agent, state, context="new")
    assert (result.context_wrapper.context, result.context_wrapper.usage.requests) == ("new", 2)


# The form.


async def test_the_golden_state() -> None:
    """A state that an earlier version wrote is gone on with; what is written today has the same form."""
    bob = agent_of("Done.", name="Bob")
    ann = Agent(name="Ann", handoffs=[bob])
    text = GOLDEN.read_text()
    state = await RunState.from_string(ann, text)
    assert [(item.call_id, item.arguments) for item in state.get_interruptions()] == [
        ("r1", '{"number":1}'),
        ("r2", '{"number":2}'),
    ]
    assert state.to_json() == json.loads(text)
    result = await Runner.run(ann, state)
    told = {item.call_id: item.output for item in result.new_items if item.type == "tool_call_output_item"}
    assert told == {"l1": "saw", "r1": "refunded 1", "r2": "No."}
    assert (result.final_output, result.context_wrapper.usage.requests) == ("Done.", 4)
    assert result.context_wrapper.context == {"user": 7}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{", "not the JSON of a run's state"),
        ("[]", "is a JSON object, not list"),
        ("{}", "its format is None"),
        ('{"$schemaVersion": "1.21"}', "written by the OpenAI Agents SDK"),
        ('{"format": "runstream.run_state", "version": 99}', "has version 99; this version of runstream reads up to 1"),
        ('{"format": "runstream.run_state", "version": 1}', r"not the state of a run \(KeyError\('run'\)\)"),
        ('{"format": "runstream.run_state", "version": 1, "run": []}', "not the state of a run"),
    ],
)
async def test_what_is_no_state_says_so(given: str, message: str) -> None:
    """Always a UserError that tells why."""
    with pytest.raises(UserError, match=message):
        await RunState.from_string(agent_of(), given)


async def test_names_of_the_sdk_with_little_to_do() -> None:
    """They are there; what cannot be meant is an error."""
    agent = agent_of([Reasoning("hm"), call(1)], "Done.")
    state = await interrupted(agent)
    state.set_trace(None)
    assert state.get_tool_use_tracker_snapshot() == {"Ann": ["refund"]}
    state.set_tool_use_tracker_snapshot({"Ann": ["refund"]})
    with pytest.raises(UserError, match="is read from the items"):
        state.set_tool_use_tracker_snapshot({"Ann": ["other"]})
    state.set_reasoning_item_id_policy("omit")
    state = await RunState.from_string(agent, state.to_string(include_tracing_api_key=True))
    state.approve("r1")
    await Runner.run(agent, state)
    [reasoning] = [item for item in model_of(agent).calls[1].input if item.get("type") == "reasoning"]
    assert "id" not in reasoning


async def test_a_state_made_by_hand() -> None:
    """The constructor of the SDK: a run that is to begin."""
    agent = agent_of("Done.")
    state: Any = RunState(RunContextWrapper("mine"), "hi", agent, max_turns=3)
    state.add_input("and more")
    result = await Runner.run(agent, state)
    assert (result.final_output, result.max_turns, result.context_wrapper.context) == ("Done.", 3, "mine")
    assert [item["content"] for item in model_of(agent).calls[0].input] == ["hi", "and more"]


async def test_interruptions_are_items() -> None:
    """The same as in the result."""
    result = await Runner.run(agent_of(call(1)), "hi")
    [item] = result.to_state().get_interruptions()
    assert isinstance(item, ToolApprovalItem)
    assert item is result.interruptions[0]
