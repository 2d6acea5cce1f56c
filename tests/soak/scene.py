"""The agents of the soak and the configuration of each run, from its plan."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

from runstream import (
    Agent,
    CircuitBreakers,
    LoadLimits,
    ModelRetryBackoffSettings,
    ModelRetrySettings,
    ModelSettings,
    OpenAIProvider,
    PlainCall,
    RetryBudget,
    RunConfig,
    Runner,
    RunResultStreaming,
    TimeLimits,
    function_tool,
)
from soak.plan import Plan
from soak.service import SPARE

__all__ = ["Scene"]

_LIMITS = TimeLimits(connect_s=0.5, first_content_s=0.6, idle_s=0.25, model_call_s=2.0, tool_s=0.5)


@function_tool
async def look(amount: int) -> str:
    """Look something up."""
    await asyncio.sleep(0.01 * amount)
    return f"found {amount}"


@function_tool
def think(amount: int) -> str:
    """Work in a thread."""
    time.sleep(0.005 * amount)
    return f"thought {amount}"


@function_tool
async def fail(amount: int) -> str:
    """Fail."""
    raise RuntimeError(f"no {amount}")


@function_tool
async def watch(amount: int) -> AsyncGenerator[Any, None]:
    """Report on the way."""
    for number in range(5):
        yield {"number": number}
        await asyncio.sleep(0.002 * amount)


class Scene:
    """Starts runs at the service of that URL; what policies share, all runs share."""

    def __init__(self, url: str, store: str) -> None:
        self.store = store
        self._providers = {
            api: OpenAIProvider(api_key="any", base_url=url, use_responses=api == "responses")
            for api in ("responses", "chat")
        }
        tools: list[Any] = [look, think, fail, watch]
        carl = Agent(name="Carl", model="main", tools=tools)
        bob = Agent(name="Bob", model="main", tools=tools)
        nested = carl.as_tool("ask_carl", "Ask Carl.")
        self._agent = Agent(name="Ann", model="main", tools=[*tools, nested], handoffs=[bob])
        bob.tools = [*tools, nested]
        self._breakers = CircuitBreakers(failures=30, open_s=0.1)
        self._budget = RetryBudget(100, per_minute=6000)
        self.load_limits = LoadLimits(max_runs=8, max_queue=10_000)

    def start(self, plan: Plan, run_id: str) -> RunResultStreaming:
        """Begin the run."""
        return Runner.run_streamed(self._agent, plan.task, run_config=self._config(plan, run_id))

    def _config(self, plan: Plan, run_id: str) -> RunConfig:
        others: dict[str, Any] = {"spare": SPARE, "plain": PlainCall()}
        backoff = ModelRetryBackoffSettings(initial_delay=0.01, max_delay=0.05)
        return RunConfig(
            run_id=run_id,
            store=self.store if plan.is_durable else None,
            model_provider=self._providers[plan.api],
            model_settings=ModelSettings(retry=ModelRetrySettings(max_retries=plan.max_retries, backoff=backoff)),
            on_broken_stream=plan.on_broken_stream,
            on_abandon="detach" if plan.detaches else "cancel",
            fallback_models=[others[name] for name in plan.fallback],
            time_limits=_LIMITS if plan.has_limits else None,
            time_limit_s=None if plan.has_limits else 1.5,
            circuit_breakers=self._breakers if plan.has_breaker else None,
            load_limits=self.load_limits if plan.has_load_limits else None,
            retry_budget=self._budget if plan.has_budget else None,
        )
