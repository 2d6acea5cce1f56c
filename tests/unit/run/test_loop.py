"""The loop itself: turns, their ends, and what one run leaves for the next."""

import asyncio
import gc
import weakref
from typing import Any

import pytest

from runstream import Agent, RunConfig, Runner, UserError, function_tool
from runstream.log.follow import Follower
from runstream.run.active import ActiveRun
from runstream.run.readers import RunTask
from runstream.testing import (
    FakeClock,
    HandoffTo,
    Item,
    ModelCall,
    Raise,
    Reasoning,
    Refusal,
    ScriptedModel,
    ToolCall,
    Turn,
    say,
)


@function_tool
async def ping() -> str:
    """Ping."""
    return "pong"


def _agent(*steps: Any, **fields: Any) -> Agent[Any]:
    return Agent(name="Ann", model=ScriptedModel(steps), tools=[ping], **fields)


async def _both(make: Any, **options: Any) -> list[Any]:
    """The results of a run and of a drained streamed run of the same agent."""
    streamed = Runner.run_streamed(make(), "hi", **options)
    async for _ in streamed.stream_events():
        pass
    return [await Runner.run(make(), "hi", **options), streamed]


def _plain(result: Any) -> tuple[Any, ...]:
    items = [(item.type, item.agent.name, item.to_input_item()) for item in result.new_items]
    usage = result.context_wrapper.usage
    return items, result.final_output, result.last_agent.name, (usage.requests, usage.output_tokens)


def _two_agents() -> Agent[Any]:
    model = ScriptedModel([[Reasoning("hm"), "Wait.", ToolCall("ping", call_id="c1")], HandoffTo("Bob"), "Done."])
    return Agent(name="Ann", model=model, tools=[ping], handoffs=[Agent(name="Bob", model=model)])


async def test_run_and_run_streamed_are_one_loop() -> None:
    """Both ways to run end with the same items, output, agent and usage."""
    run, streamed = await _both(_two_agents)
    assert _plain(run) == _plain(streamed)


async def test_the_logs_of_both_ways_have_the_same_items() -> None:
    """Unstreamed, the log has one model event a turn; everything else is the same."""
    logs: list[list[str]] = []
    original = ActiveRun.seal

    def seal(self: ActiveRun, *arguments: Any) -> None:
        original(self, *arguments)
        follower = Follower(self.log)
        logs.append([event.kind for event in iter(follower.next_nowait, None)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ActiveRun, "seal", seal)
        await _both(lambda: _agent("x"))
    streamed, run = logs
    assert run == ["run.start", "agent.start", "model", "item", "run.end"]
    assert [kind for kind in streamed if kind != "model"] == [kind for kind in run if kind != "model"]


async def test_a_run_without_reader_goes_on() -> None:
    """run_streamed needs nobody: it starts by itself and comes to its end."""
    result = Runner.run_streamed(_agent(ToolCall("ping"), "done"), "hi")
    await FakeClock().settle()
    assert result.is_complete
    assert result.final_output == "done"


async def test_the_task_can_be_awaited() -> None:
    """`run_loop_task` ends with the run; it is a task like any other."""
    result = Runner.run_streamed(_agent("done"), "hi")
    assert isinstance(result.run_loop_task, RunTask)
    assert await result.run_loop_task is None
    assert result.final_output == "done"


async def test_an_answer_without_text_is_an_empty_output() -> None:
    """No message and no call is the end, with an empty text."""
    for result in await _both(lambda: _agent(Turn(()))):
        assert result.final_output == ""


async def test_the_last_message_is_the_output() -> None:
    """Of several messages the last one counts; all are items."""
    for result in await _both(lambda: _agent(["first", "second"])):
        assert result.final_output == "second"
        assert len(result.new_items) == 2


async def test_provider_tools_are_items_and_do_not_end_the_run() -> None:
    """A web search that the provider carried out is an item; with a message the run ends, without one it goes on."""
    search = Item(
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}}
    )
    for result in await _both(lambda: _agent([search, "found"])):
        assert [item.type for item in result.new_items] == ["tool_call_item", "message_output_item"]
        assert result.final_output == "found"
    for result in await _both(lambda: _agent(search, "found")):
        assert (result.final_output, len(result.raw_responses)) == ("found", 2)


async def test_an_item_of_an_unknown_type_passes_through() -> None:
    """What a later API adds is kept as an item and sent back as it came."""
    agent = _agent([Item({"type": "dream", "id": "d1", "text": "sheep"}), ToolCall("ping", call_id="c1")], "ok")
    result = await Runner.run_streamed(agent, "hi").wait()
    sent = agent.model.calls[1].input  # type: ignore[union-attr]
    assert sent[1] == {"type": "dream", "id": "d1", "text": "sheep"}
    assert result.final_output == "ok"


async def test_a_refusal_of_an_agent_without_type_is_an_error_too() -> None:
    """A refusal is not taken for an answer."""
    from runstream.errors import ModelRefusalError

    for start in (Runner.run(_agent(Refusal("no")), "hi"), Runner.run_streamed(_agent(Refusal("no")), "hi").wait()):
        with pytest.raises(ModelRefusalError, match="no"):
            await start


async def test_runs_do_not_see_each_other() -> None:
    """A hundred runs of one agent at once: each has its own log, usage and output."""
    clock = FakeClock()
    model = ScriptedModel(default=lambda call: say(f"echo {call.input[0]['content']}", every_s=1.0), clock=clock)
    agent = Agent(name="Ann", model=model)
    config = RunConfig(clock=clock)
    results = [Runner.run_streamed(agent, str(n), run_config=config) for n in range(100)]
    await asyncio.gather(*(result.wait() for result in results))
    assert [result.final_output for result in results] == [f"echo {n}" for n in range(100)]
    assert len({result.run_id for result in results}) == 100
    assert {result.context_wrapper.usage.requests for result in results} == {1}


async def test_a_tool_may_run_agents() -> None:
    """Runs nest: a tool runs another agent, and a cancelled outer run takes the inner one along."""
    clock = FakeClock(autojump=False)
    inner_model = ScriptedModel([say("inner", first_after_s=100.0)], clock=clock)

    @function_tool
    async def ask() -> str:
        inner = Agent(name="Inner", model=inner_model)
        return (await Runner.run(inner, "hi", run_config=RunConfig(clock=clock))).final_output

    def start() -> Any:
        agent = Agent(name="Outer", model=ScriptedModel([ToolCall("ask"), "done"]), tools=[ask])
        return Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock))

    result = start()
    await clock.settle()
    result.cancel()
    async for _ in result.stream_events():
        pass
    assert inner_model.remaining_steps == 0
    inner_model.enqueue("inner")
    clock.autojump = True
    result = await start().wait()
    assert result.new_items[1].output == "inner"


async def test_a_finished_run_is_freed_with_its_result() -> None:
    """No task, log or reader keeps a run alive once its result is dropped."""

    def fail(call: ModelCall) -> Any:
        return Raise(ValueError("x"))

    gc.collect()
    gc.disable()
    try:
        for failing in (False, True):
            result = Runner.run_streamed(_agent(fail if failing else "x"), "hi")
            try:
                async for _ in result.stream_events():
                    pass
            except ValueError:
                assert failing
            run = weakref.ref(result._run)
            await asyncio.sleep(0)
            del result
            if not failing:
                assert run() is None
    finally:
        gc.enable()
    gc.collect()
    assert run() is None


async def test_what_this_version_cannot_do_is_refused_before_any_request() -> None:
    """What a tool asks for and cannot have is named in the error instead of being ignored."""

    @function_tool(defer_loading=True)
    async def risky() -> str:
        return ""

    agent = _agent()
    agent.tools.append(risky)
    with pytest.raises(UserError, match="Tool 'risky': defer_loading is not supported"):
        await Runner.run(agent, "hi")
    assert not agent.model.calls  # type: ignore[union-attr]
