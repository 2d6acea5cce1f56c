"""Agents as tools: a run of its own, in the log of the run that calls it."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass
from typing import Any

import pydantic
import pytest

from runstream import (
    Agent,
    Event,
    InMemorySession,
    MaxTurnsExceeded,
    ModelBehaviorError,
    RunConfig,
    RunContextWrapper,
    RunHooks,
    Runner,
    ToolContext,
    UserError,
    function_tool,
)
from runstream.agent.tool import FunctionTool
from runstream.flow.load import LoadLimits
from runstream.testing import FakeClock, Fault, HandoffTo, ScriptedModel, ToolCall, Turn, say
from runstream.view.run_view import view_of

ASK = ToolCall("ask", {"input": "What is it?"}, call_id="c1")


@function_tool
async def ping(ctx: ToolContext[Any]) -> str:
    ctx.emit("pinging")
    ctx.usage.input_tokens += 0
    return "pong"


def _inner(*steps: Any, **fields: Any) -> Agent[Any]:
    return Agent(name="Inner", model=ScriptedModel(steps or ["It is this."]), **fields)


def _outer(*tools: Any, calls: Any = (ASK,), **fields: Any) -> Agent[Any]:
    return Agent(name="Outer", model=ScriptedModel([list(calls), "done"]), tools=list(tools), **fields)


def _ask(inner: Agent[Any], **options: Any) -> FunctionTool:
    return inner.as_tool("ask", "Ask Inner.", **options)


async def _log(agent: Agent[Any], **config: Any) -> list[Event]:
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(**config))
    return [event async for event in result.events()]


def _told(agent: Agent[Any]) -> str:
    """What the outer model was told as the output of its call."""
    sent: Any = agent.model.calls[1].input  # type: ignore[union-attr]
    return next(item["output"] for item in sent if item.get("type") == "function_call_output")


def _shape(events: list[Event]) -> list[tuple[tuple[str, ...], str, str | None]]:
    return [
        (event.path, event.data.name if event.kind == "item" else event.kind, event.agent)
        for event in events
        if event.kind != "model"
    ]


async def test_a_nested_run_is_in_the_log_of_its_caller() -> None:
    """Its events stand under the path of the call, with the whole log's seqs; it has no start and no end of its own."""
    inner = _inner([ToolCall("ping", call_id="p1")], "It is this.", tools=[ping])
    events = await _log(_outer(_ask(inner)))
    assert _shape(events) == [
        ((), "run.start", "Outer"),
        ((), "agent.start", "Outer"),
        ((), "tool_called", "Outer"),
        (("c1",), "agent.start", "Inner"),
        (("c1",), "tool_called", "Inner"),
        (("c1",), "tool.progress", "Inner"),
        (("c1",), "tool_output", "Inner"),
        (("c1",), "message_output_created", "Inner"),
        ((), "tool_output", "Outer"),
        ((), "message_output_created", "Outer"),
        ((), "run.end", "Outer"),
    ]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert len({event.run_id for event in events}) == 1
    assert sum(event.kind == "model" and event.path == ("c1",) for event in events) > 4


async def test_nested_runs_nest() -> None:
    """A nested run's nested run has both calls in its path, and its output goes up through both."""
    middle = Agent(name="Middle", model=ScriptedModel([[ToolCall("ask", {"input": "y"}, call_id="m1")], "middle"]))
    middle.tools.append(_ask(_inner()))
    outer = _outer(middle.as_tool("ask", None))
    events = await _log(outer)
    paths = [event.path for event in events if event.kind == "agent.start"]
    assert paths == [(), ("c1",), ("c1", "m1")]
    assert events[-1].data.usage["requests"] == 5
    assert _told(outer) == "middle"


async def test_the_sdks_view_has_nested_events_on_request_only() -> None:
    """`stream_events()` is as if the tool were any other; with `nested=True` the rest is there, with its path."""
    result = Runner.run_streamed(_outer(_ask(_inner())), "hi")
    plain = [event async for event in result.stream_events()]
    assert {(event.path, event.agent_name) for event in plain} == {((), "Outer")}
    nested = [event async for event in result.stream_events(nested=True)]
    assert [event for event in nested if not event.path] == plain
    inner = [event for event in nested if event.path]
    assert {(event.path, event.agent_name) for event in inner} == {(("c1",), "Inner")}
    assert inner[0].type == "agent_updated_stream_event"
    assert inner[0].new_agent.name == "Inner"
    assert [event.seq for event in nested] == sorted(event.seq for event in nested)


async def test_the_state_of_the_caller_is_its_own() -> None:
    """Items, responses and turns of the nested run are none of the calling run's; its usage is."""
    result = Runner.run_streamed(_outer(_ask(_inner([ToolCall("ping")], "x", tools=[ping]))), "hi")
    await result.wait()
    types = [item.type for item in result.new_items]
    assert types == ["tool_call_item", "tool_call_output_item", "message_output_item"]
    assert {item.agent.name for item in result.new_items} == {"Outer"}
    assert (len(result.raw_responses), result.current_turn) == (2, 2)
    assert result.context_wrapper.usage.requests == 4
    assert result.last_agent.name == "Outer"


async def test_run_and_run_streamed_nest_alike() -> None:
    """Both come to the same; unstreamed, the nested model is asked for whole responses, too."""

    def make() -> Agent[Any]:
        return _outer(_ask(_inner([ToolCall("ping", call_id="p1")], "It is this.", tools=[ping])))

    whole, streamed = await Runner.run(make(), "hi"), Runner.run_streamed(make(), "hi")
    await streamed.wait()
    assert [item.to_input_item() for item in whole.new_items] == [item.to_input_item() for item in streamed.new_items]
    assert whole.context_wrapper.usage.requests == streamed.context_wrapper.usage.requests == 4
    assert whole.final_output == streamed.final_output == "done"


async def test_nested_runs_side_by_side_keep_apart() -> None:
    """Two calls of one agent at once: each path holds one whole run, and each call its output."""
    clock = FakeClock()
    steps = [say("one two three four", every_s=1.0), say("five six seven eight", every_s=1.0)]
    model = ScriptedModel(steps, clock=clock)
    tool = Agent(name="Inner", model=model).as_tool("ask", None)
    calls = [ToolCall("ask", {"input": n}, call_id=n) for n in ("a", "b")]
    events = await _log(_outer(tool, calls=calls), clock=clock)
    texts = {"a": "", "b": ""}
    for event in events:
        if event.kind == "model" and event.path and event.data.type == "response.output_text.delta":
            texts[event.path[0]] += event.data.delta
    outputs = {
        event.live.call_id: event.live.output
        for event in events
        if event.kind == "item" and event.data.name == "tool_output"
    }
    assert texts == outputs
    assert set(texts.values()) == {"one two three four", "five six seven eight"}


async def test_cancelling_the_caller_cancels_the_nested_run() -> None:
    """Its tool is stopped, its partial text and its open calls are made whole, and then comes the one end."""
    stopped: list[str] = []

    @function_tool
    async def slow() -> str:
        try:
            await asyncio.sleep(1000)
        finally:
            stopped.append("slow")
        return ""

    inner = _inner([ToolCall("slow", call_id="s1")], tools=[slow])
    result = Runner.run_streamed(_outer(_ask(inner)), "hi")
    async for event in result.events():
        if event.path and event.kind == "item":
            break
    result.cancel()
    events = [event async for event in result.events()]
    assert stopped == ["slow"]
    assert _shape(events)[-3:] == [
        (("c1",), "tool_output", "Inner"),
        ((), "tool_output", "Outer"),
        ((), "run.end", "Outer"),
    ]
    assert events[-1].data.status == "cancelled"


async def test_a_nested_text_that_breaks_off_is_kept_as_partial() -> None:
    """Cancelled in mid-text, the nested message is marked incomplete under its path, and only its own text is in it."""
    inner = _inner(say("one two three four five", every_s=1000.0))
    result = Runner.run_streamed(_outer(_ask(inner)), "hi")
    async for event in result.events():
        if event.path and event.kind == "model" and event.data.type == "response.output_text.delta":
            break
    result.cancel()
    events = [event async for event in result.events()]
    (partial,) = [event for event in events if event.kind == "item" and event.data.type == "message_output_item"]
    assert (partial.path, partial.data.raw.status) == (("c1",), "incomplete")
    assert partial.data.raw.content[0].text == "one"


async def test_leaving_the_callers_stream_ends_both() -> None:
    """The nested run has no readers of its own: with the last reader of the whole run everything ends."""
    inner = _inner(say("one two three", every_s=1000.0))
    result = Runner.run_streamed(_outer(_ask(inner)), "hi")
    async for event in result.stream_events(nested=True):
        if event.path:
            break
    await asyncio.wait_for(asyncio.wait([result.run_loop_task]), 5)  # type: ignore[list-item]
    assert [event async for event in result.events()][-1].data.status == "cancelled"


async def test_a_nested_failure_is_told_to_the_model() -> None:
    """By the default function, by one that is given, or, with None, by failing the calling run."""
    broken = Agent(name="Inner", model=ScriptedModel([[ToolCall("ping")]] * 3), tools=[ping])
    outer = _outer(_ask(broken, max_turns=1))
    await Runner.run(outer, "hi")
    assert "Max turns (1) exceeded" in _told(outer)

    broken = Agent(name="Inner", model=ScriptedModel([[ToolCall("ping")]] * 3), tools=[ping])
    outer = _outer(
        _ask(broken, max_turns=1, failure_error_function=lambda ctx, error: f"sorry: {type(error).__name__}")
    )
    await Runner.run(outer, "hi")
    assert _told(outer) == "sorry: MaxTurnsExceeded"

    broken = Agent(name="Inner", model=ScriptedModel([[ToolCall("ping")]] * 3), tools=[ping])
    with pytest.raises(MaxTurnsExceeded):
        await Runner.run(_outer(_ask(broken, max_turns=1, failure_error_function=None)), "hi")


async def test_on_stream_gets_the_nested_events() -> None:
    """Each event of the nested run, in order, with the active agent and the call; sync and async functions."""
    for is_async in (False, True):
        seen: list[Any] = []

        async def tell(told: Any, seen: list[Any] = seen) -> None:
            seen.append(told)

        inner = Agent(name="Inner", model=ScriptedModel([HandoffTo("Other")]))
        inner.handoffs.append(Agent(name="Other", model=ScriptedModel(["from other"])))
        tool = _ask(inner, on_stream=tell if is_async else seen.append)
        result = Runner.run_streamed(_outer(tool), "hi")
        nested = [event async for event in result.stream_events(nested=True) if event.path]
        assert [told["event"] for told in seen] == nested
        assert {told["tool_call"].call_id for told in seen} == {"c1"}
        names = [told["agent"].name for told in seen]
        assert (names[0], names[-1]) == ("Inner", "Other")


async def test_on_stream_holds_nobody_up_and_fails_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A slow function gets its events later, but before the call ends; what it raises is logged."""
    seen: list[str] = []
    ready = asyncio.Event()

    async def tell(told: Any) -> None:
        await ready.wait()
        seen.append(told["event"].type)
        raise ValueError("in on_stream")

    result = Runner.run_streamed(_outer(_ask(_inner(), on_stream=tell)), "hi")
    async for event in result.events():
        if event.path and event.kind == "item":
            assert not seen  # the nested run is through, its listener has not begun
            ready.set()
        if event.kind == "item" and event.data.name == "tool_output":
            assert seen[-1] == "run_item_stream_event"
    assert result.final_output == "done"
    assert "in on_stream" in caplog.text


async def test_what_the_output_is() -> None:
    """The final output, of any type; what the extractor makes of the result; what was said last where it is empty."""

    @dataclass
    class Place:
        city: str

    async def extract(result: Any) -> str:
        call = result.agent_tool_invocation
        return f"{result.final_output.city} by {call.tool_name} {call.tool_call_id} {call.tool_arguments}"

    typed = Agent(name="Inner", model=ScriptedModel(['{"response":{"city":"Paris"}}']), output_type=Place)
    outer = _outer(_ask(typed, custom_output_extractor=extract))
    result = await Runner.run(outer, "hi")
    assert _told(outer) == 'Paris by ask c1 {"input":"What is it?"}'
    assert result.agent_tool_invocation is None

    silent = Agent(name="Inner", model=ScriptedModel([[ToolCall("ping")], ""]), tools=[ping])
    outer = _outer(_ask(silent))
    await Runner.run(outer, "hi")
    assert _told(outer) == "pong"


class Trip(pydantic.BaseModel):
    """A trip."""

    city: str = pydantic.Field(description="Where to.")
    days: int


async def test_structured_input() -> None:
    """The arguments are checked and become the nested input, and `tool_input` of its contexts."""
    seen: list[Any] = []

    def instructions(ctx: RunContextWrapper[Any], agent: Agent[Any]) -> str:
        seen.append(ctx.tool_input)
        return "Plan."

    inner = Agent(name="Inner", instructions=instructions, model=ScriptedModel(["ok", "ok"]))
    tool = inner.as_tool("plan", None, parameters=Trip, include_input_schema=True)
    assert tool.params_json_schema["required"] == ["city", "days"]
    call = ToolCall("plan", {"city": "Paris", "days": 3}, call_id="c1")
    await Runner.run(_outer(tool, calls=[call]), "hi")
    assert seen == [{"city": "Paris", "days": 3}]
    (sent,) = inner.model.calls[0].input  # type: ignore[union-attr]
    assert '"city": "Paris"' in sent["content"]
    assert "## Input JSON Schema:" in sent["content"]

    built = inner.as_tool(
        "plan",
        None,
        parameters=Trip,
        input_builder=lambda options: [{"role": "user", "content": str(options["params"])}],
    )
    await Runner.run(_outer(built, calls=[call]), "hi")
    assert inner.model.calls[1].input == [{"role": "user", "content": "{'city': 'Paris', 'days': 3}"}]  # type: ignore[union-attr]


async def test_wrong_arguments_are_told_to_the_model() -> None:
    """The nested run does not begin; the message names the field."""
    outer = _outer(_inner().as_tool("plan", None, parameters=Trip), calls=[ToolCall("plan", {"city": 3}, call_id="c1")])
    events = await _log(outer)
    assert "`days`: Field required" in _told(outer)
    assert not any(event.path for event in events)


async def test_an_input_builder_that_builds_nothing() -> None:
    """What is neither text nor items is refused before any request."""
    tool = _ask(_inner(), input_builder=lambda options: 3, failure_error_function=None)  # type: ignore[arg-type,return-value]
    with pytest.raises(ModelBehaviorError, match="invalid input"):
        await Runner.run(_outer(tool), "hi")


def test_what_cannot_be_declared_is_refused() -> None:
    """Parameters are a dataclass or a pydantic model; on_stream is a function."""
    with pytest.raises(TypeError, match="dataclass or a pydantic model"):
        _ask(_inner(), parameters=int)
    with pytest.raises(UserError, match="on_stream must be callable"):
        _ask(_inner(), on_stream={"max_turns": 3})


def test_the_declaration() -> None:
    """The name is the agent's unless one is given; copies stay tools of the agent; its origin tells what it is."""
    agent = Agent(name="Weather Desk (EU)")
    tool = agent.as_tool(None, None)
    assert (tool.name, tool.description) == ("weather_desk__eu_", "")
    assert tool.params_json_schema["required"] == ["input"]
    assert tool.origin.to_json_dict() == {
        "type": "agent_as_tool",
        "agent_name": "Weather Desk (EU)",
        "agent_tool_name": "weather_desk__eu_",
    }
    assert dataclasses.replace(tool, name="other").agent is agent
    assert ping.agent is None


async def test_enabled_or_not() -> None:
    """A tool that is not enabled is not shown to the model."""
    agent = Agent(
        name="Outer",
        tools=[_ask(_inner(), is_enabled=False), _inner().as_tool("b", None, is_enabled=lambda c, a: True)],
    )
    assert [tool.name for tool in await agent.get_all_tools(RunContextWrapper(None))] == ["b"]


async def test_options_reach_the_nested_run() -> None:
    """Hooks, session and configuration are those of the nested run; the caller's object is shared."""
    started: list[tuple[str, Any]] = []

    class Hooks(RunHooks[Any]):
        async def on_agent_start(self, context: Any, agent: Any) -> None:
            started.append((agent.name, context.context))

    session = InMemorySession("s")
    other = ScriptedModel(["from the other model"])
    tool = _ask(_inner(), hooks=Hooks(), session=session, run_config=RunConfig(model=other))
    outer = _outer(tool)
    await Runner.run(outer, "hi", context={"user": 1})
    assert started == [("Inner", {"user": 1})]
    assert _told(outer) == "from the other model"
    assert [item["role"] for item in await session.get_items()] == ["user", "assistant"]  # type: ignore[typeddict-item]


async def test_called_by_hand_it_is_a_run_of_its_own() -> None:
    """Outside of a run, the tool runs the agent all the same."""
    context = ToolContext({"a": 1}, tool_name="ask", tool_call_id="x", tool_arguments="{}")
    assert await _ask(_inner()).on_invoke_tool(context, '{"input": "hi"}') == "It is this."


async def test_a_timeout_of_the_tool_ends_the_nested_run() -> None:
    """A copy of the tool with a timeout: the nested run is cancelled in time, the model told."""
    clock = FakeClock()
    inner = Agent(name="Inner", model=ScriptedModel([Turn((), first_after_s=1000.0)], clock=clock))
    outer = _outer(dataclasses.replace(_ask(inner), timeout_seconds=5))
    events = await _log(outer, clock=clock)
    assert _told(outer) == "Tool 'ask' timed out after 5 seconds."
    assert events[-1].data.status == "completed"


async def test_a_run_begun_by_hand_inside_is_one_of_its_own() -> None:
    """Only `as_tool` nests: what a tool or an instruction of the nested agent runs itself is in no other log."""
    helper = Agent(name="Helper", model=ScriptedModel(["helped", "helped"]))

    @function_tool
    async def by_hand(ctx: ToolContext[Any]) -> str:
        return (await Runner.run(helper, "hi", context=ctx)).final_output

    async def instructions(ctx: Any, agent: Agent[Any]) -> str:
        return (await Runner.run(helper, "hi", context=ctx)).final_output

    inner = _inner([ToolCall("by_hand", call_id="h1")], "x", tools=[by_hand])
    inner.instructions = lambda ctx, agent: "plain"
    outer = _outer(_ask(inner))
    events = await _log(outer)
    assert {event.agent for event in events} == {"Outer", "Inner"}
    inner = _inner("x", instructions=instructions)
    events = await _log(_outer(_ask(inner)))
    assert {event.agent for event in events} == {"Outer", "Inner"}


async def test_limits_on_load_count_the_whole_run() -> None:
    """A nested run takes no place of its own: with room for one run, it does not wait for the run that waits for it."""
    limits = LoadLimits(max_runs=1)
    async with asyncio.timeout(5):
        events = await _log(_outer(_ask(_inner())), load_limits=limits)
    assert events[-1].data.status == "completed"


async def test_a_nested_tool_that_ignores_its_cancellation() -> None:
    """The nested run gives up on it before the calling run gives up on the nested run: both are made whole."""
    clock = FakeClock()
    started = asyncio.Event()

    @function_tool
    async def stubborn() -> str:
        started.set()
        try:
            await clock.sleep(1000)
        except asyncio.CancelledError:
            await clock.sleep(1000)
        return "too late"

    inner = _inner([ToolCall("stubborn", call_id="s1")], tools=[stubborn])
    config = RunConfig(clock=clock, cancel_timeout_s=4.0)
    result = Runner.run_streamed(_outer(_ask(inner)), "hi", run_config=config)
    await started.wait()
    begun = clock.now()
    result.cancel()
    events = [event async for event in result.events()]
    assert clock.now() - begun < 4.0
    assert _shape(events)[-3:] == [
        (("c1",), "tool_output", "Inner"),
        ((), "tool_output", "Outer"),
        ((), "run.end", "Outer"),
    ]
    await clock.sleep(2000)
    assert [event.seq async for event in result.events()] == [event.seq for event in events]


async def test_a_nested_model_call_is_made_again() -> None:
    """What is taken back is the nested attempt alone, by its own path; the tool's output and the usage are those of
    both attempts, and views show the first as void inside of the call."""
    broken = say("one two three", fault=Fault("reset", after=2))
    events = await _log(_outer(_ask(_inner(broken, "The whole."))), clock=FakeClock(), on_broken_stream="restart")
    (discarded,) = [event for event in events if event.kind == "attempt.discarded"]
    (first,) = [event for event in events if event.seq == discarded.data.from_seq]
    assert (discarded.path, first.path, first.data.type) == (("c1",), ("c1",), "response.created")
    outputs = [
        event.data.raw["output"] for event in events if event.kind == "item" and event.data.name == "tool_output"
    ]
    assert [*outputs, events[-1].data.final_output, events[-1].data.usage["requests"]] == ["The whole.", "done", 4]
    nested: Any = view_of(events).to_json()["entries"][1]["nested"]
    assert [(entry["type"], entry["void"]) for entry in nested["entries"]] == [
        ("message", True),
        ("discarded", False),
        ("message", False),
    ]
