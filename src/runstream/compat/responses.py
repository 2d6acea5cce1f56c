"""The SDK's inner helper of the Responses API, as thin calls into ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runstream.agent.settings import ModelSettings
from runstream.models.responses_request import text_format_of, tool_choice_of, tool_params_of

if TYPE_CHECKING:
    from runstream.agent.handoff import Handoff
    from runstream.agent.output import AgentOutputSchemaBase
    from runstream.agent.tool import Tool

__all__ = ["ConvertedTools", "Converter"]


@dataclass
class ConvertedTools:
    """Tools as the API takes them, and what the response must include for them."""

    tools: list[dict[str, Any]]
    includes: list[Any]


class Converter:
    """From declarations to arguments of the Responses API."""

    @classmethod
    def convert_tools(
        cls,
        tools: Sequence[Tool],
        handoffs: Sequence[Handoff[Any, Any]],
        *,
        allow_opaque_tool_search_surface: bool = False,
        model: str | None = None,
        tool_choice: Any = None,
    ) -> ConvertedTools:
        """The tools and handoffs. The keyword arguments change nothing here."""
        return ConvertedTools(*tool_params_of(tools, handoffs))

    @classmethod
    def convert_tool_choice(
        cls,
        tool_choice: Any,
        *,
        tools: Sequence[Tool] | None = None,
        handoffs: Sequence[Handoff[Any, Any]] | None = None,
        model: str | None = None,
    ) -> Any:
        """The `tool_choice` argument, or the client's `omit`. `model` changes nothing here."""
        return _or_omit(tool_choice_of(tool_choice, tools or (), handoffs or ()))

    @classmethod
    def get_response_format(cls, output_schema: AgentOutputSchemaBase | None) -> Any:
        """The `text` argument, or the client's `omit`."""
        return _or_omit(text_format_of(output_schema, ModelSettings()))


def _or_omit(value: Any) -> Any:
    from openai import omit

    return omit if value is None else value
