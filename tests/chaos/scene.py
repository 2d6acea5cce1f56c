"""The runs of the crash tests: two agents, tools with and without side effects, and a model that streams.

Every tool call and model call leaves a line in a file of its own, outside of any log: the truth that logs are held
against. A line is one write, and is there also if its process dies right after it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runstream import Agent, function_tool
from runstream.agent.tool_context import ToolContext
from runstream.testing import HandoffTo, ScriptedModel, ToolCall, Turn

__all__ = ["Lines", "Moment", "agents", "moments_of"]

DELTA_S = 0.004
TOOL_S = 0.03
BLOCK_S = 2.0
_WORDS = ("tide", "ember", "quarry", "lantern", "moss", "copper", "river", "vault", "sparrow", "ridge")


class Lines:
    """A file that several processes append lines to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, *words: object) -> None:
        os.write(self._descriptor, (" ".join(str(word) for word in words) + "\n").encode())


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that really happened in a worker."""

    kind: str
    """`model`, `begin` and `end` of a tool call, `claim`, `append` (the first one of a claim), `up`."""
    at_s: float
    """By the monotonic clock, which all processes of a machine share."""
    pid: int
    subject: str
    """The call id; for claims the run id."""
    epoch: int = 0


def moments_of(path: Path) -> list[Moment]:
    """All moments that were written, in the order of the writes."""
    if not path.exists():
        return []
    found: list[Moment] = []
    for line in path.read_text().splitlines():
        kind, at_s, pid, subject, epoch = line.split(" ")
        found.append(Moment(kind, float(at_s), int(pid), subject, int(epoch)))
    return found


def agents(note: Callable[[str, str], None]) -> list[Agent[Any]]:
    """The agents of the scene, the starting one first. `note(kind, call_id)` is called when a call begins and ends.

    Runs may be odd, by the first part of their id: `poison-…` kills its worker whenever it looks something up, which
    `block-…` does in the way of all others; `hang-…` holds up the event loop for ever when it charges first.
    """

    async def work(ctx: ToolContext[Any], amount: int) -> str:
        note("begin", ctx.tool_call_id)
        kind, _, _ = ctx.tool_call_id.partition("-")
        if kind == "poison" and ctx.tool_name == "look":
            os.kill(os.getpid(), signal.SIGKILL)
        while kind == "hang" and ctx.tool_call_id.endswith("charge1"):
            time.sleep(1.0)  # noqa: ASYNC251
        if kind == "block" and ctx.tool_name == "look":
            time.sleep(BLOCK_S)  # noqa: ASYNC251
        await asyncio.sleep(TOOL_S)
        note("end", ctx.tool_call_id)
        return f"done {amount} by {os.getpid()}"

    @function_tool(idempotent=True)
    async def look(ctx: ToolContext[Any], amount: int) -> str:
        """Look something up: may be done again."""
        return await work(ctx, amount)

    @function_tool
    async def charge(ctx: ToolContext[Any], amount: int) -> str:
        """Take money: must not be done twice."""
        return await work(ctx, amount)

    model = ScriptedModel(default=lambda call: _answer(call, note))
    bob = Agent(name="Bob", model=model, tools=[charge])
    return [Agent(name="Ann", model=model, tools=[look, charge], handoffs=[bob]), bob]


def _answer(call: Any, note: Callable[[str, str], None]) -> Turn:
    """What the model says next: told by how many calls of the run are answered. No two answers have the same text."""
    task = call.user_text.split()[-1]
    answered = {result.call_id for result in call.tool_results}
    note("model", task)
    text = " ".join(random.choice(_WORDS) for _ in range(16)) + f" {os.getpid()}-{time.monotonic_ns()}. "
    first = (ToolCall("look", {"amount": 1}, f"{task}-look"), ToolCall("charge", {"amount": 2}, f"{task}-charge1"))
    if not answered:
        return Turn((text, *first), every_s=DELTA_S)
    if f"{task}-handoff" not in answered:
        return Turn((text, HandoffTo("Bob", call_id=f"{task}-handoff")), every_s=DELTA_S)
    if f"{task}-charge2" not in answered:
        return Turn((text, ToolCall("charge", {"amount": 3}, f"{task}-charge2")), every_s=DELTA_S)
    return Turn((text,), every_s=DELTA_S)
