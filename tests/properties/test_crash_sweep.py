"""A worker dies at each single flush of a run, before it is written or right after; another goes on, and the laws hold.

Deterministic, in memory and with a fake clock; `make chaos` does the same to real processes and real stores.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from chaos.check import Stored, broken_laws, broken_tools
from chaos.scene import Moment
from faulty_stores import Mortal
from runstream import Agent, RunConfig, Runner, function_tool
from runstream.agent.tool_context import ToolContext
from runstream.events.event import ITEM
from runstream.events.segment import decode_segment
from runstream.log.memory_store import MemoryStore
from runstream.run.history import input_items_of
from runstream.run.tools import UNCERTAIN_OUTPUT
from runstream.run.worker import Worker
from runstream.sessions.memory import InMemorySession
from runstream.testing import FakeClock, HandoffTo, ScriptedModel, ToolCall, Turn

LEASE_S = 5.0
WORDS = "one two three four"


class Scene:
    """One submitted run: parallel tools, a handoff, a session, and a model that says something else each time."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(clock=self.clock)
        self.session = InMemorySession("s")
        self.moments: list[Moment] = []
        self.answers = 0

    def agent(self) -> Agent[Any]:
        """The agents, as each process has them."""

        def note(kind: str, subject: str) -> None:
            self.moments.append(Moment(kind, self.clock.now(), 0, subject))

        async def work(ctx: ToolContext[Any]) -> str:
            note("begin", ctx.tool_call_id)
            await self.clock.sleep(0.5)
            note("end", ctx.tool_call_id)
            return f"done {ctx.tool_call_id}"

        @function_tool(idempotent=True)
        async def look(ctx: ToolContext[Any]) -> str:
            return await work(ctx)

        @function_tool
        async def charge(ctx: ToolContext[Any]) -> str:
            return await work(ctx)

        def answer(call: Any) -> Turn:
            self.answers += 1
            text = f"{WORDS} {self.answers}"
            answered = {result.call_id for result in call.tool_results}
            if "look" not in answered:
                parts: Any = (text, ToolCall("look", {}, "look"), ToolCall("charge", {}, "charge1"))
            elif "handoff" not in answered:
                parts = (text, HandoffTo("Bob", call_id="handoff"))
            elif "charge2" not in answered:
                parts = (text, ToolCall("charge", {}, "charge2"))
            else:
                parts = (text,)
            return Turn(parts, every_s=0.1)

        model = ScriptedModel(default=answer, clock=self.clock)
        bob = Agent(name="Bob", model=model, tools=[charge])
        return Agent(name="Ann", model=model, tools=[look, charge], handoffs=[bob])

    def worker(self, store: Any) -> Worker:
        config = RunConfig(clock=self.clock, lease_s=LEASE_S)
        return Worker([self.agent()], store=store, run_config=config, session=self.session, max_deliveries=1000)

    async def stored(self) -> Stored:
        page = await self.store.read("run", 0)
        stored = Stored("run", "", [], [])
        for segment in page.segments:
            events = decode_segment(segment.body, "run")
            stored.events += events
            stored.epochs += [segment.epoch] * len(events)
        return stored

    async def carry_out(self, deaths: Sequence[tuple[int, bool]]) -> int:
        """Submit the run, let a worker after the other die as told, and the last one end it; returns its flushes."""
        await self.store.open()
        await Runner.submit("Ann", "hi", store=self.store, run_id="run", max_turns=50, session_id="s")
        for at, written in deaths:
            store = Mortal(self.store, at, written=written)
            worker = self.worker(store)
            working = asyncio.create_task(worker.run())
            reading = asyncio.create_task(self.wait_ended())
            dying = asyncio.create_task(store.died.wait())
            await asyncio.wait((reading, dying), return_when=asyncio.FIRST_COMPLETED)
            worker.stop(drain_s=0)
            await working
            reading.cancel()
            dying.cancel()
            await self.clock.sleep(LEASE_S + 1)
        store = Mortal(self.store, 0, written=False)
        worker = self.worker(store)
        working = asyncio.create_task(worker.run())
        await self.wait_ended()
        worker.stop()
        await working
        return store.flushes

    async def wait_ended(self) -> None:
        await (await Runner.attach("run", store=self.store, run_config=RunConfig(clock=self.clock))).wait()

    async def check(self) -> Stored:
        """The laws, and that the conversation is what the log says."""
        stored = await self.stored()
        assert broken_laws(stored) == []
        assert broken_tools([stored], self.moments) == []
        result = await Runner.attach("run", store=self.store, agents=[self.agent()])
        assert result.final_output == f"{WORDS} {self.answers}"
        saved: list[Any] = await self.session.get_items()
        assert saved == [{"role": "user", "content": "hi"}, *input_items_of(result.new_items)]
        await self.store.aclose()
        return stored


def sweep(deaths: Sequence[tuple[int, bool]]) -> tuple[int, Stored]:
    async def play() -> tuple[int, Stored]:
        scene = Scene()
        flushes = await scene.carry_out(deaths)
        return flushes, await scene.check()

    return asyncio.run(play())


def outputs_of(stored: Stored) -> dict[str, str]:
    items = [event.data.raw for event in stored.events if event.kind == ITEM]
    return {raw["call_id"]: raw["output"] for raw in items if raw.get("type") == "function_call_output"}


@pytest.mark.parametrize("written", [False, True])
def test_a_worker_may_die_at_each_flush(written: bool) -> None:
    """The run ends once, every call is answered once, what has side effects ran at most once, the session is right."""
    flushes, undisturbed = sweep(())
    assert flushes > 20
    assert UNCERTAIN_OUTPUT not in outputs_of(undisturbed).values()
    uncertain = set[str]()
    for at in range(1, flushes + 1):
        try:
            _, stored = sweep([(at, written)])
        except BaseException as error:
            error.add_note(f"died at flush {at} of {flushes}")
            raise
        outputs = outputs_of(stored)
        uncertain |= {call_id for call_id, output in outputs.items() if output == UNCERTAIN_OUTPUT}
    assert uncertain == {"charge1", "charge2"}


def test_several_workers_may_die_one_after_the_other() -> None:
    """Each soon after it took the run over."""
    for at in range(1, 12):
        try:
            sweep([(at, True), (at, False), (1, True), (3, False), (at, True)])
        except BaseException as error:
            error.add_note(f"died at flush {at}")
            raise
