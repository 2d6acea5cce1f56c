"""ReplayModel: a stored run, played again without its provider, gives the same events."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from runstream import Agent, ModelSettings, RunConfig, Runner, function_tool
from runstream.errors import CircuitOpen, CursorExpired, RunNotFound, UserError
from runstream.events.event import Event
from runstream.log.memory_store import MemoryStore
from runstream.render.json_lines import encode_line
from runstream.run.worker import Worker
from runstream.testing import (
    FakeClock,
    Fault,
    HandoffTo,
    ModelStep,
    Raise,
    ReplayMismatch,
    ReplayModel,
    ScriptedModel,
    ToolCall,
    Turn,
    UnconsumedModelSteps,
    UnexpectedModelCall,
    say,
)

_names = itertools.count()


@function_tool
def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


def desk(model: Any = None, *, tools: Any = (add,)) -> Agent[Any]:
    clerk = Agent(name="Clerk", model=model, tools=list(tools))
    return Agent(name="Desk", model=model, tools=list(tools), handoffs=[clerk])


SCRIPT = [
    Turn(["Let me see.", ToolCall("add", {"a": 1, "b": 2}), ToolCall("add", {"a": 3, "b": 4})], every_s=0.1),
    HandoffTo("Clerk"),
    Turn([say("It is three, and seven.").parts[0]], every_s=0.5, first_after_s=2.0),
]


async def record(model: Any, *, agent: Agent[Any] | None = None, **config: Any) -> list[Event]:
    """The events of a run, as its store gives them; where the time is not real, from memory."""
    if "clock" in config:
        result = Runner.run_streamed(agent or desk(), "Add.", run_config=RunConfig(model=model, **config))
        return [event async for event in result.events()]
    store = f"memory://replay-{next(_names)}"
    result = Runner.run_streamed(agent or desk(), "Add.", run_config=RunConfig(model=model, store=store, **config))
    _ = [event async for event in result.events()]
    attached = await Runner.attach(result.run_id, store=store)
    return [event async for event in attached.events()]


async def play(model: ReplayModel, *, agent: Agent[Any] | None = None, **config: Any) -> list[Event]:
    result = Runner.run_streamed(agent or desk(), "Add.", run_config=RunConfig(model=model, **config))
    return [event async for event in result.events()]


def scripted(script: Any = SCRIPT, **options: Any) -> ScriptedModel:
    return ScriptedModel(script, clock=FakeClock(), **options)


async def test_a_stored_run_gives_the_same_events() -> None:
    """Kinds and data, with tools and a handoff; only times and ids of runs are others."""
    recorded = await record(scripted())
    with ReplayModel.from_log(recorded) as model:
        events = await play(model)
    assert [(event.seq, event.kind) for event in events] == [(event.seq, event.kind) for event in recorded]
    model.assert_same_events(events)
    assert model.input == "Add."
    assert [call.agent for call in model.calls] == ["Desk", "Desk", "Clerk"]


async def test_run_is_replayed_as_well() -> None:
    """`get_response` gives the whole answers, of recordings that were streamed and of those that were not."""
    recorded = await record(scripted())
    with ReplayModel.from_log(recorded) as model:
        result = await Runner.run(desk(), "Add.", run_config=RunConfig(model=model))
    assert result.final_output == "It is three, and seven."
    assert result.context_wrapper.usage.total_tokens == recorded[-1].data.usage["total_tokens"]

    store = f"memory://replay-{next(_names)}"
    await Runner.run(desk(), "Add.", run_config=RunConfig(model=scripted(), store=store, run_id="whole"))
    with ReplayModel.from_log("whole", store=store) as model:
        await Runner.run(desk(), "Add.", run_config=RunConfig(model=model, store=store, run_id="again"))
    model.assert_same_events(ReplayModel.from_log("again", store=store).events)


async def test_a_recording_may_be_a_file(tmp_path: Path) -> None:
    """Events as JSON lines, as `runstream replay --instant --json` and `runstream watch --json` print them."""
    recorded = await record(scripted())
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"".join(encode_line(event) for event in recorded))
    with ReplayModel.from_log(path) as model:
        model.assert_same_events(await play(model))
    path.write_text("hello\n")
    with pytest.raises(UserError, match=r"run\.jsonl, line 1: not an event record"):
        ReplayModel.from_log(str(path))


async def test_a_recording_may_be_a_run_of_a_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By its id and a store, or RUNSTREAM_STORE; also of a SQLite file that is in use here."""
    store = f"sqlite:///{tmp_path}/runs.db"
    result = Runner.run_streamed(desk(), "Add.", run_config=RunConfig(model=scripted(), store=store))
    await result.wait()
    with ReplayModel.from_log(result.run_id, store=store) as model:
        model.assert_same_events(await play(model))
    with pytest.raises(RunNotFound):
        ReplayModel.from_log("nobody", store=store)
    with pytest.raises(UserError, match="'nobody' is no file with events"):
        ReplayModel.from_log("nobody")
    monkeypatch.setenv("RUNSTREAM_STORE", store)
    assert len(ReplayModel.from_log(result.run_id).calls) == 3


async def test_a_trimmed_log_is_no_recording() -> None:
    """What is missing is told, not left out."""
    store = MemoryStore("memory://trimmed")
    await store.open()
    recorded = Runner.run_streamed(desk(), "Add.", run_config=RunConfig(model=scripted(), store="memory://trimmed"))
    await recorded.wait()
    await store.trim(recorded.run_id, 10)
    with pytest.raises(CursorExpired):
        ReplayModel.from_log(recorded.run_id, store="memory://trimmed")


async def test_more_calls_than_recorded_fail() -> None:
    """The program under test has changed: it is told, and how many there were."""
    recorded = await record(ScriptedModel(["Hello."]))
    model = ReplayModel.from_log(recorded)
    await play(model)
    with pytest.raises(UnexpectedModelCall, match="the recorded run made 1 model calls; this is one more"):
        await Runner.run(desk(), "Add.", run_config=RunConfig(model=model))


async def test_fewer_calls_than_recorded_fail() -> None:
    """At the end of the `with` block; an error of the block itself comes first."""
    recorded = await record(scripted())
    told = "3 of 3 recorded model calls were not made, from call 1 on"
    with pytest.raises(UnconsumedModelSteps, match=told), ReplayModel.from_log(recorded):
        pass
    with pytest.raises(ZeroDivisionError), ReplayModel.from_log(recorded):
        _ = 1 / 0


async def test_a_request_of_another_kind_fails() -> None:
    """A tool that was called is not offered any more; `strict=False` plays it all the same."""
    recorded = await record(scripted())
    model = ReplayModel.from_log(recorded)
    with pytest.raises(ReplayMismatch, match=r"call 1 was answered with a call of 'add', which .* transfer_to_clerk"):
        await Runner.run(desk(tools=[]), "Add.", run_config=RunConfig(model=model))
    lenient = ReplayModel.from_log(recorded, strict=False)
    events = await play(lenient, agent=desk(tools=[]), tool_not_found_behavior="return_error_to_model")
    assert events[-1].data.status == "completed"
    with pytest.raises(AssertionError, match=r"event 39 \(item\)"):
        lenient.assert_same_events(events)


async def test_other_answers_than_recorded_fail() -> None:
    """The program asked the model before it had answered the calls that were answered in the recording."""
    recorded = await record(scripted())
    model = ReplayModel.from_log(recorded)

    def forget(data: Any) -> Any:
        data.model_data.input = [item for item in data.model_data.input if item.get("type") != "function_call_output"]
        return data.model_data

    with pytest.raises(ReplayMismatch, match=r"before model call 2 the tool calls \w+, \w+ were answered, here .*none"):
        await Runner.run(desk(), "Add.", run_config=RunConfig(model=model, call_model_input_filter=forget))


async def test_the_recorded_pauses_may_be_kept() -> None:
    """`speed=1` takes the models' time, 10 a tenth of it; without it there are no pauses."""
    clock = FakeClock()
    recorded = await record(ScriptedModel(SCRIPT, clock=clock), clock=clock)
    took_s = recorded[-1].at - recorded[0].at
    assert took_s > 4
    for speed, expected_s in ((1.0, took_s), (10.0, took_s / 10), (None, 0.0)):
        clock = FakeClock()
        began_at = clock.now()
        await play(ReplayModel.from_log(recorded, speed=speed, clock=clock), clock=clock)
        assert clock.now() - began_at == pytest.approx(expected_s)
    with pytest.raises(UserError, match="speed must be more than 0"):
        ReplayModel.from_log(recorded, speed=0)


async def test_events_come_in_the_batches_of_the_recording() -> None:
    """What came in one read comes in one again, with the frames if they are still there."""
    recorded = await record(ScriptedModel(["One two three."]))
    (call,) = ReplayModel.from_log(recorded).calls
    assert sum(len(batch) for batch in call.batches) == sum(event.kind == "model" for event in recorded)
    assert all(len({event.at for event in batch}) == 1 for batch in call.batches)


async def test_attempts_that_failed_fail_again() -> None:
    """Unseen, and without pauses: attempts and usage are those of the recording."""
    agent = desk()
    faults = [Fault("http_error", status=503), Fault("http_error", status=503), "At last."]
    recorded = await record(ScriptedModel(faults), agent=agent, clock=FakeClock())
    assert {event.attempt for event in recorded if event.kind == "model"} == {3}
    with ReplayModel.from_log(recorded) as model:
        events = await play(model)
    model.assert_same_events(events)
    assert events[-1].data.usage["requests"] == 3


async def test_a_run_that_failed_fails_again() -> None:
    """With an error of the same name and text: in the middle of an answer, and before any."""
    for script in (
        [Turn(["Never finished, this."], fault=Fault("reset", after=2))],
        [Turn(["Never finished, this."], fault=Fault("failed", after=2))],
        [Fault("http_error", status=401)],
        [Fault("http_error", status=500)],
        [Raise(CircuitOpen("m", 1.0))],
    ):
        agent = Agent(name="Desk")
        recorded = await record(ScriptedModel(script, repeat=True), agent=agent, clock=FakeClock())
        assert recorded[-1].data.status == "failed"
        with ReplayModel.from_log(recorded) as model:
            events = await play(model, agent=agent)
        model.assert_same_events(events)


async def test_a_run_that_was_cancelled_can_be_cancelled_again() -> None:
    """Where the recording breaks off, the model is silent."""
    agent = Agent(name="Desk")
    store = f"memory://replay-{next(_names)}"

    async def run(model: Any) -> list[Event]:
        result = Runner.run_streamed(agent, "Count.", run_config=RunConfig(model=model, store=store))
        events: list[Event] = []
        async for event in result.events():
            events.append(event)
            if event.kind == "model" and getattr(event.data, "delta", "") == "three ":
                result.cancel()
        return events

    recorded = await run(ScriptedModel([Turn([say("one two three four").parts[0]], every_s=0.01)]))
    with ReplayModel.from_log(recorded) as model:
        events = await run(model)
    model.assert_same_events(events)


@pytest.fixture
async def taken_over() -> AsyncGenerator[list[Event]]:
    """The events of a run whose first worker gave it up in the middle of its second answer."""
    name = f"memory://replay-{next(_names)}"
    said = asyncio.Event()

    async def stuck(call: Any) -> AsyncGenerator[Any]:
        async for event in ScriptedModel(["Half an ans"]).stream_response(
            None, "", ModelSettings(), [], None, [], None
        ):  # type: ignore[arg-type]
            if event.type == "response.output_text.done":
                break
            yield event
        said.set()
        await asyncio.get_running_loop().create_future()

    first = Agent(name="Desk", model=ScriptedModel([SCRIPT[0], ModelStep.stream(stuck)]), tools=[add])
    second = Agent(name="Desk", model=ScriptedModel(["The whole answer."]), tools=[add])
    run_id = await Runner.submit(first, "Add.", store=name)
    worker = Worker([first], store=name)
    task = asyncio.create_task(worker.run())
    await said.wait()
    worker.stop(drain_s=0)
    await task
    worker = Worker([second], store=name)
    task = asyncio.create_task(worker.run())
    result = await Runner.attach(run_id, store=name)
    yield [event async for event in result.events()]
    worker.stop()
    await task


async def test_what_a_takeover_discarded_is_left_out(taken_over: list[Event]) -> None:
    """The replay says what counts; on request the discarded answer is played, and breaks off."""
    assert "attempt.discarded" in [event.kind for event in taken_over]
    agent = Agent(name="Desk", tools=[add])
    with ReplayModel.from_log(taken_over) as model:
        events = await play(model, agent=agent)
    model.assert_same_events(events)
    assert events[-1].data.final_output == "The whole answer."

    model = ReplayModel.from_log(taken_over, discarded=True)
    assert len(model.calls) == 3
    events = await play(model, agent=agent)
    assert events[-1].data.error.type == "ModelStreamTruncated"


def test_no_events_are_no_calls() -> None:
    """An empty recording answers nothing."""
    model = ReplayModel([])
    assert (model.calls, model.input, model.remaining_calls) == ((), None, 0)


async def test_differences_are_shown() -> None:
    """The first one, with its place."""
    recorded = await record(ScriptedModel(["Hello."]))
    model = ReplayModel.from_log(recorded)
    other = await record(ScriptedModel(["Goodbye."]))
    with pytest.raises(AssertionError, match=r"event \d+ \(model\)\.\S+: was .*, now it is "):
        model.assert_same_events(other)
    with pytest.raises(AssertionError, match=r"there were \d+ events, now there are \d+"):
        model.assert_same_events(recorded[:-1])
    with pytest.raises(AssertionError, match=r"event 1: kind was 'run.start', now it is 'agent.start'"):
        model.assert_same_events(recorded[1:])
