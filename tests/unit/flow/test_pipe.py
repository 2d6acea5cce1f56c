"""flow/pipe: operators over a stream, users' own among them."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from runstream import Agent, RunConfig, Runner, UserError
from runstream.flow.pipe import pipe
from runstream.flow.smooth import smooth
from runstream.testing import FakeClock, ScriptedModel, ToolCall, say


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(0)
        yield number


async def doubled(source: AsyncIterator[int]) -> AsyncIterator[int]:
    async for number in source:
        yield number * 2


async def as_text(source: AsyncIterator[int]) -> AsyncIterator[str]:
    async for number in source:
        if number % 3:
            yield str(number)
    yield "end"


async def test_operators_apply_in_their_order() -> None:
    """The source goes through the first, that through the second; operators may drop and add."""
    assert [text async for text in pipe(numbers(5), doubled, as_text)] == ["2", "4", "8", "end"]
    assert [number async for number in pipe(numbers(2))] == [0, 1]


async def test_a_wait_that_is_given_up_loses_nothing() -> None:
    """The operator goes on where it stood: it does not see that nobody waits."""
    clock = FakeClock()
    seen_cancels = 0

    async def slow(source: AsyncIterator[int]) -> AsyncIterator[int]:
        nonlocal seen_cancels
        async for number in source:
            try:
                await clock.sleep(1.0)
            except asyncio.CancelledError:
                seen_cancels += 1
                raise
            yield number

    piped = pipe(numbers(5), slow)
    got: list[int] = []
    given_up = 0
    while len(got) < 5:
        try:
            async with clock.timeout(0.3):
                got.append(await anext(piped))
        except TimeoutError:
            given_up += 1
    assert got == [0, 1, 2, 3, 4]
    assert given_up >= 10
    assert seen_cancels == 0
    await piped.aclose()


async def test_an_error_comes_out_as_it_is() -> None:
    """Of an operator as of the source; then there is nothing more."""

    async def fails(source: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in source:
            if number == 2:
                raise ValueError("two")
            yield number

    piped = pipe(numbers(5), fails)
    assert [await anext(piped), await anext(piped)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        await anext(piped)
    with pytest.raises(StopAsyncIteration):
        await anext(piped)
    await piped.aclose()


async def test_closing_closes_every_stage_from_the_last() -> None:
    """Also where one fails at it, and where a wait was given up before."""
    clock = FakeClock()
    closed: list[str] = []

    def stage(name: str, fails: bool = False) -> Any:
        async def operator(source: AsyncIterator[int]) -> AsyncIterator[int]:
            try:
                async for number in source:
                    yield number
                    await clock.sleep(100.0)
            finally:
                closed.append(name)
                if fails:
                    raise OSError(name)

        return operator

    piped = pipe(numbers(5), stage("first"), stage("second", fails=True))
    await anext(piped)
    with pytest.raises(TimeoutError):
        async with clock.timeout(1.0):
            await anext(piped)
    # The second was stopped while it slept, and what it raised there was nobody's any more.
    await piped.aclose()
    assert closed == ["second", "first"]
    assert [number async for number in piped] == []


async def test_context_variables_of_an_operator_are_its_own() -> None:
    """They last from event to event, and the consumer does not see them."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    async def counts(source: AsyncIterator[int]) -> AsyncIterator[int]:
        async for _ in source:
            variable.set(variable.get() + 1)
            yield variable.get()

    assert [(number, variable.get()) async for number in pipe(numbers(3), counts)] == [(1, 0), (2, 0), (3, 0)]


async def test_what_is_no_operator_is_refused() -> None:
    """By name, with what it gave."""

    async def forgot_to_yield(source: AsyncIterator[int]) -> None: ...

    with pytest.raises(UserError, match=r"operator forgot_to_yield reads an .*, not a coroutine"):
        pipe(numbers(1), forgot_to_yield)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"pipe\(\) reads an .*, not a list"):
        pipe([1])  # type: ignore[call-overload]


def _run(clock: FakeClock, **config: Any) -> Any:
    model = ScriptedModel([say("One two three four five six.", every_s=0.05)], clock=clock)
    return Runner.run_streamed(Agent(name="Ann", model=model), "hi", run_config=RunConfig(clock=clock, **config))


async def shout(source: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for event in source:
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            yield event.data.delta.upper()


@pytest.mark.parametrize("smooths", [True, False])
async def test_over_a_run(smooths: bool) -> None:
    """`smooth` is an operator; a run's result is a source."""
    clock = FakeClock()
    operators = [functools.partial(smooth, clock=clock)] if smooths else []
    assert "".join([text async for text in pipe(_run(clock), *operators, shout)]) == "ONE TWO THREE FOUR FIVE SIX."


async def test_a_first_wait_that_is_given_up_does_not_keep_the_run() -> None:
    """Leaving after it abandons the run all the same."""
    clock = FakeClock()
    model = ScriptedModel([say("One.", first_after_s=100.0)], clock=clock)
    result = Runner.run_streamed(Agent(name="Ann", model=model), "hi", run_config=RunConfig(clock=clock))

    async def texts(source: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for event in source:
            if event.type == "raw_response_event":
                yield event

    piped = pipe(result.stream_events(), texts)
    with pytest.raises(TimeoutError):
        async with clock.timeout(1.0):
            await anext(piped)
    del piped
    await clock.settle()
    assert result.is_complete


@pytest.mark.parametrize("how", ["break", "aclose", "timeout"])
async def test_leaving_abandons_the_run(how: str) -> None:
    """As leaving the run's own reader does, through any number of operators."""
    clock = FakeClock()
    result = _run(clock)

    async def leave() -> None:
        piped = pipe(result.stream_events(), functools.partial(smooth, clock=clock), shout)
        async for _ in piped:
            break
        if how == "aclose":
            await piped.aclose()
            assert result.is_complete
        elif how == "timeout":
            with pytest.raises(TimeoutError):
                async with clock.timeout(0.001):
                    await anext(piped)

    await leave()
    await clock.settle()
    assert result.is_complete
    assert [event async for event in result.events()][-1].data.status == "cancelled"


async def shouted(events: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for event in events:
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            yield event.data.delta.upper()


async def test_operators_of_a_configuration_hold_for_its_readers() -> None:
    """Each reader of `stream_events()` reads through them, and leaving one is leaving the run; `events()`, the run and
    what nested agents tell `on_stream` are as they were."""
    told: list[Any] = []
    helper = Agent(name="Helper", model=ScriptedModel(["inner"]))
    tool = helper.as_tool("ask", "Ask.", on_stream=lambda given: told.append(given["event"].type))
    agent = Agent(name="Ann", model=ScriptedModel([ToolCall("ask", {"input": "?"}), say("one two")]), tools=[tool])
    config = RunConfig(clock=FakeClock(), stream_operators=[smooth, shouted])
    result = Runner.run_streamed(agent, "hi", run_config=config)
    assert "".join([text async for text in result.stream_events()]) == "ONE TWO"  # type: ignore[misc]
    assert "".join([text async for text in result]) == "ONE TWO"  # type: ignore[misc]
    assert (result.final_output, [event async for event in result.events()][-1].kind) == ("one two", "run.end")
    assert set(told) == {"agent_updated_stream_event", "raw_response_event", "run_item_stream_event"}
    clock = FakeClock(autojump=False)
    silent = Agent(name="Bob", model=ScriptedModel([say("one two three", every_s=1.0)], clock=clock))
    left = Runner.run_streamed(silent, "hi", run_config=RunConfig(clock=clock, stream_operators=[smooth, shouted]))
    async with aclosing(left.stream_events()) as reader:
        async for _ in reader:
            break
    assert [event async for event in left.events()][-1].data.status == "cancelled"


def test_operators_of_a_configuration_run_in_a_plain_for() -> None:
    """A plain `for` over the result has what they give."""
    agent = Agent(name="Ann", model=ScriptedModel([say("one two")]))
    assert "".join(Runner.run_streamed(agent, "hi", run_config=RunConfig(stream_operators=[shouted]))) == "ONE TWO"  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stream_operators must be callables"):
        RunConfig(stream_operators=["smooth"])  # type: ignore[list-item]
