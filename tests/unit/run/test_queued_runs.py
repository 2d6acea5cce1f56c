"""Runs that wait for their place: what their readers see, in this process and in others, and how the wait ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runstream import Agent, RunConfig, Runner, RunState, Worker
from runstream.errors import LoadRefused, RunNotFound, RunTimeoutError
from runstream.flow.load import LoadLimits
from runstream.flow.timeouts import TimeLimits
from runstream.log.memory_store import MemoryStore
from runstream.testing import FakeClock, ScriptedModel


def config(clock: FakeClock, limits: LoadLimits, **options: Any) -> RunConfig:
    return RunConfig(clock=clock, load_limits=limits, **options)


def agent(*answers: str) -> Agent[Any]:
    return Agent(name="Ann", model=ScriptedModel(list(answers or ("hello",))))


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def told(events: list[Any]) -> list[Any]:
    """The kinds, but for the model's; of a queue the position."""
    return [
        event.data.position if event.kind == "run.queued" else event.kind for event in events if event.kind != "model"
    ]


async def test_others_see_a_run_in_the_queue() -> None:
    """It is in its store before it has its place: whoever attaches to it sees where it stands, and that it moves."""
    clock, store = FakeClock(), MemoryStore()
    limits = LoadLimits(max_runs=1, clock=clock)
    places = [limits.ask("first"), limits.ask("second")]
    result = Runner.run_streamed(agent(), "hi", run_config=config(clock, limits, store=store, run_id="run_q"))
    await turns()
    attached = await Runner.attach("run_q", store=store)
    reader = attached.events()
    seen = [await anext(reader) for _ in range(2)]
    assert (told(seen), attached.queue_position, result.queue_position) == (["run.start", 2], 2, 2)
    for place in places:
        place.leave()
    seen += [event async for event in reader]
    assert told(seen) == ["run.start", 2, 1, 0, "agent.start", "item", "run.end"]
    assert (attached.queue_position, result.queue_position, result.final_output) == (0, 0, "hello")


async def test_a_run_that_is_refused_is_in_no_store() -> None:
    """Nor does one that need not wait say anything of a queue."""
    clock, store = FakeClock(), MemoryStore()
    limits = LoadLimits(max_runs=1, max_queue=0, clock=clock)
    result = Runner.run_streamed(agent(), "hi", run_config=config(clock, limits))
    assert told([event async for event in result.events()]) == ["run.start", "agent.start", "item", "run.end"]
    place = limits.ask("first")
    with pytest.raises(LoadRefused):
        await Runner.run(agent(), "hi", run_config=config(clock, limits, store=store, run_id="run_q"))
    await store.open()
    with pytest.raises(RunNotFound):
        await store.find("run_q")
    place.leave()


@pytest.mark.parametrize("how", ["immediate", "after_turn", "attached"])
async def test_cancelled_in_the_queue(how: Any) -> None:
    """It ends as cancelled at once, in its store too, whoever asks and however, and whoever is behind it moves up."""
    clock, store = FakeClock(), MemoryStore()
    limits = LoadLimits(max_runs=1, clock=clock)
    first = limits.ask("first")
    result = Runner.run_streamed(agent(), "hi", run_config=config(clock, limits, store=store, run_id="run_q"))
    await turns()
    behind = limits.ask("behind")
    if how == "attached":
        (await Runner.attach("run_q", store=store)).cancel()
    else:
        result.cancel(how)
    events = [event async for event in result.events()]
    assert (told(events), events[-1].data.status) == (["run.start", 1, "run.end"], "cancelled")
    assert (await store.find("run_q")).status == "cancelled"
    assert (behind.position, limits.queued, result.queue_position) == (1, 1, 0)
    first.leave()
    await behind.wait()
    behind.leave()


async def test_the_time_of_a_run_goes_on_in_the_queue() -> None:
    """A run has so long, wherever it spends that."""
    clock = FakeClock()
    limits = LoadLimits(max_runs=1, clock=clock)
    place = limits.ask("first")
    with pytest.raises(RunTimeoutError, match="5 s"):
        await Runner.run(agent(), "hi", run_config=config(clock, limits, time_limits=TimeLimits(run_s=5.0)))
    assert limits.queued == 0
    place.leave()


async def test_another_worker_goes_on_with_a_run_of_the_queue() -> None:
    """A worker that stops hands it on at once; the next one has limits of its own, and says that the wait is over."""
    clock, store = FakeClock(), MemoryStore()
    limits = LoadLimits(max_runs=1, clock=clock)
    first = limits.ask("first")
    result = await Runner.submit("Ann", "hi", store=store, run_id="run_q")
    assert result == "run_q"
    workers = [Worker([agent()], store=store, run_config=config(clock, each)) for each in (limits, LoadLimits())]
    working = [asyncio.ensure_future(worker.run()) for worker in workers[:1]]
    attached = await Runner.attach("run_q", store=store, run_config=RunConfig(clock=clock))
    reader = attached.events()
    seen = [await anext(reader) for _ in range(2)]
    workers[0].stop()
    await working[0]
    assert limits.queued == 0
    working[0] = asyncio.ensure_future(workers[1].run())
    seen += [event async for event in reader]
    assert told(seen) == ["run.start", 1, 0, "agent.start", "item", "run.end"]
    workers[1].stop()
    await working[0]
    first.leave()


async def test_a_run_that_goes_on_from_a_state_queues_anew() -> None:
    """Before its agent begins; what it goes on from is untouched by the wait."""
    clock = FakeClock()
    limits = LoadLimits(max_runs=1, clock=clock)
    ann = agent("one", "two")
    before = await Runner.run(ann, "hi", run_config=config(clock, limits))
    state = await RunState.from_json(ann, before.to_state().to_json())
    place = limits.ask("first")
    result = Runner.run_streamed(ann, state, run_config=config(clock, limits))
    await turns()
    assert result.queue_position == 1
    place.leave()
    seen = told([event async for event in result.events()])
    assert seen[:4] == ["run.start", 1, 0, "agent.start"]


async def test_far_back_not_every_step_is_told() -> None:
    """Each of the last ten places, before them every tenth part: a long queue does not drown in what it says."""
    clock = FakeClock()
    limits = LoadLimits(max_runs=1, max_queue=200, clock=clock)
    places = [limits.ask(str(number)) for number in range(101)]
    result = Runner.run_streamed(agent(), "hi", run_config=config(clock, limits))
    await turns()
    for place in places:
        place.leave()
    seen = [event.data.position async for event in result.events() if event.kind == "run.queued"]
    assert seen[:4] == [101, 91, 82, 74]
    assert seen[-12:] == [11, *range(10, -1, -1)]
    assert len(seen) < 40
