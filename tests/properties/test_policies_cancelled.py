"""A run with every policy, cancelled in each turn of the loop: one end, no open stream, no place and no probe kept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runstream import Agent, RunConfig, Runner, function_tool
from runstream.flow.breaker import CircuitBreakers
from runstream.flow.load import LoadLimits
from runstream.flow.retry import RetryBudget
from runstream.flow.timeouts import TimeLimits
from runstream.testing import FakeClock, Fault, ScriptedModel, ToolCall, say


@function_tool
async def ping() -> str:
    """Ping."""
    return "pong"


class _Scene:
    def __init__(self) -> None:
        self.clock = clock = FakeClock()
        broken = say("one two three", fault=Fault("reset", after=2), every_s=1.0)
        silent = say("four five", fault=Fault("silence", after=1))
        self.first = ScriptedModel([Fault("http_error", status=503), ToolCall("ping"), broken, silent], clock=clock)
        self.second = ScriptedModel([say("the answer", every_s=1.0)], clock=clock)
        self.limits = LoadLimits(max_runs=1, requests_per_minute=3, tokens_per_minute=10_000, clock=clock)
        self.breakers = CircuitBreakers(failures=2, open_s=5, clock=clock)
        self.agent = Agent(name="Ann", model=self.first, tools=[ping])
        self.config = RunConfig(
            clock=clock,
            time_limits=TimeLimits(connect_s=5, first_content_s=9, idle_s=3, model_call_s=60, tool_s=5, run_s=900),
            on_broken_stream="restart",
            retry_budget=RetryBudget(10, clock=clock),
            fallback_models=[self.second],
            circuit_breakers=self.breakers,
            load_limits=self.limits,
        )

    async def is_clean(self) -> None:
        assert self.first.open_streams == self.second.open_streams == 0
        assert (self.limits.running, self.limits.queued) == (0, 0)
        for breaker in self.breakers:
            if breaker.probe_in_s:
                await self.clock.sleep(breaker.probe_in_s)
            breaker.enter().leave()


async def test_uncancelled_it_has_its_answer() -> None:
    """A 503, a tool, a reset, a silence, an open breaker: then the other model's answer."""
    scene = _Scene()
    result = await Runner.run_streamed(scene.agent, "hi", run_config=scene.config).wait()
    assert (result.final_output, result.is_partial) == ("the answer", False)
    discarded = [event.data.reason async for event in result.events() if event.kind == "attempt.discarded"]
    assert discarded == ["retry", "fallback"]
    await scene.is_clean()


# The instants at which something happens, and some between them.
INSTANTS_S = [0.0, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 8.0, 12.0, 20.0, 21.0, 25.0, 40.0, 41.0]


@pytest.mark.parametrize("turns", range(0, 40, 4))
@pytest.mark.parametrize("streamed", [True, False])
async def test_cancelled_at_any_time(turns: int, streamed: bool) -> None:
    """Whatever it was waiting for, and in each of the turns of the loop that follow a wait."""
    for at_s in INSTANTS_S:
        for more in range(4):
            await _cancel(at_s, turns + more, streamed=streamed)


async def _cancel(at_s: float, turns: int, *, streamed: bool) -> None:
    scene = _Scene()
    if streamed:
        result = Runner.run_streamed(scene.agent, "hi", run_config=scene.config)
        task: Any = asyncio.ensure_future(_kinds(result))
    else:
        task = asyncio.ensure_future(Runner.run(scene.agent, "hi", run_config=scene.config))
    await scene.clock.sleep(at_s)
    for _ in range(turns):
        await asyncio.sleep(0)
    if streamed:
        result.cancel()
    else:
        task.cancel()
    await asyncio.wait({task})
    if streamed:
        kinds = task.result()
        assert (kinds.count("run.end"), kinds[-1]) == (1, "run.end")
    await scene.is_clean()


async def _kinds(result: Any) -> list[str]:
    return [event.kind async for event in result.events()]
