"""flow/merge: several streams as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream import Agent, RunConfig, Runner, UserError
from runstream.flow.merge import Tagged, merge
from runstream.testing import FakeClock, ScriptedModel, say


async def timed(clock: FakeClock, *pauses: float, error: Exception | None = None) -> AsyncIterator[int]:
    for number, pause in enumerate(pauses):
        if pause:
            await clock.sleep(pause)
        yield number
    if error is not None:
        raise error


class Closing:
    """A source without end that tells how often it was asked and closed."""

    def __init__(self) -> None:
        self.asked = 0
        self.closed = 0

    def __aiter__(self) -> Closing:
        return self

    async def __anext__(self) -> int:
        self.asked += 1
        return self.asked

    async def aclose(self) -> None:
        self.closed += 1
        await asyncio.sleep(0)


async def test_events_come_as_they_arrive_with_their_tags() -> None:
    """A mapping names the streams; otherwise they are numbered."""
    clock = FakeClock()
    streams = {"a": timed(clock, 1.0, 2.0), "b": timed(clock, 2.0, 2.0, 2.0)}
    assert [(tag, event) async for tag, event in merge(streams)] == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("b", 2)]
    merged = [each async for each in merge(timed(clock, 2.0), timed(clock, 1.0))]
    assert merged == [Tagged(1, 0), Tagged(0, 0)]
    assert [each async for each in merge()] == []


async def test_a_fast_stream_does_not_hold_up_the_others() -> None:
    """Each that has something has its turn, and none is read ahead beyond the bound."""
    fast, slow = Closing(), Closing()
    merged = merge({"fast": fast, "slow": slow})
    tags = [(await anext(merged)).tag for _ in range(40)]
    assert tags.count("slow") == pytest.approx(20, abs=2)
    for _ in range(20):
        await asyncio.sleep(0)
    assert fast.asked <= 20 + 18
    await merged.aclose()
    assert (fast.closed, slow.closed) == (1, 1)
    assert [each async for each in merged] == []


async def test_an_error_closes_the_others() -> None:
    """It is raised after what came before it, once the other streams are closed."""
    clock = FakeClock()
    other = Closing()
    merged = merge(timed(clock, 0.0, 0.0, error=ValueError("gone")), other)
    seen: list[Any] = []
    with pytest.raises(ValueError, match="gone"):  # noqa: PT012
        async for each in merged:
            seen.append(each)
    assert [event for tag, event in seen if tag == 0] == [0, 1]
    assert other.closed == 1
    with pytest.raises(StopAsyncIteration):
        await anext(merged)


async def test_errors_as_values_let_the_others_go_on() -> None:
    """An error is its stream's last event then."""
    clock = FakeClock()
    error = ValueError("gone")
    streams = {"bad": timed(clock, 1.0, error=error), "good": timed(clock, 2.0, 2.0)}
    seen = [tuple(each) async for each in merge(streams, return_exceptions=True)]
    assert seen == [("bad", 0), ("bad", error), ("good", 0), ("good", 1)]


async def test_a_wait_that_is_given_up_loses_nothing() -> None:
    """The streams are read in tasks of their own."""
    clock = FakeClock()
    merged = merge(timed(clock, *[1.0] * 5), timed(clock, *[1.5] * 5))
    seen: list[Any] = []
    given_up = 0
    while True:
        try:
            async with clock.timeout(0.2):
                seen.append(await anext(merged))
        except TimeoutError:
            given_up += 1
        except StopAsyncIteration:
            break
    assert given_up > 10
    for index in (0, 1):
        assert [event for tag, event in seen if tag == index] == [0, 1, 2, 3, 4]


async def test_one_consumer_and_only_streams() -> None:
    """Misuse is named."""
    clock = FakeClock(autojump=False)
    merged = merge(timed(clock, 5.0))
    waiting = asyncio.create_task(anext(merged, None))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    with pytest.raises(UserError, match="somebody waits"):
        await anext(merged)
    await merged.aclose()
    assert await waiting is None
    with pytest.raises(UserError, match=r"merge\(\) reads an .*, not a int"):
        merge(3)  # type: ignore[call-overload]


@given(st.lists(st.lists(st.sampled_from([0.0, 0.1, 1.0]), max_size=40), max_size=5))
def test_each_stream_keeps_its_order_and_nothing_is_lost(plans: list[list[float]]) -> None:
    """Whatever the times."""

    async def check() -> None:
        clock = FakeClock()
        seen = [each async for each in merge(*(timed(clock, *plan) for plan in plans))]
        for index, plan in enumerate(plans):
            assert [event for tag, event in seen if tag == index] == list(range(len(plan)))

    asyncio.run(check())


def _run(clock: FakeClock, step: Any) -> Any:
    model = ScriptedModel([step], clock=clock)
    return Runner.run_streamed(Agent(name="Ann", model=model), "hi", run_config=RunConfig(clock=clock))


async def test_over_runs() -> None:
    """Results are streams; each run's events are those of its own reader."""
    clock = FakeClock()
    results = {name: _run(clock, say(f"I am {name}.", every_s=0.01)) for name in ("x", "y")}
    seen = [each async for each in merge(results)]
    for name, result in results.items():
        assert [event.seq for tag, event in seen if tag == name] == [e.seq async for e in result.stream_events()]
        assert result.final_output == f"I am {name}."


@pytest.mark.parametrize("how", ["break", "aclose", "error"])
async def test_leaving_abandons_every_run(how: str) -> None:
    """Break, aclose(), and an error of one of them."""
    clock = FakeClock()
    results = [_run(clock, say("word " * 50, every_s=0.1)) for _ in range(3)]
    failing = [_run(clock, ValueError("no"))] if how == "error" else []
    merged = merge(*results, *failing)
    count = 0
    try:
        async for _ in merged:
            count += 1
            if count == 30:
                break
    except ValueError:
        assert all(result.is_complete for result in results)
    if how == "aclose":
        await merged.aclose()
        assert all(result.is_complete for result in results)
    del merged
    await clock.settle()
    for result in results:
        assert [event async for event in result.events()][-1].data.status == "cancelled"
