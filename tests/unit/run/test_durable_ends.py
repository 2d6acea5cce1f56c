"""run/durable: a run that the store has gets its end there; no heartbeat speaks against an end."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Sequence
from typing import Any

from runstream import Agent, RunConfig, Runner
from runstream.log.base import Append, NewRun, Refusal
from runstream.log.memory_store import MemoryStore
from runstream.log.wrap import StoreWrapper
from runstream.run.host import host_of
from runstream.testing import ScriptedModel


def _agent() -> Agent[Any]:
    return Agent(name="Desk", model=ScriptedModel(["hi"]))


class _LateHeartbeat(StoreWrapper):
    """Between an end that is kept and its answer a heartbeat finds the lease gone."""

    async def append(self, appends: Sequence[Append]) -> Sequence[Refusal | None]:
        answers = await super().append(appends)
        for append in appends:
            if append.status == "completed":
                host_of(self, RunConfig().clock)._tell_lost(append.run_id)
        return answers


class _SlowToEnter(StoreWrapper):
    """Enters a run, and answers later."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.entered = asyncio.Event()
        self.answers = asyncio.Event()

    async def create(self, run: NewRun, *, worker: str | None = None, lease_s: float = 0.0) -> int:
        epoch = await super().create(run, worker=worker, lease_s=lease_s)
        self.entered.set()
        await self.answers.wait()
        return epoch


async def test_a_heartbeat_does_not_undo_an_end() -> None:
    """The end frees the lease: a heartbeat that sees that before the answer comes changes nothing."""
    store = _LateHeartbeat(MemoryStore())
    await store.open()
    result = Runner.run_streamed(
        Agent(name="Desk", model=ScriptedModel(["hi"])), "?", run_config=RunConfig(store=store)
    )
    await result.wait()
    assert (result.status, (await store.find(result.run_id)).status) == ("completed", "completed")
    await store.aclose()


async def test_a_run_that_is_cancelled_while_it_is_entered_ends_in_its_store() -> None:
    """What the store has taken is not left there without an end."""
    store = _SlowToEnter(MemoryStore())
    await store.open()
    result = Runner.run_streamed(
        Agent(name="Desk", model=ScriptedModel(["hi"])), "?", run_config=RunConfig(store=store)
    )
    await store.entered.wait()
    result.cancel()
    await asyncio.sleep(0)
    store.answers.set()
    kinds = [event.kind async for event in result.events()]
    record = await store.find(result.run_id)
    assert (record.status, record.last_seq, kinds[-1]) == ("cancelled", len(kinds), "run.end")
    await store.aclose()


async def test_a_run_that_has_ended_is_let_go_without_the_collector() -> None:
    """With its log: a server ends many of them between two collections."""
    store = MemoryStore()
    await store.open()
    result = Runner.run_streamed(_agent(), "?", run_config=RunConfig(store=store))
    await result.wait()
    run = weakref.ref(result._run)
    gc.disable()
    try:
        del result
        for _ in range(3):  # what has ended with it
            await asyncio.sleep(0)
        assert run() is None
    finally:
        gc.enable()
    await store.aclose()
