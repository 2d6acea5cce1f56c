"""result.stream_output(): the output while it is written, and checked in the end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from runstream import Agent, ModelBehaviorError, ModelSettings, RunConfig, Runner, function_tool
from runstream.agent.retry import ModelRetryBackoffSettings, ModelRetrySettings
from runstream.testing import FakeClock, HandoffTo, ScriptedModel, ToolCall, Turn, say


class City(BaseModel):
    name: str
    tags: list[str]


async def outputs(*steps: Any, output_type: Any = City, clock: FakeClock | None = None, **fields: Any) -> list[Any]:
    clock = clock or FakeClock()
    agent = Agent(name="Ann", model=ScriptedModel(steps, clock=clock), output_type=output_type, **fields)
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock))
    return [output async for output in result.stream_output()]


async def _noting(outputs: Any, seen: list[Any]) -> Any:
    async for output in outputs:
        seen.append(output)
        yield output


async def test_it_grows_and_ends_with_the_checked_object() -> None:
    """Plain data as far as it has come, then the object of the declared type."""
    pieces = ['{"name":', '"Par', 'is","tags":', '["big"', ',"o', 'ld"]}']
    assert await outputs(say(pieces, every_s=1.0)) == [
        {},
        {"name": "Par"},
        {"name": "Paris"},
        {"name": "Paris", "tags": ["big"]},
        {"name": "Paris", "tags": ["big", "o"]},
        {"name": "Paris", "tags": ["big", "old"]},
        City(name="Paris", tags=["big", "old"]),
    ]


async def test_a_reader_that_comes_late_gets_one_snapshot() -> None:
    """All deltas that have come since the last look make one snapshot."""
    seen = await outputs('{"name":"Paris and more","tags":["a","b","c"]}')
    assert len(seen) <= 3
    assert seen[-1] == City(name="Paris and more", tags=["a", "b", "c"])


async def test_a_wrapped_type_is_unwrapped() -> None:
    """A list is asked for inside an object, and shown without it."""
    seen = await outputs(say(['{"resp', 'onse":[1', ",2", ",3]}"], every_s=1.0), output_type=list[int])
    assert seen == [[], [1], [1, 2, 3], [1, 2, 3]]


async def test_a_text_grows() -> None:
    """Without an output type the text itself."""
    assert await outputs(say(["one ", "two"], every_s=1.0), output_type=None) == ["one ", "one two", "one two"]


async def test_what_does_not_fit_is_raised_at_the_end() -> None:
    """As the run raises it; what came before the fault was shown."""
    for text, shown in (('{"name":3,"tags":[]}', {"name": 3, "tags": []}), ('{"name":"x"} and', {"name": "x"})):
        agent = Agent(name="Ann", model=ScriptedModel([say([text[:12], text[12:]])]), output_type=City)
        result = Runner.run_streamed(agent, "hi")
        seen: list[Any] = []
        with pytest.raises(ModelBehaviorError):
            seen += [output async for output in _noting(result.stream_output(), seen)]
        assert all(entry == shown or entry.items() <= shown.items() for entry in seen)


async def test_each_attempt_begins_anew() -> None:
    """What a failed attempt had shown is followed by the next one's beginning."""
    from runstream.testing import Fault

    retry = ModelRetrySettings(backoff=ModelRetryBackoffSettings(jitter=False))
    seen = await outputs(
        Turn(('{"name":"Lon',), fault=Fault("http_error", status=503)),
        say(['{"name":"Par', 'is","tags":[]}'], every_s=1.0),
        model_settings=ModelSettings(retry=retry),
    )
    assert seen == [{"name": "Par"}, {"name": "Paris", "tags": []}, City(name="Paris", tags=[])]


async def test_turns_and_agents() -> None:
    """Each turn begins anew, in the type of the agent that speaks; tools and nested agents show nothing here."""

    @function_tool
    async def ping() -> str:
        return "pong"

    clock = FakeClock()
    inner = Agent(name="Inner", model=ScriptedModel([say("from inside", every_s=1.0)], clock=clock))
    other = Agent(name="Bob", model=ScriptedModel([say(['{"name":"B', '","tags":[]}'], every_s=1.0)], clock=clock))
    other.output_type = City
    agent = Agent(
        name="Ann",
        model=ScriptedModel(
            [["Wait.", ToolCall("ask", {"input": "x"}), ToolCall("ping")], HandoffTo("Bob")], clock=clock
        ),
        tools=[ping, inner.as_tool("ask", None)],
        handoffs=[other],
    )
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock))
    seen = [output async for output in result.stream_output()]
    assert seen == ["Wait.", {"name": "B"}, {"name": "B", "tags": []}, City(name="B", tags=[])]


async def test_after_a_cancel_there_is_no_more() -> None:
    """The reader ends with the run, in bounded time, without an output."""
    agent = Agent(name="Ann", model=ScriptedModel([say(['{"name":', '"x"'], every_s=1000.0)]), output_type=City)
    result = Runner.run_streamed(agent, "hi")
    reader = result.stream_output()
    assert await anext(reader) == {}
    result.cancel()
    async with asyncio.timeout(5):
        assert [output async for output in reader] == []


async def test_leaving_it_ends_the_run() -> None:
    """It is a reader as any other: with the last one the run goes, and a plain `for` is refused."""
    agent = Agent(name="Ann", model=ScriptedModel([say(["{", "}"], every_s=1000.0)]), output_type=City)
    result = Runner.run_streamed(agent, "hi")
    async for _ in result.stream_output():
        break
    async with asyncio.timeout(5):
        await asyncio.wait([result.run_loop_task])  # type: ignore[list-item]
    assert result.is_complete
    with pytest.raises(TypeError, match="async for"):
        iter(result.stream_output())
