"""Handlers that turn an error of a run into a final output, as the SDK has them."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, cast

from typing_extensions import TypedDict

from runstream.agent.agent import Agent
from runstream.agent.context import RunContextWrapper, TContext
from runstream.agent.items import ModelResponse, RunItem, TResponseInputItem
from runstream.errors import MaxTurnsExceeded, ModelBehaviorError, ModelRefusalError, UserError

__all__ = [
    "RunErrorData",
    "RunErrorHandler",
    "RunErrorHandlerInput",
    "RunErrorHandlerResult",
    "RunErrorHandlers",
    "handle_error",
]


@dataclass
class RunErrorData:
    """What the run had when the error came."""

    input: str | list[TResponseInputItem]
    new_items: list[RunItem]
    history: list[TResponseInputItem]
    """The input and everything since, as input items."""
    output: list[TResponseInputItem]
    """The new items alone, as input items."""
    raw_responses: list[ModelResponse]
    last_agent: Agent[Any]


@dataclass
class RunErrorHandlerInput(Generic[TContext]):
    """What a handler gets."""

    error: MaxTurnsExceeded | ModelRefusalError | ModelBehaviorError
    context: RunContextWrapper[TContext]
    run_data: RunErrorData


@dataclass
class RunErrorHandlerResult:
    """A final output in place of the error; `include_in_history` adds it to the items as a message."""

    final_output: Any
    include_in_history: bool = True


RunErrorHandler: TypeAlias = Callable[[RunErrorHandlerInput[Any]], Any | Awaitable[Any]]
"""Returns a RunErrorHandlerResult, a dict of its fields, a plain final output, or None to let the error go on."""


class RunErrorHandlers(TypedDict, Generic[TContext], total=False):
    """Handlers by kind of error."""

    max_turns: RunErrorHandler
    model_refusal: RunErrorHandler
    invalid_final_output: RunErrorHandler


async def handle_error(
    handlers: RunErrorHandlers[Any] | None,
    kind: str,
    given: Callable[[], RunErrorHandlerInput[Any]],
) -> RunErrorHandlerResult | None:
    """Ask the handler of that kind. None where there is none, or it returned None."""
    handler = cast("dict[str, RunErrorHandler]", handlers or {}).get(kind)
    if handler is None:
        return None
    result = handler(given())
    if inspect.isawaitable(result):
        result = await result
    if result is None or isinstance(result, RunErrorHandlerResult):
        return result
    if isinstance(result, dict) and "final_output" in result:
        unknown = sorted(cast("dict[str, Any]", result).keys() - {"final_output", "include_in_history"})
        if unknown:
            raise UserError(f"the error handler for {kind} returned unknown keys: {', '.join(unknown)}")
        return RunErrorHandlerResult(**cast("dict[str, Any]", result))
    return RunErrorHandlerResult(final_output=result)
