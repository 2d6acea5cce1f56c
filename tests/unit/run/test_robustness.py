"""Runs in hostile company: cancellations that are nobody's, tasks that wait in odd ways, careless users' code."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest

from runstream import Agent, AgentsException, RunConfig, RunHooks, Runner, UserError, function_tool
from runstream.flow.retry import policy_of
from runstream.models.provider import OpenAIProvider
from runstream.models.responses import OpenAIResponsesModel
from runstream.sessions.memory import InMemorySession
from runstream.testing import FakeClock, ScriptedModel, ToolCall, Turn, say


def _desk(*steps: Any, **fields: Any) -> Agent[Any]:
    return Agent(name="Desk", model=ScriptedModel(list(steps)), **fields)


class _CancelsItself(RunHooks[Any]):
    async def on_llm_start(self, *arguments: Any) -> None:
        raise asyncio.CancelledError


async def test_a_cancellation_that_nobody_asked_for_is_an_error() -> None:
    """Something that the run waited for was cancelled: the run fails, and does not pass for one that ended."""
    result = Runner.run_streamed(_desk("x"), "hi", hooks=_CancelsItself())
    with pytest.raises(AgentsException, match="was cancelled"):
        async for _ in result:
            pass
    ends = [event.data.status async for event in result.events() if event.kind == "run.end"]
    assert ends == ["failed"]
    with pytest.raises(AgentsException, match="was cancelled"):
        await Runner.run(_desk("x"), "hi", hooks=_CancelsItself())


@function_tool
def ping() -> str:
    """Answer."""
    return "pong"


@pytest.mark.parametrize(
    "wait",
    [
        lambda task: asyncio.wait([task]),
        lambda task: asyncio.gather(task),
        lambda task: asyncio.wait_for(task, 30),
        lambda task: asyncio.shield(task),
    ],
)
async def test_every_way_to_await_the_task_ends(wait: Callable[[Any], Awaitable[Any]]) -> None:
    """An iterator that was left in the middle does not hold back a run whose task is awaited, however that is done."""
    result = Runner.run_streamed(_desk(ToolCall("ping", {}), "done", tools=[ping]), "hi")
    reader = result.stream_events()
    await anext(reader)
    await wait(result.run_loop_task)
    assert result.final_output == "done"
    await reader.aclose()


@pytest.mark.parametrize("second", ["stream_events", "events"])
async def test_one_reader_after_the_other(second: str) -> None:
    """A task that leaves one iterator in the middle and goes on with another is not kept waiting for the first."""
    result = Runner.run_streamed(_desk(ToolCall("ping", {}), "done", tools=[ping]), "hi")
    first = result.stream_events()
    async for _ in first:
        break
    count = 0
    async for _ in getattr(result, second)():
        count += 1
    assert result.final_output == "done"
    assert count > 3
    await first.aclose()


class _Swallows(RunHooks[Any]):
    """A hook that takes a cancellation for its own business."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    async def on_llm_end(self, *arguments: Any) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass


async def test_a_swallowed_cancel_still_ends_the_run() -> None:
    """No tool runs and no model is asked after a cancel, though a hook swallowed it."""
    ran: list[str] = []

    @function_tool
    def note() -> str:
        """Take a note."""
        ran.append("note")
        return "noted"

    hooks = _Swallows()
    agent = _desk(ToolCall("note", {}), "done", tools=[note])
    result = Runner.run_streamed(agent, "hi", hooks=hooks)
    reading = asyncio.create_task(_drain(result))
    await hooks.begun.wait()
    result.cancel()
    await reading
    assert (ran, result.final_output, result.is_complete) == ([], None, True)


async def _drain(result: Any) -> None:
    async for _ in result:
        pass


async def test_an_error_class_of_ones_own() -> None:
    """A subclass of our errors that does not call its base's constructor arrives as it is, with its run_data."""

    class Mine(AgentsException):
        def __init__(self, reason: str) -> None:
            self.reason = reason

    @function_tool(failure_error_function=None)
    def fails() -> str:
        """Fail."""
        raise Mine("because")

    with pytest.raises(Mine) as raised:
        await Runner.run(_desk(ToolCall("fails", {}), tools=[fails]), "hi")
    assert raised.value.reason == "because"
    assert raised.value.run_data is not None


async def test_the_callers_list_stays_the_callers() -> None:
    """What the caller adds to their input list after the call is not part of the run."""
    given: list[Any] = [{"role": "user", "content": "hi"}]
    model = ScriptedModel(["x"])
    result = Runner.run_streamed(Agent(name="Desk", model=model), given)
    given.append({"role": "user", "content": "more"})
    await result.wait()
    assert len(model.calls[0].input) == len(result.input) == 1


async def test_two_calls_of_one_id_get_two_outputs() -> None:
    """Cancelled in the middle, every call has an output of its own, although a careless model named them alike."""
    begun = asyncio.Event()

    @function_tool
    async def slow() -> str:
        """Take for ever."""
        begun.set()
        await asyncio.Event().wait()
        return ""

    calls = Turn([ToolCall("slow", {}, call_id="call_1"), ToolCall("slow", {}, call_id="call_1")])
    session = InMemorySession("s")
    result = Runner.run_streamed(_desk(calls, tools=[slow]), "hi", session=session)
    await begun.wait()
    result.cancel()
    await result.wait()
    kinds = [item.get("type") for item in await session.get_items()]
    assert kinds.count("function_call") == kinds.count("function_call_output") == 2


def test_the_loop_may_end_while_the_run_winds_up() -> None:
    """A program that ends right after a cancel loses nothing: the calls are answered and the session is saved."""
    session = InMemorySession("s")

    @function_tool
    async def stubborn() -> str:
        """Take a moment to stop."""
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
        return ""

    begun = asyncio.Event()

    async def main() -> Any:
        agent = _desk(Turn(["Let me look.", ToolCall("stubborn", {})]), tools=[stubborn])
        result = Runner.run_streamed(agent, "hi", session=session)
        await begun.wait()
        result.cancel()
        await asyncio.sleep(0)
        return result

    result = asyncio.run(main())
    assert [item.type for item in result.new_items] == [
        "message_output_item",
        "tool_call_item",
        "tool_call_output_item",
    ]
    kinds = [item.get("type") or item.get("role") for item in asyncio.run(session.get_items())]
    assert kinds == ["user", "message", "function_call", "function_call_output"]


@pytest.mark.parametrize("max_turns", ["3", 2.5, True, -1])
async def test_max_turns_is_a_whole_number(max_turns: Any) -> None:
    """Anything else is told before the run."""
    with pytest.raises(UserError, match="max_turns must be a whole number"):
        Runner.run_streamed(_desk("x"), "hi", max_turns=max_turns)


async def test_mistakes_of_declaration_are_told_before_the_request() -> None:
    """A tool that is none, instructions that give no text, an output type in quotes."""
    with pytest.raises(UserError, match="is no tool"):
        Agent(name="A", tools=["x"])  # type: ignore[list-item]
    model = ScriptedModel(["x", "x"])
    with pytest.raises(UserError, match="must return a string"):
        await Runner.run(Agent(name="A", model=model, instructions=lambda context, agent: 5), "hi")  # type: ignore
    with pytest.raises(UserError, match="output_type is the string 'str'"):
        await Runner.run(Agent(name="A", model=model, output_type="str"), "hi")  # type: ignore[arg-type]
    assert list(model.calls) == []


def test_a_synchronous_client_is_refused() -> None:
    """It would block the loop: every place that takes a client says so."""
    client: Any = openai.OpenAI(api_key="x")
    for give in (lambda: OpenAIProvider(openai_client=client), lambda: OpenAIResponsesModel("m", client)):
        with pytest.raises(UserError, match=r"pass openai\.AsyncOpenAI"):
            give()
    client.close()


async def test_a_client_that_retries_is_left_to_it() -> None:
    """Two retry loops would multiply: the run's is off for a client of the user's that has its own."""
    client = openai.AsyncOpenAI(api_key="x", max_retries=3)
    single = openai.AsyncOpenAI(api_key="x", max_retries=0)
    request: Any = None
    retries = [
        policy_of(None, OpenAIResponsesModel("m", given), request, stream=True).max_retries
        for given in (client, single)
    ]
    await client.close()
    await single.close()
    assert retries == [0, 2]


async def test_a_waiter_that_gives_up_leaves_the_run_to_its_readers() -> None:
    """The last reader goes while somebody waits; when that one gives up too, the run is abandoned."""
    clock = FakeClock(autojump=False)
    model = ScriptedModel([say("x", first_after_s=60)], clock=clock)
    result = Runner.run_streamed(Agent(name="Desk", model=model), "hi", run_config=RunConfig(clock=clock))
    reader = result.stream_events()
    await anext(reader)
    waiting = asyncio.create_task(result.wait())
    await asyncio.sleep(0)
    await reader.aclose()
    assert not result.is_complete
    waiting.cancel()
    await asyncio.wait([waiting])
    assert result.is_complete
    clock.autojump = True
    await result.wait()
