"""Every store keeps the laws of `runstream.testing.StoreConformance`."""

from __future__ import annotations

import itertools
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from runstream.clock import SystemClock
from runstream.log.base import Store
from runstream.log.memory_store import MemoryStore
from runstream.log.payload import CodedStore, ZlibPayloads
from runstream.log.sqlite import SQLiteStore
from runstream.testing import FakeClock, StoreConformance

_names = itertools.count()


class SteppingClock:
    """A clock that tests move: `advance` lets time pass, `step` sets it."""

    def __init__(self) -> None:
        self._clock = FakeClock(autojump=False)
        self._offset_s = 0.0

    def now(self) -> float:
        return self._clock.now() + self._offset_s

    async def sleep(self, delay_s: float) -> None:
        await self._clock.sleep(delay_s)

    def timeout(self, delay_s: float | None) -> AbstractAsyncContextManager[object]:
        return self._clock.timeout(delay_s)

    async def advance(self, delay_s: float) -> None:
        await self._clock.advance(delay_s)

    def step(self, delay_s: float) -> None:
        self._offset_s += delay_s


class TestMemoryStore(StoreConformance):
    """In one process, with time of its own."""

    lease_s = 5.0
    pause_s = 0.001

    @pytest.fixture(autouse=True)
    def place(self) -> None:
        self.url = f"memory://conformance-{next(_names)}"
        self.clock = SteppingClock()

    async def open_store(self) -> Store:
        store = MemoryStore(self.url, clock=self.clock)
        await store.open()
        return store

    async def advance(self, delay_s: float) -> None:
        await self.clock.advance(delay_s)

    async def step_clock(self, delay_s: float) -> bool:
        self.clock.step(delay_s)
        return True


class TestCodedStore(TestMemoryStore):
    """Whose payloads are compressed."""

    async def open_store(self) -> Store:
        store = CodedStore(await super().open_store(), ZlibPayloads(1, min_bytes=0))
        await store.open()
        return store


class _WallClock(SystemClock):
    """The system's time, as somebody has set it."""

    __slots__ = ("offset_s",)

    def __init__(self) -> None:
        super().__init__()
        self.offset_s = 0.0

    def now(self) -> float:
        return super().now() + self.offset_s


class TestSQLiteStore(StoreConformance):
    """Two store objects on one file; leases run in real time."""

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "runs.db"
        self.clock = _WallClock()

    async def open_store(self) -> Store:
        store = SQLiteStore(self.path, clock=self.clock, monotonic=time.monotonic)
        await store.open()
        return store

    async def step_clock(self, delay_s: float) -> bool:
        self.clock.offset_s += delay_s
        return True
