"""log/memory_store: what is its own beyond the laws of stores (test_store_conformance.py)."""

from __future__ import annotations

import asyncio
import threading

import pytest

from runstream.errors import RunNotFound, StoreError, UserError
from runstream.log.base import Append, Command, NewRun, Segment
from runstream.log.memory_store import MemoryStore


async def test_a_name_is_one_store_for_all_who_open_it() -> None:
    """Runs are there for every store of the name, also after the one that entered them is closed and gone."""
    store = MemoryStore("memory://one-for-all")
    await store.open()
    await store.create(NewRun("run_1", "Desk", job=b"x"))
    await store.aclose()
    del store
    other = MemoryStore("memory://one-for-all")
    await other.open()
    assert (await other.find("run_1")).job == b"x"
    assert await other.delete("run_1")


async def test_without_a_name_it_is_its_openers_alone() -> None:
    """Two stores without a name share nothing."""
    first, second = MemoryStore(), MemoryStore()
    await first.open()
    await second.open()
    await first.create(NewRun("run_1", "Desk"))
    with pytest.raises(RunNotFound, match=r"memory://:"):
        await second.find("run_1")


async def test_a_reader_in_another_loop_is_woken() -> None:
    """A tail and a claim that wait in another thread's event loop get what is written here."""
    url = "memory://two-loops"
    store = MemoryStore(url)
    await store.open()
    epoch = await store.create(NewRun("run_1", "Desk"), worker="w", lease_s=10)
    began = threading.Event()
    bodies: list[bytes] = []

    async def read() -> None:
        other = MemoryStore(url)
        await other.open()
        tail = other.tail("run_1", 0)
        began.set()
        bodies.extend(segment.body for segment in (await tail.next()).segments)
        asked = await other.wait_commands({"run_1": 0})
        bodies.extend(run_id.encode() for run_id in asked)
        await other.aclose()

    thread = threading.Thread(target=lambda: asyncio.run(read()))
    thread.start()
    assert began.wait(5)
    await store.append([Append("run_1", epoch, Segment(1, 2, b"ab"))])
    await store.send("run_1", Command("cancel", {}))
    await asyncio.to_thread(thread.join, 5)
    assert bodies == [b"ab", b"run_1"]
    await store.delete("run_1")


async def test_a_store_has_to_be_open() -> None:
    """Before `open` and after `aclose` every call says so."""
    store = MemoryStore("memory://closed")
    with pytest.raises(StoreError, match="memory://closed is not open"):
        await store.find("run_1")
    await store.open()
    await store.aclose()
    with pytest.raises(StoreError, match="not open"):
        store.renew([("run_1", 1)], 1.0)


@pytest.mark.parametrize("url", ["memory", "memory:", "memory:/x", "sqlite://x"])
def test_other_urls_are_refused(url: str) -> None:
    """The error says what a URL looks like."""
    with pytest.raises(UserError, match="memory://NAME"):
        MemoryStore(url)
