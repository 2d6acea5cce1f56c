"""How a worker stops: runs end in their time, or are handed to another worker, and nothing is left behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from runstream import Agent, Runner, function_tool
from runstream.clock import system_clock
from runstream.log.memory_store import MemoryStore
from runstream.run.host import opened
from runstream.run.worker import Worker
from runstream.testing import FakeClock, ScriptedModel, ToolCall, Turn, say


class Gate:
    """A tool that waits until it is let through."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    def agent(self) -> Agent:
        @function_tool
        async def wait() -> str:
            """Waits."""
            self.reached.set()
            await self.open.wait()
            return "done"

        return Agent(name="Desk", model=ScriptedModel([ToolCall("wait"), "Ready."]), tools=[wait])


@asynccontextmanager
async def working(worker: Worker) -> AsyncGenerator[asyncio.Task[None]]:
    task = asyncio.create_task(worker.run())
    try:
        yield task
    finally:
        worker.stop(drain_s=0)
        await task


@pytest.fixture
async def store() -> AsyncGenerator[MemoryStore]:
    store = MemoryStore("memory://")
    await store.open()
    yield store
    await store.aclose()


async def test_runs_that_end_in_their_time_are_waited_for(store: MemoryStore) -> None:
    """After `stop` the worker takes nothing more; what it has is completed."""
    gate = Gate()
    agent = gate.agent()
    worker = Worker([agent], store=store)
    first = await Runner.submit(agent, "hello", store=store)
    async with working(worker) as task:
        await gate.reached.wait()
        worker.stop(drain_s=60)
        second = await Runner.submit(agent, "too late", store=store)
        gate.open.set()
        await task
    assert (await store.find(first)).status == "completed"
    assert (await store.find(second)).status == "queued"
    assert worker.run_ids == []


async def test_a_second_stop_hands_over_at_once(store: MemoryStore) -> None:
    """However long the first one would have waited; the run is queued, and the delivery does not count."""
    gate = Gate()
    agent = gate.agent()
    worker = Worker([agent], store=store)
    run_id = await Runner.submit(agent, "hello", store=store)
    async with working(worker) as task:
        await gate.reached.wait()
        worker.stop(drain_s=3600)
        await asyncio.sleep(0)
        assert not task.done()
        worker.stop(drain_s=0)
        await task
    record = await store.find(run_id)
    assert (record.status, record.deliveries) == ("queued", 0)


async def test_what_takes_longer_is_handed_over(store: MemoryStore) -> None:
    """Twice the time of the drain: once to end, once to end the turn. Another worker then completes the run."""
    clock = FakeClock()
    gate = Gate()
    agent = gate.agent()
    worker = Worker([agent], store=store, run_config={"clock": clock})
    run_id = await Runner.submit(agent, "hello", store=store)
    async with working(worker) as task:
        await gate.reached.wait()
        began_at = clock.now()
        worker.stop(drain_s=20)
        await task
        assert clock.now() - began_at >= 40
    assert (await store.find(run_id)).status == "queued"
    heir = Agent(name="Desk", model=ScriptedModel(["The rest."]), tools=agent.tools)
    async with working(Worker([heir], store=store)):
        result = await Runner.attach(run_id, store=store, agents=[heir])
        await result.wait()
    assert result.final_output == "The rest."
    assert "outcome" in str([item.raw_item for item in result.new_items if item.type == "tool_call_output_item"])


async def test_a_worker_that_is_cancelled_hands_over(store: MemoryStore) -> None:
    """As with Ctrl-C in `asyncio.run(worker.run())`."""
    gate = Gate()
    agent = gate.agent()
    task = asyncio.create_task(Worker([agent], store=store).run())
    run_id = await Runner.submit(agent, "hello", store=store)
    await gate.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await store.find(run_id)).status == "queued"


async def test_a_line_for_each_run(store: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    """The logger `runstream.worker` tells what begins and how it ends."""
    caplog.set_level(logging.INFO, "runstream.worker")
    agent = Agent(name="Desk", model=ScriptedModel([say("Hello."), ValueError("no more")]))
    async with working(Worker([agent], store=store)):
        for _ in range(2):
            run_id = await Runner.submit(agent, "hello", store=store)
            result = await Runner.attach(run_id, store=store)
            _ = [event async for event in result.events()]
    assert [record.getMessage().split()[0] for record in caplog.records] == ["begun", "ended", "begun", "ended"]
    lines = caplog.text
    assert "(Desk, queue default, delivery 1)" in lines
    assert "as completed after" in lines
    assert "as failed after" in lines
    assert "ValueError('no more')" in lines


def test_a_worker_that_the_program_ends_under_hands_on_without_a_word() -> None:
    """`asyncio.run` cancels it and its runs at its end, in any order: they are handed over, which is no failure that it
    has to report."""

    async def main() -> str:
        store = MemoryStore("memory://")
        await store.open()
        stores.append(store)
        agent = Agent(name="Desk", model=ScriptedModel([Turn(["a b c d"], every_s=10.0)]))
        worker = Worker([agent], store=store)
        tasks.append(asyncio.create_task(worker.run()))
        run_id = await Runner.submit(agent, "hi", store=store)
        run = await Runner.attach(run_id, store=store)
        async for event in run.events():
            if event.kind == "model":
                break
        return run_id

    async def left(run_id: str) -> tuple[str, int]:
        record = await stores[0].find(run_id)
        return record.status, record.deliveries

    stores: list[MemoryStore] = []
    tasks: list[asyncio.Task[None]] = []
    for _ in range(8):  # the order is a matter of chance
        stores.clear()
        run_id = asyncio.run(main())  # a complaint of asyncio fails the test
        assert asyncio.run(left(run_id)) == ("queued", 0)


async def test_a_run_that_is_cut_off_before_its_first_step_is_handed_over(store: MemoryStore) -> None:
    """By nobody who knows it, as at the end of a program. Who cancels it by its own way ends it."""
    agent = Agent(name="Desk", model=ScriptedModel(["Hello."]))
    for asked, status in ((False, "queued"), (True, "cancelled")):
        run_id = await Runner.submit(agent, "hi", store=store)
        worker = Worker([agent], store=store)
        claim = await store.claim(run_id, worker.name, 60.0)
        assert claim is not None
        await worker._begin(await opened(store, system_clock), claim)
        run = worker.run_of(run_id)
        assert run is not None
        assert run.task is not None
        if asked:
            run.cancel("immediate")
        run.task.cancel()
        await asyncio.wait((run.task, *worker._tasks))
        assert (await store.find(run_id)).status == status
