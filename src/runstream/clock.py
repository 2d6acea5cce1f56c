"""Time, as one object that tests can replace. Nothing else in the package asks for the time or sleeps.

`now()` is wall-clock time in seconds since the epoch that never runs backwards within a process (the monotonic clock,
anchored once), so that the difference of two stamps is a duration.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import Protocol

__all__ = ["Clock", "SystemClock", "system_clock"]


class Clock(Protocol):
    """The seam: `SystemClock` in production, `runstream.testing.FakeClock` in tests."""

    def now(self) -> float:
        """Seconds since the epoch; never runs backwards."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait `delay_s` seconds."""
        ...

    def timeout(self, delay_s: float | None) -> AbstractAsyncContextManager[object]:
        """Like `asyncio.timeout`: raises `TimeoutError` at its end if the block took longer; None is no limit."""
        ...


class SystemClock:
    """The real time of the event loop's machine."""

    __slots__ = ("_anchor",)

    def __init__(self) -> None:
        self._anchor = time.time() - time.monotonic()

    def now(self) -> float:
        return self._anchor + time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)

    def timeout(self, delay_s: float | None) -> AbstractAsyncContextManager[object]:
        return asyncio.timeout(delay_s)


system_clock = SystemClock()
