"""The figures of all runs of a process: totals, a window, and what goes on now."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from runstream import Agent, Runner
from runstream.events.event import ErrorInfo, Event, RunEnd, RunStart
from runstream.flow.breaker import CircuitBreakers
from runstream.observe import Metrics, ObservedRun, set_observers
from runstream.testing import FakeClock, ScriptedModel, Turn


@pytest.fixture(autouse=True)
def nobody_observes() -> Iterator[None]:
    yield
    set_observers([])


def agent(*steps: Any, clock: FakeClock) -> Agent[Any]:
    return Agent(name="Desk", model=ScriptedModel(list(steps), clock=clock))


def one_run(metrics: Metrics, number: int, status: Any = "completed", name: str = "Desk") -> None:
    """A run that begins and ends now."""
    at = metrics.clock.now()
    sink = metrics(ObservedRun(f"run_{number}", name))
    sink(Event(f"run_{number}", 1, at, "run.start", name, 0, (), RunStart("hi")))
    error = ErrorInfo("Broken", "…") if status == "failed" else None
    sink(Event(f"run_{number}", 2, at + 0.5, "run.end", name, 0, (), RunEnd(status, error)))


async def test_a_run_from_begin_to_end() -> None:
    """While it goes on a run is live, with figures of its own; afterwards it is counted."""
    clock = FakeClock(autojump=False)
    metrics = Metrics(clock=clock)
    set_observers([metrics])
    desk = agent(Turn(["one two three four"], every_s=0.1, first_after_s=1.0), clock=clock)
    result = Runner.run_streamed(desk, "hi", run_config={"clock": clock})
    await clock.advance(1.15)
    before = metrics.snapshot()
    ((figures, live),) = metrics.live_runs()
    assert (before.live, before.started, before.ended, before.error_rate) == (1, 1, {}, None)
    assert before.first_text.quantile(0.5) == pytest.approx(1.0, rel=0.02)
    assert (figures.agent, figures.status, figures.deltas) == ("Desk", None, 2)
    assert live.reader_lag == 0
    await clock.advance(5.0)
    await result.wait()
    after = metrics.snapshot()
    assert (after.live, after.ended, after.error_rate, after.model_calls) == (0, {"completed": 1}, 0.0, 1)
    assert after.gaps.quantile(0.5) == pytest.approx(0.1, rel=0.02)
    assert after.deltas_per_s > 0


async def test_lag_and_stalls_of_live_runs() -> None:
    """A reader that does not read lags; an answer that pauses for longer than `stall_s` stalls."""
    clock = FakeClock(autojump=False)
    metrics = Metrics(clock=clock, stall_s=2.0)
    set_observers([metrics])
    desk = agent(Turn(["one two three four"], every_s=10.0), clock=clock)
    result = Runner.run_streamed(desk, "hi", run_config={"clock": clock})
    reader = result.events()
    first = await anext(reader)
    await clock.advance(15.0)
    snapshot = metrics.snapshot()
    assert snapshot.stalled == 1
    assert snapshot.reader_lag == result._run.log.last_seq - first.seq > 0  # type: ignore[union-attr]
    result.cancel()
    await clock.advance(1.0)
    await reader.aclose()
    await asyncio.sleep(0)
    assert (metrics.snapshot().live, metrics.snapshot().stalls) == (0, 1)


def test_the_window_slides() -> None:
    """What is older than the window is in the totals alone; a shorter window can be asked for."""
    clock = FakeClock(autojump=False)
    metrics = Metrics(clock=clock, window_s=60.0)
    one_run(metrics, 1, "failed")
    clock._now += 30
    one_run(metrics, 2)
    assert metrics.snapshot().ended == {"failed": 1, "completed": 1}
    assert metrics.snapshot().error_rate == 0.5
    assert metrics.snapshot().errors == {"Broken": 1}
    assert metrics.snapshot(10.0).ended == {"completed": 1}
    assert metrics.snapshot(10.0).runs_per_s == pytest.approx(0.1)
    clock._now += 45
    assert metrics.snapshot().ended == {"completed": 1}
    clock._now += 600
    assert metrics.snapshot().ended == {}
    assert metrics.totals().sum_of("ended") == 2


def test_labels_are_bounded() -> None:
    """A program that names agents after customers does not fill the memory: beyond 200 names they are `_other`."""
    metrics = Metrics(clock=FakeClock(autojump=False))
    for number in range(250):
        one_run(metrics, number, name=f"agent {number}")
    totals = metrics.totals()
    assert totals.sum_of("started", "_other") == 50
    assert len([key for key in totals.counts if key[0] == "started"]) == 201


def test_memory_of_the_window_is_bounded() -> None:
    """However long it runs, the window is at most 60 parts."""
    clock = FakeClock(autojump=False)
    metrics = Metrics(clock=clock, window_s=60.0)
    for number in range(500):
        clock._now += 3
        one_run(metrics, number)
    assert len(metrics._slots) <= 60
    assert metrics.live == {}


def test_breakers_are_asked_for_their_state() -> None:
    """The state of each breaker is what its function says at that moment."""
    states = ["closed"]
    metrics = Metrics(breakers={"gpt": lambda: states[0]})
    assert metrics.snapshot().breakers == {"gpt": "closed"}
    states[0] = "open"
    assert metrics.snapshot().breakers == {"gpt": "open"}


def test_the_breakers_of_the_models() -> None:
    """`CircuitBreakers` are taken as they are, those that are made later, too."""
    breakers = CircuitBreakers()
    metrics = Metrics(breakers=breakers)
    assert metrics.snapshot().breakers == {}
    model = ScriptedModel(["x"])
    breakers.of(model).open()
    assert set(metrics.snapshot().breakers.values()) == {"open"}
