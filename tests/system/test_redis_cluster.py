"""The store on a Redis cluster keeps the laws of stores, and follows slots that move."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence

import pytest

from redis_server import RedisServer
from runstream.log.base import Append, NewRun, Segment, Store
from runstream.log.redis import RedisStore
from runstream.testing import StoreConformance

pytestmark = pytest.mark.system


class TestRedisCluster(StoreConformance):
    """Two nodes."""

    # Queues are waited for one after the other, and where there are many the clients have to find their nodes first.
    pause_s = 0.1

    # Seconds of waiting for what the same scripts do on one node, where they are held to these laws.
    test_heartbeats_keep_a_run = None  # type: ignore[assignment]
    test_a_takeover_amid_appends = None  # type: ignore[assignment]
    test_deliveries_are_counted = None  # type: ignore[assignment]

    @pytest.fixture(autouse=True)
    def nodes(self, redis_cluster: Sequence[RedisServer]) -> None:
        self.url = f"{redis_cluster[0].url}?prefix=t{uuid.uuid4().hex[:12]}"

    async def open_store(self) -> Store:
        store = RedisStore(self.url)
        await store.open()
        return store


async def test_a_flush_of_runs_in_many_slots(redis_cluster: Sequence[RedisServer]) -> None:
    """Each run's segment goes to its node, in one call of append; heartbeats and lists reach all nodes too."""
    store = RedisStore(f"{redis_cluster[0].url}?prefix=t{uuid.uuid4().hex[:12]}")
    await store.open()
    names = [f"run-{number}" for number in range(40)]
    epochs = [await store.create(NewRun(name, "agent", owner="ada"), worker="w", lease_s=30) for name in names]
    leases = list(zip(names, epochs, strict=True))
    flush = [Append(name, epoch, Segment(1, 2, b"body"), "completed") for name, epoch in leases]
    assert all(renewal.held for renewal in await asyncio.to_thread(store.renew, leases, 30.0))
    assert await store.append(flush) == [None] * 40
    assert await store.append(flush) == [None] * 40
    assert {run.run_id for run in await store.list_runs(owner="ada")} == set(names)
    assert await store.delete_owner("ada") == 40
    await store.aclose()


async def test_a_slot_that_moves(redis_cluster: Sequence[RedisServer]) -> None:
    """A store that knows the slot at its old node is sent on, and goes on from there."""
    first, second = redis_cluster
    prefix = f"t{uuid.uuid4().hex[:12]}"
    store = RedisStore(f"{first.url}?prefix={prefix}")
    await store.open()
    # An empty slot: nothing has to be moved with it.
    names = (f"moving-{number}" for number in range(10_000))
    run_id, slot = next((name, slot) for name in names if (slot := _slot(first, name)) < 8192 and _empty(first, slot))
    target = second.command("CLUSTER", "MYID").split()[1]
    for node in (second, first):
        assert node.command("CLUSTER", "SETSLOT", slot, "NODE", target).startswith("+OK")
    epoch = await store.create(NewRun(run_id, "agent"), worker="w", lease_s=30)
    assert await store.append([Append(run_id, epoch, Segment(1, 1, b"body"))]) == [None]
    tail = store.tail(run_id, 1)
    waiting = asyncio.create_task(tail.next())
    assert await store.append([Append(run_id, epoch, Segment(2, 2, b"body"), "completed")]) == [None]
    assert (await waiting).last_seq == 2
    await tail.aclose()
    await store.aclose()


def _slot(node: RedisServer, run_id: str) -> int:
    return int(node.command("CLUSTER", "KEYSLOT", run_id).strip(":\r\n"))


def _empty(node: RedisServer, slot: int) -> bool:
    return node.command("CLUSTER", "COUNTKEYSINSLOT", slot) == ":0\r\n"
