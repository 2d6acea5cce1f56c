"""A `ModelRequest` as the keyword arguments of the official client's `responses.create`. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

from runstream.agent.handoff import Handoff
from runstream.agent.hosted_tools import (
    CodeInterpreterTool,
    FileSearchTool,
    HostedMCPTool,
    ImageGenerationTool,
    WebSearchTool,
)
from runstream.agent.item_helpers import ItemHelpers
from runstream.agent.model import ModelRequest
from runstream.agent.output import AgentOutputSchemaBase
from runstream.agent.settings import MCPToolChoice, ModelSettings
from runstream.agent.tool import FunctionTool, Tool
from runstream.errors import UserError

__all__ = ["create_arguments", "text_format_of", "tool_choice_of", "tool_params_of"]

# A tool choice of one of these names means the provider's tool, not a function of ours.
_HOSTED_CHOICES = frozenset(
    (
        "file_search",
        "web_search",
        "web_search_preview",
        "computer",
        "computer_use_preview",
        "image_generation",
        "code_interpreter",
        "mcp",
    )
)
# Settings that are sent under their own name.
_SAME_NAME = (
    "temperature",
    "top_p",
    "truncation",
    "store",
    "prompt_cache_retention",
    "prompt_cache_options",
    "reasoning",
    "metadata",
    "context_management",
)


def create_arguments(
    model: str, request: ModelRequest, *, stream: bool, model_is_explicit: bool = True
) -> dict[str, Any]:
    """The arguments; what is not set is left out. Raises UserError for tools that this API does not have, TypeError
    where `extra_args` repeats an argument that is set already."""
    settings = request.model_settings
    arguments: dict[str, Any] = {"input": ItemHelpers.input_to_new_input_list(request.input)}
    if request.prompt is None or model_is_explicit:
        arguments["model"] = model
    if stream:
        arguments["stream"] = True
    for name, value in (
        ("instructions", request.system_instructions),
        ("previous_response_id", request.previous_response_id),
        ("conversation", request.conversation_id),
        ("prompt", request.prompt),
        ("max_output_tokens", settings.max_tokens),
        ("extra_headers", settings.extra_headers),
        ("extra_query", settings.extra_query),
        ("extra_body", settings.extra_body),
        *((name, getattr(settings, name)) for name in _SAME_NAME),
    ):
        if value is not None:
            arguments[name] = value
    tools, include = tool_params_of(request.tools, request.handoffs)
    if tools or request.prompt is None:
        arguments["tools"] = tools
    if settings.parallel_tool_calls is not None and (tools or request.prompt is not None):
        arguments["parallel_tool_calls"] = settings.parallel_tool_calls
    choice = tool_choice_of(settings.tool_choice, request.tools, request.handoffs)
    if choice is not None and (tools or isinstance(choice, str)):
        arguments["tool_choice"] = choice
    text = text_format_of(request.output_schema, settings)
    if text is not None:
        arguments["text"] = text
    include += settings.response_include or []
    if settings.top_logprobs is not None:
        arguments["top_logprobs"] = settings.top_logprobs
        include.append("message.output_text.logprobs")
    if include:
        arguments["include"] = list(dict.fromkeys(include))
    for name, value in (settings.extra_args or {}).items():
        if name in arguments:
            raise TypeError(f"ModelSettings.extra_args repeats {name!r}, which responses.create() gets already")
        arguments[name] = value
    return arguments


def tool_params_of(
    tools: Sequence[Tool], handoffs: Sequence[Handoff[Any, Any]]
) -> tuple[list[dict[str, Any]], list[Any]]:
    """The tools as the API takes them, and what the response must include for them."""
    params: list[dict[str, Any]] = []
    include: list[Any] = []
    for tool in tools:
        param, wanted = _tool_param(tool)
        params.append(param)
        include += wanted
    for handoff in handoffs:
        params.append(
            {
                "type": "function",
                "name": handoff.tool_name,
                "description": handoff.tool_description,
                "parameters": handoff.input_json_schema,
                "strict": handoff.strict_json_schema,
            }
        )
    return params, include


def _tool_param(tool: Tool) -> tuple[dict[str, Any], list[Any]]:
    if isinstance(tool, FunctionTool):
        param: dict[str, Any] = {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.params_json_schema,
            "strict": tool.strict_json_schema,
        }
        return param, []
    if isinstance(tool, WebSearchTool):
        param = {"type": "web_search", "search_context_size": tool.search_context_size}
        filters = tool.filters
        optional = {
            "filters": None if filters is None else filters.model_dump(exclude_none=True),
            "user_location": tool.user_location,
            "external_web_access": tool.external_web_access,
            "search_content_types": tool.search_content_types,
            "image_settings": tool.image_settings,
        }
        param.update({name: value for name, value in optional.items() if value is not None})
        return param, ["web_search_call.results"] if "image" in (tool.search_content_types or ()) else []
    if isinstance(tool, FileSearchTool):
        limit = cast("Any", tool.max_num_results)
        if limit is not None and (type(limit) is not int or not 0 <= limit <= 50):
            raise UserError(
                f"FileSearchTool: max_num_results must be zero, an integer between 1 and 50, or None, not {limit!r}"
            )
        param = {"type": "file_search", "vector_store_ids": tool.vector_store_ids}
        optional = {
            "max_num_results": tool.max_num_results or None,
            "ranking_options": tool.ranking_options,
            "filters": tool.filters,
        }
        param.update({name: value for name, value in optional.items() if value is not None})
        return param, ["file_search_call.results"] if tool.include_search_results else []
    if isinstance(tool, CodeInterpreterTool | ImageGenerationTool | HostedMCPTool):
        return cast("dict[str, Any]", tool.tool_config), []
    raise UserError(f"the Responses API has no form for a tool of the type {type(tool).__name__}: {tool!r:.100}")


def tool_choice_of(
    choice: Any, tools: Sequence[Tool] = (), handoffs: Sequence[Handoff[Any, Any]] = ()
) -> str | dict[str, Any] | None:
    """The `tool_choice` argument: a mode, one of the provider's tools, a hosted MCP tool, or a function by its name.

    A function among `tools` and `handoffs` that is named like a tool of the provider is meant where that is not there.
    """
    if choice is None or choice in ("auto", "required", "none"):
        return choice
    if isinstance(choice, MCPToolChoice):
        return {"type": "mcp", **dataclasses.asdict(choice)}
    if isinstance(choice, str):
        hosted = {tool.name for tool in tools if not isinstance(tool, FunctionTool)}
        ours = {tool.name for tool in tools if isinstance(tool, FunctionTool)}
        ours.update(handoff.tool_name for handoff in handoffs)
        is_hosted = choice in _HOSTED_CHOICES and (choice in hosted or choice not in ours)
        return {"type": choice} if is_hosted else {"type": "function", "name": choice}
    raise UserError(f"tool_choice must be a mode, the name of a tool or an MCPToolChoice, not {choice!r}")


def text_format_of(schema: AgentOutputSchemaBase | None, settings: ModelSettings) -> dict[str, Any] | None:
    """The `text` argument: the output's JSON schema and the verbosity."""
    text: dict[str, Any] = {}
    if schema is not None and not schema.is_plain_text():
        text["format"] = {
            "type": "json_schema",
            "name": "final_output",
            "schema": schema.json_schema(),
            "strict": schema.is_strict_json_schema(),
        }
    if settings.verbosity is not None:
        text["verbosity"] = settings.verbosity
    return text or None
