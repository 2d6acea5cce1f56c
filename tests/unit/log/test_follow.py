"""log/follow: a cursor moves only when an event is handed over, so that nothing is lost and nothing comes twice."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.errors import UserError
from runstream.events.event import RunEnd
from runstream.log.follow import Follower
from runstream.log.memory import MemoryLog
from runstream.testing import FakeClock


def log_of(count: int, *, end: bool = False) -> MemoryLog:
    log = MemoryLog("run_1")
    for number in range(count):
        log.append("item", float(number), None, {"number": number})
    if end:
        log.append("run.end", float(count), None, RunEnd("completed"))
    return log


def drain(follower: Follower) -> list[int]:
    seqs: list[int] = []
    while (event := follower.next_nowait()) is not None:
        seqs.append(event.seq)
    return seqs


@pytest.mark.parametrize("after", [-1, 4, 100])
def test_a_cursor_must_be_in_the_log(after: int) -> None:
    """A cursor before the first or after the newest event is an error, which tells what there is."""
    with pytest.raises(UserError, match=f"after={after} is not a cursor of this log: it holds the events 1 to 3"):
        Follower(log_of(3), after)


@pytest.mark.parametrize("after", range(4))
def test_replay_begins_after_the_cursor(after: int) -> None:
    """The first event handed over is the one after the cursor."""
    follower = Follower(log_of(3), after)
    assert follower.cursor == after
    assert drain(follower) == list(range(after + 1, 4))


def test_the_cursor_is_the_last_event_handed_over() -> None:
    """However many events were read ahead, the cursor is where the reader is."""
    follower = Follower(log_of(300))
    for seq in range(1, 301):
        assert follower.cursor == seq - 1
        event = follower.next_nowait()
        assert event is not None
        assert (event.seq, follower.cursor) == (seq, seq)
    assert follower.next_nowait() is None
    assert follower.cursor == 300


@given(steps=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=20))
def test_replay_turns_into_tail_without_a_seam(steps: list[tuple[int, int]]) -> None:
    """Written and read by turns, in any portions, each event comes once and in order."""
    log = MemoryLog("run_1")
    follower = Follower(log)
    got: list[int] = []
    for writes, reads in steps:
        for _ in range(writes):
            log.append("item", 0.0, None, None)
        for _ in range(reads):
            event = follower.next_nowait()
            if event is None:
                assert len(got) == log.last_seq
                break
            got.append(event.seq)
    assert got + drain(follower) == list(range(1, log.last_seq + 1))


def test_the_end_is_reached_when_the_last_event_was_handed_over() -> None:
    """at_end is false in a log that grows, and in a sealed one while an event is left."""
    log = log_of(1)
    follower = Follower(log)
    assert drain(follower) == [1]
    assert not follower.at_end
    log.append("run.end", 1.0, None, RunEnd("completed"))
    assert not follower.at_end
    assert drain(follower) == [2]
    assert follower.at_end
    assert Follower(log, 2).at_end


async def test_a_wait_that_times_out_loses_nothing() -> None:
    """After any number of waits that were given up, the next event is the one after the cursor."""
    log, clock = log_of(2), FakeClock()
    follower = Follower(log)
    assert drain(follower) == [1, 2]
    for _ in range(5):
        with pytest.raises(TimeoutError):
            async with clock.timeout(1.0):
                await follower.wait()
    assert follower.cursor == 2
    log.append("item", 1.0, None, None)
    await follower.wait()
    assert drain(follower) == [3]


async def test_no_wait_while_something_is_left() -> None:
    """wait() returns at once while events are left to hand over, also ones that were read ahead, and at the end."""
    log = log_of(2, end=True)
    follower = Follower(log)
    for _ in range(3):
        await follower.wait()
        assert follower.next_nowait() is not None
    await follower.wait()
    assert follower.at_end


async def test_readers_wait_and_take_turns() -> None:
    """Readers that replay and then tail, begun at any time, all see the whole log and its end."""
    log = log_of(3)

    async def read(after: int) -> list[int]:
        follower = Follower(log, after)
        seqs: list[int] = []
        while not follower.at_end:
            await follower.wait()
            seqs += drain(follower)
        return seqs

    readers = [asyncio.ensure_future(read(after)) for after in (0, 2)]
    for _ in range(50):
        await asyncio.sleep(0)
        log.append("item", 1.0, None, None)
    readers.append(asyncio.ensure_future(read(10)))
    await asyncio.sleep(0)
    log.append("run.end", 1.0, None, RunEnd("completed"))
    expected = list(range(1, 55))
    assert await asyncio.gather(*readers) == [expected, expected[2:], expected[10:]]
