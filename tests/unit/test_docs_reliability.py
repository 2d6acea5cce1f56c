"""The code of docs/reliability.md runs."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from runstream.flow.breaker import CircuitBreaker, GuardedModel
from runstream.flow.fallback import Fallback
from runstream.flow.retry import RetryingModel
from runstream.flow.timeouts import TimedModel, TimeLimits, limit_batches
from runstream.testing import FakeClock, ScriptedModel

PAGE = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_configuration() -> None:
    """Every option of the page is one, and may be given together with the others."""
    names: dict[str, Any] = {}
    exec(BLOCKS[0], names)
    assert names["config"].run_limit_s == 300
    assert len(BLOCKS) == 2


async def test_operators_alone() -> None:
    """Around any model, one in the other."""
    names: dict[str, Any] = {
        "model": ScriptedModel(["hi"]),
        "spare": ScriptedModel(),
        "batches": None,
        "clock": FakeClock(),
        **{
            kind.__name__: kind
            for kind in (CircuitBreaker, Fallback, GuardedModel, RetryingModel, TimedModel, TimeLimits, limit_batches)
        },
    }
    exec(BLOCKS[1], names)
    from runstream import Agent, Runner

    result = await asyncio.wait_for(Runner.run(Agent(name="Ann", model=names["model"]), "hi"), 5)
    assert result.final_output == "hi"
