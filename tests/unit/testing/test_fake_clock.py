"""FakeClock: time moves only when nothing else can happen, and by exactly what was waited for."""

import asyncio
import contextvars
import gc
import random
import socket
import weakref
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.testing import FakeClock

if TYPE_CHECKING:
    from runstream.clock import Clock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1000.0)


async def test_a_sleep_takes_exactly_its_time_and_no_real_time(clock: FakeClock) -> None:
    """After sleep(n), now() is n later; a day passes at once."""
    seam: Clock = clock
    before = asyncio.get_running_loop().time()
    await seam.sleep(86_400.0)
    assert seam.now() == 1000.0 + 86_400.0
    assert asyncio.get_running_loop().time() - before < 5


@pytest.mark.parametrize("delay_s", [0, -1.0])
async def test_a_sleep_of_nothing_lets_others_run(clock: FakeClock, delay_s: float) -> None:
    """sleep(0) takes no time, and gives the other tasks a turn."""
    seen: list[str] = []
    task = asyncio.create_task(_append(seen, "other"))
    await clock.sleep(delay_s)
    assert seen == ["other"]
    assert clock.now() == 1000.0
    await task


@given(st.lists(st.floats(min_value=0.001, max_value=1e6), max_size=20))
def test_sleepers_wake_in_the_order_of_their_deadlines(delays: list[float]) -> None:
    """Each sleeper wakes at its own deadline, the earliest first, ties in the order of going to sleep."""

    async def main() -> list[tuple[float, int]]:
        clock = FakeClock(0.0)
        woken: list[tuple[float, int]] = []

        async def sleeper(index: int, delay_s: float) -> None:
            await clock.sleep(delay_s)
            woken.append((clock.now(), index))

        async with asyncio.TaskGroup() as group:
            for index, delay_s in enumerate(delays):
                group.create_task(sleeper(index, delay_s))
        return woken

    assert asyncio.run(main()) == sorted((delay_s, index) for index, delay_s in enumerate(delays))


async def test_time_does_not_jump_while_a_task_has_work(clock: FakeClock) -> None:
    """However many turns a task needs, no deadline comes before it waits."""
    times: list[float] = []

    async def worker() -> None:
        for _ in range(5000):
            await asyncio.sleep(0)
        times.append(clock.now())

    await asyncio.gather(worker(), clock.sleep(1.0))
    assert times == [1000.0]


async def test_time_does_not_jump_while_bytes_are_on_their_way(clock: FakeClock) -> None:
    """A reply that travels over a local socket arrives before any deadline."""
    left, right = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=left)
    peer_reader, peer_writer = await asyncio.open_connection(sock=right)

    async def echo() -> None:
        while data := await peer_reader.read(100):
            peer_writer.write(data)

    task = asyncio.create_task(echo())
    async with clock.timeout(0.001):
        for _ in range(50):
            writer.write(b"ping")
            assert await reader.readexactly(4) == b"ping"
    assert clock.now() == 1000.0
    for each in (writer, peer_writer):
        each.close()
        await each.wait_closed()
    await task


async def test_a_cancelled_sleep_sets_no_deadline(clock: FakeClock) -> None:
    """Time does not move to the deadline of a sleeper that was cancelled."""
    task = asyncio.create_task(clock.sleep(500.0))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await clock.sleep(1.0)
    assert clock.now() == 1001.0
    assert clock.sleepers == 0


async def test_without_autojump_time_moves_by_advance_only() -> None:
    """advance() passes every deadline in its span, also those that are set on the way."""
    clock = FakeClock(0.0, autojump=False)
    ticks: list[float] = []

    async def ticker() -> None:
        while True:
            await clock.sleep(1.0)
            ticks.append(clock.now())

    task = asyncio.create_task(ticker())
    await clock.settle()
    assert clock.now() == 0.0
    await clock.advance(3.5)
    assert (ticks, clock.now()) == ([1.0, 2.0, 3.0], 3.5)
    await clock.advance(0.5)
    assert ticks[-1] == 4.0
    task.cancel()


async def test_switching_autojump_on_lets_time_run() -> None:
    """Sleepers from before the switch wake."""
    clock = FakeClock(0.0, autojump=False)
    task = asyncio.create_task(clock.sleep(7.0))
    await clock.settle()
    assert not task.done()
    assert clock.autojump is False
    clock.autojump = True
    await task
    assert clock.now() == 7.0


async def test_settle_waits_for_chains_of_work(clock: FakeClock) -> None:
    """settle() returns when the others are blocked, without moving time."""
    seen: list[str] = []

    async def chain() -> None:
        for _ in range(100):
            await asyncio.sleep(0)
        seen.append("done")
        await clock.sleep(10.0)

    clock.autojump = False
    task = asyncio.create_task(chain())
    await clock.settle()
    assert (seen, clock.now()) == (["done"], 1000.0)
    task.cancel()


async def test_time_cannot_go_back(clock: FakeClock) -> None:
    """advance() refuses less than nothing."""
    with pytest.raises(ValueError, match="cannot go back"):
        await clock.advance(-1.0)


def test_one_clock_serves_one_loop_after_another() -> None:
    """A deadline that a closed loop left behind does not hold up the next loop."""
    clock = FakeClock(0.0, autojump=False)

    async def leave_behind() -> None:
        sleeper = asyncio.create_task(clock.sleep(1.0))
        await clock.settle()
        sleeper.cancel()

    asyncio.run(leave_behind())
    clock.autojump = True
    asyncio.run(clock.sleep(5.0))
    assert clock.now() == 5.0


async def test_a_loop_that_does_not_show_its_queue_works_too() -> None:
    """With uvloop, time jumps after a number of turns."""
    uvloop = pytest.importorskip("uvloop")

    def run() -> float:
        clock = FakeClock(0.0)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(clock.sleep(3600.0))
        return clock.now()

    assert await asyncio.to_thread(run) == 3600.0


async def test_timeout_raises_at_its_end(clock: FakeClock) -> None:
    """A block that takes longer is cancelled at the deadline and raises TimeoutError."""
    with pytest.raises(TimeoutError):
        async with clock.timeout(2.0) as limit:
            await clock.sleep(10.0)
    assert clock.now() == 1002.0
    assert limit.expired()  # type: ignore[attr-defined]
    assert _cancelling() == 0


async def test_timeout_leaves_a_quick_block_alone(clock: FakeClock) -> None:
    """No deadline stays behind, and none is set for None."""
    async with clock.timeout(2.0):
        await clock.sleep(1.0)
    async with clock.timeout(None):
        await clock.sleep(10.0)
    assert clock.now() == 1011.0
    assert clock.sleepers == 0


@pytest.mark.parametrize("delay_s", [0, -5])
async def test_a_timeout_of_nothing_expires_at_the_first_wait(clock: FakeClock, delay_s: float) -> None:
    """Like asyncio's, it lets through what never waits."""
    async with clock.timeout(delay_s):
        pass
    with pytest.raises(TimeoutError):
        async with clock.timeout(delay_s):
            await clock.sleep(1.0)
    assert clock.now() == 1000.0


async def test_timeout_passes_other_errors_on(clock: FakeClock) -> None:
    """An error of the block wins over a deadline that has not come."""
    with pytest.raises(KeyError):
        async with clock.timeout(2.0):
            raise KeyError("x")


async def test_the_inner_of_two_timeouts_does_not_hide_the_outer(clock: FakeClock) -> None:
    """When both expire at once, the error is the outer one's."""
    with pytest.raises(TimeoutError):
        async with clock.timeout(1.0) as outer, clock.timeout(1.0):
            await clock.sleep(5.0)
    assert outer.expired()  # type: ignore[attr-defined]
    assert _cancelling() == 0


@pytest.mark.parametrize("real", [True, False])
async def test_a_cancellation_from_outside_is_not_taken_for_a_timeout(clock: FakeClock, real: bool) -> None:
    """As with asyncio.timeout: a task that is cancelled while its timeout expires ends cancelled."""

    async def body() -> None:
        async with asyncio.timeout(0.01) if real else clock.timeout(0.01):
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                asyncio.current_task().cancel()  # type: ignore[union-attr]
                raise

    task = asyncio.create_task(body())
    await asyncio.wait([task])
    assert task.cancelled()


async def test_timeout_needs_a_task(clock: FakeClock) -> None:
    """Outside a task there is nothing to cancel."""
    manager = clock.timeout(1.0)
    loop = asyncio.get_running_loop()
    caught: asyncio.Future[BaseException] = loop.create_future()

    def outside() -> None:
        try:
            manager.__aenter__().send(None)  # type: ignore[attr-defined]
        except RuntimeError as error:
            caught.set_result(error)

    loop.call_soon(outside)
    assert "inside a task" in str(await caught)


@pytest.mark.parametrize("seed", range(5))
def test_the_same_program_gives_the_same_times(seed: int) -> None:
    """Two runs of a program with random pauses and timeouts agree in every time stamp."""

    async def program() -> list[tuple[float, str]]:
        chance = random.Random(seed)
        clock = FakeClock(0.0)
        log: list[tuple[float, str]] = []

        async def worker(name: str) -> None:
            for _ in range(10):
                try:
                    async with clock.timeout(chance.random()):
                        await clock.sleep(chance.random())
                        log.append((clock.now(), f"{name} slept"))
                except TimeoutError:
                    log.append((clock.now(), f"{name} gave up"))

        await asyncio.gather(*(worker(str(number)) for number in range(5)))
        return log

    first = asyncio.run(program())
    assert first == asyncio.run(program())
    assert [at for at, _ in first] == sorted(at for at, _ in first)


async def _append(seen: list[str], word: str) -> None:
    seen.append(word)


def _cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def test_two_clocks_at_once_are_refused() -> None:
    """Two clocks with deadlines in one loop cannot both jump: the second one says so, and the first goes on."""
    first, second = FakeClock(1000.0), FakeClock(5000.0)
    sleeping = asyncio.create_task(first.sleep(10.0))
    await asyncio.sleep(0)
    for wait in (second.sleep(1.0), second.settle(), second.advance(1.0)):
        with pytest.raises(RuntimeError, match=r"two FakeClocks .* pass the same clock to everything"):
            await wait
    with pytest.raises(RuntimeError, match="two FakeClocks"):
        async with second.timeout(1.0):
            raise AssertionError
    await sleeping
    assert (first.now(), second.now()) == (1010.0, 5000.0)
    assert second.sleepers == 0


async def test_clocks_one_after_the_other() -> None:
    """A clock that nobody waits for any more, or that never moves by itself, does not stand in another's way."""
    first, second, still = FakeClock(1000.0), FakeClock(5000.0), FakeClock(autojump=False)
    waiting = asyncio.create_task(still.sleep(1.0))
    for _ in range(3):
        await first.sleep(10.0)
        await second.sleep(10.0)
        await second.settle()
        await first.settle()
    async with first.timeout(5.0):
        pass
    await second.sleep(1.0)
    for clock in (first, second, first, second):
        async with clock.timeout(5.0):
            pass
    await first.sleep(1.0)
    assert (first.now(), second.now()) == (1031.0, 5031.0)
    await still.advance(1.0)
    await waiting


@pytest.mark.parametrize("is_closed_in_mid_wait", [False, True])
def test_a_loop_that_is_gone_is_not_kept(is_closed_in_mid_wait: bool) -> None:
    """Neither the loop nor what its tasks had in their contexts is held by anything of the clock's module."""
    held = contextvars.ContextVar[object]("held")

    class Thing:
        pass

    async def main() -> None:
        held.set(things[0])
        await FakeClock().sleep(10.0)

    things = [Thing()]
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(main())
    if is_closed_in_mid_wait:
        loop.call_soon(loop.stop)
        loop.run_forever()
        waiting.cancel()
        loop.run_until_complete(asyncio.wait({waiting}))
    else:
        loop.run_until_complete(waiting)
    loop.close()
    kept = weakref.ref(loop), weakref.ref(things[0])
    del loop, waiting
    things.clear()
    gc.collect()
    assert [ref() for ref in kept] == [None, None]
