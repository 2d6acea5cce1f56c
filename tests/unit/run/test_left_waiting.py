"""run/left_waiting: agents that run as tools wait for a person through any change of workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from runstream import Agent, RunConfig, Runner, Worker, function_tool
from runstream.log.memory_store import MemoryStore
from runstream.testing import FakeClock, ScriptedModel, ToolCall, Turn, When


def model(*calls: ToolCall, said: str) -> ScriptedModel:
    """Makes the calls, then says that."""
    steps = [Turn(list(calls), when=When(after_tool=False)), Turn([said], when=When(after_tool=True))]
    return ScriptedModel(steps, repeat=True)


class Desk:
    """An agent whose tool is an agent whose tool is an agent that has to ask before it pays."""

    def __init__(self, *more: ToolCall) -> None:
        self.paid = 0
        self.working = asyncio.Event()

        @function_tool(needs_approval=True)
        def pay() -> str:
            """Pay."""
            self.paid += 1
            return "paid"

        @function_tool
        async def work() -> str:
            """Works for ever."""
            self.working.set()
            await asyncio.Event().wait()
            return "done"

        self.model = model(ToolCall("pay"), *more, said="Paid.")
        cashier = Agent(name="Cashier", model=self.model, tools=[pay, work])
        clerk = Agent(
            name="Clerk",
            model=model(ToolCall("cashier", {"input": "Pay 7."}), said="It is paid."),
            tools=[cashier.as_tool("cashier", "Pays.")],
        )
        self.agent = Agent(
            name="Desk",
            model=model(ToolCall("clerk", {"input": "Go."}), said="All is done."),
            tools=[clerk.as_tool("clerk", "Helps.")],
        )


@pytest.fixture
async def store() -> AsyncGenerator[MemoryStore]:
    store = MemoryStore("memory://", clock=FakeClock())
    await store.open()
    yield store
    await store.aclose()


@asynccontextmanager
async def working(desk: Desk, store: MemoryStore, config: RunConfig, drain_s: float) -> AsyncGenerator[None]:
    worker = Worker([desk.agent], store=store, run_config=config)
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop(drain_s=drain_s)
        await task


async def asked(run: Any) -> None:
    """Return once the run has asked for approval."""
    async for event in run.events():
        if event.kind == "item" and event.data.type == "tool_approval_item":
            return


async def test_what_waits_within_agents_waits_for_the_next_worker(store: MemoryStore) -> None:
    """The worker that stops waits for nobody; the next one goes on with both nested agents, and pays once. Each was
    told the same by its call; all usage counts."""
    clock = FakeClock(autojump=False)
    config = RunConfig(clock=clock, on_approval="wait")
    first, second = Desk(), Desk()
    run_id = await Runner.submit(first.agent, "hi", store=store)
    run = await Runner.attach(run_id, store=store, agents=[first.agent])
    async with working(first, store, config, 3600):
        await asked(run)
    assert (await store.find(run_id)).status == "waiting"
    async with working(second, store, config, 3600):
        await run.approve(run.interruptions[0])
        await run.wait()
    assert (run.final_output, first.paid, second.paid) == ("All is done.", 0, 1)
    outputs = [item.output for item in run.new_items if item.type == "tool_call_output_item"]
    assert outputs == ["It is paid."]
    last = second.model.last_call
    assert last is not None
    assert (last.input[0]["content"], len(second.model.calls)) == ("Pay 7.", 1)
    assert run.context_wrapper.usage.requests == 6
    begun = [event async for event in run.events() if event.kind == "agent.start"]
    assert [event.data.previous for event in begun] == [None] * 5, "to go on is no handoff"


async def test_what_does_something_else_besides_is_not_gone_on_with(store: MemoryStore) -> None:
    """A tool beside the call that waits may have had its effect: of the agent's call the outcome is unknown."""
    config = RunConfig(clock=FakeClock(autojump=False), on_approval="wait")
    first, second = Desk(ToolCall("work")), Desk()
    run_id = await Runner.submit(first.agent, "hi", store=store)
    run = await Runner.attach(run_id, store=store, agents=[first.agent])
    async with working(first, store, config, 0):
        await asked(run)
        await first.working.wait()
    async with working(second, store, config, 0):
        await run.wait()
    assert (run.final_output, second.paid) == ("All is done.", 0)
    assert "unknown" in str([item.output for item in run.new_items if item.type == "tool_call_output_item"])
