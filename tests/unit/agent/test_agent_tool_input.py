"""agent/agent_tool_input: what an agent is told of the arguments of its call."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runstream.agent.agent_tool_input import (
    StructuredInputSchemaInfo,
    build_structured_input_schema_info,
    resolve_agent_tool_input,
)


def summary_of(properties: Any, **more: Any) -> str | None:
    schema: dict[str, Any] = {"type": "object", "properties": properties, **more}
    return build_structured_input_schema_info(schema, include_json_schema=False).summary


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"input": "hello"}, "hello"),
        ({"input": 3}, '{"input": 3}'),
        ({"input": "hello", "to": "you"}, '{"input": "hello", "to": "you"}'),
        ({"a": [1]}, '{"a": [1]}'),
    ],
)
async def test_without_a_builder(params: Any, told: str) -> None:
    """The one argument `input` is the input; any others are JSON."""
    assert await resolve_agent_tool_input(params=params) == told


async def test_with_what_is_known_of_the_fields() -> None:
    """The data comes with the schema, or with the summary; both say that they are data."""
    told = await resolve_agent_tool_input(
        params={"a": 1}, schema_info=StructuredInputSchemaInfo(summary="- a (integer, required)")
    )
    assert '"a": 1' in told
    assert "## Input Schema Summary:\n- a (integer, required)" in told
    schema = {"type": "object"}
    told = await resolve_agent_tool_input(params={}, schema_info=StructuredInputSchemaInfo("summary", schema))
    assert json.dumps(schema, indent=2) in told
    assert "Summary" not in told


async def test_builders_may_be_async() -> None:
    """A builder gets the arguments and what is known of them; plain or async."""
    seen: list[Any] = []

    async def build(options: Any) -> str:
        seen.append(dict(options))
        return "built"

    assert await resolve_agent_tool_input(params={"a": 1}, input_builder=build) == "built"
    assert seen == [{"params": {"a": 1}, "summary": None, "json_schema": None}]


def test_the_summary() -> None:
    """One line for each field: name, type, whether it is required, and what it is about."""
    properties = {
        "city": {"type": "string", "description": "Where to."},
        "days": {"type": ["integer", "null"]},
        "mode": {"enum": ["a", "b", "c", "d", "e", "f"]},
        "kind": {"const": "trip"},
    }
    assert summary_of(properties, required=["city"], description="A trip.") == (
        "Description: A trip.\n"
        "- city (string, required) - Where to.\n"
        "- days (integer | null, optional)\n"
        '- mode (enum("a" | "b" | "c" | "d" | "e" | ...), optional)\n'
        '- kind (literal("trip"), optional)'
    )


@pytest.mark.parametrize(
    "properties",
    [
        {"a": {"type": "string"}},  # nothing is described
        {"a": {"type": "object", "properties": {}, "description": "Deep."}},
        {"a": {"type": "array", "items": {}, "description": "Many."}},
        {"a": {"anyOf": [], "description": "Either."}},
        {"a": {"type": ["integer", "string"], "description": "Both."}},
        {"a": {"type": "array", "description": "Of what?"}},
        {"a": {"description": "Anything."}},
        {"a": True},
        [],
    ],
)
def test_no_summary(properties: Any) -> None:
    """Where nothing is described, or a field is too deep for a line, there is none."""
    assert summary_of(properties) is None


def test_the_schema_on_request() -> None:
    """It is included as it is; without a schema there is nothing."""
    schema = {"type": "object", "properties": {}}
    assert build_structured_input_schema_info(schema, include_json_schema=True).json_schema == schema
    assert build_structured_input_schema_info(None, include_json_schema=True) == StructuredInputSchemaInfo()
