"""The pause between two turns: the loop goes on when its reader has been handed everything of this one."""

import asyncio
from typing import Any

import pytest

from runstream import Agent, RunConfig, RunItemStreamEvent, Runner, function_tool
from runstream.run.result import RunResultStreaming
from runstream.testing import FakeClock, HandoffTo, ScriptedModel, ToolCall


@function_tool
async def ping() -> str:
    """Ping."""
    return "pong"


def _start(*steps: Any, **config: Any) -> tuple[ScriptedModel, FakeClock, RunResultStreaming]:
    clock = FakeClock()
    model = ScriptedModel(steps or (ToolCall("ping"), ToolCall("ping"), "done"), clock=clock)
    agent = Agent(name="Ann", model=model, tools=[ping], handoffs=[Agent(name="Bob", model=model)])
    return model, clock, Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock, **config))


def _ends_turn(event: Any) -> bool:
    return isinstance(event, RunItemStreamEvent) and event.name == "tool_output"


async def test_the_next_turn_waits_for_the_last_event_of_this_one() -> None:
    """At each event but the last of its turn, no later model call has been made, however long the reader thinks."""
    model, clock, result = _start()
    turns = 1
    async for event in result.stream_events():
        await clock.settle()
        await clock.sleep(100.0)
        if _ends_turn(event):
            turns += 1
            assert len(model.calls) == turns
        else:
            assert len(model.calls) == turns
    assert turns == 3


async def test_cancel_at_the_last_event_prevents_the_next_turn() -> None:
    """Who is handed the last event of a turn can still cancel before the next model call, in either mode."""
    for mode in ("immediate", "after_turn"):
        model, _, result = _start()
        async for event in result.stream_events():
            if _ends_turn(event):
                result.cancel(mode)  # type: ignore[arg-type]
        assert len(model.calls) == 1


async def test_the_pause_holds_after_a_handoff() -> None:
    """The turn of a handoff ends with the new agent's start."""
    model, clock, result = _start(HandoffTo("Bob"), "done")
    async for event in result.stream_events():
        await clock.settle()
        if event.type == "agent_updated_stream_event" and event.new_agent.name == "Ann":
            continue
        if event.type == "agent_updated_stream_event":
            assert len(model.calls) == 2
            break
        assert len(model.calls) == 1


async def test_short_lived_reads_pace_the_turns_too() -> None:
    """A reader that asks with `wait_for(anext(...))`, each in a task of its own, is a reader like any other."""
    model, clock, result = _start()
    reader = result.stream_events()
    turns = 1
    while True:
        try:
            event = await asyncio.create_task(anext(reader))  # type: ignore[arg-type]
        except StopAsyncIteration:
            break
        await clock.settle()
        turns += _ends_turn(event)
        assert len(model.calls) == turns
    assert turns == 3


async def test_without_a_reader_there_is_no_pause() -> None:
    """A run that nobody reads goes on by itself."""
    model, clock, result = _start()
    await clock.settle()
    assert result.is_complete
    assert len(model.calls) == 3


async def test_readers_of_the_log_do_not_pace() -> None:
    """An events() reader that stands still holds up nothing."""
    model, clock, result = _start()
    reader = result.events()
    await anext(reader)
    await clock.settle()
    assert result.is_complete
    assert len(model.calls) == 3
    await reader.aclose()


async def test_second_readers_do_not_pace() -> None:
    """Only the first open iterator counts: a second one that stands still holds up nothing."""
    model, _, result = _start()
    first, second = result.stream_events(), result.stream_events()
    await anext(first)
    await anext(second)
    assert [event async for event in first]
    assert len(model.calls) == 3
    assert result.final_output == "done"
    await second.aclose()


async def test_when_the_first_leaves_the_second_paces() -> None:
    """The oldest iterator that is still open is the one that counts."""
    model, clock, result = _start()
    first, second = result.stream_events(), result.stream_events()
    await anext(first)
    await anext(second)
    await first.aclose()
    await clock.settle()
    assert len(model.calls) == 1
    async for event in second:
        await clock.settle()
        if _ends_turn(event):
            break
    assert len(model.calls) == 2
    await second.aclose()


async def test_aclose_releases_the_pause() -> None:
    """A closed iterator is waited for no more: with detach the run goes on to its end."""
    model, clock, result = _start(on_abandon="detach")
    reader = result.stream_events()
    await anext(reader)
    await clock.settle()
    assert len(model.calls) == 1
    await reader.aclose()
    await clock.settle()
    assert len(model.calls) == 3


async def test_break_releases_the_pause() -> None:
    """So does leaving the loop."""
    model, clock, result = _start(on_abandon="detach")
    async for _ in result.stream_events():
        break
    await clock.settle()
    assert len(model.calls) == 3
    assert result.final_output == "done"


async def test_wait_releases_the_pause() -> None:
    """Who waits for the end wants it to come, although an iterator stands still."""
    model, clock, result = _start()
    reader = result.stream_events()
    await anext(reader)
    await clock.settle()
    assert len(model.calls) == 1
    await result.wait()
    assert len(model.calls) == 3
    assert [event.type async for event in reader][-1] == "run_item_stream_event"


@pytest.mark.parametrize("mode", ["immediate", "after_turn"])
async def test_cancel_releases_the_pause(mode: Any) -> None:
    """During the pause cancel() ends the run although the iterator stands still."""
    model, clock, result = _start()
    reader = result.stream_events()
    await anext(reader)
    await clock.settle()
    result.cancel(mode)
    await clock.settle()
    if mode == "immediate":
        assert result.run_loop_task is not None
        assert result.run_loop_task.done()
    async for _ in reader:
        pass
    assert len(model.calls) == 1
    assert result.is_complete


async def test_awaiting_the_task_releases_the_pause() -> None:
    """`await result.run_loop_task` ends, although an iterator stands still."""
    model, clock, result = _start()
    reader = result.stream_events()
    await anext(reader)
    await clock.settle()
    assert result.run_loop_task is not None
    await result.run_loop_task
    assert len(model.calls) == 3
    await reader.aclose()


async def test_a_reader_that_begins_late_catches_up_and_then_paces() -> None:
    """An iterator that is begun in mid-run counts from then on."""
    model, clock, result = _start()
    log = result.events()
    async for event in log:
        if event.kind == "item":
            break
    late = result.stream_events()
    await anext(late)
    await clock.settle()
    assert len(model.calls) == 1
    async for _ in late:
        pass
    assert len(model.calls) == 3
    await log.aclose()
