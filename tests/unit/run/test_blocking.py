"""Runs from code that is not asynchronous: run_sync and the plain `for`, in and outside a running loop."""

import asyncio
import contextvars
import gc
import os
import signal
import threading
from typing import Any

import pytest

from runstream import Agent, ModelSettings, RunConfig, RunItemStreamEvent, Runner, UserError, function_tool
from runstream.agent.retry import ModelRetrySettings
from runstream.errors import ModelStreamTruncated
from runstream.run.result import RunResultStreaming
from runstream.testing import FakeClock, Fault, Raise, ScriptedModel, ToolCall, say

WORDS = contextvars.ContextVar("WORDS", default="none")


def _agent(*steps: Any, tools: list[Any] | None = None, clock: FakeClock | None = None) -> Agent[Any]:
    return Agent(name="Ann", model=ScriptedModel(steps, clock=clock or FakeClock()), tools=tools or [])


def _texts(result: RunResultStreaming) -> list[str]:
    return [
        event.data.delta
        for event in result
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]


def test_run_sync_outside_a_loop() -> None:
    """run_sync runs to the end and raises what the run raises."""
    assert Runner.run_sync(_agent("hello"), "hi").final_output == "hello"
    with pytest.raises(ValueError, match="broken"):
        Runner.run_sync(_agent(Raise(ValueError("broken"))), "hi")


async def test_run_sync_inside_a_running_loop() -> None:
    """In a notebook run_sync works too: in a thread, in the caller's context, with the caller's errors."""
    seen: list[tuple[str, bool]] = []

    @function_tool
    async def look() -> str:
        seen.append((WORDS.get(), threading.current_thread() is threading.main_thread()))
        return "ok"

    WORDS.set("mine")
    result = Runner.run_sync(_agent(ToolCall("look"), "done", tools=[look]), "hi")
    assert result.final_output == "done"
    assert seen == [("mine", False)]
    with pytest.raises(ValueError, match="broken"):
        Runner.run_sync(_agent(Raise(ValueError("broken"))), "hi")


async def test_an_interrupt_of_run_sync_cancels_the_run() -> None:
    """Ctrl-C while run_sync waits for its thread is raised here once the run there has ended."""
    ends: list[str] = []

    @function_tool
    async def interrupt() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ends.append("stopped")
        return ""

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Runner.run_sync(_agent(ToolCall("interrupt"), tools=[interrupt]), "hi")
    finally:
        signal.signal(signal.SIGINT, before)
    assert ends == ["stopped"]


def test_a_streamed_run_outside_a_loop_starts_with_a_plain_for() -> None:
    """Outside a loop nothing happens before the first use; the `for` then gives every event."""
    agent = _agent("a b c")
    result = Runner.run_streamed(agent, "hi")
    assert result.run_loop_task is None
    assert not agent.model.calls  # type: ignore[union-attr]
    assert _texts(result) == ["a", " b", " c"]
    assert (result.is_complete, result.final_output) == (True, "a b c")
    assert _texts(result) == ["a", " b", " c"]


def test_a_streamed_run_outside_a_loop_can_start_in_a_later_one() -> None:
    """A result that was made outside a loop runs in the loop that first uses it."""
    result = Runner.run_streamed(_agent("a b c"), "hi")

    async def read() -> list[str]:
        return [event.type async for event in result]

    types = asyncio.run(read())
    assert types[0] == "agent_updated_stream_event"
    assert result.final_output == "a b c"
    assert [event.type for event in result] == types


def test_a_plain_for_raises_the_runs_error_at_its_end() -> None:
    """Events first, then the error; again at each further `for`."""
    result = Runner.run_streamed(_agent(say("a b c", fault=Raise(ValueError("broken"), after=2))), "hi")
    for _ in range(2):
        seen: list[str] = []
        with pytest.raises(ValueError, match="broken"):  # noqa: PT012
            for event in result:
                seen.append(event.type)
        assert len(seen) > 3


def test_break_in_a_plain_for_cancels_the_run() -> None:
    """Leaving the loop ends the run at once: its stream is closed and its log sealed."""
    agent = _agent(say("a b c d e", every_s=1000.0))
    result = Runner.run_streamed(agent, "hi")
    for event in result:
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            break
    assert result.is_complete
    assert result.final_output is None
    assert agent.model.open_streams == 0  # type: ignore[union-attr]
    assert [event.type for event in result] == []


def test_an_exception_in_a_plain_for_cancels_the_run() -> None:
    """The body's exception comes through, and the run has ended."""
    result = Runner.run_streamed(_agent("a b c"), "hi")
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        for _ in result:
            raise ZeroDivisionError
    gc.collect()
    assert result.is_complete


def test_a_detached_run_is_finished_after_break() -> None:
    """With on_abandon="detach" the private loop goes on until the run is done."""
    result = Runner.run_streamed(_agent("a b c"), "hi", run_config=RunConfig(on_abandon="detach"))
    for _ in result:
        break
    assert result.final_output == "a b c"


def test_cancel_inside_a_plain_for_ends_it() -> None:
    """After cancel() in the body nothing more comes, and the run has ended when the `for` is over."""
    result = Runner.run_streamed(_agent("a b c"), "hi")
    count = 0
    for _ in result:
        count += 1
        result.cancel()
    assert count == 1
    assert result.is_complete


def test_cancel_before_a_plain_for_gives_no_events() -> None:
    """A run that is cancelled before its first use asks no model."""
    agent = _agent()
    result = Runner.run_streamed(agent, "hi")
    result.cancel()
    assert result.is_complete
    assert list(result) == []
    assert not agent.model.calls  # type: ignore[union-attr]


def test_a_plain_for_can_start_runs_in_its_body() -> None:
    """The private loop stands still between two events: other runs may go on there."""
    inner: list[Any] = []
    for event in Runner.run_streamed(_agent("a b"), "hi"):
        if event.type == "run_item_stream_event":
            inner.append(Runner.run_sync(_agent("inner"), "hi").final_output)
            inner.append(_texts(Runner.run_streamed(_agent("x y"), "hi")))
    assert inner == ["inner", ["x", " y"]]


async def test_a_plain_for_right_after_run_streamed_inside_a_loop() -> None:
    """In a notebook a plain `for` works: the run moves to a thread before its first step."""
    result = Runner.run_streamed(_agent("a b c"), "hi")
    assert _texts(result) == ["a", " b", " c"]
    assert result.final_output == "a b c"
    await result.wait()
    assert (await anext(result.stream_events())).type == "agent_updated_stream_event"


async def test_a_plain_for_inside_a_loop_raises_the_runs_error() -> None:
    """Errors cross from the thread as they are."""
    result = Runner.run_streamed(_agent(Raise(ValueError("broken"))), "hi")
    with pytest.raises(ValueError, match="broken"):
        for _ in result:
            pass


@pytest.mark.parametrize("way", ["break", "cancel", "error"])
async def test_leaving_a_plain_for_inside_a_loop_stops_a_slow_tool(way: str) -> None:
    """break, cancel() and an exception end the run in its thread although its tool would go on for ever."""
    ends: list[str] = []

    @function_tool
    async def wait_for_ever() -> str:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ends.append("stopped")
        return ""

    result = Runner.run_streamed(_agent(ToolCall("wait_for_ever"), tools=[wait_for_ever]), "hi")
    try:
        for event in result:
            if isinstance(event, RunItemStreamEvent) and event.name == "tool_called":
                if way == "break":
                    break
                if way == "error":
                    raise ZeroDivisionError
                result.cancel()
    except ZeroDivisionError:
        assert way == "error"
    assert ends == ["stopped"]
    assert result.is_complete
    assert [item.type for item in result.new_items] == ["tool_call_item", "tool_call_output_item"]


async def test_a_plain_for_over_a_run_that_goes_on_in_the_loop_is_refused() -> None:
    """Once the run has begun here, blocking this loop would stop it: a clear error says what to do."""
    clock = FakeClock(autojump=False)
    result = Runner.run_streamed(_agent(say("a b c", first_after_s=1.0), clock=clock), "hi")
    reader = result.stream_events()
    await anext(reader)
    with pytest.raises(UserError, match="read it there, with `async for`"):
        for _ in result:
            pass
    clock.autojump = True
    async for _ in reader:
        pass
    assert len(list(result)) > 3


async def test_reading_from_another_loop_is_refused() -> None:
    """A reader in another thread's loop gets an error that says so, instead of waiting for ever."""
    model_clock = FakeClock(autojump=False)
    result = Runner.run_streamed(_agent(say("x", first_after_s=1.0), clock=model_clock), "hi")
    first = result.stream_events()
    await anext(first)
    errors: list[str] = []

    async def read(read_it: Any) -> None:
        try:
            await read_it()
        except UserError as error:
            errors.append(str(error))

    for read_it in (result.wait, lambda: anext(result.stream_events()), lambda: anext(result.events())):
        await asyncio.to_thread(asyncio.run, read(read_it))
    assert len(errors) == 3
    assert all("goes on in another event loop" in error for error in errors)
    model_clock.autojump = True
    async for _ in first:
        pass
    assert result.final_output == "x"


def test_async_use_without_a_loop_is_refused() -> None:
    """Reading with `anext` outside a loop says what to do instead."""
    result = Runner.run_streamed(_agent("x"), "hi")
    with pytest.raises(UserError, match="no event loop is running"):
        result.wait().send(None)


def test_faults_reach_code_that_is_not_asynchronous() -> None:
    """A truncated stream is an error for run_sync and for the plain `for` as well."""
    config = RunConfig(model_settings=ModelSettings(retry=ModelRetrySettings(max_retries=0)))
    turn = say("a b", fault=Fault("no_end"))
    with pytest.raises(ModelStreamTruncated):
        Runner.run_sync(_agent(turn), "hi", run_config=config)
    with pytest.raises(ModelStreamTruncated):
        list(Runner.run_streamed(_agent(turn), "hi", run_config=config))
