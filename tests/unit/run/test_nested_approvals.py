"""Calls of nested agents that wait for a person: interruptions of the run that calls them, wherever it goes on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from runstream import Agent, RunConfig, Runner, RunResultStreaming, RunState, ToolApprovalItem, UserError, function_tool
from runstream.log.memory_store import MemoryStore
from runstream.run.approvals import REJECTED_OUTPUT
from runstream.testing import FakeClock, ScriptedModel, ToolCall


class Desk:
    """Two agents, one a tool of the other, or three."""

    def __init__(self, *, levels: int = 1, pays: int = 1, asks: int = 1) -> None:
        self.paid: list[int] = []

        @function_tool(needs_approval=True)
        async def pay(number: int) -> str:
            self.paid.append(number)
            return f"paid {number}"

        wanted = [ToolCall("pay", {"number": n}, call_id=f"p{n}") for n in range(1, pays + 1)]
        self.inner_model = ScriptedModel([*[wanted] * asks, *["inner done"] * asks])
        agent = Agent(name="Inner", model=self.inner_model, tools=[pay])
        for level in range(1, levels):
            call = ToolCall("ask", {"input": "please"}, call_id=f"m{level}")
            tool = agent.as_tool("ask", None)
            agent = Agent(name=f"Middle {level}", model=ScriptedModel([[call], f"middle {level} done"]), tools=[tool])
        calls = [ToolCall("ask", {"input": "please"}, call_id=f"c{n}") for n in range(1, asks + 1)]
        self.outer_model = ScriptedModel([calls, "done"])
        self.agent = Agent(name="Outer", model=self.outer_model, tools=[agent.as_tool("ask", None)])

    async def interrupted(self) -> RunState[Any, Any]:
        result = await Runner.run(self.agent, "hi")
        assert result.final_output is None
        assert [item.call_id for item in result.interruptions] == [
            item.call_id for item in result.to_state().get_interruptions()
        ]
        return result.to_state()


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("form", ["live", "json"])
async def test_an_approved_call_is_made_and_everything_goes_on(levels: int, form: str) -> None:
    """Each agent goes on where it was: the call is made once, no model is asked again for what it has said."""
    desk = Desk(levels=levels)
    state = await desk.interrupted()
    if form == "json":
        state = await RunState.from_string(desk.agent, state.to_string())
    (request,) = state.get_interruptions()
    assert (request.agent.name, request.tool_name, request.call_id) == ("Inner", "pay", "p1")
    state.approve(request)
    result = await Runner.run(desk.agent, state)
    assert result.final_output == "done"
    assert desk.paid == [1]
    assert len(desk.inner_model.calls) == len(desk.outer_model.calls) == 2
    assert result.context_wrapper.usage.requests == 2 * (levels + 1)


async def test_a_rejected_call_is_told_to_the_nested_model() -> None:
    """With the message, or the usual words."""
    for message, told in (("Not today.", "Not today."), (None, REJECTED_OUTPUT)):
        desk = Desk()
        state = await desk.interrupted()
        state.reject("p1", rejection_message=message)
        await Runner.run(desk.agent, state)
        sent: Any = desk.inner_model.calls[1].input
        assert sent[-1]["output"] == told
        assert desk.paid == []


async def test_a_state_may_be_answered_bit_by_bit() -> None:
    """What is not answered waits on; nothing of it is asked again, and what was answered is done once."""
    desk = Desk(pays=2)
    state = await desk.interrupted()
    state.approve("p1")
    result = await Runner.run(desk.agent, state)
    assert [item.call_id for item in result.interruptions] == ["p2"]
    assert desk.paid == [1]
    again = await Runner.run(desk.agent, result.to_state())
    assert [item.call_id for item in again.interruptions] == ["p2"]
    assert len(desk.inner_model.calls) == 1
    state = again.to_state()
    state.approve("p2")
    assert (await Runner.run(desk.agent, state)).final_output == "done"
    assert desk.paid == [1, 2]


async def test_two_nested_runs_wait_apart() -> None:
    """Calls of one id, in two nested runs: the item tells which one is meant."""
    desk = Desk(asks=2)
    state = await desk.interrupted()
    first, second = state.get_interruptions()
    assert first.call_id == second.call_id == "p1"
    state.approve(second)
    state.reject(first)
    result = await Runner.run(desk.agent, state)
    assert result.final_output == "done"
    assert desk.paid == [1]


async def test_the_tool_itself_may_need_approval() -> None:
    """First the call of the agent, then the call that the agent makes."""
    desk = Desk()
    inner = desk.agent.tools[0].agent  # type: ignore[union-attr]
    desk.agent.tools[0] = inner.as_tool("ask", None, needs_approval=True)
    result = await Runner.run(desk.agent, "hi")
    for call_id in ("c1", "p1"):
        assert [item.call_id for item in result.interruptions] == [call_id]
        state = result.to_state()
        state.approve(call_id)
        result = await Runner.run(desk.agent, state)
    assert (result.final_output, desk.paid) == ("done", [1])


async def test_a_state_names_what_it_lacks() -> None:
    """A stored state whose agent has lost its tool, and an answer to nothing."""
    desk = Desk()
    state = await desk.interrupted()
    text = state.to_string()
    assert json.loads(text)["nested"].keys() == {"c1"}
    with pytest.raises(UserError, match="'p1', of pay"):
        state.approve("p9")
    desk.agent.tools.clear()
    with pytest.raises(UserError, match="needs the tool 'ask' of the agent 'Outer'"):
        await RunState.from_string(desk.agent, text)


async def _approve_when_asked(result: RunResultStreaming, clock: FakeClock) -> None:
    while not result.pending_approvals:
        await clock.sleep(0.1)
    (request,) = result.pending_approvals
    assert request.call_id == "p1"
    await result.approve(request)
    await result.approve("p1")  # a second time changes nothing


@pytest.mark.parametrize("levels", [1, 2])
async def test_a_run_waits_in_place_for_a_nested_call(levels: int) -> None:
    """`result.approve` reaches the nested run, which tells of the answer under its path and goes on."""
    clock, desk = FakeClock(), Desk(levels=levels)
    result = Runner.run_streamed(desk.agent, "hi", run_config=RunConfig(on_approval="wait", clock=clock))
    events, _ = await asyncio.gather(_all(result), _approve_when_asked(result, clock))
    assert (result.final_output, desk.paid) == ("done", [1])
    (answer,) = [event for event in events if event.kind == "approval.resolved"]
    assert (len(answer.path), answer.data.call_id, answer.data.approved) == (levels, "p1", True)
    assert len(desk.inner_model.calls) == 2
    assert result.pending_approvals == []


async def _all(result: RunResultStreaming) -> list[Any]:
    return [event async for event in result.events()]


@pytest.mark.parametrize("levels", [1, 2])
async def test_a_nested_call_may_be_answered_as_soon_as_it_is_told(levels: int) -> None:
    """Whoever reads the request may answer it at once, though the nested run has yet to come to its wait."""
    desk = Desk(levels=levels)
    result = Runner.run_streamed(desk.agent, "hi", run_config=RunConfig(on_approval="wait"))
    async with asyncio.timeout(5):
        async for event in result.events():
            if isinstance(event.live, ToolApprovalItem):
                await result.approve(event.live)
                await result.approve("p1")  # a second time changes nothing
                with pytest.raises(UserError, match="was approved already"):
                    await result.reject("p1")
    assert (result.final_output, desk.paid) == ("done", [1])


async def test_an_early_answer_to_a_nested_call_outlives_the_answers_to_others() -> None:
    """While the nested run waits for another tool, its request is answered, then one of its caller: both hold."""
    done, paid = asyncio.Event(), list[str]()

    @function_tool(needs_approval=True)
    async def pay(to: str) -> str:
        paid.append(to)
        return f"paid {to}"

    @function_tool
    async def count() -> str:
        await done.wait()
        return "counted"

    def calls(to: str, other: str, arguments: dict[str, Any]) -> list[Any]:
        return [ToolCall("pay", {"to": to}, call_id=to), ToolCall(other, arguments, call_id=other)]

    inner = Agent(name="Inner", model=ScriptedModel([calls("inner", "count", {}), "inner done"]), tools=[pay, count])
    model = ScriptedModel([calls("outer", "ask", {"input": "please"}), "done"])
    agent = Agent(name="Outer", model=model, tools=[pay, inner.as_tool("ask", None)])
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(on_approval="wait"))
    async with asyncio.timeout(5):
        async for event in result.events():
            if isinstance(event.live, ToolApprovalItem) and event.path:
                await result.approve("inner")
                await result.approve("outer")
            if event.kind == "item" and event.data.type == "tool_call_output_item" and not event.path:
                done.set()
    assert (result.final_output, paid) == ("done", ["outer", "inner"])


async def test_a_nested_call_is_approved_from_elsewhere() -> None:
    """Whoever is attached to a stored run sees what its nested agents wait for, and answers it."""
    clock, desk = FakeClock(), Desk()
    store = MemoryStore(clock=clock)
    await store.open()
    config = RunConfig(on_approval="wait", clock=clock, store=store, run_id="run")
    result = Runner.run_streamed(desk.agent, "hi", run_config=config)
    while not result.pending_approvals:
        await clock.sleep(0.1)
    attached = await Runner.attach("run", store=store, run_config=RunConfig(clock=clock))
    assert [item.call_id for item in attached.pending_approvals] == ["p1"]
    await attached.approve("p1")
    async with asyncio.timeout(5):
        seen = [event async for event in attached.stream_events(nested=True)]
    assert (attached.final_output, desk.paid) == ("done", [1])
    assert attached.pending_approvals == []
    assert {event.path for event in seen} == {(), ("c1",)}
    assert [item.type for item in attached.new_items] == [item.type for item in result.new_items]
    await store.aclose()


async def test_after_a_cancel_nothing_waits() -> None:
    """The nested run's call was answered as every open one: the state of the run asks nobody for anything."""
    clock, desk = FakeClock(), Desk()
    result = Runner.run_streamed(desk.agent, "hi", run_config=RunConfig(on_approval="wait", clock=clock))
    while not result.pending_approvals:
        await clock.sleep(0.1)
    result.cancel()
    events = await _all(result)
    assert events[-1].data.status == "cancelled"
    state = result.to_state()
    assert (state.get_interruptions(), result.interruptions) == ([], [])
    assert "nested" not in state.to_json()
    assert (await Runner.run(desk.agent, state)).final_output == "done"
