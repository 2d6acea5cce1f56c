"""run/claimed, run/worker: runs that are taken from a store, and what becomes of those that cannot be carried out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from faulty_stores import Mortal
from runstream import Agent, HandoffInputData, RunConfig, Runner, function_tool, handoff
from runstream.errors import LeaseHeld, LeaseLost, RunFailed, RunNotFound, RunSealed, StoreUnavailable, UserError
from runstream.events.codec import plain
from runstream.events.event import Event
from runstream.log.base import Claim, Command, NewRun
from runstream.log.memory_store import MemoryStore
from runstream.log.wrap import StoreWrapper
from runstream.run.claimed import Job, job_of
from runstream.run.history import input_items_of
from runstream.run.host import host_of
from runstream.run.result import RunResultStreaming
from runstream.run.worker import Worker
from runstream.testing import FakeClock, HandoffTo, ScriptedModel, ToolCall, Turn

LEASE_S = 5.0


class Fleet:
    """A store, its clock, and workers on it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(clock=self.clock)

    def config(self, **options: Any) -> RunConfig:
        return RunConfig(clock=self.clock, lease_s=LEASE_S, **options)

    def worker(self, *agents: Agent[Any], store: Any = None, config: Any = None, **options: Any) -> Worker:
        return Worker(agents, store=store or self.store, run_config=config or self.config(), **options)

    async def attach(self, run_id: str = "run", **options: Any) -> RunResultStreaming:
        return await Runner.attach(run_id, store=self.store, run_config=self.config(), **options)

    async def die_at(self, flush: int, *agents: Agent[Any], **options: Any) -> None:
        """A worker takes the run, and dies at that flush of it; its lease runs out."""
        store = Mortal(self.store, flush, written=True)
        async with working(self.worker(*agents, store=store, **options)):
            await store.died.wait()
        await self.clock.sleep(LEASE_S + 1)


@asynccontextmanager
async def working(worker: Worker) -> AsyncGenerator[Worker]:
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop(drain_s=0)
        await task


@pytest.fixture
async def fleet() -> AsyncGenerator[Fleet]:
    fleet = Fleet()
    await fleet.store.open()
    yield fleet
    await fleet.store.aclose()


def desk(fleet: Fleet, *steps: Any, **fields: Any) -> Agent[Any]:
    steps = steps or (Turn(("one two three four five six seven eight nine ten",), every_s=0.1),)
    return Agent(name="Desk", model=ScriptedModel(steps, repeat=True, clock=fleet.clock), **fields)


async def events_of(result: RunResultStreaming) -> list[Event]:
    return [event async for event in result.events()]


async def test_a_run_that_keeps_stopping_its_workers_is_given_up(fleet: Fleet) -> None:
    """After the limit of deliveries it ends as failed; what readers saw of the last answer is void."""
    agent = desk(fleet)
    await Runner.submit(agent, "hi", store=fleet.store, run_id="run")
    for _ in range(2):
        await fleet.die_at(6, agent, max_deliveries=2)
    async with working(fleet.worker(agent, max_deliveries=2)):
        result = await fleet.attach()
        events = await events_of(result)
    assert isinstance(result.run_loop_exception, RunFailed)
    assert result.run_loop_exception.error_type == "RunAbandoned"
    assert "2 times" in str(result.run_loop_exception)
    assert [event.kind for event in events[-2:]] == ["attempt.discarded", "run.end"]
    assert (await fleet.store.find("run")).status == "failed"


async def test_a_run_that_nobody_can_read_is_given_up_as_well(fleet: Fleet) -> None:
    """A job of a newer version is tried as often as others, and then ended; the end says why."""
    await fleet.store.create(NewRun("run", "Desk", job=b'{"version": 99}'))
    async with working(fleet.worker(desk(fleet), max_deliveries=2)):
        result = await fleet.attach()
        with pytest.raises(RunFailed, match=r"at last for .*version 99.*given up"):
            await result.wait()
    assert (await fleet.store.find("run")).deliveries == 3


async def test_a_run_whose_process_died_before_its_first_event_ends_as_failed(fleet: Fleet) -> None:
    """Nobody knows what it was asked to do: it is not run with no input."""
    await fleet.store.create(NewRun("run", "Desk"), worker="gone", lease_s=LEASE_S)
    agent = desk(fleet)
    await fleet.clock.sleep(LEASE_S + 1)
    async with working(fleet.worker(agent)):
        result = await fleet.attach()
        with pytest.raises(RunFailed, match="before it had kept the run's input"):
            await result.wait()
    assert agent.model.calls == ()  # type: ignore[union-attr]


async def test_a_run_of_a_process_that_died_later_goes_on_without_a_job(fleet: Fleet) -> None:
    """Its log tells what it was asked to do."""
    agent = desk(fleet)
    store = Mortal(fleet.store, 6, written=True)
    result = Runner.run_streamed(agent, "hi", run_config=fleet.config(store=store, run_id="run"))
    with pytest.raises(LeaseLost):
        await result.wait()
    await fleet.clock.sleep(LEASE_S + 1)
    async with working(fleet.worker(agent)):
        followed = await fleet.attach()
        await followed.wait()
    assert followed.final_output == "one two three four five six seven eight nine ten"
    assert followed.input == "hi"
    assert agent.model.last_call.user_text == "hi"  # type: ignore[union-attr]


async def test_two_that_claim_one_run_at_once(fleet: Fleet) -> None:
    """One has it; the other is told who."""
    agent = desk(fleet)
    await Runner.submit(agent, "hi", store=fleet.store, run_id="run")
    options: dict[str, Any] = {"store": fleet.store, "run_config": fleet.config()}
    claims = await asyncio.gather(*(Runner.resume("run", agent, **options) for _ in range(2)), return_exceptions=True)
    held = [claim for claim in claims if isinstance(claim, RunResultStreaming)]
    assert [type(claim) for claim in claims if claim not in held] == [LeaseHeld]
    await held[0].wait()
    assert (await fleet.store.find("run")).status == "completed"
    with pytest.raises(RunSealed):
        await Runner.resume("run", agent, **options)


async def test_a_run_whose_agent_is_not_here_does_not_go_on_with_an_empty_one(fleet: Fleet) -> None:
    """After a handoff, too: an agent of that name without its instructions, tools and guardrails is another agent."""
    model = ScriptedModel(["I know nothing."], clock=fleet.clock)
    clerk = desk(fleet)
    clerk.name = "Clerk"
    first = desk(fleet, ToolCall("transfer_to_clerk", {}), handoffs=[clerk])
    await Runner.submit(first, "hi", store=fleet.store, run_id="run")
    await fleet.die_at(5, first)
    for _ in range(2):  # the agent is known by name after the first attempt, and as little as before
        with pytest.raises(UserError, match="is at the agent 'Clerk'"):
            await Runner.resume("run", Agent(name="Desk"), store=fleet.store, run_config=fleet.config(model=model))
        await fleet.clock.sleep(LEASE_S + 1)
    assert model.calls == ()


async def test_a_run_that_another_worker_holds_cannot_be_resumed(fleet: Fleet) -> None:
    """LeaseHeld, which names the worker."""
    await fleet.store.create(NewRun("run", "Desk"), worker="w1", lease_s=1e6)
    with pytest.raises(LeaseHeld, match="w1"):
        await Runner.resume("run", desk(fleet), store=fleet.store, run_config=fleet.config())
    with pytest.raises(UserError, match="none of those"):
        await Runner.resume("run", Agent(name="Other"), store=fleet.store, run_config=fleet.config())


async def test_a_worker_that_takes_a_run_over_from_itself(fleet: Fleet) -> None:
    """Its lease ran out in a long standstill: what it had begun before is let go, and what it does now is kept."""
    agent = desk(fleet, Turn(("one two three four five six",), every_s=0.1))
    await Runner.submit(agent, "hi", store=fleet.store, run_id="run")
    async with working(fleet.worker(agent)) as worker:
        result = await fleet.attach()
        reader = result.events()
        async for event in reader:
            if event.seq == 6:
                break
        fleet.store._core.runs["run"].lease_until = 0.0
        await Runner.submit(agent, "hi", store=fleet.store, run_id="other")  # wakes the claim
        async for event in reader:
            if event.kind == "attempt.discarded":
                break
        for _ in range(5):
            await asyncio.sleep(0)
        assert "run" in worker.run_ids
        keepers = host_of(fleet.store, fleet.clock)._keepers.values()
        assert [keeper._leases["run"].epoch for keeper in keepers] == [(await fleet.store.find("run")).epoch]
        await result.wait()
        assert result.final_output == "one two three four five six"
        await (await fleet.attach("other")).wait()
    record = await fleet.store.find("run")
    assert (record.status, len(record.epochs)) == ("completed", 2)


async def test_a_run_is_deleted_under_its_worker_and_its_readers(fleet: Fleet) -> None:
    """The worker lets go of it and works on; readers are told."""
    agent = desk(fleet, Turn(("one two three four five six",), every_s=0.1))
    await Runner.submit(agent, "hi", store=fleet.store, run_id="run")
    async with working(fleet.worker(agent)) as worker:
        result = await fleet.attach()
        reader = result.events()
        async for event in reader:
            if event.seq == 6:
                break
        await fleet.store.delete("run")
        with pytest.raises(RunNotFound):
            async for _ in reader:
                pass
        while worker.run_ids:
            await fleet.clock.sleep(1.0)
        await Runner.submit(agent, "hi", store=fleet.store, run_id="next")
        await (await fleet.attach("next")).wait()


async def test_a_worker_waits_out_a_store_that_is_away(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """Claims that fail are logged and asked for again; so is a claim that cannot be given back."""

    class Away(StoreWrapper):
        failures = 3

        async def claim_next(self, *arguments: Any, **options: Any) -> Claim | None:
            if self.failures:
                self.failures -= 1
                raise StoreUnavailable("away")
            return await self.store.claim_next(*arguments, **options)

    agent = desk(fleet)
    await Runner.submit(agent, "hi", store=fleet.store, run_id="run")
    with caplog.at_level(logging.WARNING, "runstream"):
        async with working(fleet.worker(agent, store=Away(fleet.store))):
            await (await fleet.attach()).wait()
    assert caplog.text.count("no runs can be claimed: away") == 3


async def test_a_claim_that_comes_while_the_worker_stops_is_given_back(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a delivery; and if the store is away just then, the worker ends all the same."""

    class Late(StoreWrapper):
        """Gives a claim when it is asked to give up waiting for one."""

        refuses = False
        asked: asyncio.Event

        async def claim_next(self, *arguments: Any, **options: Any) -> Claim | None:
            self.asked.set()
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                pass
            return await self.store.claim_next(*arguments, **options)

        async def release(self, run_id: str, epoch: int) -> bool:
            if self.refuses:
                raise StoreUnavailable("away")
            return await self.store.release(run_id, epoch)

    agent = desk(fleet)
    await Runner.submit(agent, "hi", store=fleet.store, run_id="run")
    for refuses in (False, True):
        store = Late(fleet.store)
        store.refuses, store.asked = refuses, asyncio.Event()
        async with working(fleet.worker(agent, store=store)):
            await store.asked.wait()
        assert (await fleet.store.find("run")).status == ("running" if refuses else "queued")
    assert "cannot be given back: away" in caplog.text


async def test_a_worker_that_is_cancelled_hands_over_what_it_has(fleet: Fleet) -> None:
    """At once; the run waits for another worker, and the delivery does not count."""
    agent = desk(fleet, Turn(("one two three four five six",), every_s=0.1))
    await Runner.submit(agent, "hi", store=fleet.store, run_id="run")
    working_task = asyncio.create_task(fleet.worker(agent).run())
    result = await fleet.attach()
    reader = result.events()
    async for event in reader:
        if event.seq == 6:
            break
    working_task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working_task
    record = await fleet.store.find("run")
    assert (record.status, record.deliveries) == ("queued", 0)
    async with working(fleet.worker(agent)):
        kinds = [event.kind async for event in reader]
    assert kinds.count("attempt.discarded") == 1
    assert kinds[-1] == "run.end"


async def test_a_run_that_was_cancelled_before_it_began_asks_no_model(fleet: Fleet) -> None:
    """The command that waits for it is brought before anything else."""
    agent = desk(fleet)
    await Runner.submit(agent, "hi", store=fleet.store, run_id="run")
    await fleet.store.send("run", Command("cancel", {"mode": "immediate"}))
    async with working(fleet.worker(agent)):
        await (await fleet.attach()).wait()
    assert (await fleet.store.find("run")).status == "cancelled"
    assert agent.model.calls == ()  # type: ignore[union-attr]


@pytest.mark.parametrize("said", [None, "only this"])
async def test_a_handoffs_filter_outlives_the_worker(fleet: Fleet, said: str | None) -> None:
    """Who takes over after it goes on from what it left: the next filter is given the same."""
    given: list[Any] = []

    def shorten(data: HandoffInputData) -> HandoffInputData:
        given.append((data.input_history, input_items_of([*data.pre_handoff_items, *data.new_items])))
        history = data.input_history if said is None else said
        return data.clone(input_history=history, new_items=data.new_items[1:])

    dave = Agent(name="Dave", model=ScriptedModel(["Done."], repeat=True))
    slow = Turn(("one two three four five six", HandoffTo("Dave")), every_s=0.1)
    steps = ScriptedModel([slow], repeat=True, clock=fleet.clock)
    cy = Agent(name="Cy", model=steps, handoffs=[handoff(dave, input_filter=shorten)])
    ann = Agent(name="Ann", model=ScriptedModel([HandoffTo("Cy")], repeat=True))
    ann.handoffs = [handoff(cy, input_filter=shorten)]
    for dies in (False, True):
        run_id = await Runner.submit(ann, said or [{"content": "hi", "role": "user"}], store=fleet.store)
        if dies:
            await fleet.die_at(6, ann)
            assert len(given) == 3
        async with working(fleet.worker(ann)):
            result = await fleet.attach(run_id, agents=[ann])
            await result.wait()
        assert result.input == (said or [{"content": "hi", "role": "user"}])
    for _, items in given:
        for item in items:
            item.pop("call_id", None)
            item.pop("id", None)
    assert plain(given[:2]) == plain(given[2:])
    assert [len(items) for _, items in given] == [2, 4, 2, 4]


async def test_what_a_person_said_outlives_the_worker_that_had_not_taken_it_in(fleet: Fleet) -> None:
    """Input that came before an approval that was carried out is not lost with the worker."""
    reached = asyncio.Event()

    @function_tool(needs_approval=True)
    async def pay() -> str:
        reached.set()
        await fleet.clock.sleep(1000.0)
        return "paid"

    agent = desk(fleet, ToolCall("pay", {}, "c1"), "Done.", "Seen.", tools=[pay])
    await Runner.submit(agent, "hi", store=fleet.store, run_id="run")
    store = Mortal(fleet.store, 1_000_000, written=True)
    async with working(fleet.worker(agent, store=store, config=fleet.config(on_approval="wait"))):
        result = await fleet.attach()
        async for event in result.events():
            if event.kind == "item" and event.data.type == "tool_approval_item":
                break
        await fleet.store.send("run", Command("input", {"items": [{"role": "user", "content": "and hurry"}]}))
        answer = {"call_id": "c1", "tool_name": "pay", "approved": True, "always": False, "message": None}
        await fleet.store.send("run", Command("approval", answer))
        await reached.wait()
        store.died.set()
    await fleet.clock.sleep(LEASE_S + 1)
    async with working(fleet.worker(agent, config=fleet.config(on_approval="wait"))):
        result = await fleet.attach()
        events = await events_of(result)
    said = [event.data.items for event in events if event.kind == "input.added"]
    assert said == [[{"role": "user", "content": "and hurry"}]]


def test_jobs_come_back_as_they_were() -> None:
    """And what is no job, or of a newer version, is refused in words."""
    job = Job([{"role": "user", "content": "hi \ud83d"}], 7, {"a": [1, None]}, "s1")
    assert job_of(job.encode()) == job
    assert job_of(b'{"version": 1, "input": "hi", "later": 1}') == Job("hi")
    for body in (b"{}", b'{"version": 2, "input": "hi"}', b'"text"', b"[]"):
        with pytest.raises(ValueError, match="version"):
            job_of(body)
    with pytest.raises(UserError, match="JSON data"):
        Job("hi", context={"a": object()}).encode()
