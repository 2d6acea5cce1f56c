"""Functions as tools."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import dataclasses
import functools
import inspect
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest
from pydantic import BaseModel

from runstream.agent import tool as tool_module
from runstream.agent.tool import FunctionTool, Tool, WebSearchTool, function_tool
from runstream.agent.tool_context import ToolContext
from runstream.errors import ModelBehaviorError, UserError

if TYPE_CHECKING:
    from runstream.agent.context import RunContextWrapper


def a_context(name: str = "t", **changes: Any) -> ToolContext[Any]:
    return ToolContext("mine", **{"tool_name": name, "tool_call_id": "1", "tool_arguments": "", **changes})


async def call(tool: FunctionTool, arguments: str = "") -> Any:
    return await tool.on_invoke_tool(a_context(tool.name), arguments)


def add(a: int, b: int = 5) -> int:
    """Add two numbers.

    Args:
        a: The first.
    """
    return a + b


async def test_a_function_becomes_a_tool() -> None:
    """Bare, called, and with a function at once, the decorator gives the same tool."""
    for tool in (function_tool(add), function_tool()(add), function_tool(add, timeout=None)):
        assert isinstance(tool, FunctionTool)
        assert (tool.name, tool.description, tool.strict_json_schema) == ("add", "Add two numbers.", True)
        assert tool.params_json_schema["properties"]["a"]["description"] == "The first."
        assert await call(tool, '{"a": 1, "b": 2}') == 3


def test_options_reach_the_tool() -> None:
    """Every option is the field of that meaning."""

    async def wait() -> None: ...

    def word(context: RunContextWrapper[Any], error: Exception) -> str:
        return ""

    tool = function_tool(
        name_override="n",
        description_override="d",
        strict_mode=False,
        is_enabled=False,
        needs_approval=True,
        tool_input_guardrails=[],
        tool_output_guardrails=[],
        timeout=2,
        timeout_behavior="raise_exception",
        timeout_error_function=word,
        defer_loading=True,
        custom_data_extractor=lambda data: {},
        allowed_callers=["direct"],
        output_json_schema={"type": "object", "properties": {}},
        idempotent=True,
    )(wait)
    assert (tool.name, tool.description, tool.strict_json_schema, tool.is_enabled) == ("n", "d", False, False)
    assert (tool.needs_approval, tool.tool_input_guardrails, tool.tool_output_guardrails) == (True, [], [])
    assert (tool.timeout_seconds, tool.timeout_behavior, tool.timeout_error_function) == (2.0, "raise_exception", word)
    assert (tool.defer_loading, tool.allowed_callers, tool.idempotent) == (True, ["direct"], True)
    assert tool.custom_data_extractor is not None
    assert tool.output_json_schema is not None
    assert tool.output_json_schema["additionalProperties"] is False


async def test_arguments_and_context_arrive() -> None:
    """Plain and async functions get the context first, and extra arguments of the model are ignored."""

    @function_tool
    def plain(ctx: ToolContext[str], *, city: str) -> str:
        return f"{ctx.context} {ctx.tool_name} {city}"

    @function_tool
    async def waiting(ctx: RunContextWrapper[str], city: str) -> str:
        return f"{ctx.context} {city}"

    assert await call(plain, '{"city": "Oslo", "other": 1}') == "mine plain Oslo"
    assert await call(waiting, '{"city": "Oslo"}') == "mine Oslo"


async def test_defaults_are_used_where_the_model_leaves_out() -> None:
    """Without arguments the text may be empty."""
    assert await call(function_tool(add, strict_mode=False), '{"a": 1}') == 6
    assert await call(function_tool(lambda: "ok")) == "ok"


async def test_a_plain_function_runs_in_a_thread_with_the_callers_context() -> None:
    """The event loop goes on meanwhile, and context variables are those of the caller."""
    variable = contextvars.ContextVar[str]("variable")
    variable.set("seen")
    loop, reached = asyncio.get_running_loop(), threading.Event()

    @function_tool
    def plain() -> tuple[bool, str]:
        # Only a loop that goes on can set it.
        loop.call_soon_threadsafe(reached.set)
        return reached.wait(30), variable.get()

    assert await call(plain) == (True, "seen")


async def test_an_async_function_runs_in_the_loop() -> None:
    """In the very task that calls the tool."""

    @function_tool
    async def waiting() -> Any:
        return asyncio.current_task()

    assert await call(waiting) is asyncio.current_task()


async def test_an_awaitable_that_a_plain_function_returns_is_its_output() -> None:
    """It is not awaited: the function may have meant it."""
    future = asyncio.get_running_loop().create_future()
    assert await call(function_tool(lambda: future)) is future


async def test_the_model_is_told_about_errors() -> None:
    """By default a tool's error, broken JSON and arguments that do not fit all become a message."""

    @function_tool
    def fails(a: int) -> None:
        raise KeyError("city")

    assert await call(fails, '{"a": 1}') == "An error occurred while running the tool. Please try again. Error: 'city'"
    assert (await call(fails, "{not json}")).startswith("An error occurred while parsing tool arguments.")
    unfitting = await call(fails, '{"a": "x"}')
    assert unfitting.startswith("An error occurred while running the tool. Please try again. Error: Invalid JSON input")
    assert "`a`: Input should be a valid integer" in unfitting


async def test_an_error_function_gets_the_models_faults_too() -> None:
    """They are ModelBehaviorErrors; the tool's own errors are themselves."""
    tool = function_tool(add, failure_error_function=lambda context, error: type(error).__name__)
    for arguments in ("", "[]", "nope", '{"a": []}'):
        assert await call(tool, arguments) == "ModelBehaviorError"
    failing = function_tool(lambda: 1 / 0, failure_error_function=lambda context, error: type(error).__name__)
    assert await call(failing) == "ZeroDivisionError"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("null", "Invalid JSON input for tool add: expected a JSON object, got 'null'"),
        ("{", "Invalid JSON input for tool add: .*line 1"),
        ('{"a": "x", "b": null}', "Invalid JSON input for tool add: `a`: .*got 'x'.*; `b`: .*got None"),
    ],
)
async def test_without_an_error_function_errors_are_raised(arguments: str, message: str) -> None:
    """The model's faults name the tool and what was wrong; their cause is kept."""
    tool = function_tool(add, failure_error_function=None)
    with pytest.raises(ModelBehaviorError, match=message) as caught:
        await call(tool, arguments)
    assert (caught.value.__cause__ is None) is (arguments == "null")


@pytest.mark.parametrize("error", [StopIteration(), SystemExit(3)])
async def test_errors_that_would_break_the_loop_are_contained(error: BaseException) -> None:
    """A plain function that raises StopIteration or exits fails like any other; the original is the cause."""

    @function_tool(failure_error_function=None)
    def odd() -> None:
        raise error

    with pytest.raises(RuntimeError, match="the tool raised") as caught:
        await call(odd)
    assert caught.value.__cause__ is error


class Stock(BaseModel):
    sku: str
    units: int


async def test_a_declared_output_type_is_checked() -> None:
    """The schema is that of the type; a wrong output is an error of the tool."""
    tool = function_tool(lambda: {"sku": "a", "units": 1}, output_type=Stock, failure_error_function=None)
    assert tool.output_json_schema is not None
    assert tool.output_json_schema["required"] == ["sku", "units"]
    assert await call(tool) == Stock(sku="a", units=1)
    with pytest.raises(UserError, match="does not match its declared output type"):
        await call(function_tool(lambda: {}, output_type=Stock, failure_error_function=None))
    with pytest.raises(UserError, match="cannot both be provided"):
        function_tool(lambda: 1, output_type=Stock, output_json_schema={})


def test_an_output_type_is_inferred_for_programs_only() -> None:
    """The annotation counts where programs may call the tool."""

    def stock() -> Stock:
        return Stock(sku="a", units=1)

    assert function_tool(stock).output_json_schema is None
    assert function_tool(stock, allowed_callers=["programmatic"]).output_json_schema is not None


class Doubler:
    """Double a number."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, ctx: ToolContext[Any], value: int) -> int:
        self.calls += 1
        return value * 2


async def test_an_object_with_call_is_a_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `__call__` is bound once; async ones may have a timeout; copies of the tool call the same object."""
    doubler = Doubler()
    tool = function_tool(doubler, timeout=1)
    assert (tool.name, tool.description) == ("Doubler", "Double a number.")
    monkeypatch.setattr(Doubler, "__call__", None)
    for each in (tool, copy.copy(tool), copy.deepcopy(tool), dataclasses.replace(tool, name="other")):
        assert each.__wrapped__ is doubler
        assert await call(each, '{"value": 4}') == 8
    assert doubler.calls == 4


def test_a_tool_can_be_unwrapped() -> None:
    """inspect.unwrap finds the function that was decorated, and what that wraps."""

    @functools.wraps(add)
    def wrapper(*args: Any) -> Any:
        return add(*args)

    tool = function_tool(wrapper)
    assert tool.__wrapped__ is wrapper
    assert inspect.unwrap(cast("Any", tool)) is add


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (functools.partial(add, 1), "Use an explicit wrapper function"),
        (functools.update_wrapper(Doubler(), add), "Use an explicit wrapper function"),
        (function_tool(add), "'add' is a tool already"),
        ("add", "expects a function, not 'add'"),
    ],
)
def test_what_is_no_function_is_refused(function: Any, message: str) -> None:
    """The error says what it is and what to do."""
    with pytest.raises(UserError, match=message):
        function_tool(function)


def test_a_plain_function_has_no_timeout() -> None:
    """Its thread could not be stopped."""
    with pytest.raises(ValueError, match=r"Tool 'add'.*only supported for async @function_tool handlers"):
        function_tool(add, timeout=1)


def test_everything_about_tools_has_one_address() -> None:
    """The module offers all the names it lists, and hosted tools are tools."""
    for name in tool_module.__all__:
        assert hasattr(tool_module, name), name
    assert isinstance(WebSearchTool(), Tool)
