"""A `ModelRequest` as the keyword arguments of the official client's `chat.completions.create`. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runstream.agent.settings import MCPToolChoice
from runstream.agent.tool import FunctionTool, Tool
from runstream.errors import UserError
from runstream.models.chat_messages import ShouldReplayReasoningContent, to_messages
from runstream.models.defaults import is_official_openai_base_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runstream.agent.handoff import Handoff
    from runstream.agent.model import ModelRequest
    from runstream.agent.output import AgentOutputSchemaBase

__all__ = ["create_arguments", "handoff_param_of", "response_format_of", "tool_choice_of", "tool_param_of"]

# Settings that are sent under their own name.
_SAME_NAME = (
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "max_tokens",
    "verbosity",
    "metadata",
    "top_logprobs",
    "prompt_cache_retention",
    "prompt_cache_options",
    "extra_headers",
    "extra_query",
    "extra_body",
)


def create_arguments(
    model: str,
    request: ModelRequest,
    *,
    stream: bool,
    base_url: str | None = None,
    should_replay_reasoning_content: ShouldReplayReasoningContent | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """The arguments; what is not set is left out.

    A stream asks for its usage unless `include_usage` says otherwise. OpenAI itself is asked to store the completion,
    as its Responses API does, unless `store` says otherwise; other servers are not. Raises UserError for what this API
    cannot express, and TypeError where `extra_args` repeats an argument that is set already.
    """
    _check_expressible(request, strict=strict)
    settings = request.model_settings
    messages = to_messages(
        request.input,
        model=model,
        base_url=base_url,
        should_replay_reasoning_content=should_replay_reasoning_content,
        strict=strict,
    )
    if request.system_instructions:
        messages.insert(0, {"role": "system", "content": request.system_instructions})
    tools = _tool_params_of(request.tools, request.handoffs)
    is_openai = base_url is not None and is_official_openai_base_url(base_url)
    optional: dict[str, Any] = {
        **{name: getattr(settings, name) for name in _SAME_NAME},
        "store": True if settings.store is None and is_openai else settings.store,
        "reasoning_effort": settings.reasoning.effort if settings.reasoning is not None else None,
        "response_format": response_format_of(request.output_schema),
    }
    if tools:
        optional["tools"] = tools
        optional["tool_choice"] = tool_choice_of(settings.tool_choice)
        optional["parallel_tool_calls"] = settings.parallel_tool_calls
    if stream:
        optional["stream_options"] = {"include_usage": settings.include_usage is not False}
    arguments: dict[str, Any] = {"model": model, "messages": messages, "stream": stream}
    arguments |= {name: value for name, value in optional.items() if value is not None}
    extra = settings.extra_args or {}
    for name in extra:
        if name in arguments:
            raise TypeError(
                f"chat.completions.create() got multiple values for {name!r}: ModelSettings.extra_args repeats it"
            )
    # The API wants both; whoever gives `logprobs` as well means it.
    return ({"logprobs": True} if settings.top_logprobs is not None else {}) | arguments | extra


def _check_expressible(request: ModelRequest, *, strict: bool) -> None:
    for name in ("previous_response_id", "conversation_id", "prompt"):
        value = getattr(request, name)
        if value is not None:
            raise UserError(
                f"the Chat Completions API has no {name} (got {value!r:.200}): it keeps nothing between calls. Pass "
                "the whole conversation as input (result.to_input_list(), or a session), or use a Responses model."
            )
    reasoning = request.model_settings.reasoning
    if strict and reasoning is not None:
        for name in ("mode", "context"):
            if getattr(reasoning, name, None) is not None:
                raise UserError(f"the Chat Completions API has no reasoning.{name}: it knows reasoning.effort only")


def _tool_params_of(tools: Sequence[Tool], handoffs: Sequence[Handoff[Any, Any]]) -> list[dict[str, Any]]:
    return [*map(tool_param_of, tools), *map(handoff_param_of, handoffs)]


def tool_param_of(tool: Tool) -> dict[str, Any]:
    """A function tool as the API takes it. Raises UserError for hosted tools and for options of the Responses API."""
    if not isinstance(tool, FunctionTool):
        raise UserError(
            f"Hosted tools are not supported with the ChatCompletions API, got {type(tool).__name__}: {tool!r:.200}. "
            "Use a Responses model, or a function tool."
        )
    responses_only = [
        f"{name}={value!r}"
        for name, value, default in (
            ("defer_loading", tool.defer_loading, False),
            ("allowed_callers", tool.allowed_callers, ["direct"]),
        )
        if value and value != default
    ]
    if responses_only:
        raise UserError(
            f"Tool {tool.name!r}: {', '.join(responses_only)} is only supported with OpenAI Responses models, not with "
            "Chat Completions."
        )
    return _function(tool.name, tool.description or "", tool.params_json_schema, tool.strict_json_schema)


def handoff_param_of(handoff: Handoff[Any, Any]) -> dict[str, Any]:
    """A handoff as the tool that the model calls to make it."""
    return _function(handoff.tool_name, handoff.tool_description, handoff.input_json_schema, handoff.strict_json_schema)


def _function(name: str, description: str, parameters: dict[str, Any], strict: bool) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters, "strict": strict},
    }


def tool_choice_of(choice: Any) -> str | dict[str, Any] | None:
    """The `tool_choice` argument: a mode, or a function by its name. Raises UserError for hosted tools."""
    if choice is None or choice in ("auto", "required", "none"):
        return choice
    if isinstance(choice, MCPToolChoice) or choice == "programmatic_tool_calling" or not isinstance(choice, str):
        raise UserError(
            f"tool_choice={choice!r} is not supported for Chat Completions models: it must be 'auto', 'required', "
            "'none' or the name of a function tool"
        )
    return {"type": "function", "function": {"name": choice}}


def response_format_of(schema: AgentOutputSchemaBase | None) -> dict[str, Any] | None:
    """The `response_format` argument: the output's JSON schema, or None for plain text."""
    if schema is None or schema.is_plain_text():
        return None
    return {
        "type": "json_schema",
        "json_schema": {
            "name": "final_output",
            "strict": schema.is_strict_json_schema(),
            "schema": schema.json_schema(),
        },
    }
