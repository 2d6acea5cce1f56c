"""The declaration of a tool: its schema, its limits, its copies."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
from typing import Any

import pytest

from runstream.agent.function_tool import (
    FunctionTool,
    FunctionToolResult,
    ToolOrigin,
    ToolOriginType,
    ToolSource,
    default_tool_error_function,
)
from runstream.agent.tool_context import ToolContext
from runstream.errors import ModelBehaviorError, UserError


async def invoke(context: ToolContext[Any], arguments: str) -> str:
    return arguments


def a_tool(**changes: Any) -> FunctionTool:
    fields = {"name": "t", "description": "", "params_json_schema": {}, "on_invoke_tool": invoke}
    return FunctionTool(**{**fields, **changes})


def test_positional_arguments_are_the_sdks() -> None:
    """The order of the fields is part of the interface."""
    names = [field.name for field in dataclasses.fields(FunctionTool) if not field.kw_only]
    assert names == [
        "name",
        "description",
        "params_json_schema",
        "on_invoke_tool",
        "strict_json_schema",
        "is_enabled",
        "tool_input_guardrails",
        "tool_output_guardrails",
        "needs_approval",
        "timeout_seconds",
        "timeout_behavior",
        "timeout_error_function",
        "defer_loading",
    ]
    assert a_tool().idempotent is False


def test_the_schema_becomes_strict() -> None:
    """Hand-written schemas are closed, and the given dict is left alone; without strictness nothing is done."""
    schema = {"properties": {"a": {"properties": {"b": {"type": "string"}}}}}
    strict = a_tool(params_json_schema=schema).params_json_schema
    assert strict["required"] == ["a"]
    assert strict["properties"]["a"]["additionalProperties"] is False
    assert schema == {"properties": {"a": {"properties": {"b": {"type": "string"}}}}}
    assert a_tool(params_json_schema=schema, strict_json_schema=False).params_json_schema is schema


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "object", "properties": {"m": {"additionalProperties": {"type": "string"}}}}, "additionalProperties"),
        ({"anyOf": [{"properties": {}}, {"type": "null"}]}, "root of a strict JSON schema"),
    ],
)
def test_a_schema_that_cannot_be_strict_is_refused(schema: dict[str, Any], reason: str) -> None:
    """The error names the tool and the way out."""
    with pytest.raises(UserError, match=rf"Tool 't': .*{reason}.*strict_json_schema=False"):
        a_tool(params_json_schema=schema)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"timeout_seconds": "1"}, TypeError, "positive number in seconds or None, not '1'"),
        ({"timeout_seconds": True}, TypeError, "positive number in seconds or None, not True"),
        ({"timeout_seconds": 0}, ValueError, "greater than 0, not 0"),
        ({"timeout_seconds": -1.5}, ValueError, "greater than 0, not -1.5"),
        ({"timeout_seconds": float("inf")}, ValueError, "finite number"),
        ({"timeout_behavior": "wait"}, ValueError, "timeout_behavior must be one of .* not 'wait'"),
        ({"timeout_error_function": "x"}, TypeError, "timeout_error_function must be callable"),
    ],
)
def test_wrong_timeouts_are_refused(changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    """A UserError with the value, which is also what the SDK raises."""
    with pytest.raises(kind, match=message) as caught:
        a_tool(**changes)
    assert isinstance(caught.value, UserError)


def test_a_timeout_needs_an_async_function() -> None:
    """A thread cannot be stopped, so a plain function's tool has no timeout, however it comes about."""

    async def threaded(context: ToolContext[Any], arguments: str) -> None: ...

    ToolSource(print, in_thread=True).attach(threaded)
    tool = a_tool(on_invoke_tool=threaded)
    with pytest.raises(ValueError, match="only supported for async @function_tool handlers"):
        dataclasses.replace(tool, timeout_seconds=1)
    assert a_tool(timeout_seconds=1).timeout_seconds == 1.0


@pytest.mark.parametrize("callers", [[], ["direct", "direct"], ["someone"], "direct", ("direct",)])
def test_callers_are_direct_or_programmatic(callers: Any) -> None:
    """Anything else is refused with its value."""
    assert a_tool(allowed_callers=["programmatic", "direct"]).allowed_callers == ["programmatic", "direct"]
    with pytest.raises(UserError, match="allowed_callers must be a non-empty list"):
        a_tool(allowed_callers=callers)


def test_a_declared_output_is_a_strict_object() -> None:
    """Its schema is made strict like that of the arguments; other schemas are refused."""
    tool = a_tool(output_json_schema={"properties": {"a": {"type": "string"}}})
    assert tool.output_json_schema is not None
    assert tool.output_json_schema["required"] == ["a"]
    for wrong in ({"type": "string"}, {"type": "object", "additionalProperties": True}):
        with pytest.raises(UserError, match="output_json_schema must define a strict JSON object schema"):
            a_tool(output_json_schema=wrong)


class Holder(FunctionTool):
    """A tool that is called through its own method, with a constructor of its own."""

    def __init__(self, state: str) -> None:
        self.state = state
        super().__init__("t", "", {}, self.answer)

    async def answer(self, context: ToolContext[Any], arguments: str) -> str:
        return self.state


async def test_a_copy_is_called_with_its_own_state() -> None:
    """Copying needs no constructor, and rebinds a method of the tool itself."""
    tool = Holder("original")
    copied = copy.copy(tool)
    copied.state = "copied"
    context = ToolContext(None, tool_name="t", tool_call_id="1", tool_arguments="")
    assert await copied.on_invoke_tool(context, "") == "copied"
    assert await tool.on_invoke_tool(context, "") == "original"


def test_only_a_decorated_tool_has_a_wrapped_function() -> None:
    """Inspecting the class or a hand-written tool finds none; a replaced invoker loses it; it cannot be set."""
    tool = a_tool()
    assert not hasattr(tool, "__wrapped__")
    assert not hasattr(FunctionTool, "__wrapped__")
    assert next(iter(inspect.signature(FunctionTool).parameters)) == "name"
    with pytest.raises(AttributeError, match="cannot be set"):
        tool.__wrapped__ = print

    async def made(context: ToolContext[Any], arguments: str) -> None: ...

    tool.on_invoke_tool = ToolSource(print, in_thread=False).attach(made)
    assert tool.__wrapped__ is print
    tool.on_invoke_tool = invoke
    assert not hasattr(tool, "__wrapped__")


def test_the_default_message_quotes_the_error() -> None:
    """Arguments that are no JSON get a message of their own, with what the parser said."""
    context = ToolContext(None, tool_name="t", tool_call_id="1", tool_arguments="")
    assert default_tool_error_function(context, KeyError("city")) == (
        "An error occurred while running the tool. Please try again. Error: 'city'"
    )
    error = ModelBehaviorError("Invalid JSON input")
    error.__cause__ = json.JSONDecodeError("Expecting value", "nope", 0)
    assert default_tool_error_function(context, error) == (
        "An error occurred while parsing tool arguments. Please try again with valid JSON. "
        "Error: Expecting value: line 1 column 1 (char 0)"
    )


@pytest.mark.parametrize(
    "origin",
    [
        ToolOrigin(ToolOriginType.FUNCTION),
        ToolOrigin(ToolOriginType.MCP, mcp_server_name="files"),
        ToolOrigin(ToolOriginType.AGENT_AS_TOOL, agent_name="a", agent_tool_name="ask_a"),
    ],
)
def test_origins_survive_json(origin: ToolOrigin) -> None:
    """What is written is plain, without None, and reads as the same origin."""
    written = json.loads(json.dumps(origin.to_json_dict()))
    assert None not in written.values()
    assert ToolOrigin.from_json_dict(written) == origin


@pytest.mark.parametrize("data", [None, [], {}, {"type": "unknown"}, {"type": 5}])
def test_what_is_no_origin_is_none(data: Any) -> None:
    """Foreign data gives None instead of an error."""
    assert ToolOrigin.from_json_dict(data) is None


def test_a_tool_is_a_function_unless_it_says_otherwise() -> None:
    """The origin of a tool that nobody told is this process's function."""
    assert a_tool().origin == ToolOrigin(ToolOriginType.FUNCTION)
    origin = ToolOrigin(ToolOriginType.MCP, mcp_server_name="files")
    assert a_tool(_origin=origin).origin is origin
    assert a_tool().qualified_name == "t"


def test_a_result_has_no_interruptions_of_its_own() -> None:
    """Each result gets lists of its own."""
    tool = a_tool()
    first, second = FunctionToolResult(tool, 1, None), FunctionToolResult(tool, 2, None)
    assert first.interruptions == []
    assert first.interruptions is not second.interruptions
