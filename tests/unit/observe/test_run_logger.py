"""Log lines of runs."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from runstream import (
    Agent,
    GuardrailFunctionOutput,
    OutputGuardrail,
    OutputGuardrailTripwireTriggered,
    Runner,
    function_tool,
)
from runstream.errors import ModelStreamTruncated, UserError
from runstream.events.event import Event, RunQueued
from runstream.observe import JsonFormatter, ObservedRun, RunLogger, set_observers
from runstream.testing import FakeClock, HandoffTo, Raise, ScriptedModel, ToolCall, Turn

SECRET = "swordfish"


@pytest.fixture(autouse=True)
def nobody_observes() -> Iterator[None]:
    yield
    set_observers([])


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged, as JSON lines."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("runstream.runs")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def parsed(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


async def run(*last: Any, fails: bool = False) -> None:
    clock = FakeClock()

    @function_tool
    async def look_up(word: str) -> str:
        """Look a word up."""
        await clock.sleep(0.5)
        return SECRET

    steps = [Turn([ToolCall("look_up", {"word": SECRET}, call_id="call_1")]), *(last or [SECRET])]
    refunds = Agent(name="Refunds", model=ScriptedModel(steps, clock=clock), tools=[look_up])
    desk = Agent(name="Desk", model=ScriptedModel([Turn([HandoffTo("Refunds")])], clock=clock), handoffs=[refunds])
    result = Runner.run_streamed(desk, SECRET, run_config={"clock": clock})
    if fails:
        with pytest.raises(ValueError, match=SECRET):
            await result.wait()
    else:
        await result.wait()
    await asyncio.sleep(0)


async def test_one_line_for_each_important_event(lines: io.StringIO) -> None:
    """Begin, agents, model calls, handoffs, tools and the end have a line each, deltas none."""
    set_observers([RunLogger()])
    await run()
    found = parsed(lines)
    assert [line["event"] for line in found] == [
        "run.start",
        "agent.start",
        "model.ended",
        "handoff",
        "agent.start",
        "model.ended",
        "tool.called",
        "tool.output",
        "model.ended",
        "run.end",
    ]
    output = found[7]
    assert (output["tool"], output["call_id"], output["output_chars"]) == ("look_up", "call_1", 9)
    assert output["duration_s"] == pytest.approx(0.5, abs=1e-5)
    assert found[3]["target"] == "Refunds"
    assert (found[-1]["status"], found[-1]["turns"], found[-1]["level"]) == ("completed", 3, "INFO")
    assert len({line["run_id"] for line in found}) == 1
    assert SECRET not in lines.getvalue()


async def test_content_on_request(lines: io.StringIO) -> None:
    """With `content`, inputs, arguments and outputs are fields."""
    set_observers([RunLogger(content=True)])
    await run()
    found = {line["event"]: line for line in parsed(lines)}
    assert found["run.start"]["input"] == SECRET
    assert json.loads(found["tool.called"]["arguments"]) == {"word": SECRET}
    assert found["tool.output"]["output"] == SECRET


async def test_retries_and_failures(lines: io.StringIO) -> None:
    """A retry is a warning; a failure is an error with its class, and without its text."""
    set_observers([RunLogger()])
    await run(Raise(ModelStreamTruncated("gone")), "Done.")
    await run(Raise(ValueError(SECRET)), fails=True)
    warnings = [(line["event"], line["level"]) for line in parsed(lines) if line["level"] != "INFO"]
    assert warnings == [("model.retried", "WARNING"), ("model.ended", "WARNING"), ("run.end", "ERROR")]
    assert parsed(lines)[-1]["error_type"] == "ValueError"
    assert SECRET not in lines.getvalue()


async def test_sampling_is_by_run(lines: io.StringIO) -> None:
    """Of a run that is not in the sample only warnings and errors are logged; the choice depends on its id alone."""
    set_observers([RunLogger(sample=0.0)])
    await run()
    assert parsed(lines) == []
    await run(Raise(ValueError(SECRET)), fails=True)
    assert [line["event"] for line in parsed(lines)] == ["model.ended", "run.end"]
    half = RunLogger(sample=0.5)
    chosen = [half(ObservedRun(f"run_{number}")).__self__._emit == half._emit for number in range(1000)]  # type: ignore[attr-defined]
    assert 400 < sum(chosen) < 600
    assert chosen == [half(ObservedRun(f"run_{n}")).__self__._emit == half._emit for n in range(1000)]  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="sample"):
        RunLogger(sample=2)


async def test_the_plain_line(caplog: pytest.LogCaptureFixture) -> None:
    """Without a formatter of ours the line is the event and its fields."""
    set_observers([RunLogger()])
    with caplog.at_level(logging.INFO, "runstream.runs"):
        await run()
    text = next(record.getMessage() for record in caplog.records if record.__dict__["event"] == "handoff")
    assert text.startswith("handoff run_id=run_")
    assert text.endswith("agent=Desk source=Desk target=Refunds")


async def test_structlog() -> None:
    """A structlog logger gets the event and the fields as keywords."""
    with structlog.testing.capture_logs() as captured:
        set_observers([RunLogger(structlog.get_logger())])
        await run()
    assert captured[0]["event"] == "run.start"
    assert captured[-1]["status"] == "completed"


def test_the_formatter_takes_other_lines_too() -> None:
    """Lines of others have their message and, where there is one, their exception."""
    record = logging.LogRecord("other", logging.INFO, __file__, 1, "took %d s", (3,), None)
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["level"], line["logger"]) == ("took 3 s", "INFO", "other")


async def test_what_guardrails_decided(lines: io.StringIO) -> None:
    """A line for each; a warning where something was not let pass, and no content."""
    set_observers([RunLogger()])
    passes = OutputGuardrail(lambda *given: GuardrailFunctionOutput(SECRET, False), "polite")
    trips = OutputGuardrail(lambda *given: GuardrailFunctionOutput(SECRET, True), "prices")
    agent = Agent(name="Ann", model=ScriptedModel(["It is $5."]), output_guardrails=[passes, trips])
    with pytest.raises(OutputGuardrailTripwireTriggered):
        await Runner.run(agent, "hi")
    await asyncio.sleep(0)
    told = [line for line in parsed(lines) if line["event"] == "guardrail"]
    assert [(line["level"], line["guardrail"], line["about"], line["outcome"]) for line in told] == [
        ("INFO", "polite", "output", "passed"),
        ("WARNING", "prices", "output", "tripped"),
    ]
    assert SECRET not in lines.getvalue()


def test_a_run_that_waits_for_its_place(lines: io.StringIO) -> None:
    """One line when the wait begins, and one with how long it was; none for each place in between."""
    sink = RunLogger()(ObservedRun("run_1", "Ann"))
    assert sink is not None
    for seq, position in enumerate((3, 2, 1, 0), start=1):
        sink(Event("run_1", seq, float(seq), "run.queued", "Ann", 0, (), RunQueued(position)))
    told = [(line["event"], line["position"], line.get("queued_s")) for line in parsed(lines)]
    assert told == [("run.queued", 3, None), ("run.queued", 0, 3.0)]
