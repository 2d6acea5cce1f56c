"""Hooks: which are called, when, with what, and what their errors do."""

import asyncio
from typing import Any

import pytest

from runstream import Agent, AgentHooks, RunConfig, RunHooks, Runner, function_tool
from runstream.run.result import RunResultStreaming
from runstream.sessions.memory import InMemorySession
from runstream.testing import FakeClock, HandoffTo, ScriptedModel, ToolCall


@function_tool
async def ping() -> str:
    """Ping."""
    return "pong"


class _Noted(RunHooks):
    """Notes every call of a run's hook."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    async def on_agent_start(self, context: Any, agent: Any) -> None:
        self.notes.append(f"agent_start {agent.name}")

    async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
        self.notes.append(f"agent_end {agent.name} {output}")

    async def on_handoff(self, context: Any, from_agent: Any, to_agent: Any) -> None:
        self.notes.append(f"handoff {from_agent.name} {to_agent.name}")

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        self.notes.append(f"tool_start {tool.name} {context.tool_call_id}")

    async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
        self.notes.append(f"tool_end {tool.name} {result}")

    async def on_llm_start(self, context: Any, agent: Any, system_prompt: Any, input_items: list[Any]) -> None:
        self.notes.append(f"llm_start {agent.name} {system_prompt} {len(input_items)}")

    async def on_llm_end(self, context: Any, agent: Any, response: Any) -> None:
        self.notes.append(f"llm_end {agent.name} {context.usage.requests}")


class _NotedAgent(AgentHooks):
    """Notes every call of one agent's hook."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    async def on_start(self, context: Any, agent: Any) -> None:
        self.notes.append(f"start {agent.name}")

    async def on_end(self, context: Any, agent: Any, output: Any) -> None:
        self.notes.append(f"end {agent.name} {output}")

    async def on_handoff(self, context: Any, agent: Any, source: Any) -> None:
        self.notes.append(f"handoff to {agent.name} from {source.name}")

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        self.notes.append(f"tool_start {tool.name}")

    async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
        self.notes.append(f"tool_end {tool.name}")

    async def on_llm_start(self, context: Any, agent: Any, system_prompt: Any, input_items: list[Any]) -> None:
        self.notes.append("llm_start")

    async def on_llm_end(self, context: Any, agent: Any, response: Any) -> None:
        self.notes.append("llm_end")


def _desk(hooks: Any = None) -> Agent[Any]:
    model = ScriptedModel([ToolCall("ping", call_id="c1"), HandoffTo("Bob"), "done"], clock=FakeClock())
    bob = Agent(name="Bob", model=model)
    return Agent(name="Ann", model=model, instructions="Be kind.", tools=[ping], handoffs=[bob], hooks=hooks)


async def _run(agent: Agent[Any], *, streamed: bool, **options: Any) -> Any:
    if streamed:
        return await Runner.run_streamed(agent, "hi", **options).wait()
    return await Runner.run(agent, "hi", **options)


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_order_of_a_runs_hooks(streamed: bool) -> None:
    """Agent, model, tool and handoff hooks come in the order of what happens, the same in both ways to run."""
    notes: list[str] = []
    await _run(_desk(), streamed=streamed, hooks=_Noted(notes))
    assert notes == [
        "agent_start Ann",
        "llm_start Ann Be kind. 1",
        "llm_end Ann 1",
        "tool_start ping c1",
        "tool_end ping pong",
        "llm_start Ann Be kind. 3",
        "llm_end Ann 2",
        "handoff Ann Bob",
        "agent_start Bob",
        "llm_start Bob None 5",
        "llm_end Bob 3",
        "agent_end Bob done",
    ]


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_agents_hooks_are_about_that_agent(streamed: bool) -> None:
    """An agent's hooks see its own start, calls, tools and handoff, and nothing of the next agent."""
    notes: list[str] = []
    await _run(_desk(_NotedAgent(notes)), streamed=streamed)
    assert notes == [
        "start Ann",
        "llm_start",
        "llm_end",
        "tool_start ping",
        "tool_end ping",
        "llm_start",
        "llm_end",
        "handoff to Bob from Ann",
    ]
    notes = []
    agent = Agent(name="Ann", model=ScriptedModel(["x"]), hooks=_NotedAgent(notes))
    await _run(agent, streamed=streamed)
    assert notes == ["start Ann", "llm_start", "llm_end", "end Ann x"]


HOOKS = [name for name in dir(_Noted) if name.startswith("on_")]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", HOOKS)
async def test_an_error_in_a_hook_fails_the_run_and_leaves_nothing_open(name: str, streamed: bool) -> None:
    """The hook's own error is raised; calls are answered, the session is saved, and the next run works."""

    async def fail(*arguments: Any, **fields: Any) -> None:
        raise ZeroDivisionError(name)

    hooks = _Noted([])
    setattr(hooks, name, fail)
    session = InMemorySession("s")
    agent = _desk()
    with pytest.raises(ZeroDivisionError, match=name):
        await _run(agent, streamed=streamed, hooks=hooks, session=session)
    items: list[Any] = await session.get_items()
    calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
    outputs = [item["call_id"] for item in items if item.get("type") == "function_call_output"]
    assert calls == outputs
    again = Agent(name="Ann", model=ScriptedModel(["works"]))
    assert (await Runner.run(again, "more", session=session)).final_output == "works"


async def test_what_a_tool_gave_is_kept_although_its_hook_fails() -> None:
    """on_tool_end comes after the tool has run: its output stands, whatever the hook does."""

    class Hooks(RunHooks):
        async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
            raise ZeroDivisionError

    session = InMemorySession("s")
    with pytest.raises(ZeroDivisionError):
        await Runner.run(_desk(), "hi", hooks=Hooks(), session=session)
    assert (await session.get_items())[-1]["output"] == "pong"  # type: ignore[typeddict-item]


async def test_what_the_model_said_is_kept_although_a_hook_fails() -> None:
    """on_llm_end comes when the answer is complete: readers have seen it, so it is kept and counted."""

    class Hooks(RunHooks):
        async def on_llm_end(self, context: Any, agent: Any, response: Any) -> None:
            raise ZeroDivisionError

    session = InMemorySession("s")
    agent = Agent(name="Ann", model=ScriptedModel(["all of it"]))
    result = Runner.run_streamed(agent, "hi", hooks=Hooks(), session=session)
    with pytest.raises(ZeroDivisionError):
        await result.wait()
    assert (await session.get_items())[-1]["content"][0]["text"] == "all of it"  # type: ignore[typeddict-item]
    assert result.context_wrapper.usage.requests == 1


async def test_hooks_of_run_and_agent_run_side_by_side() -> None:
    """Two slow hooks take as long as one; if one fails, the other is not left behind."""
    clock = FakeClock()
    ends: list[str] = []

    class Slow(RunHooks):
        async def on_llm_start(self, *arguments: Any) -> None:
            await clock.sleep(10.0)
            if failing:
                raise ZeroDivisionError

    class SlowAgent(AgentHooks):
        async def on_llm_start(self, *arguments: Any) -> None:
            try:
                await clock.sleep(11.0)
                ends.append("finished")
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise

    for failing in (False, True):
        agent = Agent(name="Ann", model=ScriptedModel(["x"]), hooks=SlowAgent())
        started_at = clock.now()
        running = Runner.run(agent, "hi", hooks=Slow(), run_config=RunConfig(clock=clock))
        if failing:
            with pytest.raises(ZeroDivisionError):
                await running
            assert clock.now() - started_at == 10.0
        else:
            await running
            assert clock.now() - started_at == 11.0
    assert ends == ["finished", "cancelled"]


async def test_cancel_during_hooks_leaves_none_behind() -> None:
    """A cancelled run takes its waiting hooks with it."""
    ends: list[str] = []

    class Slow(RunHooks):
        async def on_llm_start(self, *arguments: Any) -> None:
            await self._wait()

        async def _wait(self) -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ends.append("stopped")

    class SlowAgent(AgentHooks):
        async def on_llm_start(self, *arguments: Any) -> None:
            await Slow()._wait()

    agent = Agent(name="Ann", model=ScriptedModel([]), hooks=SlowAgent())
    result: RunResultStreaming = Runner.run_streamed(agent, "hi", hooks=Slow())
    await FakeClock().settle()
    result.cancel()
    async for _ in result.stream_events():
        pass
    assert ends == ["stopped", "stopped"]


async def test_hooks_get_the_tools_context_and_the_turns_input() -> None:
    """Tool hooks get the call's ToolContext, agent hooks the input of their turn."""
    seen: list[Any] = []

    class Hooks(RunHooks):
        async def on_agent_start(self, context: Any, agent: Any) -> None:
            seen.append([item.get("type", item.get("role")) for item in context.turn_input])

        async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
            seen.append((context.tool_name, context.context, context.tool_arguments))

    await Runner.run(_desk(), "hi", hooks=Hooks(), context="mine")
    assert seen == [
        ["user"],
        ("ping", "mine", "{}"),
        ["user", "function_call", "function_call_output", "function_call", "function_call_output"],
    ]
