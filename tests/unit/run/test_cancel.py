"""cancel(): what ends, how fast, and what is kept."""

import asyncio
import logging
import threading
from typing import Any

import pytest

from runstream import Agent, RunConfig, RunHooks, RunItemStreamEvent, Runner, UserError, function_tool
from runstream.agent.tool_context import ToolContext
from runstream.run.history import CANCELLED_OUTPUT
from runstream.run.result import RunResultStreaming
from runstream.sessions.memory import InMemorySession
from runstream.testing import FakeClock, HandoffTo, ModelCall, ScriptedModel, ToolCall, Turn, say


@function_tool
async def wait_for_ever() -> str:
    """Wait."""
    await asyncio.get_running_loop().create_future()
    return "never"


@function_tool
async def quick() -> str:
    """Quick."""
    return "quick result"


def _agent(model: ScriptedModel, *tools: Any, **fields: Any) -> Agent[Any]:
    return Agent(name="Ann", model=model, tools=list(tools), **fields)


def _is_delta(event: Any) -> bool:
    return event.type == "raw_response_event" and event.data.type == "response.output_text.delta"


def _is_item(event: Any, name: str) -> bool:
    return isinstance(event, RunItemStreamEvent) and event.name == name


async def _log(result: RunResultStreaming) -> list[Any]:
    return [event async for event in result.events()]


async def _marks(result: RunResultStreaming) -> list[Any]:
    return [(event.seq, event.kind, event.at) for event in await _log(result)]


async def _outputs(session: InMemorySession) -> dict[str, Any]:
    """The stored outputs by the id of their call; every stored call has one."""
    items: list[Any] = await session.get_items()
    outputs = {item["call_id"]: item["output"] for item in items if item.get("type") == "function_call_output"}
    calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
    assert sorted(outputs) == sorted(calls)
    return outputs


async def test_immediate_cancel_keeps_what_was_seen_and_yields_nothing_more() -> None:
    """The iterator ends at once; the partial text is an incomplete message, saved without its id."""
    clock, session = FakeClock(), InMemorySession("s")
    model = ScriptedModel([say("one two three four", every_s=1.0)], clock=clock)
    result = Runner.run_streamed(_agent(model), "hi", run_config=RunConfig(clock=clock), session=session)
    texts: list[str] = []
    async for event in result.stream_events():
        assert not result.is_complete
        if _is_delta(event):
            texts.append(event.data.delta)  # type: ignore[union-attr]
            if len(texts) == 2:
                result.cancel()
                assert result.is_complete
    assert texts == ["one", " two"]
    assert model.open_streams == 0
    assert (result.final_output, result.run_loop_exception) == (None, None)
    [message] = result.new_items
    assert (message.raw_item.status, message.raw_item.content[0].text) == ("incomplete", "one two")  # type: ignore[union-attr]
    saved: list[Any] = await session.get_items()
    assert [item["role"] for item in saved] == ["user", "assistant"]
    assert "id" not in saved[1]
    log = await _log(result)
    assert (log[-1].kind, log[-1].data.status, log[-1].data.error) == ("run.end", "cancelled", None)


async def test_cancel_wakes_a_waiting_reader() -> None:
    """A reader that waits for the model ends as soon as the run has."""
    clock = FakeClock(autojump=False)
    model = ScriptedModel([say("x", first_after_s=1000.0)], clock=clock)
    result = Runner.run_streamed(_agent(model), "hi", run_config=RunConfig(clock=clock))

    async def read() -> list[Any]:
        return [event.type async for event in result.stream_events()]

    reading = asyncio.create_task(read())
    await clock.settle()
    result.cancel()
    assert await reading == ["agent_updated_stream_event"]
    assert clock.now() == FakeClock().now()


async def test_cancel_before_the_start_gives_no_events() -> None:
    """A run that is cancelled before its first step asks no model, has no SDK events, and a log of start and end."""
    model = ScriptedModel()
    session = InMemorySession("s")
    result = Runner.run_streamed(_agent(model), "hi", session=session)
    result.cancel()
    assert result.is_complete
    assert [event async for event in result.stream_events()] == []
    assert [event.kind for event in await _log(result)] == ["run.start", "run.end"]
    assert not model.calls
    assert await session.get_items() == []


async def test_cancelling_the_task_before_its_first_step_ends_the_log() -> None:
    """Also a run whose task is cancelled from outside before it could begin has its run.end: readers do not hang."""
    result = Runner.run_streamed(_agent(ScriptedModel()), "hi")
    assert result.run_loop_task is not None
    result.run_loop_task.cancel()
    assert [event async for event in result.stream_events()] == []
    log = await _log(result)
    assert [event.kind for event in log] == ["run.start", "run.end"]
    assert log[-1].data.status == "cancelled"


@pytest.mark.parametrize("mode", ["immediate", "after_turn"])
async def test_cancel_after_the_end_changes_nothing(mode: Any) -> None:
    """A run that has ended stays what it is."""
    result = Runner.run_streamed(_agent(ScriptedModel(["done"])), "hi")
    await result.wait()
    before = await _marks(result)
    result.cancel(mode)
    assert await _marks(result) == before
    assert [event.type async for event in result.stream_events()][-1] == "run_item_stream_event"
    assert result.final_output == "done"


async def test_cancel_cuts_a_reader_short_although_the_run_has_ended() -> None:
    """A quick run may be over before its events are read: cancel() still ends the iteration that is open."""
    result = Runner.run_streamed(_agent(ScriptedModel(["one two three"])), "hi")
    await result.wait()
    count = 0
    async for _ in result.stream_events():
        count += 1
        result.cancel()
    assert count == 1
    assert result.final_output == "one two three"
    assert len([event async for event in result.stream_events()]) > 5


async def test_an_unknown_mode_is_refused() -> None:
    """cancel() names the two modes that there are."""
    result = Runner.run_streamed(_agent(ScriptedModel(["x"])), "hi")
    with pytest.raises(UserError, match="'immediate' or 'after_turn', not 'soon'"):
        result.cancel("soon")  # type: ignore[arg-type]
    await result.wait()


async def test_open_tool_calls_are_answered() -> None:
    """A tool that runs is cancelled, its call gets a `cancelled` output, and the next run works with the session."""
    session = InMemorySession("s")
    calls = [ToolCall("wait_for_ever", call_id="c1"), ToolCall("quick", call_id="c2")]
    model = ScriptedModel([calls, "next works"])
    agent = _agent(model, wait_for_ever, quick)
    result = Runner.run_streamed(agent, "hi", session=session)
    async for event in result.stream_events():
        if _is_item(event, "tool_output"):
            result.cancel()
    assert await _outputs(session) == {"c1": CANCELLED_OUTPUT, "c2": "quick result"}
    again = await Runner.run(agent, "more", session=session)
    assert again.final_output == "next works"
    sent = model.calls[1].input
    assert [item.get("type", item.get("role")) for item in sent] == [
        "user",
        "function_call",
        "function_call",
        "function_call_output",
        "function_call_output",
        "user",
    ]


async def test_a_tool_that_finishes_while_it_is_cancelled_keeps_its_output() -> None:
    """What a tool returns in its own handling of the cancellation is the answer of its call."""

    @function_tool
    async def careful() -> str:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return "rolled back"
        return "never"

    session = InMemorySession("s")
    agent = _agent(ScriptedModel([ToolCall("careful", call_id="c1")]), careful)
    async with Runner.run_streamed(agent, "hi", session=session) as result:
        async for event in result.stream_events():
            if _is_item(event, "tool_called"):
                result.cancel()
    assert result.is_complete
    assert await _outputs(session) == {"c1": "rolled back"}


class _SlowSession(InMemorySession):
    """Takes its time for each write."""

    def __init__(self, clock: FakeClock, delay_s: float) -> None:
        super().__init__("slow")
        self._clock, self._delay_s = clock, delay_s

    async def add_items(self, items: list[Any]) -> None:
        await self._clock.sleep(self._delay_s)
        await super().add_items(items)


async def test_a_tool_that_ignores_its_cancellation_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """The run ends within its limit, says so, and drops what the tool still brings, even before run.end."""
    clock = FakeClock()
    done: list[str] = []

    @function_tool
    async def stubborn() -> str:
        try:
            await clock.sleep(1000.0)
        except asyncio.CancelledError:
            await clock.sleep(7.0)
        done.append("late")
        return "too late"

    session = _SlowSession(clock, 4.0)
    agent = _agent(ScriptedModel([ToolCall("stubborn", call_id="c1")]), stubborn)
    started_at = clock.now()
    result = Runner.run_streamed(agent, "hi", session=session, run_config=RunConfig(clock=clock))
    with caplog.at_level(logging.WARNING, "runstream"):
        async for event in result.stream_events():
            if _is_item(event, "tool_called"):
                result.cancel()
    assert clock.now() - started_at < 20.0
    assert "ignored its cancellation for 5 s: left behind" in caplog.text
    assert done == ["late"]
    assert await _outputs(session) == {"c1": CANCELLED_OUTPUT}
    assert [item.type for item in result.new_items] == ["tool_call_item", "tool_call_output_item"]
    assert [event.kind for event in await _log(result)].count("run.end") == 1


async def test_a_late_output_after_the_end_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """A tool that ends long after its run leaves no trace in log and session."""
    clock = FakeClock()

    @function_tool
    async def stubborn() -> str:
        try:
            await clock.sleep(1000.0)
        except asyncio.CancelledError:
            await clock.sleep(100.0)
        return "too late"

    agent = _agent(ScriptedModel([ToolCall("stubborn", call_id="c1")]), stubborn)
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock))
    async for event in result.stream_events():
        if _is_item(event, "tool_called"):
            result.cancel()
    before = await _marks(result)
    await clock.sleep(200.0)
    assert await _marks(result) == before


async def test_cancel_in_the_middle_of_a_write_writes_once() -> None:
    """A cancellation does not cut a write in two, nor repeat it."""
    clock = FakeClock()
    session = _SlowSession(clock, 3.0)
    agent = _agent(ScriptedModel([ToolCall("quick", call_id="c1"), "never said"]), quick)
    result = Runner.run_streamed(agent, "hi", session=session, run_config=RunConfig(clock=clock))
    async for event in result.stream_events():
        if _is_item(event, "tool_output"):
            # The turn is being saved now.
            await clock.sleep(1.0)
            result.cancel()
    saved: list[Any] = await session.get_items()
    assert [item.get("type", item.get("role")) for item in saved] == ["user", "function_call", "function_call_output"]


async def test_a_session_that_never_returns_does_not_hold_up_the_end() -> None:
    """The last save has a limit; past it the run fails: what was said is lost, and readers are told so."""
    clock = FakeClock()
    session = _SlowSession(clock, 100_000.0)
    result = Runner.run_streamed(_agent(ScriptedModel([])), "hi", session=session, run_config=RunConfig(clock=clock))
    reader = result.stream_events()
    await anext(reader)
    result.cancel()
    with pytest.raises(TimeoutError, match="not done within 15 s"):
        await anext(reader)
    assert isinstance(result.run_loop_exception, TimeoutError)
    assert clock.now() - FakeClock().now() < 20.0


async def test_cancel_from_inside_the_run() -> None:
    """Tools, hooks and callbacks may cancel the very run that calls them."""

    @function_tool
    async def stop_it() -> str:
        box[0].cancel()
        await asyncio.sleep(0)
        return "not any more"

    class Hooks(RunHooks):
        async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
            box[0].cancel()

    box: list[RunResultStreaming] = []
    result = Runner.run_streamed(_agent(ScriptedModel([ToolCall("stop_it")]), stop_it), "hi")
    box.append(result)
    async for _ in result.stream_events():
        pass
    assert (await _log(result))[-1].data.status == "cancelled"
    assert [item.type for item in result.new_items] == ["tool_call_item", "tool_call_output_item"]
    result = Runner.run_streamed(_agent(ScriptedModel(["all said"])), "hi", hooks=Hooks())
    box[0] = result
    async for _ in result.stream_events():
        pass
    assert result.final_output == "all said"


async def test_cancel_from_a_thread() -> None:
    """A plain tool, in its thread, may cancel its run; it is told that nobody waits for it any more."""
    told: list[bool] = []
    over = threading.Event()

    @function_tool
    def stop_it(context: ToolContext[Any]) -> str:
        result.cancel()
        told.append(context.wait_cancelled(5.0))
        over.set()
        return "dropped"

    # In debug mode asyncio refuses what is not safe from another thread.
    asyncio.get_running_loop().set_debug(True)
    result = Runner.run_streamed(_agent(ScriptedModel([ToolCall("stop_it")]), stop_it), "hi")
    async for _ in result.stream_events():
        pass
    assert result.new_items[-1].output == CANCELLED_OUTPUT  # type: ignore[union-attr]
    await asyncio.to_thread(over.wait, 5)
    assert told == [True]


def test_the_end_of_the_event_loop_ends_the_run_properly() -> None:
    """A run that asyncio.run finds still going is cancelled with its history complete and saved."""
    session = InMemorySession("s")
    agent = _agent(ScriptedModel([ToolCall("wait_for_ever", call_id="c1")]), wait_for_ever)

    async def main() -> RunResultStreaming:
        result = Runner.run_streamed(agent, "hi", session=session)
        await FakeClock().settle()
        return result

    result = asyncio.run(main())
    assert result.is_complete
    assert asyncio.run(_outputs(session)) == {"c1": CANCELLED_OUTPUT}
    assert asyncio.run(_log(result))[-1].data.status == "cancelled"


async def test_after_async_with_a_cancelled_run_is_complete_and_saved() -> None:
    """Leaving the block waits for the end, so that the session can be used at once."""
    clock = FakeClock()
    session = _SlowSession(clock, 2.0)
    model = ScriptedModel([say("one two three", every_s=1.0)], clock=clock)
    async with Runner.run_streamed(_agent(model), "hi", session=session, run_config=RunConfig(clock=clock)) as result:
        async for event in result.stream_events():
            if _is_delta(event):
                result.cancel()
                break
    assert result.is_complete
    assert result.run_loop_task is not None
    assert [item["role"] for item in await session.get_items()] == ["user", "assistant"]  # type: ignore[typeddict-item]
    await asyncio.wait({result.run_loop_task})


# after_turn


async def test_after_turn_finishes_the_turns_tools() -> None:
    """The tools of the turn run to their end, everything is saved and counted, and the next turn does not begin."""
    clock, session = FakeClock(), InMemorySession("s")

    @function_tool
    async def slow() -> str:
        await clock.sleep(30.0)
        return "slow result"

    calls = Turn((ToolCall("slow", call_id="c1"), ToolCall("quick", call_id="c2")))
    model = ScriptedModel([calls, "not said"])
    result = Runner.run_streamed(_agent(model, slow, quick), "hi", session=session, run_config=RunConfig(clock=clock))
    names: list[str] = []
    async for event in result.stream_events():
        if isinstance(event, RunItemStreamEvent):
            names.append(event.name)
            result.cancel("after_turn")
            assert not result.is_complete
    assert names == ["tool_called", "tool_called", "tool_output", "tool_output"]
    assert await _outputs(session) == {"c1": "slow result", "c2": "quick result"}
    assert (result.is_complete, result.final_output, len(model.calls)) == (True, None, 1)
    assert result.context_wrapper.usage.requests == 1
    assert (await _log(result))[-1].data.status == "cancelled"


async def test_after_turn_finishes_a_handoff() -> None:
    """A handoff of the turn is made; the next agent does not begin."""
    started: list[str] = []

    class Hooks(RunHooks):
        async def on_agent_start(self, context: Any, agent: Any) -> None:
            started.append(agent.name)

    model = ScriptedModel([HandoffTo("Bob")])
    agent = _agent(model, handoffs=[Agent(name="Bob", model=model)])
    result = Runner.run_streamed(agent, "hi", hooks=Hooks())
    async for event in result.stream_events():
        if event.type == "raw_response_event":
            result.cancel("after_turn")
    assert [item.type for item in result.new_items] == ["handoff_call_item", "handoff_output_item"]
    assert (result.last_agent.name, result.final_output, started) == ("Bob", None, ["Ann"])


async def test_after_turn_keeps_the_output_of_the_last_turn() -> None:
    """Where no further turn was due, the run completes as if nothing had been asked."""
    session = InMemorySession("s")
    result = Runner.run_streamed(_agent(ScriptedModel([say("one two")])), "hi", session=session)
    seen = 0
    async for event in result.stream_events():
        seen += _is_delta(event)
        result.cancel("after_turn")
    assert (seen, result.final_output) == (2, "one two")
    assert (await _log(result))[-1].data.status == "completed"
    assert len(await session.get_items()) == 2


async def test_after_turn_before_the_first_turn_starts_none() -> None:
    """Asked before the start, the run ends without a model call."""
    model = ScriptedModel()
    result = Runner.run_streamed(_agent(model), "hi")
    result.cancel("after_turn")
    assert [event.type async for event in result.stream_events()] == ["agent_updated_stream_event"]
    assert (result.final_output, result.is_complete) == (None, True)
    assert not model.calls


async def test_after_turn_wins_over_max_turns() -> None:
    """A run that was to end with this turn does not fail because there is no further one."""
    result = Runner.run_streamed(_agent(ScriptedModel([ToolCall("quick")]), quick), "hi", max_turns=1)
    async for event in result.stream_events():
        if _is_item(event, "tool_called"):
            result.cancel("after_turn")
    assert result.run_loop_exception is None


async def test_immediate_overrides_after_turn() -> None:
    """Who asked for a soft end may still ask for a hard one."""
    agent = _agent(ScriptedModel([ToolCall("wait_for_ever", call_id="c1")]), wait_for_ever)
    result = Runner.run_streamed(agent, "hi")
    async for event in result.stream_events():
        if _is_item(event, "tool_called"):
            result.cancel("after_turn")
            result.cancel("immediate")
            result.cancel("after_turn")
    assert result.new_items[-1].output == CANCELLED_OUTPUT  # type: ignore[union-attr]


async def test_cancelling_the_caller_of_run_cancels_the_run() -> None:
    """A cancelled `await Runner.run(...)` stops model and tools, saves, and then is cancelled itself."""
    session = InMemorySession("s")
    began = asyncio.Event()

    def answer(call: ModelCall) -> Any:
        began.set()
        return [ToolCall("wait_for_ever", call_id="c1")]

    agent = _agent(ScriptedModel([answer]), wait_for_ever)
    running = asyncio.create_task(Runner.run(agent, "hi", session=session))
    await began.wait()
    await FakeClock().settle()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await _outputs(session) == {"c1": CANCELLED_OUTPUT}


async def test_cancelling_the_caller_while_the_run_is_saved() -> None:
    """The last save is finished, and then the caller is cancelled although the run has its output."""
    clock = FakeClock()
    session = _SlowSession(clock, 2.0)
    model = ScriptedModel(["done"], clock=clock)
    running = asyncio.create_task(Runner.run(_agent(model), "hi", session=session, run_config=RunConfig(clock=clock)))
    await clock.sleep(3.0)
    assert len(model.calls) == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(await session.get_items()) == 2
