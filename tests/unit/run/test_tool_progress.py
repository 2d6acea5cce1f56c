"""Tools that report while they run: into the log, in order, before their output, from any thread, and never after."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from runstream import Agent, Event, RunConfig, Runner, ToolContext, ToolProgressStreamEvent, function_tool
from runstream.agent.tool import FunctionTool
from runstream.log.fold import RunFold
from runstream.run.progress import _MAX_WAITING
from runstream.testing import FakeClock, ScriptedModel, ToolCall


def _agent(tool: FunctionTool, arguments: dict[str, Any] | None = None) -> Agent[Any]:
    call = ToolCall(tool.name, arguments or {}, call_id="c1")
    return Agent(name="Ann", model=ScriptedModel([[call], "done"]), tools=[tool])


async def _events(agent: Agent[Any], **config: Any) -> list[Event]:
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(**config))
    return [event async for event in result.events()]


def _reports(events: list[Event]) -> list[Any]:
    return [event.data.data for event in events if event.kind == "tool.progress"]


def _output(events: list[Event]) -> Any:
    return next(event.live.output for event in events if event.kind == "item" and event.data.name == "tool_output")


async def test_an_async_tool_reports() -> None:
    """Reports come while the tool runs, each as it was at that moment, between its call and its output."""
    clock = FakeClock()

    @function_tool
    async def work(ctx: ToolContext[Any]) -> str:
        state = {"done": 0}
        for done in range(3):
            state["done"] = done
            ctx.emit(state)
            await clock.sleep(1)
        return "ok"

    events = await _events(_agent(work), clock=clock)
    kinds = [event.kind if event.kind != "item" else event.data.name for event in events if event.kind != "model"]
    assert kinds[2:] == ["tool_called", *["tool.progress"] * 3, "tool_output", "message_output_created", "run.end"]
    reports = [event for event in events if event.kind == "tool.progress"]
    assert [event.data.data for event in reports] == [{"done": 0}, {"done": 1}, {"done": 2}]
    assert [event.at - reports[0].at for event in reports] == [0, 1, 2]
    assert {(event.data.call_id, event.data.tool_name, event.agent) for event in reports} == {("c1", "work", "Ann")}


async def test_a_tool_in_a_thread_reports() -> None:
    """A plain function's reports are in the log before its output, in order, and while it still runs."""
    seen = threading.Event()

    @function_tool
    def work(ctx: ToolContext[Any]) -> str:
        ctx.emit("first")
        assert seen.wait(5)
        ctx.emit("second")
        return "ok"

    result = Runner.run_streamed(_agent(work), "hi")
    reports: list[Any] = []
    async for event in result.events():
        if event.kind == "tool.progress":
            reports.append(event.data.data)
            seen.set()
    assert reports == ["first", "second"]


async def test_what_is_no_json_becomes_plain() -> None:
    """A report is kept as plain data, as outputs are."""

    @function_tool
    async def work(ctx: ToolContext[Any]) -> str:
        ctx.emit({"when": FakeClock, 1: (2, 3)})
        ctx.emit("text")
        ctx.emit(None)
        return "ok"

    assert _reports(await _events(_agent(work))) == [{"when": str(FakeClock), "1": [2, 3]}, "text", None]


async def test_too_many_reports_drop_the_oldest() -> None:
    """A tool that never lets go reports as much as is kept for it; the first event tells how many went."""

    @function_tool
    async def flood(ctx: ToolContext[Any]) -> str:
        for number in range(_MAX_WAITING + 10):
            ctx.emit(number)
        return "ok"

    events = [event for event in await _events(_agent(flood)) if event.kind == "tool.progress"]
    assert [event.data.data for event in events] == list(range(10, _MAX_WAITING + 10))
    assert [event.data.dropped for event in events[:2]] == [10, 0]


async def test_nothing_comes_after_the_end() -> None:
    """Reports of a tool that has returned, and of one that outlives its run, go nowhere, and hold no run."""
    kept: list[ToolContext[Any]] = []

    @function_tool
    async def work(ctx: ToolContext[Any]) -> str:
        kept.append(ctx)
        ctx.emit("in time")
        return "ok"

    result = Runner.run_streamed(_agent(work), "hi")
    await result.wait()
    run = weakref.ref(result._run)
    kept[0].emit("too late")
    await asyncio.sleep(0)
    assert _reports([event async for event in result.events()]) == ["in time"]
    del result
    assert run() is None


async def test_reports_of_a_thread_that_is_left_alone() -> None:
    """After a cancel, a thread that goes on may emit: nobody hears it."""
    started, release, ended = threading.Event(), threading.Event(), threading.Event()

    @function_tool
    def work(ctx: ToolContext[Any]) -> str:
        ctx.emit("before")
        started.set()
        release.wait(5)
        ctx.emit("after")
        ended.set()
        return "ok"

    result = Runner.run_streamed(_agent(work), "hi")
    await asyncio.to_thread(started.wait, 5)
    result.cancel()
    events = [event async for event in result.events()]
    release.set()
    await asyncio.to_thread(ended.wait, 5)
    assert _reports(events) == ["before"]
    assert events[-1].data.status == "cancelled"


async def test_without_a_run_reports_go_nowhere() -> None:
    """A context that was made by hand takes reports, so that tools can be tested by themselves; inside a run, too."""

    @function_tool
    async def work(ctx: ToolContext[Any]) -> str:
        ToolContext(None, tool_name="x", tool_call_id=ctx.tool_call_id, tool_arguments="{}").emit("nobody hears")
        ctx.emit("heard")
        return "ok"

    assert _reports(await _events(_agent(work))) == ["heard"]


async def test_an_async_generator_is_a_tool() -> None:
    """Whatever it yields is reported at once; the last of it is the output."""

    @function_tool
    async def search(count: int) -> AsyncIterator[str]:
        """Search."""
        for number in range(count):
            yield f"result {number}"

    events = await _events(_agent(search, {"count": 3}))
    assert _reports(events) == ["result 0", "result 1", "result 2"]
    assert _output(events) == "result 2"
    assert _output(await _events(_agent(search, {"count": 0}))) is None


async def test_a_generator_in_a_thread_is_a_tool() -> None:
    """As an async one; a value that it returns is the output."""

    @function_tool
    def search(returns: bool) -> Iterator[int]:
        """Search."""
        yield 1
        yield 2
        if returns:
            return "all"

    for returns, output in ((True, "all"), (False, 2)):
        events = await _events(_agent(search, {"returns": returns}))
        assert _reports(events) == [1, 2]
        assert _output(events) == output


async def test_a_generator_may_take_the_context() -> None:
    """Its reports and those of `emit` are one sequence."""

    @function_tool
    async def search(ctx: ToolContext[Any]) -> AsyncIterator[str]:
        ctx.emit("a")
        yield "b"
        ctx.emit("c")

    assert _reports(await _events(_agent(search))) == ["a", "b", "c"]


async def test_an_error_of_a_generator_is_one_of_the_tool() -> None:
    """What it raises becomes a message for the model; what it had yielded stays reported."""

    @function_tool
    async def search() -> AsyncIterator[str]:
        yield "some"
        raise ValueError("no more")

    @function_tool
    def plain() -> Iterator[str]:
        yield "some"
        raise SystemExit(3)

    for tool, text in ((search, "no more"), (plain, "SystemExit(3)")):
        events = await _events(_agent(tool))
        assert _reports(events) == ["some"]
        assert text in _output(events)


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_generator_is_closed_when_its_run_is_cancelled(is_async: bool) -> None:
    """An async one at once, one in a thread at its next yield; its `finally` runs."""
    closed, goes_on = threading.Event(), threading.Event()

    @function_tool
    async def forever() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                await asyncio.sleep(0)
        finally:
            closed.set()

    @function_tool
    def forever_in_a_thread() -> Iterator[int]:
        try:
            yield 1
            assert goes_on.wait(5)
            yield 2
            yield 3
        finally:
            closed.set()

    result = Runner.run_streamed(_agent(forever if is_async else forever_in_a_thread), "hi")
    async for event in result.events():
        if event.kind == "tool.progress":
            result.cancel()
            break
    await asyncio.wait([result.run_loop_task])  # type: ignore[list-item]
    goes_on.set()
    assert await asyncio.to_thread(closed.wait, 5)


async def test_the_sdks_view_shows_reports_on_request_only() -> None:
    """`stream_events()` is the SDK's; with `progress=True` reports stand among its events."""

    @function_tool
    async def search() -> AsyncIterator[str]:
        yield "x"

    result = Runner.run_streamed(_agent(search), "hi")
    plain = [event.type async for event in result.stream_events()]
    assert "tool_progress_event" not in plain
    shown: list[Any] = [event async for event in result.stream_events(progress=True)]
    (report,) = [event for event in shown if isinstance(event, ToolProgressStreamEvent)]
    assert (report.call_id, report.tool_name, report.data, report.agent_name) == ("c1", "search", "x", "Ann")
    assert len(shown) == len(plain) + 1
    assert [event.seq for event in shown] == sorted(event.seq for event in shown)


async def test_the_state_knows_nothing_of_reports() -> None:
    """The fold of a log with reports is that of the log without."""

    @function_tool
    async def search() -> AsyncIterator[str]:
        yield "x"

    events = await _events(_agent(search))
    whole, without = RunFold(), RunFold()
    for event in events:
        whole.apply(event)
        if event.kind != "tool.progress":
            without.apply(event)
    assert [item.type for item in whole.items] == [item.type for item in without.items]
    assert len(whole.responses) == len(without.responses) == 2
