"""Who carries a run out and who follows it from its store see the same conversation, whatever handoffs' filters do."""

import dataclasses
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from runstream import Agent, HandoffInputData, RunConfig, Runner, RunState, function_tool, handoff
from runstream.events.codec import plain
from runstream.log.memory_store import MemoryStore
from runstream.testing import HandoffTo, Reasoning, ScriptedModel, ToolCall

SAID = {"role": "user", "content": "More."}


def cut(data: HandoffInputData) -> HandoffInputData:
    history = data.input_history
    return data.clone(input_history=history[-2:], pre_handoff_items=data.pre_handoff_items[1:])


def told_in_other_words(data: HandoffInputData) -> HandoffInputData:
    return data.clone(input_history="In other words.", pre_handoff_items=data.pre_handoff_items[-2:])


def nothing(data: HandoffInputData) -> HandoffInputData:
    return data.clone(input_history=(), pre_handoff_items=(), new_items=())


def with_more(data: HandoffInputData) -> HandoffInputData:
    history = data.input_history
    items = ({"role": "user", "content": history},) if isinstance(history, str) else history
    return data.clone(input_history=(*items, SAID), input_items=data.new_items[-1:])


FILTERS = (None, cut, told_in_other_words, nothing, with_more)

turns = st.lists(
    st.one_of(
        st.just([ToolCall("free", {})]),
        st.just([Reasoning("Hm."), ToolCall("gated", {})]),
        st.just([ToolCall("gated", {}), HandoffTo("Ann")]),
        st.sampled_from([[HandoffTo("Ann")], ["So.", HandoffTo("Bob")]]),
    ),
    min_size=1,
    max_size=5,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A script, what the filters of the handoffs to Ann and to Bob do, and how it is run."""

    script: list[Any]
    filters: tuple[Any, Any]
    given: Any
    omits_ids: bool
    through_json: bool


cases = st.builds(
    Case,
    turns,
    st.tuples(st.sampled_from(FILTERS), st.sampled_from(FILTERS)),
    st.sampled_from(["hi", [{"role": "user", "content": "One."}, {"role": "user", "content": "Two."}]]),
    st.booleans(),
    st.booleans(),
)


def agents_of(case: Case) -> Agent[Any]:
    async def free() -> str:
        return "free"

    async def gated() -> str:
        return "allowed"

    tools = [function_tool(free), function_tool(gated, needs_approval=True)]
    model = ScriptedModel([*case.script, "Done."])
    ann, bob = (Agent(name=name, model=model, tools=tools) for name in ("Ann", "Bob"))
    ways: list[Any] = [
        handoff(agent, input_filter=found) for agent, found in zip((ann, bob), case.filters, strict=True)
    ]
    ann.handoffs = bob.handoffs = ways
    return ann


def seen(result: Any) -> Any:
    lists = [result.to_input_list(), result.to_input_list(mode="normalized")]
    return plain([result.input, *lists, result.final_output])


@settings(max_examples=30)
@given(cases)
async def test_owner_and_follower_see_the_same(case: Case) -> None:
    """Input, and input of the next run, with all that was said and with what the last agent saw; also of runs that were
    interrupted and go on, from a state that the follower gives."""
    store = MemoryStore()
    await store.open()
    policy = {"reasoning_item_id_policy": "omit"} if case.omits_ids else {}
    config = RunConfig(store=store, **policy)  # type: ignore[arg-type]
    ann, given_input = agents_of(case), case.given
    while True:
        owner = Runner.run_streamed(ann, given_input, run_config=config, max_turns=50)
        await owner.wait()
        follower = await Runner.attach(owner.run_id, store=store, agents=[ann], run_config=config)
        assert seen(follower) == seen(owner)
        if not owner.interruptions:
            break
        states = [each.to_state() for each in (owner, follower)]
        if case.through_json:
            states = [await RunState.from_string(ann, state.to_string()) for state in states]
        given_input = states[1]
        for item in follower.interruptions:
            given_input.approve(item)
    await store.aclose()
