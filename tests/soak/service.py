"""The provider of the soak, in a process of its own: it prints its URL, and its counts at the end.

What it says and what goes wrong stands in the question (`soak/plan.py`): each request of a task takes the next fault.
The model `spare` never fails. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections import Counter
from typing import Any

from runstream.testing import Endpoint, Fault, HandoffTo, Script, ToolCall, Turn

__all__ = ["SPARE"]

SPARE = "spare"


class Service:
    """Answers by the question alone, but for how often each task has asked."""

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()

    def answer(self, request: Any) -> Turn:
        task = json.loads(request.user_text)
        name = task["id"]
        fault = None
        if request.model_name != SPARE:
            number = self._asked[name]
            self._asked[name] += 1
            described = task["faults"][number] if number < len(task["faults"]) else None
            if described is not None:
                fault = Fault(**described)
                self.faults[f"http {fault.status}" if fault.kind == "http_error" else fault.kind] += 1
        return Turn(self._parts(request, name, task["steps"]), every_s=task["every_s"], fault=fault)

    def _parts(self, request: Any, name: str, steps: list[Any]) -> list[Any]:
        answered = {result.call_id for result in request.tool_results}
        for index, step in enumerate(steps):
            if f"{name}-{index}-0" in answered:
                continue
            calls: list[Any] = [
                HandoffTo("Bob", call_id=f"{name}-{index}-{place}")
                if tool == "handoff"
                else ToolCall(tool, arguments, f"{name}-{index}-{place}")
                for place, (tool, arguments) in enumerate(step)
            ]
            return [f"Step {index} of {name}: I will look at it.", *calls]
        return [f"Here is what {name} came to, in one two three four five six seven eight nine ten words."]


async def main() -> None:
    # Clients that go away before they have read are what is tried here.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    service = Service()
    async with Endpoint(Script(default=service.answer)) as endpoint:
        print(endpoint.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        outcomes = Counter(request.outcome for request in endpoint.requests)
        told = {"requests": len(endpoint.requests), "open": endpoint.open_answers, "faults": dict(service.faults)}
        print(json.dumps({**told, "outcomes": dict(outcomes)}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
