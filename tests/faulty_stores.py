"""Stores that fail as they are told to, for tests of what runs make of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from runstream.errors import StoreError, StoreUnavailable
from runstream.log.base import Append, Refusal, Renewal, Store
from runstream.log.wrap import StoreWrapper

__all__ = ["Flaky", "Mortal"]


class Mortal(StoreWrapper):
    """The store of a process that dies at that flush: from then on nothing of it gets in."""

    def __init__(self, store: Store, at: int, *, written: bool) -> None:
        super().__init__(store)
        self.at = at
        self.written = written
        self.flushes = 0
        self.died = asyncio.Event()

    async def append(self, appends: Sequence[Append]) -> Sequence[Refusal | None]:
        self.flushes += 1
        if self.flushes == self.at and not self.died.is_set():
            if self.written:
                await self.store.append(appends)
            self.died.set()
        if self.died.is_set():
            return ["fenced"] * len(appends)
        return await self.store.append(appends)

    def renew(self, leases: Sequence[tuple[str, int]], lease_s: float) -> Sequence[Renewal]:
        if self.died.is_set():
            return [Renewal(False) for _ in leases]
        return self.store.renew(leases, lease_s)

    async def release(self, run_id: str, epoch: int) -> bool:
        return not self.died.is_set() and await self.store.release(run_id, epoch)


class Flaky(StoreWrapper):
    """A store whose flushes fail while `error` is set."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.error: StoreError | None = None
        self.failed = 0

    def fail_with(self, error: StoreError | None = None) -> None:
        """From now on; without an error: as a store that is away."""
        self.error = error if error is not None else StoreUnavailable("it is away")

    async def append(self, appends: Sequence[Append]) -> Sequence[Refusal | None]:
        if self.error is not None:
            self.failed += 1
            raise self.error
        return await self.store.append(appends)
