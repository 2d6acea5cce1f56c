"""Laws of runs that are interrupted and go on, over random scripts and random answers."""

import asyncio
import dataclasses
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from runstream import Agent, InMemorySession, RunConfig, Runner, RunState, ToolApprovalItem, function_tool
from runstream.run.approvals import REJECTED_OUTPUT
from runstream.run.history import open_calls
from runstream.testing import HandoffTo, ScriptedModel, ToolCall

AGENTS = ("Ann", "Bob")

calls = st.builds(
    lambda name, number: ToolCall(name, {"number": number}),
    st.sampled_from(["free", "gated", "judged"]),
    st.integers(0, 3),
)
turns = st.lists(
    st.tuples(
        st.sampled_from([[], ["Let me see."]]),
        st.lists(calls, min_size=1, max_size=4),
        st.sampled_from([[], [], [], [HandoffTo("Ann")], [HandoffTo("Bob")]]),
    ).map(lambda parts: [*parts[0], *parts[1], *parts[2]]),
    min_size=1,
    max_size=4,
)


@dataclasses.dataclass(frozen=True)
class Answers:
    """How a person answers, one of these after the other, round and round."""

    approved: tuple[bool, ...]
    at_once: int
    """So many calls are answered before the run goes on."""


answers = st.builds(Answers, st.lists(st.booleans(), min_size=1, max_size=5).map(tuple), st.integers(1, 4))


class World:
    """Two agents that hand over to each other, and what their tools have done."""

    def __init__(self, script: list[Any]) -> None:
        self.done: list[tuple[str, int]] = []

        def tool(name: str, needs: Any) -> Any:
            async def work(number: int) -> str:
                self.done.append((name, number))
                return f"{name} {number}"

            return function_tool(work, name_override=name, needs_approval=needs)

        async def judge(context: Any, arguments: dict[str, Any], call_id: str) -> bool:
            return arguments["number"] > 1

        tools = [tool("free", False), tool("gated", True), tool("judged", judge)]
        self.model = ScriptedModel([*script, "Done."])
        self.ann = Agent(name="Ann", model=self.model, tools=tools)
        self.bob = Agent(name="Bob", model=self.model, tools=tools, handoffs=[self.ann])
        self.ann.handoffs = [self.bob]
        self.bob.handoffs = [self.ann, self.bob]
        self.ann.handoffs = [self.bob, self.ann]
        self.session = InMemorySession("s")

    def told(self) -> list[Any]:
        return [call.input for call in self.model.calls]


@dataclasses.dataclass
class Outcome:
    """What must not depend on how a run was carried out."""

    items: list[Any]
    done: list[Any]
    told: list[Any]
    stored: list[Any]
    final: Any
    requests: int


def outcome_of(world: World, result: Any, stored: list[Any]) -> Outcome:
    items = [(item.type, item.raw_item) for item in result.new_items if not isinstance(item, ToolApprovalItem)]
    plain = [(kind, raw if isinstance(raw, dict) else raw.model_dump(exclude_unset=True)) for kind, raw in items]
    return Outcome(plain, world.done, world.told(), stored, result.final_output, result.context_wrapper.usage.requests)


async def interrupted_run(
    script: list[Any], person: Answers, streamed: list[bool], *, through_json: bool
) -> tuple[Outcome, list[int]]:
    """The run with its interruptions; and at the end of each part, how many items it had."""
    world, given_input, answered, sizes = World(script), "hi", 0, list[int]()
    while True:
        if streamed[len(sizes) % len(streamed)]:
            result: Any = Runner.run_streamed(world.ann, given_input, session=world.session, max_turns=50)
            shown = [event.item async for event in result.stream_events() if event.type == "run_item_stream_event"]
            before = sizes[-1] if sizes else 0
            new = [item for item in result.new_items[before:] if not isinstance(item, ToolApprovalItem)]
            assert [id(item) for item in shown] == [id(item) for item in new]
        else:
            result = await Runner.run(world.ann, given_input, session=world.session, max_turns=50)
        sizes.append(len(result.new_items))
        stored: list[Any] = await world.session.get_items()
        called = [item["call_id"] for item in stored if item.get("type") == "function_call"]
        assert called == list(dict.fromkeys(called))
        assert set(called) == {item["call_id"] for item in stored if item.get("type") == "function_call_output"}
        if not result.interruptions:
            assert open_calls(result.new_items) == []
            return outcome_of(world, result, stored), sizes
        state: RunState[Any, Any] = result.to_state()
        if through_json:
            state = await RunState.from_string(world.ann, state.to_string())
        for item in result.interruptions[: person.at_once]:
            if person.approved[answered % len(person.approved)]:
                state.approve(item)
            else:
                state.reject(item)
            answered += 1
        given_input = state  # type: ignore[assignment]


async def waiting_run(script: list[Any], person: Answers) -> Outcome:
    """The same where the run waits in place."""
    world, answered = World(script), 0
    config = RunConfig(on_approval="wait", on_abandon="detach")
    result = Runner.run_streamed(world.ann, "hi", session=world.session, run_config=config, max_turns=50)
    async for event in result.events():
        if event.kind == "item" and event.data.type == "tool_approval_item":
            if person.approved[answered % len(person.approved)]:
                await result.approve(event.live)
            else:
                await result.reject(event.live.call_id)
            answered += 1
    await result.wait()
    return outcome_of(world, result, list(await world.session.get_items()))


def gist(outcome: Outcome) -> list[str]:
    return sorted(
        f"{kind} {raw.get('name')} {raw.get('arguments')} {raw.get('output')} {raw.get('content')}"
        for kind, raw in outcome.items
    )


@settings(max_examples=30)
@given(turns, answers, st.lists(st.booleans(), min_size=1, max_size=3), st.booleans())
def test_however_a_run_goes_on_it_comes_to_the_same(
    script: list[Any], person: Answers, streamed: list[bool], through_json: bool
) -> None:
    """`run` and `run_streamed` mixed, live or through JSON: same items, same calls, same requests, same session."""

    async def both() -> tuple[tuple[Outcome, list[int]], tuple[Outcome, list[int]]]:
        plainly = await interrupted_run(script, person, [False], through_json=False)
        return plainly, await interrupted_run(script, person, streamed, through_json=through_json)

    one, other = asyncio.run(both())
    assert one == other
    assert one[0].final == "Done."
    assert one[0].requests == len(one[0].told)


@settings(max_examples=20)
@given(turns, answers)
def test_waiting_in_place_comes_to_what_interrupting_comes_to(script: list[Any], person: Answers) -> None:
    """Apart from the order in which tools side by side end, and the ids that the scripted model derives from it."""

    async def both() -> tuple[Outcome, Outcome]:
        return (await interrupted_run(script, person, [True], through_json=False))[0], await waiting_run(script, person)

    interrupted, waiting = asyncio.run(both())
    assert gist(waiting) == gist(interrupted)
    assert sorted(waiting.done) == sorted(interrupted.done)
    assert (waiting.final, waiting.requests) == (interrupted.final, interrupted.requests)
    assert REJECTED_OUTPUT not in [name for name, _ in waiting.done]
