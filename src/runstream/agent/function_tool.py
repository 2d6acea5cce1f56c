"""A tool that runs in this process, as a declaration: what the model is told of it, and what to call.

Owns `FunctionTool` and what says of a tool where it comes from. Must not know how functions become tools, how tools are
called, agents or runs.

Invariants: a strict tool's schema is strict, whoever wrote it; a timeout is a positive number, and only where it can be
kept.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from runstream.agent.context import RunContextWrapper
from runstream.agent.strict_schema import ensure_strict_json_schema
from runstream.agent.tool_context import ToolContext, ToolSettingError
from runstream.agent.typed_output import strict_object_schema
from runstream.errors import ModelBehaviorError, UserError

if TYPE_CHECKING:
    from runstream.agent.guardrail import ToolInputGuardrail, ToolOutputGuardrail

__all__ = [
    "FunctionTool",
    "FunctionToolCustomDataContext",
    "FunctionToolCustomDataExtractor",
    "FunctionToolResult",
    "ToolCaller",
    "ToolErrorFunction",
    "ToolInvoker",
    "ToolOrigin",
    "ToolOriginType",
    "ToolSource",
    "ToolTimeoutBehavior",
    "default_tool_error_function",
]

ToolCaller: TypeAlias = Literal["direct", "programmatic"]
ToolTimeoutBehavior: TypeAlias = Literal["error_as_result", "raise_exception"]
ToolErrorFunction: TypeAlias = Callable[[RunContextWrapper[Any], Exception], str | Awaitable[str]]
"""Makes the message for the model out of a tool's error; plain or async."""
ToolInvoker: TypeAlias = Callable[[ToolContext[Any], str], Awaitable[Any]]
"""Calls a tool with its context and its arguments as JSON text."""

_SOURCE = "__runstream_source__"
"""The attribute of an invoker that holds the `_Source` it was made from."""


_BOTH_CALLERS = (["direct", "programmatic"], ["programmatic", "direct"])


def default_tool_error_function(ctx: RunContextWrapper[Any], error: Exception) -> str:
    """What the model is told about a tool's error where the tool does not say it otherwise."""
    if isinstance(error, ModelBehaviorError) and isinstance(error.__cause__, json.JSONDecodeError):
        return (
            "An error occurred while parsing tool arguments. Please try again with valid JSON. "
            f"Error: {error.__cause__}"
        )
    return f"An error occurred while running the tool. Please try again. Error: {error}"


class ToolOriginType(enum.StrEnum):
    """What stands behind a function tool."""

    FUNCTION = "function"
    MCP = "mcp"
    AGENT_AS_TOOL = "agent_as_tool"


@dataclass(frozen=True)
class ToolOrigin:
    """Where a function tool comes from; run items carry it."""

    type: ToolOriginType
    mcp_server_name: str | None = None
    agent_name: str | None = None
    agent_tool_name: str | None = None

    def to_json_dict(self) -> dict[str, str]:
        """The origin as JSON values, without what is None."""
        values = {**vars(self), "type": self.type.value}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_json_dict(cls, data: Any) -> ToolOrigin | None:
        """The origin that `to_json_dict` wrote; None for anything that is none."""
        if not isinstance(data, Mapping):
            return None
        values = {name: value for name, value in cast("Mapping[Any, Any]", data).items() if isinstance(value, str)}
        if values.get("type") not in set(ToolOriginType):
            return None
        known = {name: values[name] for name in ("mcp_server_name", "agent_name", "agent_tool_name") if name in values}
        return cls(ToolOriginType(values["type"]), **known)


@dataclass(frozen=True)
class ToolSource:
    """The function that an invoker calls."""

    function: Callable[..., Any]
    in_thread: bool

    def attach(self, invoker: ToolInvoker) -> ToolInvoker:
        """Let `invoker` say that it was made from this. It is a function, so it stays the same in copies of a tool."""
        setattr(invoker, _SOURCE, self)
        return invoker

    @staticmethod
    def of(invoker: object) -> ToolSource | None:
        """What `invoker` was made from; None if it was written by hand."""
        return getattr(invoker, _SOURCE, None)


class _Wrapped:
    """`tool.__wrapped__`, the function that `function_tool` was given, so that `inspect.unwrap` finds it.

    A property would also answer on the class, which `inspect.signature(FunctionTool)` would then take for a wrapper.
    """

    def __get__(self, instance: FunctionTool | None, owner: type) -> Callable[..., Any]:
        source = None if instance is None else ToolSource.of(instance.on_invoke_tool)
        if source is None:
            raise AttributeError("no function of this tool is known: it was not made by function_tool")
        return source.function

    def __set__(self, instance: FunctionTool, value: object) -> None:
        raise AttributeError("__wrapped__ cannot be set: make a new tool of the function")


@dataclass
class FunctionTool:
    """A tool that runs in this process. `function_tool` makes one of a function.

    Raises UserError for a schema that has no strict form, and ToolSettingError for a wrong timeout.
    """

    name: str
    description: str
    params_json_schema: dict[str, Any]
    """The JSON schema of the arguments; it becomes strict unless `strict_json_schema` is False."""
    on_invoke_tool: ToolInvoker
    """Called with the context and the arguments as JSON text. What it returns goes to the model as
    `runstream.agent.tool_output.tool_output_to_input` says; what it raises ends the run."""
    strict_json_schema: bool = True
    is_enabled: bool | Callable[[RunContextWrapper[Any], Any], bool | Awaitable[bool]] = True
    """Whether the model may see the tool: a bool, or a function (plain or async) of the context and the agent."""
    tool_input_guardrails: list[ToolInputGuardrail[Any]] | None = None
    tool_output_guardrails: list[ToolOutputGuardrail[Any]] | None = None
    needs_approval: bool | Callable[[RunContextWrapper[Any], dict[str, Any], str], Awaitable[bool]] = False
    """Whether a person must approve a call: a bool, or a function of context, arguments and call id."""
    timeout_seconds: float | None = None
    timeout_behavior: ToolTimeoutBehavior = "error_as_result"
    """After a timeout: tell the model, or raise ToolTimeoutError."""
    timeout_error_function: ToolErrorFunction | None = None
    """Makes what the model is told after a timeout."""
    defer_loading: bool = False
    """Whether the model sees the tool only once it has searched for it."""
    custom_data_extractor: FunctionToolCustomDataExtractor | None = field(default=None, kw_only=True)
    allowed_callers: list[ToolCaller] | None = field(default=None, kw_only=True)
    output_json_schema: dict[str, Any] | None = field(default=None, kw_only=True)
    idempotent: bool = field(default=False, kw_only=True)
    """Whether calling it twice does no harm. Not in the SDK: a run that another worker takes over calls only such tools
    again if it cannot know whether the first call was made."""
    _failure_error_function: ToolErrorFunction | None = field(
        default=default_tool_error_function, kw_only=True, repr=False
    )
    _origin: ToolOrigin | None = field(default=None, kw_only=True, repr=False)
    _is_agent_tool: bool = field(default=False, kw_only=True, repr=False)
    """Whether a call of it runs an agent (`Agent.as_tool`), which is `_agent_instance`."""
    _agent_instance: Any = field(default=None, kw_only=True, repr=False)

    __wrapped__ = _Wrapped()

    def __post_init__(self) -> None:
        if self.strict_json_schema:
            try:
                self.params_json_schema = ensure_strict_json_schema(self.params_json_schema)
            except UserError as error:
                raise UserError(f"Tool {self.name!r}: {error}. Change it, or set strict_json_schema=False") from error
        if self.output_json_schema is not None:
            try:
                self.output_json_schema = strict_object_schema(self.output_json_schema)
            except Exception as error:
                raise UserError(
                    f"Tool {self.name!r}: output_json_schema must define a strict JSON object schema: {error}"
                ) from error
        callers = cast("object", self.allowed_callers)
        if callers is not None and callers not in (["direct"], ["programmatic"], *_BOTH_CALLERS):
            raise UserError(
                f"Tool {self.name!r}: allowed_callers must be a non-empty list containing 'direct', 'programmatic', or "
                f"both, each once, not {callers!r}"
            )
        self._check_timeout()

    def _check_timeout(self) -> None:
        seconds = cast("object", self.timeout_seconds)
        if seconds is not None:
            if isinstance(seconds, bool) or not isinstance(seconds, int | float):
                problem = f"timeout_seconds must be a positive number in seconds or None, not {seconds!r}"
                raise ToolSettingError(f"Tool {self.name!r}: {problem}")
            if not math.isfinite(seconds):
                raise ToolSettingError(f"Tool {self.name!r}: timeout_seconds must be a finite number, not {seconds}")
            if seconds <= 0:
                raise ToolSettingError(f"Tool {self.name!r}: timeout_seconds must be greater than 0, not {seconds}")
            source = ToolSource.of(self.on_invoke_tool)
            if source is not None and source.in_thread:
                raise ToolSettingError(
                    f"Tool {self.name!r}: timeout_seconds is only supported for async @function_tool handlers, since "
                    "the thread of a plain function cannot be stopped. Make the function async, or give it a limit of "
                    "its own"
                )
            self.timeout_seconds = float(seconds)
        if self.timeout_behavior not in ("error_as_result", "raise_exception"):
            raise ToolSettingError(
                f"Tool {self.name!r}: timeout_behavior must be one of 'error_as_result' and 'raise_exception', not "
                f"{self.timeout_behavior!r}"
            )
        if self.timeout_error_function is not None and not callable(self.timeout_error_function):
            raise ToolSettingError(f"Tool {self.name!r}: timeout_error_function must be callable or None")

    def __copy__(self) -> FunctionTool:
        # Not by the constructor, whose signature a subclass may have changed.
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        invoker = self.on_invoke_tool
        if isinstance(invoker, MethodType) and invoker.__self__ is self:
            copied.on_invoke_tool = MethodType(invoker.__func__, copied)
        return copied

    @property
    def qualified_name(self) -> str:
        """The name under which the tool is known to the model."""
        return self.name

    @property
    def agent(self) -> Any | None:
        """The agent that a call of the tool runs; None for tools of other kinds."""
        return self._agent_instance

    @property
    def origin(self) -> ToolOrigin:
        """Where the tool comes from."""
        return self._origin or ToolOrigin(ToolOriginType.FUNCTION)


@dataclass(frozen=True)
class FunctionToolCustomDataContext:
    """What a `custom_data_extractor` gets: one call of a function tool and its output."""

    tool_context: ToolContext[Any]
    tool: FunctionTool
    output: Any
    raw_item: Mapping[str, Any]
    """The output item as the model gets it."""


FunctionToolCustomDataExtractor: TypeAlias = Callable[
    [FunctionToolCustomDataContext], Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None
]


@dataclass
class FunctionToolResult:
    """One call of a function tool, as `tool_use_behavior` gets it."""

    tool: FunctionTool
    output: Any
    """What the function returned, of whatever type."""
    run_item: Any | None
    """The `ToolCallOutputItem`; None if the call waits for an approval."""
    interruptions: list[Any] = field(default_factory=list[Any])
    """The `ToolApprovalItem`s of a nested run."""
    agent_run_result: Any = None
    """The result of a nested run."""
