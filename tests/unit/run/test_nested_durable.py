"""Nested runs in a store: their events are kept, and do not mislead whoever goes on with the run that called them."""

from __future__ import annotations

import asyncio
from typing import Any

from runstream import Agent, RunConfig, Runner
from runstream.events.event import Event
from runstream.events.segment import decode_segment, encode_segment
from runstream.log.base import Append, NewRun, Segment
from runstream.log.memory import MemoryLog
from runstream.log.memory_store import MemoryStore
from runstream.run.progress import Reports
from runstream.run.tools import UNCERTAIN_OUTPUT
from runstream.testing import FakeClock, ScriptedModel, ToolCall, say

LEASE_S = 5.0


def _agent(clock: FakeClock, *outer: Any, inner: Any = "inner done", idempotent: bool = False) -> Agent[Any]:
    nested = Agent(name="Inner", model=ScriptedModel([inner], clock=clock))
    tool = nested.as_tool("ask", None)
    tool.idempotent = idempotent
    return Agent(name="Outer", model=ScriptedModel(outer, clock=clock), tools=[tool])


ASK = [ToolCall("ask", {"input": "please"}, call_id="c1")]


async def _stored(store: MemoryStore) -> list[Event]:
    page = await store.read("run", 0)
    return [event for segment in page.segments for event in decode_segment(segment.body, "run")]


async def test_nested_events_are_kept() -> None:
    """The store has the same events, under the same paths, as readers in the process saw."""
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    await store.open()
    agent = _agent(clock, ASK, "done", inner=say("one two three", every_s=0.1))
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock, store=store, run_id="run"))
    seen = [(event.seq, event.kind, event.path) async for event in result.events()]
    assert [(event.seq, event.kind, event.path) for event in await _stored(store)] == seen
    attached = await Runner.attach("run", store=store, run_config=RunConfig(clock=clock))
    assert [(event.seq, event.kind, event.path) async for event in attached.events(0)] == seen
    assert [item.type for item in attached.new_items] == [item.type for item in result.new_items]
    assert attached.final_output == "done"
    await store.aclose()


async def _broken_off(clock: FakeClock) -> MemoryStore:
    """A store with a run whose worker was not heard of again after two nested deltas."""
    agent = _agent(clock, ASK, "done", inner=say("one two three four five", every_s=0.1))
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock, run_id="run"))
    events = [event async for event in result.events()]
    deltas = [event.seq for event in events if event.path and getattr(event.data, "delta", None)]
    kept = [event for event in events if event.seq <= deltas[1]]
    store = MemoryStore(clock=clock)
    await store.open()
    epoch = await store.create(NewRun("run", "Outer"), worker="gone", lease_s=LEASE_S)
    await store.append([Append("run", epoch, Segment(1, kept[-1].seq, encode_segment(kept)), None)])
    await clock.sleep(LEASE_S + 1)
    return store


async def test_a_takeover_treats_it_as_any_tool() -> None:
    """In mid-text of the nested run: nothing of the caller's is void, and the model is told that nobody knows."""
    for idempotent in (False, True):
        clock = FakeClock()
        store = await _broken_off(clock)
        agent = _agent(clock, "done after all", idempotent=idempotent)
        resumed = await Runner.resume("run", agent, store=store, run_config=RunConfig(clock=clock, lease_s=LEASE_S))
        async with asyncio.timeout(5):
            await resumed.wait()
        assert resumed.final_output == "done after all"
        told: Any = agent.model.calls[0].input[-1]  # type: ignore[union-attr]
        assert told["output"] == ("inner done" if idempotent else UNCERTAIN_OUTPUT)
        voided = [event for event in await _stored(store) if event.kind == "attempt.discarded"]
        assert voided == []
        await store.aclose()


class _Store:
    """Stands for the store of a run."""

    def __init__(self, *, is_behind: bool) -> None:
        self.is_behind = is_behind
        self.urgent: list[bool] = []

    def changed(self, *, urgent: bool) -> None:
        self.urgent.append(urgent)


async def test_reports_are_kept_as_deltas_are() -> None:
    """They ask for no flush of their own; while the store is behind they go, and the next one tells how many."""
    run: Any = Runner.run_streamed(Agent(name="Ann", model=ScriptedModel(["x"])), "hi")._run
    reports = Reports(run, "work", "c1")
    await run.task
    run.log = MemoryLog("run")  # as if it had not ended
    for number, is_behind in enumerate((True, True, False)):
        run.durable = store = _Store(is_behind=is_behind)
        reports(number)
        await asyncio.sleep(0)
        assert store.urgent == ([] if is_behind else [False])
    (event,) = run.log.read(0)
    assert (event.data.data, event.data.dropped) == (2, 2)
