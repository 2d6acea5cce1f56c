"""Observers see every event, and nobody notices them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from runstream import Agent, RunConfig, Runner, function_tool
from runstream.errors import UserError
from runstream.events.event import Event
from runstream.observe import Metrics, ObservedRun, RunMetrics, observe, replay, set_observers
from runstream.testing import FakeClock, ScriptedModel, ToolCall, Turn


@pytest.fixture(autouse=True)
def nobody_observes() -> Iterator[None]:
    yield
    set_observers([])


class Notes:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.runs: list[ObservedRun] = []
        self.events: list[Event] = []

    def __call__(self, run: ObservedRun) -> Any:
        self.runs.append(run)
        return self.events.append

    @property
    def seqs(self) -> list[int]:
        return [event.seq for event in self.events]


def desk(*steps: Any, clock: FakeClock | None = None, **options: Any) -> Agent[Any]:
    model = ScriptedModel(list(steps) or ["All is well."], clock=clock or FakeClock())
    return Agent(name="Desk", model=model, **options)


async def test_every_event_of_every_run() -> None:
    """An observer is told of each run before its first event, and gets all of them in order."""
    notes = Notes()
    set_observers([notes])
    result = await Runner.run(desk(), "hi", run_config={"workflow_name": "Refunds"})
    streamed = Runner.run_streamed(desk(), "hi")
    read = [event.seq async for event in streamed.events()]
    assert result.final_output == "All is well."
    first = notes.runs[0]
    assert (first.agent, first.model, first.workflow, first.streamed) == ("Desk", None, "Refunds", False)
    assert (notes.runs[1].workflow, notes.runs[1].streamed) == (None, True)
    of_second = [event.seq for event in notes.events if event.run_id == streamed.run_id]
    assert of_second == read == list(range(1, len(read) + 1))
    assert notes.events[-1].kind == "run.end"


def test_run_sync_is_observed_to_its_end() -> None:
    """Also where the event loop ends with the run."""
    notes = Notes()
    set_observers([notes])
    Runner.run_sync(desk(), "hi")
    assert notes.events[-1].kind == "run.end"


async def test_an_observer_that_fails_costs_nobody_anything(caplog: pytest.LogCaptureFixture) -> None:
    """What it raises is logged; the run and the other observers go on."""

    def broken(run: ObservedRun) -> Any:
        def sink(event: Event) -> None:
            raise ValueError("mine")

        return sink

    def refuses(run: ObservedRun) -> Any:
        raise ValueError("at once")

    notes = Notes()
    set_observers([refuses, broken, notes])
    with caplog.at_level(logging.ERROR, "runstream.observe"):
        result = await Runner.run(desk(), "hi")
    assert result.final_output == "All is well."
    assert notes.events[-1].kind == "run.end"
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


async def test_observing_holds_no_run() -> None:
    """A run whose reader breaks off is abandoned as ever, and is seen to end as cancelled."""
    notes = Notes()
    set_observers([notes])
    clock = FakeClock()
    result = Runner.run_streamed(desk(Turn(["a b c d"], every_s=1.0), clock=clock), "hi", run_config={"clock": clock})
    async with result:
        async for event in result.events():
            if event.kind == "model":
                break
    assert notes.events[-1].data.status == "cancelled"


async def test_observe_one_run_from_its_first_event() -> None:
    """`observe` replays what there is and goes on; its function ends it."""
    result = Runner.run_streamed(desk(), "hi")
    await result.wait()
    late, stopped = Notes(), Notes()
    observe(result, late)
    observe(result, stopped)()
    await asyncio.sleep(0)
    assert late.seqs == [event.seq async for event in result.events()]
    assert stopped.seqs == []


async def test_observe_a_run_that_is_attached_to() -> None:
    """A run of a store is observed through its own reader; memory stores stand in for any."""
    config = RunConfig(store="memory://observed")
    done = Runner.run_streamed(desk(), "hi", run_config=config)
    await done.wait()
    attached = await Runner.attach(done.run_id, store="memory://observed")
    notes = Notes()
    observe(attached, notes)
    async with asyncio.timeout(5):
        while not notes.events or notes.events[-1].kind != "run.end":  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert notes.seqs == [event.seq async for event in attached.events()]


def test_observe_needs_a_loop() -> None:
    """Outside an event loop it says what to do instead."""
    result = Runner.run_streamed(desk(), "hi")
    with pytest.raises(UserError, match="set_observers"):
        observe(result, Notes())
    list(result)


def test_set_observers_checks_what_it_is_given() -> None:
    """What cannot be called is refused at once."""
    with pytest.raises(UserError, match="observer"):
        set_observers([42])  # type: ignore[list-item]


async def test_tools_are_told_in_their_own_task() -> None:
    """`tool_begins` is called in the tool's task, with the id of the call, before the tool."""
    seen: list[Any] = []

    class Observer:
        def __call__(self, run: ObservedRun) -> None:
            return None

        def tool_begins(self, run_id: str, call_id: str) -> None:
            seen.append((run_id, call_id, asyncio.current_task()))

    @function_tool
    async def look_up() -> str:
        """Look."""
        seen.append(asyncio.current_task())
        return "ready"

    set_observers([Observer()])
    agent = desk(Turn([ToolCall("look_up", call_id="call_7")]), "Done.", tools=[look_up])
    result = Runner.run_streamed(agent, "hi")
    await result.wait()
    assert seen[0] == (result.run_id, "call_7", seen[1])


async def test_replay_gives_a_stored_log_to_observers() -> None:
    """Metrics of a replayed log are those of the live one."""
    live, later = Metrics(), Metrics()
    set_observers([live])
    result = Runner.run_streamed(desk(), "hi")
    events = [event async for event in result.events()]
    set_observers([])
    replay(events, later)
    one, other = live.totals(), later.totals()
    assert one.counts == other.counts
    assert one.sketch_of("first", "text").buckets == other.sketch_of("first", "text").buckets


async def test_a_nested_run_is_seen_through_the_run_that_called_it() -> None:
    """An agent that runs as a tool begins no run of its own; its turns are told apart by their path."""
    inner = Agent(name="Inner", model=ScriptedModel(["It is late."], clock=FakeClock()))
    notes = Notes()
    set_observers([notes])
    outer = desk(
        Turn([ToolCall("ask_inner", {"input": "When?"}, call_id="call_1")]),
        "Late.",
        tools=[inner.as_tool("ask_inner", "Ask.")],
    )
    await Runner.run(outer, "hi")
    await asyncio.sleep(0)
    assert len(notes.runs) == 1
    metrics = RunMetrics.of(notes.events)
    assert [(turn.agent, turn.path) for turn in metrics.turns] == [("Desk", ()), ("Inner", ("call_1",)), ("Desk", ())]
    assert all(turn.ended_at is not None for turn in metrics.turns)
