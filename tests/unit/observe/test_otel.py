"""A run as OpenTelemetry's spans and measurements."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from runstream import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    OutputGuardrail,
    OutputGuardrailTripwireTriggered,
    RunConfig,
    Runner,
    StreamGuardrail,
    ToolGuardrailFunctionOutput,
    ToolOutputGuardrail,
    function_tool,
)
from runstream.errors import MissingExtra, ModelStreamTruncated
from runstream.events.event import AgentStart, AttemptDiscarded, ErrorInfo, Event, RunEnd, RunStart
from runstream.events.model_event import build_event
from runstream.observe import replay, set_observers
from runstream.observe.otel import OpenTelemetry
from runstream.testing import FakeClock, HandoffTo, Raise, ScriptedModel, ToolCall, Turn


class Collected:
    """Providers that keep what they get."""

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.reader = InMemoryMetricReader()
        meters = MeterProvider([self.reader])
        self.otel = OpenTelemetry(tracer_provider=self.tracers, meter_provider=meters, **options)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def parent_of(self, name: str) -> str | None:
        parent = self.named(name).parent
        return None if parent is None else next(s.name for s in self.spans if s.context.span_id == parent.span_id)

    def measured(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = list(metric.data.data_points)
        return found


@pytest.fixture
def collected() -> Iterator[Collected]:
    collected = Collected()
    set_observers([collected.otel])
    yield collected
    set_observers([])


def took_s(span: ReadableSpan) -> float:
    return ((span.end_time or 0) - (span.start_time or 0)) / 1e9


SECRET = "the secret word is swordfish"


def support(clock: FakeClock, *, last: Any = SECRET) -> Agent[Any]:
    @function_tool
    async def look_up(order: str) -> str:
        """Look an order up."""
        await clock.sleep(0.5)
        with trace.get_tracer("mine").start_as_current_span("database"):
            await clock.sleep(0.25)
        return SECRET

    refunds = Agent(
        name="Refunds",
        tools=[look_up],
        model=ScriptedModel(
            [Turn([ToolCall("look_up", {"order": SECRET}, call_id="call_1")], first_after_s=1.0), last], clock=clock
        ),
    )
    return Agent(name="Desk", model=ScriptedModel([Turn([HandoffTo("Refunds")])], clock=clock), handoffs=[refunds])


async def test_the_spans_of_a_run(collected: Collected, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run, agents, turns, model calls, tools and handoffs hang together, with the events' times."""
    monkeypatch.setattr(trace, "get_tracer", collected.tracers.get_tracer)
    clock = FakeClock()
    outer = collected.tracers.get_tracer("mine")
    with outer.start_as_current_span("request"):
        result = Runner.run_streamed(support(clock), SECRET, run_config={"clock": clock, "workflow_name": "Refund"})
    await result.wait()
    await asyncio.sleep(0)
    parents = {
        span.name: collected.parent_of(span.name)
        for span in collected.spans
        if span.name not in ("chat scripted", "turn 1")
    }
    assert parents == {
        "request": None,
        "invoke_workflow Refund": "request",
        "invoke_agent Desk": "invoke_workflow Refund",
        "invoke_agent Refunds": "invoke_workflow Refund",
        "handoff Refunds": "turn 1",
        "turn 2": "invoke_agent Refunds",
        "turn 3": "invoke_agent Refunds",
        "execute_tool look_up": "turn 2",
        "database": "execute_tool look_up",
    }
    assert [span.name for span in collected.spans].count("chat scripted") == 3
    assert took_s(collected.named("execute_tool look_up")) == pytest.approx(0.75, abs=1e-5)
    assert took_s(collected.named("turn 2")) == pytest.approx(1.75, abs=1e-5)
    assert len({span.context.trace_id for span in collected.spans}) == 1


async def test_attributes_and_no_content(collected: Collected) -> None:
    """The conventions' attributes are there; what was said, called with and answered is not."""
    clock = FakeClock()
    await Runner.run(support(clock), SECRET, run_config={"clock": clock})
    await asyncio.sleep(0)
    tool = collected.named("execute_tool look_up")
    assert tool.attributes == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "look_up",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": "call_1",
    }
    chats = [span for span in collected.spans if span.name.startswith("chat")]
    assert {span.kind for span in chats} == {trace.SpanKind.CLIENT}
    attributes = dict(chats[-1].attributes or {})
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.provider.name"] == "openai"
    assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert attributes["gen_ai.usage.output_tokens"] > 0
    assert collected.named("invoke_agent Desk").attributes["gen_ai.agent.name"] == "Desk"  # type: ignore[index]
    assert "swordfish" not in "".join(span.to_json() for span in collected.spans)


async def test_content_on_request() -> None:
    """With `record_content`, prompts, answers, arguments and outputs are there, in the conventions' shape."""
    collected = Collected(record_content=True)
    set_observers([collected.otel])
    clock = FakeClock()
    try:
        await Runner.run(support(clock), "Where is it?", run_config={"clock": clock})
        await asyncio.sleep(0)
    finally:
        set_observers([])
    root = collected.named("invoke_workflow").attributes or {}
    assert json.loads(str(root["gen_ai.input.messages"])) == [
        {"role": "user", "parts": [{"type": "text", "content": "Where is it?"}]}
    ]
    answer = {"role": "assistant", "parts": [{"type": "text", "content": SECRET}], "finish_reason": "stop"}
    assert json.loads(str(root["gen_ai.output.messages"])) == [answer]
    tool = collected.named("execute_tool look_up").attributes or {}
    assert json.loads(str(tool["gen_ai.tool.call.arguments"])) == {"order": SECRET}
    assert tool["gen_ai.tool.call.result"] == SECRET
    last_chat = [span for span in collected.spans if span.name.startswith("chat")][-1]
    assert json.loads(str((last_chat.attributes or {})["gen_ai.output.messages"])) == [answer]


async def test_measurements(collected: Collected) -> None:
    """Durations, time to the first chunk and tokens are measured under the conventions' names."""
    clock = FakeClock()
    result = Runner.run_streamed(support(clock), "hi", run_config={"clock": clock})
    await result.wait()
    await asyncio.sleep(0)
    measured = collected.measured()
    assert set(measured) == {
        "gen_ai.client.inference.duration",
        "gen_ai.client.inference.time_to_first_chunk",
        "gen_ai.client.inference.usage.input_tokens",
        "gen_ai.client.inference.usage.output_tokens",
        "gen_ai.execute_tool.duration",
        "gen_ai.invoke_agent.duration",
        "gen_ai.invoke_workflow.duration",
    }
    (tool,) = measured["gen_ai.execute_tool.duration"]
    assert (tool.count, tool.attributes["gen_ai.tool.name"]) == (1, "look_up")
    assert tool.sum == pytest.approx(0.75, abs=1e-5)
    assert sum(point.count for point in measured["gen_ai.client.inference.duration"]) == 3
    assert {point.attributes["gen_ai.agent.name"] for point in measured["gen_ai.invoke_agent.duration"]} == {
        "Desk",
        "Refunds",
    }


async def test_a_retried_call_has_attempts(collected: Collected) -> None:
    """The call's span covers all attempts; the ones that the log knows of have spans below it."""
    clock = FakeClock()
    agent = Agent(name="Desk", model=ScriptedModel([Raise(ModelStreamTruncated("gone")), "Done."], clock=clock))
    result = Runner.run_streamed(agent, "hi", run_config={"clock": clock})
    await result.wait()
    await asyncio.sleep(0)
    assert collected.parent_of("attempt 2") == "chat scripted"
    assert collected.named("chat scripted").status.status_code is trace.StatusCode.UNSET


def model(seq: int, at: float, kind: str, attempt: int = 1, **fields: Any) -> Event:
    data = build_event({"type": kind, "sequence_number": seq, **fields})
    return Event("run_1", seq, at, "model", "Desk", attempt, (), data)


def text(seq: int, at: float, attempt: int = 1) -> Event:
    where = {"item_id": "m", "output_index": 0, "content_index": 0, "logprobs": []}
    return model(seq, at, "response.output_text.delta", attempt, delta="x", **where)


def own(seq: int, at: float, kind: str, data: Any) -> Event:
    return Event("run_1", seq, at, kind, "Desk", 0, (), data)


def test_a_discarded_attempt_and_a_fallback_from_a_replayed_log() -> None:
    """A stored log gives the same spans later, at its own times; a fallback that nobody saw is one, too."""
    collected = Collected()
    response = {"id": "r", "model": "large", "status": "completed", "output": []}
    replay(
        [
            own(1, 100.0, "run.start", RunStart("hi")),
            own(2, 100.0, "agent.start", AgentStart()),
            own(3, 101.0, "attempt.discarded", AttemptDiscarded(3, "fallback", next_model="large")),
            text(4, 103.0, 2),
            own(5, 104.0, "attempt.discarded", AttemptDiscarded(4, "retry")),
            text(6, 105.0, 3),
            model(7, 106.0, "response.completed", 3, response=response),
            own(8, 106.0, "run.end", RunEnd("completed")),
        ],
        collected.otel,
    )
    attempts = [(span.name, took_s(span), (span.attributes or {}).get("error.type")) for span in collected.spans[:3]]
    assert attempts == [("attempt 1", 1.0, "fallback"), ("attempt 2", 3.0, "retry"), ("attempt 3", 2.0, None)]
    assert {collected.parent_of(f"attempt {number}") for number in (1, 2, 3)} == {"chat"}
    assert took_s(collected.named("chat")) == 6.0
    assert [event.name for event in collected.named("invoke_workflow").events] == ["runstream.attempt.discarded"] * 2


def test_a_request_that_failed_has_a_span() -> None:
    """A call that left nothing in the log is known by the run's error; the error's text is content."""
    collected = Collected()
    failed = RunEnd("failed", ErrorInfo("RateLimitError", "swordfish", "rate_limit"))
    replay(
        [
            own(1, 100.0, "run.start", RunStart("hi")),
            own(2, 100.0, "agent.start", AgentStart()),
            own(3, 102.0, "run.end", failed),
        ],
        collected.otel,
    )
    for name in ("chat", "turn 1", "invoke_agent Desk", "invoke_workflow"):
        span = collected.named(name)
        assert span.status.status_code is trace.StatusCode.ERROR
        assert (span.attributes or {})["error.type"] == "RateLimitError"
    assert took_s(collected.named("chat")) == 2.0
    assert "swordfish" not in "".join(span.to_json() for span in collected.spans)


async def test_nothing_is_detached_whatever_the_reader_does(
    collected: Collected, caplog: pytest.LogCaptureFixture
) -> None:
    """Breaking off, closing from another task and cancelling log nothing and leave no span current."""
    clock = FakeClock()
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            agent = support(clock, last=Turn(["a b c d e f"], every_s=0.1))
            result = Runner.run_streamed(agent, "hi", run_config={"clock": clock})
            async for event in result.stream_events():
                if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                    break
            await result.wait()
            other = Runner.run_streamed(support(clock), "hi", run_config={"clock": clock})
            reader = other.stream_events()
            await anext(reader)
            await asyncio.create_task(reader.aclose())
    await asyncio.sleep(0)
    assert "detach" not in caplog.text.lower()
    assert trace.get_current_span() is trace.INVALID_SPAN
    roots = [span for span in collected.spans if span.name == "invoke_workflow"]
    assert [(span.attributes or {})["runstream.run.status"] for span in roots] == ["cancelled"] * 6
    assert len({span.context.trace_id for span in roots}) == 6


async def test_a_cancelled_tool_is_an_error(collected: Collected) -> None:
    """What was open when the run was cancelled ends with it."""
    clock = FakeClock(autojump=False)
    result = Runner.run_streamed(support(clock), "hi", run_config={"clock": clock})
    await clock.advance(1.2)
    result.cancel()
    await clock.advance(10.0)
    await asyncio.sleep(0)
    assert collected.named("execute_tool look_up").end_time is not None
    assert collected.otel._runs == {}
    statuses = {span.name: span.status.status_code for span in collected.spans}
    assert statuses["invoke_agent Refunds"] is trace.StatusCode.ERROR
    assert statuses["invoke_workflow"] is trace.StatusCode.UNSET


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without OpenTelemetry the error says what to install."""
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(MissingExtra, match=r"runstream\[otel\]"):
        OpenTelemetry()


async def test_runs_in_config_of_a_store_are_traced_too(collected: Collected) -> None:
    """A run that is kept in a store has the same spans."""
    agent = Agent(name="Desk", model=ScriptedModel(["Done."], clock=FakeClock()))
    await Runner.run(agent, "hi", run_config=RunConfig(store="memory://traced"))
    await asyncio.sleep(0)
    assert collected.parent_of("turn 1") == "invoke_agent Desk"


async def test_a_nested_agent_hangs_under_its_call(collected: Collected) -> None:
    """An agent that runs as a tool has its agent, turn and call below the span of the tool call."""
    clock = FakeClock()
    inner = Agent(name="Inner", model=ScriptedModel(["It is late."], clock=clock, name="inner"))
    outer = Agent(
        name="Outer",
        model=ScriptedModel([Turn([ToolCall("ask_inner", {"input": "When?"})]), "Late."], clock=clock, name="outer"),
        tools=[inner.as_tool("ask_inner", "Ask.")],
    )
    await Runner.run(outer, "hi", run_config={"clock": clock})
    await asyncio.sleep(0)
    assert collected.parent_of("invoke_agent Inner") == "execute_tool ask_inner"
    assert [span.name for span in collected.spans].count("invoke_workflow") == 1
    inner_span = collected.named("invoke_agent Inner")
    assert (inner_span.end_time or 0) <= (collected.named("execute_tool ask_inner").end_time or 0)


@pytest.mark.parametrize("streamed", [False, True])
async def test_guardrails_have_spans_under_what_they_check(collected: Collected, streamed: bool) -> None:
    """With their own times and outcomes; one beside a model call does not shorten that call, one before it does not
    count as part of it."""
    clock = FakeClock()

    def check(after_s: float, *, trip: bool = False) -> Any:
        async def asked(*given: Any) -> GuardrailFunctionOutput:
            await clock.sleep(after_s)
            return GuardrailFunctionOutput(SECRET, trip)

        return asked

    rejects = ToolGuardrailFunctionOutput.reject_content("No.", SECRET)

    @function_tool(tool_output_guardrails=[ToolOutputGuardrail(lambda data: rejects, "keys")])
    def look_up() -> str:
        return SECRET

    agent = Agent(
        name="Ann",
        model=ScriptedModel([Turn([ToolCall("look_up")], first_after_s=4.0), Turn(["Done."])], clock=clock),
        tools=[look_up],
        input_guardrails=[
            InputGuardrail(check(2.0), "first", run_in_parallel=False),
            InputGuardrail(check(1.0), "beside"),
        ],
        stream_guardrails=[StreamGuardrail(check(0.5), name="watch")],
        output_guardrails=[OutputGuardrail(check(3.0, trip=True), "last")],
    )
    config = RunConfig(clock=clock)
    run: Any = Runner.run_streamed(agent, "hi", run_config=config).wait if streamed else None
    with pytest.raises(OutputGuardrailTripwireTriggered):
        await (run() if streamed else Runner.run(agent, "hi", run_config=config))
    await asyncio.sleep(0)
    found = {
        span.name: (collected.parent_of(span.name), took_s(span)) for span in collected.spans if "guard" in span.name
    }
    assert found == {
        "guardrail first": ("invoke_agent Ann", 2.0),
        "guardrail beside": ("invoke_agent Ann", 1.0),
        "guardrail keys": ("execute_tool look_up", 0.0),
        "guardrail watch": ("turn 2" if streamed else "turn 1", 0.5),
        "guardrail last": ("turn 2", 3.0),
    }
    calls = [took_s(span) for span in collected.spans if span.name.startswith("chat")]
    assert calls[0] == 4.0
    outcomes = {
        span.name: (span.attributes or {})["runstream.guardrail.outcome"]
        for span in collected.spans
        if span.name in found
    }
    assert outcomes["guardrail last"] == "tripped"
    assert SECRET not in str([span.attributes for span in collected.spans])


async def test_a_guardrail_that_ends_after_a_handoff_hangs_under_its_own_agent(collected: Collected) -> None:
    """Its outcome stands in the log when another agent has taken over."""
    passes = InputGuardrail(lambda *_: GuardrailFunctionOutput("told with the others", False), "polite")
    second = Agent(name="Second", model=ScriptedModel(["Done."]))
    first = Agent(
        name="First", model=ScriptedModel([HandoffTo("Second")]), handoffs=[second], input_guardrails=[passes]
    )
    events = [event async for event in Runner.run_streamed(first, "hi").events()]
    kinds = [(event.kind, event.agent) for event in events]
    assert kinds.index(("guardrail", "First")) > kinds.index(("agent.start", "Second"))
    await asyncio.sleep(0)
    assert collected.parent_of("guardrail polite") == "invoke_agent First"


@pytest.mark.parametrize(("name", "told"), [("gpt", "chat gpt"), ("", "chat ScriptedModel")])
async def test_a_call_that_is_not_streamed_names_its_model(collected: Collected, name: str, told: str) -> None:
    """The model that was asked, as for a stream; where it has no name, its class."""
    model = ScriptedModel(["hi"])
    model.model = name
    await Runner.run(Agent(name="Desk", model=model), "hi")
    await asyncio.sleep(0)
    assert told in [span.name for span in collected.spans]
