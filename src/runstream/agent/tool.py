"""The tools that an agent can use, and how a function becomes one.

Owns the decorator `function_tool` and the union `Tool`; offers everything about tools under one name. Must not know
agents, runs or the log: who is enabled, approved or counted is decided elsewhere. Importing it is cheap.

Invariant: a plain function runs in a thread and never blocks the event loop. A thread cannot be stopped: when nobody
waits for it any more, `ToolContext.cancelled` tells it so, and what it still returns or raises is dropped. A plain
generator is closed then, at its next `yield`.
"""

from __future__ import annotations

import functools
import inspect
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeAlias, cast, overload

from typing_extensions import TypedDict, Unpack

from runstream.agent.function_tool import (
    FunctionTool,
    FunctionToolCustomDataContext,
    FunctionToolCustomDataExtractor,
    FunctionToolResult,
    ToolCaller,
    ToolErrorFunction,
    ToolInvoker,
    ToolOrigin,
    ToolOriginType,
    ToolSource,
    ToolTimeoutBehavior,
    default_tool_error_function,
)
from runstream.agent.hosted_tools import (
    CodeInterpreterTool,
    FileSearchTool,
    HostedMCPTool,
    ImageGenerationTool,
    MCPToolApprovalFunction,
    MCPToolApprovalFunctionResult,
    MCPToolApprovalRequest,
    WebSearchTool,
)
from runstream.agent.schema import DocstringStyle, FuncSchema, callable_of, function_schema
from runstream.agent.threads import call_in_thread
from runstream.agent.tool_call import (
    invoke_function_tool,
    maybe_invoke_function_tool_failure_error_function,
    with_failure_handling,
)
from runstream.agent.typed_output import check_output, declared_output
from runstream.agent.validation import describe, parse_object
from runstream.errors import ModelBehaviorError, UserError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from pydantic import TypeAdapter

    from runstream.agent.context import RunContextWrapper
    from runstream.agent.guardrail import ToolInputGuardrail, ToolOutputGuardrail
    from runstream.agent.tool_context import ToolContext

__all__ = [
    "CodeInterpreterTool",
    "FileSearchTool",
    "FunctionTool",
    "FunctionToolCustomDataContext",
    "FunctionToolCustomDataExtractor",
    "FunctionToolResult",
    "HostedMCPTool",
    "ImageGenerationTool",
    "MCPToolApprovalFunction",
    "MCPToolApprovalFunctionResult",
    "MCPToolApprovalRequest",
    "Tool",
    "ToolCaller",
    "ToolErrorFunction",
    "ToolInvoker",
    "ToolOrigin",
    "ToolOriginType",
    "ToolTimeoutBehavior",
    "WebSearchTool",
    "default_tool_error_function",
    "function_tool",
    "invoke_function_tool",
    "maybe_invoke_function_tool_failure_error_function",
    "with_failure_handling",
]

Tool: TypeAlias = (
    FunctionTool | FileSearchTool | WebSearchTool | HostedMCPTool | ImageGenerationTool | CodeInterpreterTool
)


class _Options(TypedDict, total=False):
    """The keyword arguments of `function_tool`, for its two overloads."""

    name_override: str | None
    description_override: str | None
    docstring_style: DocstringStyle | None
    use_docstring_info: bool
    failure_error_function: ToolErrorFunction | None
    strict_mode: bool
    is_enabled: bool | Callable[[RunContextWrapper[Any], Any], bool | Awaitable[bool]]
    needs_approval: bool | Callable[[RunContextWrapper[Any], dict[str, Any], str], Awaitable[bool]]
    tool_input_guardrails: list[ToolInputGuardrail[Any]] | None
    tool_output_guardrails: list[ToolOutputGuardrail[Any]] | None
    timeout: float | None
    timeout_behavior: ToolTimeoutBehavior
    timeout_error_function: ToolErrorFunction | None
    defer_loading: bool
    custom_data_extractor: FunctionToolCustomDataExtractor | None
    allowed_callers: list[ToolCaller] | None
    output_type: Any | None
    output_json_schema: dict[str, Any] | None
    idempotent: bool


@overload
def function_tool(func: Callable[..., Any], **options: Unpack[_Options]) -> FunctionTool: ...
@overload
def function_tool(func: None = None, **options: Unpack[_Options]) -> Callable[[Callable[..., Any]], FunctionTool]: ...
def function_tool(
    func: Callable[..., Any] | None = None,
    *,
    name_override: str | None = None,
    description_override: str | None = None,
    docstring_style: DocstringStyle | None = None,
    use_docstring_info: bool = True,
    failure_error_function: ToolErrorFunction | None = default_tool_error_function,
    strict_mode: bool = True,
    is_enabled: bool | Callable[[RunContextWrapper[Any], Any], bool | Awaitable[bool]] = True,
    needs_approval: bool | Callable[[RunContextWrapper[Any], dict[str, Any], str], Awaitable[bool]] = False,
    tool_input_guardrails: list[ToolInputGuardrail[Any]] | None = None,
    tool_output_guardrails: list[ToolOutputGuardrail[Any]] | None = None,
    timeout: float | None = None,
    timeout_behavior: ToolTimeoutBehavior = "error_as_result",
    timeout_error_function: ToolErrorFunction | None = None,
    defer_loading: bool = False,
    custom_data_extractor: FunctionToolCustomDataExtractor | None = None,
    allowed_callers: list[ToolCaller] | None = None,
    output_type: Any | None = None,
    output_json_schema: dict[str, Any] | None = None,
    idempotent: bool = False,
) -> FunctionTool | Callable[[Callable[..., Any]], FunctionTool]:
    """Make a function a tool: `@function_tool`, `@function_tool(...)` or `function_tool(function, ...)`.

    The name, the description and the schema of the arguments come from the function's name, docstring and annotations.
    A first parameter annotated `ToolContext` or `RunContextWrapper` gets the context. A plain function runs in a thread
    (with the caller's context variables), an async one in the event loop.

    A generator, plain or async, reports whatever it yields, as `ToolContext.emit` does; what it yielded last is its
    output, unless it returned a value.

    `failure_error_function` makes the message that the model gets for an error, arguments that do not fit included
    (`ModelBehaviorError`); with None errors are raised and end the run. `timeout` is in seconds, for async functions.

    Raises UserError for what cannot become a tool, naming function, parameter and annotation.
    """

    def decorate(function: Callable[..., Any]) -> FunctionTool:
        _check_function(function)
        schema = function_schema(
            function, docstring_style, name_override, description_override, use_docstring_info, strict_mode
        )
        if output_type is not None and output_json_schema is not None:
            raise UserError(f"Tool `{schema.name}`: output_type and output_json_schema cannot both be provided")
        adapter = None
        if output_json_schema is None:
            programmatic = "programmatic" in (allowed_callers or ())
            # A generator is annotated to return what yields.
            returned = Any if _is_generator(function) else schema.return_annotation
            adapter = declared_output(schema.name, output_type, return_annotation=returned, programmatic=programmatic)
        return FunctionTool(
            name=schema.name,
            description=schema.description or "",
            params_json_schema=schema.params_json_schema,
            on_invoke_tool=_invoker(function, schema, adapter, failure_error_function),
            strict_json_schema=strict_mode,
            is_enabled=is_enabled,
            tool_input_guardrails=tool_input_guardrails,
            tool_output_guardrails=tool_output_guardrails,
            needs_approval=needs_approval,
            timeout_seconds=timeout,
            timeout_behavior=timeout_behavior,
            timeout_error_function=timeout_error_function,
            defer_loading=defer_loading,
            custom_data_extractor=custom_data_extractor,
            allowed_callers=allowed_callers,
            output_json_schema=output_json_schema if adapter is None else adapter.json_schema(mode="serialization"),
            idempotent=idempotent,
            _failure_error_function=failure_error_function,
        )

    return decorate if func is None else decorate(func)


def _check_function(function: Any) -> None:
    """Refuse what is callable in a way that its parameters cannot be told, and what is no function at all."""
    if isinstance(function, FunctionTool):
        raise UserError(f"function_tool: {function.name!r} is a tool already; decorate the function once")
    if not callable(function):
        raise UserError(f"function_tool expects a function, not {function!r:.100}")
    call = callable_of(function)
    if call is not function:
        hidden = isinstance(function, functools.partial) or any(
            inspect.getattr_static(function, name, None) is not None for name in ("__wrapped__", "__signature__")
        )
        if hidden or not inspect.ismethod(call):
            raise UserError(
                f"Unsupported callable object {function!r:.100}: function_tool takes functions, methods and plain "
                "objects with a `__call__` method. Use an explicit wrapper function for a partial or a decorated object"
            )


def _invoker(
    function: Callable[..., Any],
    schema: FuncSchema,
    adapter: TypeAdapter[Any] | None,
    failure_error_function: ToolErrorFunction | None,
) -> ToolInvoker:
    call = cast("Any", callable_of(function))
    yields = inspect.isasyncgenfunction(call)
    is_async = yields or inspect.iscoroutinefunction(call)
    in_thread = _exhaust if inspect.isgeneratorfunction(call) else _guarded

    async def invoke(context: ToolContext[Any], arguments: str) -> Any:
        positional, by_keyword = _read_arguments(schema, context.tool_name, arguments)
        if schema.takes_context:
            positional.insert(0, context)
        if yields:
            output = await _exhaust_async(context, call(*positional, **by_keyword))
        elif is_async:
            output = await call(*positional, **by_keyword)
        else:
            output = await call_in_thread(in_thread, context, call, positional, by_keyword)
        return output if adapter is None else check_output(context.tool_name, output, adapter)

    return ToolSource(function, in_thread=not is_async).attach(with_failure_handling(invoke, failure_error_function))


def _read_arguments(schema: FuncSchema, tool: str, arguments: str) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of the call. Raises ModelBehaviorError where they are no JSON object or do not fit."""
    from pydantic_core import ValidationError

    values = parse_object(arguments, subject=f"tool {tool}")
    try:
        data = schema.params_pydantic_model(**values)
    except ValidationError as error:
        raise ModelBehaviorError(f"Invalid JSON input for tool {tool}: {describe(error)}") from error
    return schema.to_call_args(data)


def _is_generator(function: Callable[..., Any]) -> bool:
    call = callable_of(function)
    return inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call)


async def _exhaust_async(context: ToolContext[Any], generator: AsyncGenerator[Any, None]) -> Any:
    """Report what an async generator yields; the last of it is the output."""
    output = None
    async with aclosing(generator):
        async for output in generator:
            context.emit(output)
    return output


def _exhaust(
    context: ToolContext[Any], call: Callable[..., Any], positional: list[Any], by_keyword: dict[str, Any]
) -> Any:
    """The same in a thread, for a generator that may return a value. Once nobody waits for it, it is closed."""
    output = None
    generator = call(*positional, **by_keyword)
    try:
        while not context.cancelled:
            output = next(generator)
            context.emit(output)
    except StopIteration as end:
        return output if end.value is None else end.value
    except SystemExit as error:
        raise RuntimeError(f"the tool raised {error!r}") from error
    finally:
        generator.close()
    return output


def _guarded(
    context: ToolContext[Any], call: Callable[..., Any], positional: list[Any], by_keyword: dict[str, Any]
) -> Any:
    try:
        return call(*positional, **by_keyword)
    except (StopIteration, SystemExit) as error:
        # A future cannot carry the first (who waits for it would wait for ever), the second would end the process.
        raise RuntimeError(f"the tool raised {error!r}") from error
