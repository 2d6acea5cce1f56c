"""Calling a function tool: within its timeout, and with what its errors become.

Must not know how functions become tools, agents or runs.

Invariants: an error of a tool reaches the model as a message or the caller as it was raised; cancellation always passes
through, and the tool's context then says so.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import logging
import re
from typing import TYPE_CHECKING, Any, cast, get_origin, get_type_hints

from runstream.agent.context import RunContextWrapper
from runstream.agent.function_tool import FunctionToolCustomDataContext, ToolSource
from runstream.clock import Clock, system_clock
from runstream.errors import ToolTimeoutError, UserError
from runstream.events.event import ToolOutcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from runstream.agent.function_tool import FunctionTool, ToolErrorFunction, ToolInvoker
    from runstream.agent.tool_context import ToolContext

__all__ = [
    "custom_data_of",
    "invoke_function_tool",
    "maybe_invoke_function_tool_failure_error_function",
    "with_failure_handling",
]

_log = logging.getLogger("runstream")


def with_failure_handling(invoke: ToolInvoker, failure_error_function: ToolErrorFunction | None) -> ToolInvoker:
    """An invoker that returns the message of `failure_error_function` where `invoke` raises; None changes nothing."""

    async def guarded(context: ToolContext[Any], arguments: str) -> Any:
        try:
            return await invoke(context, arguments)
        except Exception as error:
            message = await _failure_message(failure_error_function, context, error)
            if message is None:
                raise
            _log.debug("Tool %s failed; the model is told: %s", context.tool_name, message, exc_info=error)
            mark_outcome(context, "failed")
            return message

    return guarded


async def maybe_invoke_function_tool_failure_error_function(
    *, function_tool: FunctionTool, context: RunContextWrapper[Any], error: BaseException
) -> str | None:
    """What the model is told about an error of a tool; None where errors shall be raised.

    A cancellation that the tool itself raised is put into an `Exception`, which is what error functions take.
    """
    if not isinstance(error, Exception):
        reason = "Tool execution cancelled." if isinstance(error, asyncio.CancelledError) else type(error).__name__
        failure = Exception(str(error) or reason)
        failure.__cause__ = error
        error = failure
    return await _failure_message(function_tool._failure_error_function, context, error)


def mark_outcome(context: RunContextWrapper[Any], outcome: ToolOutcome) -> None:
    """Say what became of a call, where the context is that of one."""
    mark = getattr(context, "mark_outcome", None)
    if mark is not None:
        mark(outcome)


async def _failure_message(
    function: ToolErrorFunction | None, context: RunContextWrapper[Any], error: Exception
) -> str | None:
    if function is None:
        return None
    message = function(context, error)
    return await message if inspect.isawaitable(message) else message


async def invoke_function_tool(
    *,
    function_tool: FunctionTool,
    context: ToolContext[Any],
    arguments: str,
    clock: Clock = system_clock,
    default_timeout_s: float | None = None,
) -> Any:
    """Call a tool with its arguments as JSON text, within its timeout, and return its output.

    `default_timeout_s` is that of tools that have none of their own. The thread of a plain function cannot be stopped:
    it is left behind then, and the model is told so. Raises what the tool raises, and ToolTimeoutError if it took too
    long and asks for that. If the call is cancelled or takes too long, `context.cancelled` becomes True.
    """
    seconds = function_tool.timeout_seconds
    if seconds is None:
        seconds = default_timeout_s
    if seconds is None:
        return await _call(function_tool, context, arguments)
    try:
        async with clock.timeout(seconds):
            try:
                return await _call(function_tool, context, arguments)
            except Exception as error:
                # Kept out of the block around: a TimeoutError of the tool's own is not the tool's timeout.
                failure = error
    except TimeoutError as expired:
        error = ToolTimeoutError(function_tool.name, seconds)
        if function_tool.timeout_behavior == "raise_exception":
            raise error from expired
        context.mark_outcome("timed_out")
        if function_tool.timeout_error_function is None:
            source = ToolSource.of(function_tool.on_invoke_tool)
            goes_on = source is not None and source.in_thread
            rest = " It could not be stopped, and may still have its effect." if goes_on else ""
            return f"Tool '{function_tool.name}' timed out after {seconds:g} seconds.{rest}"
        return await _failure_message(function_tool.timeout_error_function, context, error)
    raise failure


async def _call(function_tool: FunctionTool, context: ToolContext[Any], arguments: str) -> Any:
    invoker = function_tool.on_invoke_tool
    passed = context.to_run_context() if _wants_run_context(invoker) else context
    pending = cast("Any", invoker)(passed, arguments)
    if not inspect.isawaitable(pending):
        raise UserError(f"Tool {function_tool.name!r}: on_invoke_tool must be async, but it returned {pending!r:.100}")
    try:
        return await pending
    except (asyncio.CancelledError, GeneratorExit):
        context.mark_cancelled()
        raise


async def custom_data_of(
    *, function_tool: FunctionTool, context: ToolContext[Any], output: Any, raw_item: Any
) -> dict[str, Any] | None:
    """What the tool's `custom_data_extractor` says of a call and its output; None where there is none.

    Raises UserError for data that has no JSON form.
    """
    extractor = function_tool.custom_data_extractor
    if extractor is None:
        return None
    data = extractor(FunctionToolCustomDataContext(context, function_tool, output, copy.deepcopy(raw_item)))
    if inspect.isawaitable(data):
        data = await data
    if data is None:
        return None
    try:
        return json.loads(json.dumps(dict(data), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"Tool {function_tool.name!r}: custom_data_extractor must return JSON-compatible data, not {data!r:.200}"
        ) from error


def _wants_run_context(invoker: Callable[..., Any]) -> bool:
    """Whether a hand-written invoker asks for a plain `RunContextWrapper`: it may pass it on to what takes no more."""
    if ToolSource.of(invoker) is not None:
        return False
    try:
        first = next(iter(inspect.signature(invoker).parameters.values()), None)
    except (TypeError, ValueError):
        return False
    if first is None:
        return False
    try:
        annotation = get_type_hints(invoker).get(first.name)
    except (NameError, TypeError, AttributeError):
        annotation = first.annotation
    if isinstance(annotation, str):
        return re.fullmatch(r"['\"]?(\w+\.)*RunContextWrapper(\[.*\])?['\"]?", annotation) is not None
    return (get_origin(annotation) or annotation) is RunContextWrapper
