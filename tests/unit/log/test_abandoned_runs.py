"""Runs whose process died, where nobody takes them over: they can be swept by their age, in every store of our own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runstream.log.base import Append, NewRun, Retention, Segment, Store
from runstream.log.memory_store import MemoryStore
from runstream.log.sqlite import SQLiteStore
from runstream.testing import FakeClock

LEASE_S = 5.0
_DAY_S = 86_400.0


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[FakeClock], Store]:
    def made(clock: FakeClock) -> Store:
        if request.param == "memory":
            return MemoryStore("memory://", clock=clock)
        return SQLiteStore(tmp_path / "runs.db", clock=clock)

    return made


async def test_only_what_nobody_has_and_nobody_wrote_to_is_abandoned(make: Callable[[FakeClock], Store]) -> None:
    """A run with a living lease, one that waits for a worker, and one that was written to lately all stay."""
    clock = FakeClock()
    store = make(clock)
    await store.open()
    try:
        dead = await store.create(NewRun("dead", "Desk"), worker="w", lease_s=LEASE_S)
        await store.append([Append("dead", dead, Segment(1, 2, b"ab"))])
        await store.create(NewRun("queued", "Desk", job=b"{}"))
        await clock.advance(2 * _DAY_S)
        alive = await store.create(NewRun("alive", "Desk"), worker="w", lease_s=LEASE_S)
        lately = await store.create(NewRun("lately", "Desk"), worker="w", lease_s=LEASE_S)
        await clock.advance(LEASE_S + 1)
        await store.append([Append("lately", lately, Segment(1, 1, b"a"))])
        store.renew([("alive", alive)], LEASE_S)
        assert await store.sweep(Retention(max_age_s=1.0, max_count=0)) == 0
        assert await store.sweep(Retention(abandoned_age_s=3 * _DAY_S)) == 0
        assert await store.sweep(Retention(abandoned_age_s=_DAY_S)) == 1
        assert {run.run_id for run in await store.list_runs()} == {"queued", "alive", "lately"}
    finally:
        await store.aclose()
