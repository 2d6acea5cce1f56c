"""What the policies of reliability cost a delta: `python -m benchmarks policies`.

A run is measured on the bare path (nothing around the model), as it is by default, with each policy alone and with all
of them; in turns, in this process, by CPU time. Of several rounds the cheapest counts: whatever else the machine does
only adds.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.measure import endpoint
from runstream import Agent, OpenAIProvider, RunConfig, Runner
from runstream.agent.model import Model, ModelBatch, ModelRequest, ModelTracing, open_batches
from runstream.agent.settings import ModelSettings
from runstream.flow.breaker import CircuitBreakers
from runstream.flow.load import LoadLimits
from runstream.flow.retry import RetryBudget
from runstream.flow.timeouts import TimeLimits
from runstream.flow.wrapped import RequestModel
from runstream.testing import ScriptedModel, Turn

__all__ = ["BARE", "BEGIN", "CONFIGS", "DEFAULT", "END", "Cost", "costs", "table"]

BEGIN, END = "<!-- policies -->", "<!-- /policies -->"
BARE, DEFAULT = "bare path", "default configuration"

_LIMITS = TimeLimits(connect_s=10, first_content_s=30, idle_s=15, model_call_s=120, tool_s=30, run_s=300)


def _all() -> RunConfig:
    return RunConfig(
        time_limits=_LIMITS,
        on_broken_stream="restart",
        retry_budget=RetryBudget(20, per_minute=20),
        fallback_models=["text-1"],
        circuit_breakers=CircuitBreakers(),
        load_limits=LoadLimits(max_runs=200, requests_per_minute=1e6, tokens_per_minute=1e9),
    )


CONFIGS: dict[str, Callable[[], RunConfig]] = {
    BARE: RunConfig,
    DEFAULT: RunConfig,
    "`time_limits`": lambda: RunConfig(time_limits=_LIMITS),
    '`on_broken_stream="restart"`': lambda: RunConfig(on_broken_stream="restart"),
    '`on_broken_stream="continue"`': lambda: RunConfig(on_broken_stream="continue"),
    "`fallback_models`": lambda: RunConfig(fallback_models=["text-1"]),
    "`circuit_breakers`": lambda: RunConfig(circuit_breakers=CircuitBreakers()),
    "`load_limits`": lambda: RunConfig(load_limits=LoadLimits(max_runs=200, requests_per_minute=1e6)),
    "all of them, with `restart`": _all,
}


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU per delta, in microseconds, by configuration."""

    load: str
    us: dict[str, float]


class _Prepared(RequestModel):
    """A model whose events are made beforehand: each is a batch of its own, and none is waited for."""

    model = "prepared"

    def __init__(self, events: list[Any]) -> None:
        self._events = events

    async def respond(self, request: ModelRequest) -> Any:
        raise NotImplementedError("only streamed")

    def stream_batches(self, request: ModelRequest) -> Any:
        return _Batches(iter(self._events))


class _Batches:
    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events

    def __aiter__(self) -> _Batches:
        return self

    async def __anext__(self) -> ModelBatch:
        for event in self._events:
            return ModelBatch([event], [None])
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Nothing to close."""


async def _prepared(deltas: int) -> Model:
    text = " ".join("word" for _ in range(deltas))
    request = ModelRequest(None, text, ModelSettings(), [], None, [], ModelTracing.DISABLED)
    batches: AsyncIterator[ModelBatch] = open_batches(ScriptedModel([Turn([text])]), request)
    return _Prepared([event async for batch in batches for event in batch.events])


@contextmanager
def _without_operators(is_bare: bool) -> Iterator[None]:
    """Runs as if no operator had been written."""
    module: Any = importlib.import_module("runstream.run.model_call")
    former = module.reliable
    if is_bare:
        module.reliable = lambda run, agent, model, request: model
    try:
        yield
    finally:
        module.reliable = former


async def _ask(model: str | Model, config: RunConfig) -> int:
    """One run; the deltas that its reader has seen."""
    deltas = 0
    async for event in Runner.run_streamed(Agent(name="A", model=model), "?", run_config=config).stream_events():
        deltas += event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    return deltas


async def _round(port: int, model: str | Model, runs: int, config: RunConfig) -> float:
    """CPU per delta of so many runs at once, after one that is not measured."""
    config.model_provider = OpenAIProvider(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    await _ask(model if isinstance(model, Model) else "text-20", config)
    gc.collect()
    began = time.process_time()
    deltas = await asyncio.gather(*(_ask(model, config) for _ in range(runs)))
    return 1e6 * (time.process_time() - began) / sum(deltas)


def costs(say: Callable[[str], object], *, rounds: int = 25, deltas: int = 2000) -> list[Cost]:
    """Each load with each configuration, in turns: the lowest of the rounds."""
    prepared = asyncio.run(_prepared(deltas))
    with endpoint() as port:
        loads: dict[str, Callable[[RunConfig], Any]] = {
            "in memory, each delta a batch of its own": partial(_round, port, prepared, 1),
            f"over a socket, {deltas:,} deltas as fast as possible": partial(_round, port, f"text-{deltas}", 1),
        }
        found: list[Cost] = []
        for name, load in loads.items():
            lowest = dict.fromkeys(CONFIGS, float("inf"))
            titles = list(CONFIGS)
            for _ in range(rounds):
                titles = [*titles[1:], titles[0]]  # nobody always comes after the same
                for title in titles:
                    with _without_operators(title == BARE):
                        lowest[title] = min(lowest[title], asyncio.run(load(CONFIGS[title]())))
            found.append(Cost(name, lowest))
            say(name)
    return found


def table(found: list[Cost]) -> str:
    """In Markdown: the bare path, and what each configuration adds to it."""
    lines = [
        "| CPU per delta (µs) | " + " | ".join(cost.load for cost in found) + " |",
        "| --- |" + " ---: |" * len(found),
        f"| {BARE} | " + " | ".join(f"{cost.us[BARE]:.2f}" for cost in found) + " |",
    ]
    for title in CONFIGS:
        if title != BARE:
            added = [(cost.us[title] - cost.us[BARE], cost.us[BARE]) for cost in found]
            cells = [f"{more:+.2f} ({100 * more / bare:+.0f} %)" for more, bare in added]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
