"""run/worker: runs that wait for a person keep no other run waiting."""

from __future__ import annotations

import asyncio

import pytest

from runstream import Agent, RunConfig, Runner, Worker, function_tool
from runstream.log.memory_store import MemoryStore
from runstream.testing import FakeClock, ScriptedModel, ToolCall, Turn, When


@function_tool(needs_approval=True)
def pay() -> str:
    """Pay."""
    return "paid"


MODEL = ScriptedModel(
    [Turn([ToolCall("pay")], when=When(after_tool=False)), Turn(["Done."], when=When(after_tool=True))], repeat=True
)


async def test_a_run_that_waits_for_a_person_takes_no_room() -> None:
    """A worker for one run at a time begins the next while the first waits, and no third beside one that works."""
    clock = FakeClock()
    store = MemoryStore("memory://", clock=clock)
    await store.open()
    config = RunConfig(clock=clock, on_approval="wait")
    payer = Agent(name="Payer", model=MODEL, tools=[pay])
    busy = Agent(name="Busy", model=ScriptedModel([Turn(["a b c d"], every_s=1.0)], repeat=True, clock=clock))
    worker = Worker([payer, busy], store=store, run_config=config, concurrency=1)
    working = asyncio.create_task(worker.run())
    try:
        waiting = [await Runner.attach(await Runner.submit(payer, "pay", store=store), store=store) for _ in range(2)]
        for run in waiting:
            async for event in run.events():
                if event.kind == "item" and event.data.type == "tool_approval_item":
                    break
        assert len(worker.run_ids) == 2
        first, second = [await Runner.submit(busy, "work", store=store) for _ in range(2)]
        attached = await Runner.attach(first, store=store, run_config=config)
        async for event in attached.events():
            if event.kind == "model":
                assert worker.busy_count == 1
                assert second not in worker.run_ids
        for run in waiting:
            await run.approve(run.interruptions[0])
            await run.wait()
            assert run.final_output == "Done."
        last = await Runner.attach(second, store=store, run_config=config)
        await last.wait()
        assert last.final_output == "a b c d"
        while worker.run_ids:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert worker.busy_count == 0
    finally:
        worker.stop(drain_s=0)
        await working
        await store.aclose()


async def test_a_worker_that_stops_waits_for_no_person() -> None:
    """Runs that wait, and one that begins to while others may end, are handed on at once; the next worker goes on."""
    clock = FakeClock(autojump=False)
    store = MemoryStore("memory://", clock=clock)
    await store.open()
    config = RunConfig(clock=clock, on_approval="wait")
    payer = Agent(name="Payer", model=MODEL, tools=[pay])
    late = Agent(name="Late", model=ScriptedModel([Turn([ToolCall("pay")], first_after_s=5)], clock=clock), tools=[pay])
    worker = Worker([payer, late], store=store, run_config=config)
    working = asyncio.create_task(worker.run())
    first = await Runner.attach(await Runner.submit(payer, "pay", store=store), store=store, agents=[payer])
    async for event in first.events():
        if event.kind == "item" and event.data.type == "tool_approval_item":
            break
    second = await Runner.submit(late, "pay", store=store)
    while len(worker.run_ids) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    worker.stop(drain_s=60)
    while first.run_id in worker.run_ids:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert not working.done()
    await first.approve(first.interruptions[0])  # kept for whoever goes on with it
    await clock.advance(5)
    await working
    for run_id in (first.run_id, second):
        record = await store.find(run_id)
        assert (record.status, record.deliveries) == ("waiting", 0)
    heir = Worker([payer], store=store, run_config=config)
    working = asyncio.create_task(heir.run())
    await first.wait()
    assert first.final_output == "Done."
    heir.stop()
    await working
    await store.aclose()


async def test_very_many_that_wait_take_room_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is bounded, too."""
    monkeypatch.setattr("runstream.run.worker._IDLE_PER_SLOT", 2)
    clock = FakeClock()
    store = MemoryStore("memory://", clock=clock)
    await store.open()
    payer = Agent(name="Payer", model=MODEL, tools=[pay])
    for _ in range(5):
        await Runner.submit(payer, "pay", store=store)
    worker = Worker([payer], store=store, run_config=RunConfig(clock=clock, on_approval="wait"), concurrency=1)
    working = asyncio.create_task(worker.run())
    try:
        await clock.settle()
        while len(worker.run_ids) < 3:
            await clock.settle()
        await clock.settle()
        assert (len(worker.run_ids), worker.busy_count) == (3, 1)
    finally:
        worker.stop(drain_s=0)
        await working
        await store.aclose()
