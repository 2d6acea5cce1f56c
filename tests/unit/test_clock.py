"""clock: the system clock tells durations that are never negative, and sleeps and limits by the event loop."""

from __future__ import annotations

import asyncio
import time

import pytest

from runstream import clock as clock_module
from runstream.clock import Clock, SystemClock, system_clock
from runstream.testing import FakeClock


def test_both_clocks_are_clocks() -> None:
    """The system's clock and the tests' fit the same seam."""
    clocks: list[Clock] = [system_clock, SystemClock(), FakeClock()]
    assert all(callable(clock.now) for clock in clocks)


def test_now_is_the_wall_clock_at_first() -> None:
    """now() counts seconds since the epoch."""
    assert SystemClock().now() == pytest.approx(time.time(), abs=1.0)


def test_now_does_not_follow_changes_of_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """When somebody sets the machine's time back, now() goes on by the monotonic clock."""
    wall, monotonic = iter([1000.0, 1.0]), iter([50.0, 57.5, 58.0])
    monkeypatch.setattr(clock_module.time, "time", lambda: next(wall))
    monkeypatch.setattr(clock_module.time, "monotonic", lambda: next(monotonic))
    clock = SystemClock()
    assert [clock.now(), clock.now()] == [1007.5, 1008.0]


async def test_sleep_is_the_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """sleep waits by asyncio, for as long as it is told."""
    slept: list[float] = []

    async def sleep(delay_s: float) -> None:
        slept.append(delay_s)

    monkeypatch.setattr(clock_module.asyncio, "sleep", sleep)
    await system_clock.sleep(12.5)
    assert slept == [12.5]


async def test_a_timeout_ends_its_block() -> None:
    """A block that takes longer than its limit gets TimeoutError, by the loop's time."""
    with pytest.raises(TimeoutError):
        async with system_clock.timeout(0):
            await asyncio.Event().wait()


async def test_no_limit_is_no_timeout() -> None:
    """timeout(None) lets the block take its time."""
    async with system_clock.timeout(None):
        await asyncio.sleep(0)
