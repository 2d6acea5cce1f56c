"""The SDK's module of decorators, in which `function_tool` has the shorter name `tool` as well."""

from __future__ import annotations

from runstream.agent.guardrail import input_guardrail, output_guardrail, tool_input_guardrail, tool_output_guardrail
from runstream.agent.tool import function_tool

__all__ = [
    "function_tool",
    "input_guardrail",
    "output_guardrail",
    "tool",
    "tool_input_guardrail",
    "tool_output_guardrail",
]

tool = function_tool
