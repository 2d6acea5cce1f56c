"""The agents that `python -m benchmarks serve` has runstream serve: one for each model, and of its name."""

from __future__ import annotations

import os

from runstream import Agent

__all__ = ["AGENTS"]

AGENTS = [
    Agent(name=model, instructions="Answer briefly.", model=model)
    for model in os.environ.get("BENCHMARK_MODELS", "").split(",")
]
