"""run/scope: nothing that a run starts outlives it, and ending takes a bounded time, whatever the tasks do."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from runstream.run.scope import Scope, settle
from runstream.testing import FakeClock


class Stubborn:
    """Work that swallows every cancellation until it is let go."""

    def __init__(self, error: Exception | None = None) -> None:
        self._let_go = asyncio.Event()
        self._error = error
        self.cancelled = 0

    async def __call__(self) -> str:
        while not self._let_go.is_set():
            try:
                await self._let_go.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
        if self._error is not None:
            raise self._error
        return "late"

    def let_go(self) -> None:
        self._let_go.set()


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def test_what_ends_by_itself_is_left_alone() -> None:
    """A task that is done when the scope closes is not touched, and closing takes no time."""
    clock = FakeClock()
    scope = Scope(clock, 5.0)

    async def work() -> int:
        return 7

    task = scope.spawn(work(), "tool seven")
    assert task.get_name() == "tool seven"
    assert await task == 7
    before = clock.now()
    await scope.close()
    assert clock.now() == before


async def test_closing_cancels_what_is_left() -> None:
    """Tasks that are still at work are cancelled, all at once, and waited for."""
    clock = FakeClock()
    scope = Scope(clock, 5.0)
    before = clock.now()
    tasks = [scope.spawn(forever(), f"tool {number}") for number in range(3)]
    await asyncio.sleep(0)
    await scope.close()
    assert all(task.cancelled() for task in tasks)
    assert clock.now() == before


async def test_cleaning_up_is_waited_for() -> None:
    """A task may take its time to clean up, within the limit."""
    clock = FakeClock()
    scope = Scope(clock, 5.0)
    cleaned: list[float] = []

    async def careful() -> None:
        try:
            await forever()
        finally:
            await clock.sleep(4.0)
            cleaned.append(clock.now())

    scope.spawn(careful(), "careful")
    await asyncio.sleep(0)
    before = clock.now()
    await scope.close()
    assert cleaned == [before + 4.0]


async def test_a_task_that_ignores_cancellation_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """After the limit it is reported and left, and the others were waited for; its result is dropped."""
    clock = FakeClock()
    scope = Scope(clock, 5.0)
    stubborn = Stubborn()
    task, other = scope.spawn(stubborn(), "tool stubborn"), scope.spawn(forever(), "tool other")
    await asyncio.sleep(0)
    before = clock.now()
    with caplog.at_level(logging.WARNING, logger="runstream"):
        await scope.close()
    assert clock.now() == before + 5.0
    assert stubborn.cancelled == 1
    assert other.cancelled()
    assert not task.done()
    assert scope.has_left(task)
    assert not scope.has_left(other)
    assert not scope.has_left(None)
    (message,) = caplog.messages
    assert "tool stubborn" in message
    assert "ignored its cancellation for 5 s" in message
    stubborn.let_go()
    assert await task == "late"


async def test_what_was_left_behind_is_not_waited_for_again() -> None:
    """Stopping some tasks and then closing takes the limit once."""
    clock = FakeClock()
    scope = Scope(clock, 5.0)
    stubborn = Stubborn()
    task = scope.spawn(stubborn(), "tool")
    await asyncio.sleep(0)
    before = clock.now()
    await scope.stop([task])
    await scope.close()
    assert clock.now() == before + 5.0
    assert stubborn.cancelled == 1
    stubborn.let_go()
    await task


async def test_errors_that_come_too_late_bother_nobody() -> None:
    """The error of a stopped task, in time or after it was left behind, is not raised and not reported."""
    clock = FakeClock()
    scope = Scope(clock, 5.0)
    stubborn = Stubborn(ValueError("too late"))

    async def fails() -> None:
        try:
            await forever()
        finally:
            raise KeyError("while cleaning up")

    left, failed = scope.spawn(stubborn(), "stubborn"), scope.spawn(fails(), "fails")
    await asyncio.sleep(0)
    await scope.close()
    assert failed.done()
    stubborn.let_go()
    await asyncio.wait({left})  # nobody asks for its error: asyncio would complain, which is an error here


async def test_some_tasks_can_be_stopped() -> None:
    """stop() leaves the scope's other tasks at work."""
    scope = Scope(FakeClock(), 5.0)
    stopped, kept = scope.spawn(forever(), "a"), scope.spawn(forever(), "b")
    await asyncio.sleep(0)
    await scope.stop([stopped])
    assert stopped.cancelled()
    assert not kept.done()
    await scope.stop([])
    await scope.close()
    assert kept.cancelled()
    await scope.close()


async def test_a_task_that_has_not_begun_is_stopped_too() -> None:
    """A task can be stopped before its first step; its work is never begun."""
    scope = Scope(FakeClock(), 5.0)
    begun: list[bool] = []

    async def work() -> None:
        begun.append(True)

    scope.spawn(work(), "work")
    await scope.close()
    assert begun == []


# settle


async def test_settling_gives_the_outcome() -> None:
    """Work that is done is None; its error is returned, not raised."""

    async def fine() -> None:
        await asyncio.sleep(0)

    async def fails() -> None:
        raise ValueError("no")

    clock = FakeClock()
    assert await settle(fine, clock, 5.0) == (None, False)
    error, interrupted = await settle(fails, clock, 5.0)
    assert isinstance(error, ValueError)
    assert not interrupted


async def test_a_cancelled_caller_waits_for_the_work() -> None:
    """Cancellations, one or several, do not cut the work off: it is done, and the caller is told."""
    clock = FakeClock()
    steps: list[str] = []
    results: list[Any] = []

    async def work() -> None:
        for step in ("one", "two", "three"):
            await clock.sleep(1.0)
            steps.append(step)

    async def caller() -> None:
        results.append(await settle(work, clock, 30.0))

    task = asyncio.ensure_future(caller())
    for _ in range(2):
        await asyncio.sleep(0)
        task.cancel()
    await task
    assert steps == ["one", "two", "three"]
    assert results == [(None, True)]
    assert task.cancelling() == 2  # what becomes of the cancellation is the caller's to decide


async def test_work_that_takes_too_long_is_given_up() -> None:
    """After the limit the work is cancelled, and a TimeoutError says what may be lost."""
    clock = FakeClock()
    cancelled: list[bool] = []

    async def slow() -> None:
        try:
            await forever()
        finally:
            cancelled.append(True)

    before = clock.now()
    error, interrupted = await settle(slow, clock, 15.0)
    assert isinstance(error, TimeoutError)
    assert "not done within 15 s" in str(error)
    assert not interrupted
    assert clock.now() == before + 15.0
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert cancelled == [True]


async def test_work_that_ignores_its_end_is_left() -> None:
    """Work that cannot be cancelled does not hold the caller, and its late error is not reported."""
    clock = FakeClock()
    stubborn = Stubborn(ValueError("late"))
    done = asyncio.ensure_future(settle(lambda: _nothing(stubborn), clock, 15.0))
    error, _ = await done
    assert isinstance(error, TimeoutError)
    stubborn.let_go()
    for _ in range(3):
        await asyncio.sleep(0)


async def _nothing(work: Any) -> None:
    await work()


async def test_work_that_cancels_itself_is_not_done() -> None:
    """Work that ends by a cancellation that nobody asked for is an error, not a success."""

    async def work() -> None:
        raise asyncio.CancelledError

    error, interrupted = await settle(work, FakeClock(), 5.0)
    assert isinstance(error, RuntimeError)
    assert not interrupted
