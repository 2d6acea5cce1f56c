"""run/worker: a run that may be what stops its workers has no company that could be given up with it."""

from __future__ import annotations

import asyncio
import sys

import pytest

from runstream import Agent, RunConfig, Runner, UserError, Worker
from runstream.log.base import NewRun
from runstream.log.memory_store import MemoryStore
from runstream.run import worker as worker_module
from runstream.run.claimed import AgentMissing, Job
from runstream.run.host import opened
from runstream.run.warm import warm_up
from runstream.testing import FakeClock, HandoffTo, ScriptedModel, Turn


async def test_beside_a_suspect_no_other_run_is_begun() -> None:
    """A run that was delivered for the third time runs alone; what waits is begun once it has ended."""
    clock = FakeClock()
    store = MemoryStore("memory://", clock=clock)
    await store.open()
    model = ScriptedModel([Turn(["a b c d"], every_s=1.0), "other"], clock=clock)
    agent = Agent(name="Desk", model=model)
    for _ in range(2):  # two workers that were never heard of again
        if not (await store.list_runs()):
            await store.create(NewRun("suspect", "Desk", job=Job("hi").encode()))
        assert await store.claim("suspect", "gone", 0.5) is not None
        await clock.sleep(1.0)
    worker = Worker([agent], store=store, run_config=RunConfig(clock=clock), concurrency=4)
    working = asyncio.create_task(worker.run())
    suspect = await Runner.attach("suspect", store=store, run_config=RunConfig(clock=clock))
    other_id = ""
    async for event in suspect.events():
        if event.kind == "model" and not other_id:
            other_id = await Runner.submit(agent, "hello", store=store)
        if event.kind != "run.end":
            assert worker.run_ids == ["suspect"]
    other = await Runner.attach(other_id, store=store, run_config=RunConfig(clock=clock))
    await other.wait()
    assert (suspect.final_output, other.final_output) == ("a b c d", "other")
    worker.stop(drain_s=0)
    await working
    await store.aclose()


def test_warming_up_twice_is_warming_up_once() -> None:
    """What it imports and builds is there afterwards; a second call finds it."""
    warm_up()
    loaded = set(sys.modules)
    warm_up()
    assert {"runstream.models.responses", "runstream.run.loop"} <= loaded
    assert set(sys.modules) == loaded


async def test_a_cursor_of_a_run_without_a_store_is_refused() -> None:
    """Only what a store keeps can be read elsewhere; a stored run's cursor leads there."""
    agent = Agent(name="Desk", model=ScriptedModel(["hi", "hello again"]))
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(store=None))
    await result.wait()
    with pytest.raises(UserError, match="needs a store"):
        result.cursor(1)
    stored = Runner.run_streamed(agent, "hi", run_config=RunConfig(store="memory://cursors"))
    await stored.wait()
    attached = await Runner.attach(stored.run_id, store="memory://cursors", after=stored.cursor(3))
    seqs = [event.seq async for event in attached.events()]
    assert seqs[0] == 4
    assert attached.cursor(3) == stored.cursor(3)


async def test_so_many_runs_that_were_left_are_remembered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """That a run is left to others is told once, unless so many have been left since that it is forgotten."""
    monkeypatch.setattr(worker_module, "_REMEMBERED", 2)
    clock = FakeClock()
    store = MemoryStore("memory://", clock=clock)
    await store.open()
    host = await opened(store, clock)
    worker = Worker([Agent(name="Desk")], store=store, run_config=RunConfig(clock=clock), name="worker")
    told: list[str] = []
    for run_id in ("a", "b", "a", "c", "a", "b"):
        caplog.clear()
        await store.create(NewRun(run_id, "Desk", job=Job("hi").encode()))
        claim = await store.claim(run_id, "worker", 5.0)
        assert claim is not None
        await worker._leave_to_others(host, claim, AgentMissing(run_id, "New"))
        told += [run_id] if caplog.messages else []
        await store.delete(run_id)
    assert told == ["a", "b", "c", "b"]
    await store.aclose()


async def test_a_run_at_an_agent_that_is_not_here_is_left_to_who_has_it() -> None:
    """A worker without the agent that a run has come to hands it back, at no cost; one that has it goes on."""
    clock = FakeClock()
    store = MemoryStore("memory://", clock=clock)
    await store.open()
    config = RunConfig(clock=clock)
    slow = Agent(name="New", model=ScriptedModel([Turn(["a b"], every_s=30.0), "done"], clock=clock))
    old = Agent(name="Desk", model=ScriptedModel([HandoffTo("New")]), handoffs=[slow])
    run_id = await Runner.submit(old, "hi", store=store)
    first = Worker([old], store=store, run_config=config, name="first")
    working = asyncio.create_task(first.run())
    reader = await Runner.attach(run_id, store=store, run_config=config)
    async for event in reader.events():
        if event.kind == "agent.start" and event.agent == "New":
            break
    first.stop(drain_s=0)
    await working
    without = Worker([Agent(name="Desk")], store=store, run_config=config, name="without")
    trying = asyncio.create_task(without.run())
    await clock.sleep(3.0)
    second = Worker([old], store=store, run_config=config, name="second")
    working = asyncio.create_task(second.run())
    attached = await Runner.attach(run_id, store=store, run_config=config)
    await attached.wait()
    record = await store.find(run_id)
    assert (attached.final_output, record.worker, record.deliveries) == ("done", "second", 1)
    for worker in (without, second):
        worker.stop(drain_s=0)
    await asyncio.gather(trying, working)
    await store.aclose()
