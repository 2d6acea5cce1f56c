"""Calling a tool: timeouts, cancellation, and what errors become."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from runstream.agent.context import RunContextWrapper
from runstream.agent.function_tool import FunctionTool
from runstream.agent.tool import function_tool
from runstream.agent.tool_call import (
    invoke_function_tool,
    maybe_invoke_function_tool_failure_error_function,
    with_failure_handling,
)
from runstream.agent.tool_context import ToolContext
from runstream.clock import SystemClock
from runstream.errors import ToolTimeoutError, UserError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class ManualClock(SystemClock):
    """Time passes when somebody says so: `expire` ends every timeout that is open."""

    def __init__(self) -> None:
        super().__init__()
        self.delays_s: list[float | None] = []
        self._open: list[asyncio.Timeout] = []

    @asynccontextmanager
    async def timeout(self, delay_s: float | None) -> AsyncIterator[asyncio.Timeout]:
        self.delays_s.append(delay_s)
        async with asyncio.timeout(None) as timeout:
            self._open.append(timeout)
            yield timeout

    def expire(self) -> None:
        for timeout in self._open:
            timeout.reschedule(0)


def a_context(**changes: Any) -> ToolContext[Any]:
    return ToolContext(None, **{"tool_name": "t", "tool_call_id": "1", "tool_arguments": "{}", **changes})


async def call(tool: FunctionTool, arguments: str = "{}", **changes: Any) -> Any:
    return await invoke_function_tool(
        function_tool=tool, context=changes.pop("context", None) or a_context(), arguments=arguments, **changes
    )


def a_tool(on_invoke_tool: Any, **changes: Any) -> FunctionTool:
    return FunctionTool("t", "", {}, on_invoke_tool, **changes)


async def test_the_output_is_returned_as_it_is() -> None:
    """Objects of any type come back themselves."""
    output = object()

    async def invoke(context: ToolContext[Any], arguments: str) -> Any:
        return output

    assert await call(a_tool(invoke)) is output


def slow_tool(clock: ManualClock, **options: Any) -> FunctionTool:
    async def slow() -> str:
        clock.expire()
        await asyncio.Event().wait()
        return "never"

    return function_tool(slow, timeout=0.25, **options)


async def test_a_timeout_tells_the_model() -> None:
    """By default the output names the tool and the limit, and the tool's context says that it is cancelled."""
    clock, context = ManualClock(), a_context()
    output = await call(slow_tool(clock), clock=clock, context=context)
    assert output == "Tool 'slow' timed out after 0.25 seconds."
    assert clock.delays_s == [0.25]
    assert context.cancelled


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_timeout_may_be_worded(is_async: bool) -> None:
    """A function makes the message out of the error; plain or async."""
    clock = ManualClock()

    def word(context: RunContextWrapper[Any], error: Exception) -> str:
        assert isinstance(error, ToolTimeoutError)
        return f"{error.tool_name} {error.timeout_seconds:g}"

    async def word_async(context: RunContextWrapper[Any], error: Exception) -> str:
        return word(context, error)

    tool = slow_tool(clock, timeout_error_function=word_async if is_async else word)
    assert await call(tool, clock=clock) == "slow 0.25"


async def test_a_timeout_may_be_raised() -> None:
    """On request it is an error, whatever becomes of the tool's other errors."""
    clock = ManualClock()
    with pytest.raises(ToolTimeoutError) as caught:
        await call(slow_tool(clock, timeout_behavior="raise_exception"), clock=clock)
    assert (caught.value.tool_name, caught.value.timeout_seconds) == ("slow", 0.25)


async def test_a_tools_own_timeout_error_is_its_own() -> None:
    """A TimeoutError that the tool raises is an error of the tool, not its timeout."""

    async def fails(context: ToolContext[Any], arguments: str) -> None:
        raise TimeoutError("inner")

    with pytest.raises(TimeoutError, match="inner"):
        await call(a_tool(fails, timeout_seconds=10))


async def test_a_tool_that_finishes_in_spite_of_the_timeout_has_finished() -> None:
    """What it returns while it is being cancelled counts."""
    clock = ManualClock()

    async def stubborn() -> str:
        clock.expire()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done anyway"
        return "never"

    assert await call(function_tool(stubborn, timeout=1), clock=clock) == "done anyway"


async def test_within_the_limit_nothing_changes() -> None:
    """Output and errors are those of the tool, and it is not cancelled."""

    async def fails(context: ToolContext[Any], arguments: str) -> None:
        raise KeyError("city")

    context = a_context()
    with pytest.raises(KeyError, match="city"):
        await call(a_tool(fails, timeout_seconds=10), context=context)
    assert not context.cancelled


async def test_cancelling_passes_through() -> None:
    """A cancelled call raises CancelledError, also where errors become messages, and the context says so."""
    entered, context = asyncio.Event(), a_context()

    @function_tool
    async def waits() -> None:
        entered.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(call(waits, context=context))
    await entered.wait()
    assert not context.cancelled
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert context.cancelled


async def test_a_thread_learns_that_it_is_abandoned() -> None:
    """A plain function sees the cancellation; what it then raises is dropped without a word."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, complaint: complaints.append(complaint))
    entered, left, seen = threading.Event(), threading.Event(), list[bool]()

    @function_tool
    def waits(context: ToolContext[Any]) -> None:
        entered.set()
        seen.append(context.wait_cancelled(30))
        left.set()
        raise ValueError("too late")

    task = asyncio.create_task(call(waits))
    await asyncio.to_thread(entered.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(left.wait)
    await asyncio.get_running_loop().shutdown_default_executor()
    assert seen == [True]
    assert complaints == []


async def test_an_invoker_must_be_async() -> None:
    """A plain function as `on_invoke_tool` is named as what it is."""

    def plain(context: ToolContext[Any], arguments: str) -> str:
        return "text"

    with pytest.raises(UserError, match="Tool 't': on_invoke_tool must be async, but it returned 'text'"):
        await call(a_tool(plain))


async def test_a_hand_written_invoker_gets_the_context_it_asks_for() -> None:
    """One that is annotated with the run's context gets that, and every other the call's."""
    got: list[Any] = []

    async def plain(ctx: RunContextWrapper[str], arguments: str) -> None:
        got.append(ctx)

    async def quoted(ctx: RunContextWrapper[Unknown], arguments: str) -> None:  # noqa: F821  # pyright: ignore
        got.append(ctx)

    async def full(ctx: ToolContext[str], arguments: str) -> None:
        got.append(ctx)

    async def either(ctx: ToolContext[str] | RunContextWrapper[str], arguments: str) -> None:
        got.append(ctx)

    async def similar(ctx: MyRunContextWrapper, arguments: str) -> None:  # noqa: F821  # pyright: ignore
        got.append(ctx)

    async def bare(*arguments: Any) -> None:
        got.append(arguments[0])

    context = a_context(tool_input="input")
    for invoker in (plain, quoted, full, either, similar, bare):
        await call(a_tool(invoker), context=context)
    assert [type(one) for one in got] == [RunContextWrapper, RunContextWrapper, *[ToolContext] * 4]
    assert got[0].usage is context.usage
    assert got[0].tool_input == "input"
    assert got[2] is context


async def test_errors_become_the_message_of_a_function() -> None:
    """The function gets the context and the error itself; plain or async; its own error is raised."""
    error = ValueError("wrong")
    got: list[Any] = []

    async def fails(context: ToolContext[Any], arguments: str) -> None:
        raise error

    async def word(context: RunContextWrapper[Any], failure: Exception) -> str:
        got.extend((context, failure))
        return "told"

    context = a_context()
    assert await with_failure_handling(fails, word)(context, "{}") == "told"
    assert got == [context, error]

    def broken(context: RunContextWrapper[Any], failure: Exception) -> str:
        raise RuntimeError("the handler")

    with pytest.raises(RuntimeError, match="the handler") as caught:
        await with_failure_handling(fails, broken)(context, "{}")
    assert caught.value.__context__ is error


async def test_errors_are_raised_without_a_function() -> None:
    """With None, and where the function answers None, the error comes as it was raised."""
    error = ValueError("wrong")

    async def fails(context: ToolContext[Any], arguments: str) -> None:
        raise error

    def silent(context: RunContextWrapper[Any], failure: Exception) -> Any:
        return None

    for function in (None, silent):
        with pytest.raises(ValueError, match="wrong") as caught:
            await with_failure_handling(fails, function)(a_context(), "{}")
        assert caught.value is error


async def test_a_failure_can_be_worded_from_outside() -> None:
    """A tool's function is asked about errors that happened around it; cancellations come as an Exception."""
    got: list[Exception] = []

    def word(context: RunContextWrapper[Any], error: Exception) -> str:
        got.append(error)
        return f"told: {error}"

    async def ask(tool: FunctionTool, error: BaseException) -> str | None:
        return await maybe_invoke_function_tool_failure_error_function(
            function_tool=tool, context=RunContextWrapper(None), error=error
        )

    tool = function_tool(lambda: None, failure_error_function=word)
    assert await ask(tool, ValueError("wrong")) == "told: wrong"
    cancelled = asyncio.CancelledError()
    assert await ask(tool, cancelled) == "told: Tool execution cancelled."
    assert got[1].__cause__ is cancelled
    assert await ask(function_tool(lambda: None, failure_error_function=None), ValueError("wrong")) is None
