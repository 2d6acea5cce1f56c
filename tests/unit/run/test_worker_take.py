"""A run that somebody else has claimed for a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from runstream import Agent, RunConfig, Runner
from runstream.log.base import Command, Page
from runstream.log.memory_store import MemoryStore
from runstream.log.wrap import StoreWrapper
from runstream.run.worker import Worker
from runstream.testing import FakeClock, ScriptedModel


async def test_a_worker_carries_out_what_was_claimed_for_it() -> None:
    """It is begun without a question for work, though the worker has no room; a worker that stops gives it back."""
    store = MemoryStore("memory://")
    await store.open()
    agent = Agent(name="Desk", model=ScriptedModel(["Hello."], repeat=True))
    worker = Worker([agent], store=store, concurrency=1)
    try:
        run_id = await Runner.submit(agent, "hi", store=store)
        claim = await store.claim(run_id, worker.name, 5.0)
        assert claim is not None
        await worker.take(claim)
        assert worker.run_ids == [run_id]
        run = worker.run_of(run_id)
        assert run is not None
        await run.wait_ended()
        assert (await store.find(run_id)).status == "completed"

        late = await Runner.submit(agent, "hi", store=store)
        claim = await store.claim(late, worker.name, 5.0)
        assert claim is not None
        worker.stop()
        await worker.take(claim)
        assert worker.run_of(late) is None
        assert (await store.find(late)).status == "queued"
        await asyncio.wait_for(worker.run(), 5)
    finally:
        await store.aclose()


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_new_run_is_begun_without_questions(is_new: bool) -> None:
    """Who has just entered the run knows that the store has neither events nor commands of it; others have to ask."""
    asked: list[str] = []

    class Asked(StoreWrapper):
        async def read(self, run_id: str, after: int, *, max_bytes: int = 1_000_000) -> Page:
            asked.append("events")
            return await super().read(run_id, after, max_bytes=max_bytes)

        async def commands(self, run_id: str, after: int) -> Sequence[Command]:
            asked.append("commands")
            return await super().commands(run_id, after)

    store = Asked(MemoryStore("memory://"))
    await store.open()
    agent = Agent(name="Desk", model=ScriptedModel(["Hello."]))
    worker = Worker([agent], store=store, concurrency=1)
    try:
        run_id = await Runner.submit(agent, "hi", store=store)
        claim = await store.claim(run_id, worker.name, 5.0)
        assert claim is not None
        await worker.take(claim, is_new=is_new)
        assert asked == ([] if is_new else ["events", "commands"])
        run = worker.run_of(run_id)
        assert run is not None
        await run.wait_ended()
        assert (await store.find(run_id)).status == "completed"
        worker.stop()
        await asyncio.wait_for(worker.run(), 5)
    finally:
        await store.aclose()


async def test_a_stop_hands_on_what_is_just_being_begun() -> None:
    """A run that was let in before the stop is neither forgotten nor carried out after the worker's end, even where
    whoever asked for it has given up."""
    store = MemoryStore("memory://")
    await store.open()
    asked, answered = asyncio.Event(), asyncio.Event()

    async def session(name: str) -> Any:
        asked.set()
        await answered.wait()
        return None

    agent = Agent(name="Desk", model=ScriptedModel(["Hello."], repeat=True))
    worker = Worker([agent], store=store, concurrency=1, session=session)
    try:
        run_id = await Runner.submit(agent, "hi", store=store, session_id="a")
        claim = await store.claim(run_id, worker.name, 5.0)
        assert claim is not None
        working = asyncio.create_task(worker.run())
        taking = asyncio.create_task(worker.take(claim))
        await asked.wait()
        worker.stop(drain_s=0.0)
        taking.cancel()
        await asyncio.wait((taking,))
        answered.set()
        await asyncio.wait_for(working, 5)
        assert worker.run_ids == []
        assert (await store.find(run_id)).status == "queued"
    finally:
        await store.aclose()


class _Odd(MemoryStore):
    """The first question for work fails as no store should."""

    failures = 1

    async def claim_next(self, *given: Any, **options: Any) -> Any:
        if self.failures:
            self.failures -= 1
            raise ValueError("a record that cannot be read")
        return await super().claim_next(*given, **options)


async def test_a_store_that_fails_in_no_known_way_is_waited_out(caplog: pytest.LogCaptureFixture) -> None:
    """The worker says so, and goes on: else it would hand on all that it carries out, and take no more, in silence."""
    clock = FakeClock(autojump=False)
    store = _Odd("memory://", clock=clock)
    await store.open()
    agent = Agent(name="Desk", model=ScriptedModel(["Hello."]))
    worker = Worker([agent], store=store, run_config=RunConfig(clock=clock))
    working = asyncio.create_task(worker.run())
    try:
        run_id = await Runner.submit(agent, "hi", store=store)
        while (await store.find(run_id)).status != "completed":
            assert not working.done()
            await clock.advance(1.0)
        assert caplog.messages == ["no runs can be claimed: ValueError('a record that cannot be read')"]
    finally:
        worker.stop()
        await asyncio.wait((working,))
        await store.aclose()
