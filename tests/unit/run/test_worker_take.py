"""A run that somebody else has claimed for a worker."""

from __future__ import annotations

import asyncio

from runstream import Agent, Runner
from runstream.log.memory_store import MemoryStore
from runstream.run.worker import Worker
from runstream.testing import ScriptedModel


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
