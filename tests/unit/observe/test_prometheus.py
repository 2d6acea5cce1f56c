"""The figures of a process, as Prometheus reads them."""

from __future__ import annotations

import asyncio
import socket
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from runstream import Agent, Runner, function_tool
from runstream.errors import MissingExtra, UserError
from runstream.observe import Metrics, set_observers
from runstream.observe.prometheus import PrometheusCollector, start_prometheus
from runstream.testing import FakeClock, ScriptedModel, ToolCall, Turn


@pytest.fixture(autouse=True)
def nobody_observes() -> Iterator[None]:
    yield
    set_observers([])


def parsed(exposition: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Each sample's value, by its name and its labels' values in the order of their names."""
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }


def scraped(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    registry = CollectorRegistry()
    collector: Any = PrometheusCollector(metrics)
    registry.register(collector)
    return parsed(generate_latest(registry).decode())


async def run_once(clock: FakeClock, *, fails: bool = False) -> None:
    @function_tool(failure_error_function=None)
    async def look_up() -> str:
        """Look."""
        await clock.sleep(0.3)
        if fails:
            raise ValueError("broken")
        return "ready"

    steps = [Turn([ToolCall("look_up")]), Turn(["one two three"], every_s=0.04, first_after_s=0.7)]
    agent = Agent(name="Desk", model=ScriptedModel(steps, clock=clock), tools=[look_up])
    result = Runner.run_streamed(agent, "hi", run_config={"clock": clock})
    if fails:
        with pytest.raises(UserError):
            await result.wait()
    else:
        await result.wait()
    await asyncio.sleep(0)


async def test_the_exposition() -> None:
    """Counters, histograms and gauges have their names, labels and values."""
    clock = FakeClock()
    metrics = Metrics(clock=clock, breakers={"gpt": lambda: "half_open"})
    set_observers([metrics])
    await run_once(clock)
    await run_once(clock, fails=True)
    found = scraped(metrics)
    expected = {
        ("runstream_runs_started_total", ("Desk",)): 2,
        ("runstream_runs_ended_total", ("Desk", "completed")): 1,
        ("runstream_runs_ended_total", ("Desk", "failed")): 1,
        ("runstream_run_errors_total", ("UserError",)): 1,
        ("runstream_model_calls_total", ("scripted", "completed")): 3,
        ("runstream_model_retries_total", ()): 0,
        ("runstream_turns_total", ()): 3,
        ("runstream_runs_live", ()): 0,
        ("runstream_reader_lag_events", ()): 0,
        ("runstream_breaker_state", ("gpt", "half_open")): 1,
        ("runstream_breaker_state", ("gpt", "open")): 0,
        ("runstream_tool_duration_seconds_count", ("look_up",)): 2,
        ("runstream_tool_duration_seconds_bucket", ("0.25", "look_up")): 0,
        ("runstream_tool_duration_seconds_bucket", ("0.5", "look_up")): 2,
        ("runstream_time_to_first_seconds_count", ("Desk", "text")): 1,
        ("runstream_time_to_first_seconds_bucket", ("Desk", "2.5", "text")): 1,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert found["runstream_time_to_first_seconds_sum", ("Desk", "text")] == pytest.approx(1.0, rel=1e-3)
    assert found["runstream_chunk_gap_seconds_count", ("scripted",)] > 0


def test_before_anything_has_run() -> None:
    """A process that has done nothing can be scraped."""
    assert scraped(Metrics())["runstream_model_retries_total", ()] == 0


def test_it_is_served() -> None:
    """`start_prometheus` answers over HTTP until it is stopped, and leaves no thread and no socket."""
    metrics = Metrics()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    stop = start_prometheus(metrics, port)

    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert parsed(answer.read().decode())["runstream_runs_live", ()] == 0
    finally:
        stop()


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without prometheus_client the error says what to install."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtra, match=r"runstream\[prometheus\]"):
        start_prometheus(Metrics())
