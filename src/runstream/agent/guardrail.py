"""Checks on what goes into a run and comes out of it, and on the arguments and outputs of tools.

Owns the declarations, the decorators that make them, and the errors that a tripwire becomes. Must not know when checks
run, what runs beside them, or agents and tool contexts, which are declared in terms of guardrails and are `Any` here.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, overload

from typing_extensions import TypedDict

from runstream.agent.context import RunContextWrapper, TContext
from runstream.errors import AgentsException, UserError

if TYPE_CHECKING:
    from runstream.agent.response import TResponseInputItem
else:
    TResponseInputItem = Any

__all__ = [
    "AllowBehavior",
    "GuardrailFunctionOutput",
    "InputGuardrail",
    "InputGuardrailResult",
    "InputGuardrailTripwireTriggered",
    "OutputGuardrail",
    "OutputGuardrailResult",
    "OutputGuardrailTripwireTriggered",
    "RaiseExceptionBehavior",
    "RejectContentBehavior",
    "ToolGuardrailFunctionOutput",
    "ToolInputGuardrail",
    "ToolInputGuardrailData",
    "ToolInputGuardrailResult",
    "ToolInputGuardrailTripwireTriggered",
    "ToolOutputGuardrail",
    "ToolOutputGuardrailData",
    "ToolOutputGuardrailResult",
    "ToolOutputGuardrailTripwireTriggered",
    "input_guardrail",
    "output_guardrail",
    "tool_input_guardrail",
    "tool_output_guardrail",
]


# --- Checks on a run's input and final output ---


@dataclass
class GuardrailFunctionOutput:
    """What a guardrail function found."""

    output_info: Any
    """Anything worth keeping about the check."""
    tripwire_triggered: bool
    """True stops the run with an error."""


InputGuardrailFunction: TypeAlias = Callable[
    [RunContextWrapper[TContext], Any, str | list[TResponseInputItem]],
    GuardrailFunctionOutput | Awaitable[GuardrailFunctionOutput],
]
OutputGuardrailFunction: TypeAlias = Callable[
    [RunContextWrapper[TContext], Any, Any], GuardrailFunctionOutput | Awaitable[GuardrailFunctionOutput]
]


@dataclass
class InputGuardrail(Generic[TContext]):
    """A check on the input of a run, made for its first agent."""

    guardrail_function: InputGuardrailFunction[TContext]
    """Called with context, agent and input; sync or async."""
    name: str | None = None
    run_in_parallel: bool = True
    """True: beside the first model call. False: before it, so that a tripwire costs no tokens."""

    def get_name(self) -> str:
        """The given name, or that of the function."""
        return self.name or _function_name(self.guardrail_function)

    async def run(
        self, agent: Any, input: str | list[TResponseInputItem], context: RunContextWrapper[TContext]
    ) -> InputGuardrailResult:
        """Make the check. Raises UserError if the guardrail is no function or gives something else than its output."""
        output = await _call(self.guardrail_function, "tripwire_triggered", context, agent, input)
        return InputGuardrailResult(guardrail=self, output=output)


@dataclass
class OutputGuardrail(Generic[TContext]):
    """A check on the final output of an agent."""

    guardrail_function: OutputGuardrailFunction[TContext]
    """Called with context, agent and output; sync or async."""
    name: str | None = None

    def get_name(self) -> str:
        """The given name, or that of the function."""
        return self.name or _function_name(self.guardrail_function)

    async def run(self, context: RunContextWrapper[TContext], agent: Any, agent_output: Any) -> OutputGuardrailResult:
        """Make the check. Raises UserError if the guardrail is no function or gives something else than its output."""
        output = await _call(self.guardrail_function, "tripwire_triggered", context, agent, agent_output)
        return OutputGuardrailResult(guardrail=self, agent_output=agent_output, agent=agent, output=output)


@dataclass
class InputGuardrailResult:
    """One check of an input."""

    guardrail: InputGuardrail[Any]
    output: GuardrailFunctionOutput


@dataclass
class OutputGuardrailResult:
    """One check of an output."""

    guardrail: OutputGuardrail[Any]
    agent_output: Any
    agent: Any
    output: GuardrailFunctionOutput


# --- Checks on a tool's arguments and output ---


class AllowBehavior(TypedDict):
    """Go on."""

    type: Literal["allow"]


class RejectContentBehavior(TypedDict):
    """Give the model this message instead, and go on."""

    type: Literal["reject_content"]
    message: str


class RaiseExceptionBehavior(TypedDict):
    """Stop the run with an error."""

    type: Literal["raise_exception"]


@dataclass
class ToolGuardrailFunctionOutput:
    """What a tool guardrail found, and what follows; make it with `allow`, `reject_content` or `raise_exception`."""

    output_info: Any
    behavior: RejectContentBehavior | RaiseExceptionBehavior | AllowBehavior = field(
        default_factory=lambda: AllowBehavior(type="allow")
    )

    @classmethod
    def allow(cls, output_info: Any = None) -> ToolGuardrailFunctionOutput:
        """The call, or its output, is fine."""
        return cls(output_info, AllowBehavior(type="allow"))

    @classmethod
    def reject_content(cls, message: str, output_info: Any = None) -> ToolGuardrailFunctionOutput:
        """The tool is not run, or its output withheld; the model gets `message`."""
        return cls(output_info, RejectContentBehavior(type="reject_content", message=message))

    @classmethod
    def raise_exception(cls, output_info: Any = None) -> ToolGuardrailFunctionOutput:
        """The run ends with a tripwire error."""
        return cls(output_info, RaiseExceptionBehavior(type="raise_exception"))


@dataclass
class ToolInputGuardrailData:
    """The tool call that is checked."""

    context: Any
    """The call's `ToolContext`: name, arguments, call id."""
    agent: Any


@dataclass
class ToolOutputGuardrailData(ToolInputGuardrailData):
    """The tool call and what it returned."""

    output: Any


ToolInputGuardrailFunction: TypeAlias = Callable[
    [ToolInputGuardrailData], ToolGuardrailFunctionOutput | Awaitable[ToolGuardrailFunctionOutput]
]
ToolOutputGuardrailFunction: TypeAlias = Callable[
    [ToolOutputGuardrailData], ToolGuardrailFunctionOutput | Awaitable[ToolGuardrailFunctionOutput]
]


@dataclass
class ToolInputGuardrail(Generic[TContext]):
    """A check before a function tool runs."""

    guardrail_function: ToolInputGuardrailFunction
    name: str | None = None

    def get_name(self) -> str:
        """The given name, or that of the function."""
        return self.name or _function_name(self.guardrail_function)

    async def run(self, data: ToolInputGuardrailData) -> ToolGuardrailFunctionOutput:
        """Make the check. Raises UserError if the guardrail is no function or gives something else than its output."""
        return await _call(self.guardrail_function, "behavior", data)


@dataclass
class ToolOutputGuardrail(Generic[TContext]):
    """A check after a function tool has run."""

    guardrail_function: ToolOutputGuardrailFunction
    name: str | None = None

    def get_name(self) -> str:
        """The given name, or that of the function."""
        return self.name or _function_name(self.guardrail_function)

    async def run(self, data: ToolOutputGuardrailData) -> ToolGuardrailFunctionOutput:
        """Make the check. Raises UserError if the guardrail is no function or gives something else than its output."""
        return await _call(self.guardrail_function, "behavior", data)


@dataclass
class ToolInputGuardrailResult:
    """One check of a tool's arguments."""

    guardrail: ToolInputGuardrail[Any]
    output: ToolGuardrailFunctionOutput


@dataclass
class ToolOutputGuardrailResult:
    """One check of a tool's output."""

    guardrail: ToolOutputGuardrail[Any]
    output: ToolGuardrailFunctionOutput


# --- Errors ---


class InputGuardrailTripwireTriggered(AgentsException):
    """An input guardrail stopped the run."""

    code = "input_guardrail_tripwire"
    guardrail_result: InputGuardrailResult

    def __init__(self, guardrail_result: InputGuardrailResult) -> None:
        self.guardrail_result = guardrail_result
        super().__init__(f"Guardrail {_title(guardrail_result.guardrail)} triggered tripwire")


class OutputGuardrailTripwireTriggered(AgentsException):
    """An output guardrail stopped the run."""

    code = "output_guardrail_tripwire"
    guardrail_result: OutputGuardrailResult
    usage: Any = None
    """The model's account of what the response that was blocked while it streamed has used, where that had come."""

    def __init__(self, guardrail_result: OutputGuardrailResult) -> None:
        self.guardrail_result = guardrail_result
        super().__init__(f"Guardrail {_title(guardrail_result.guardrail)} triggered tripwire")


class ToolInputGuardrailTripwireTriggered(AgentsException):
    """A guardrail on a tool's arguments stopped the run."""

    code = "tool_input_guardrail_tripwire"
    guardrail: ToolInputGuardrail[Any]
    output: ToolGuardrailFunctionOutput

    def __init__(self, guardrail: ToolInputGuardrail[Any], output: ToolGuardrailFunctionOutput) -> None:
        self.guardrail = guardrail
        self.output = output
        super().__init__(f"Tool input guardrail {_title(guardrail)} triggered tripwire")


class ToolOutputGuardrailTripwireTriggered(AgentsException):
    """A guardrail on a tool's output stopped the run."""

    code = "tool_output_guardrail_tripwire"
    guardrail: ToolOutputGuardrail[Any]
    output: ToolGuardrailFunctionOutput

    def __init__(self, guardrail: ToolOutputGuardrail[Any], output: ToolGuardrailFunctionOutput) -> None:
        self.guardrail = guardrail
        self.output = output
        super().__init__(f"Tool output guardrail {_title(guardrail)} triggered tripwire")


# --- Decorators ---


@overload
def input_guardrail(func: InputGuardrailFunction[TContext]) -> InputGuardrail[TContext]: ...
@overload
def input_guardrail(
    *, name: str | None = None, run_in_parallel: bool = True
) -> Callable[[InputGuardrailFunction[TContext]], InputGuardrail[TContext]]: ...
def input_guardrail(
    func: InputGuardrailFunction[TContext] | None = None, *, name: str | None = None, run_in_parallel: bool = True
) -> InputGuardrail[TContext] | Callable[[InputGuardrailFunction[TContext]], InputGuardrail[TContext]]:
    """Make a function an `InputGuardrail`: `@input_guardrail` or `@input_guardrail(name=..., run_in_parallel=...)`."""

    def decorate(function: InputGuardrailFunction[TContext]) -> InputGuardrail[TContext]:
        return InputGuardrail(function, name or _function_name(function), run_in_parallel)

    return decorate if func is None else decorate(func)


@overload
def output_guardrail(func: OutputGuardrailFunction[TContext]) -> OutputGuardrail[TContext]: ...
@overload
def output_guardrail(
    *, name: str | None = None
) -> Callable[[OutputGuardrailFunction[TContext]], OutputGuardrail[TContext]]: ...
def output_guardrail(
    func: OutputGuardrailFunction[TContext] | None = None, *, name: str | None = None
) -> OutputGuardrail[TContext] | Callable[[OutputGuardrailFunction[TContext]], OutputGuardrail[TContext]]:
    """Make a function an `OutputGuardrail`: `@output_guardrail` or `@output_guardrail(name=...)`."""

    def decorate(function: OutputGuardrailFunction[TContext]) -> OutputGuardrail[TContext]:
        return OutputGuardrail(function, name or _function_name(function))

    return decorate if func is None else decorate(func)


@overload
def tool_input_guardrail(func: ToolInputGuardrailFunction) -> ToolInputGuardrail[Any]: ...
@overload
def tool_input_guardrail(
    *, name: str | None = None
) -> Callable[[ToolInputGuardrailFunction], ToolInputGuardrail[Any]]: ...
def tool_input_guardrail(
    func: ToolInputGuardrailFunction | None = None, *, name: str | None = None
) -> ToolInputGuardrail[Any] | Callable[[ToolInputGuardrailFunction], ToolInputGuardrail[Any]]:
    """Make a function a `ToolInputGuardrail`: `@tool_input_guardrail` or `@tool_input_guardrail(name=...)`."""

    def decorate(function: ToolInputGuardrailFunction) -> ToolInputGuardrail[Any]:
        return ToolInputGuardrail(function, name or _function_name(function))

    return decorate if func is None else decorate(func)


@overload
def tool_output_guardrail(func: ToolOutputGuardrailFunction) -> ToolOutputGuardrail[Any]: ...
@overload
def tool_output_guardrail(
    *, name: str | None = None
) -> Callable[[ToolOutputGuardrailFunction], ToolOutputGuardrail[Any]]: ...
def tool_output_guardrail(
    func: ToolOutputGuardrailFunction | None = None, *, name: str | None = None
) -> ToolOutputGuardrail[Any] | Callable[[ToolOutputGuardrailFunction], ToolOutputGuardrail[Any]]:
    """Make a function a `ToolOutputGuardrail`: `@tool_output_guardrail` or `@tool_output_guardrail(name=...)`."""

    def decorate(function: ToolOutputGuardrailFunction) -> ToolOutputGuardrail[Any]:
        return ToolOutputGuardrail(function, name or _function_name(function))

    return decorate if func is None else decorate(func)


def _title(guardrail: Any) -> str:
    # With the class, since programs written for the SDK look for it in the message.
    return f"{type(guardrail).__name__} {guardrail.get_name()!r}"


def _function_name(function: Any) -> str:
    # Partials and callable objects have no name of their own.
    return getattr(function, "__name__", None) or type(function).__name__


async def _call(function: Any, required: str, *arguments: Any) -> Any:
    """The function's output, awaited if need be; it must have the attribute that decides."""
    if not callable(function):
        raise UserError(f"Guardrail function must be callable, got {function!r}")
    output: Any = function(*arguments)
    if inspect.isawaitable(output):
        output = await output
    if not hasattr(output, required):
        kind = "GuardrailFunctionOutput" if required == "tripwire_triggered" else "ToolGuardrailFunctionOutput"
        raise UserError(f"Guardrail {_function_name(function)!r} must return a {kind}, it returned {output!r}")
    return output
