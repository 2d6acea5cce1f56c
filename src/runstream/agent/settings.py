"""How a model is called: temperature, reasoning, limits, retries; and what holds when nobody says.

Owns `ModelSettings`, its merging and serialising, and the default model. Must not know models or requests.

Invariants: None means "not said", so the model's own default holds; `resolve` never changes its operands. openai is
imported only where reasoning is set.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from runstream.agent.retry import ModelRetrySettings, from_mapping, invalid_field

if TYPE_CHECKING:
    from openai import Omit
    from openai._types import Body, Query
    from openai.types.responses import ResponseIncludable
    from openai.types.responses.response_create_params import ContextManagement, PromptCacheOptions
    from openai.types.shared import Reasoning
else:
    # So that annotations resolve at run time without openai.
    Body = ContextManagement = Omit = PromptCacheOptions = Query = Reasoning = ResponseIncludable = Any

__all__ = [
    "OPENAI_DEFAULT_MODEL_ENV_VARIABLE_NAME",
    "MCPToolChoice",
    "ModelSettings",
    "ToolChoice",
    "coerce_model_settings",
    "get_default_model",
    "get_default_model_settings",
    "gpt_5_reasoning_settings_required",
    "implicit_model_settings",
    "is_gpt_5_default",
]

OPENAI_DEFAULT_MODEL_ENV_VARIABLE_NAME = "OPENAI_DEFAULT_MODEL"


@dataclass
class MCPToolChoice:
    """Makes the model call this tool of this hosted MCP server."""

    server_label: str
    name: str


ToolChoice: TypeAlias = Literal["auto", "required", "none"] | str | MCPToolChoice | None

_NOT_TRACED = {"extra_query", "extra_body", "extra_headers", "extra_args", "preserve_raw_usage"}
"""The extras may hold keys and secrets."""


@dataclass
class ModelSettings:
    """Options of a model call; a model ignores those it does not know. Dicts become the objects they describe.

    Raises TypeError for a misspelt key in such a dict, and a pydantic ValidationError for a `timeout` that is no
    positive number.
    """

    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    tool_choice: ToolChoice | None = None
    """`"auto"`, `"required"`, `"none"`, the name of a tool, or one tool of a hosted MCP server."""
    parallel_tool_calls: bool | None = None
    """Whether the model may call several tools at once."""
    truncation: Literal["auto", "disabled"] | None = None
    """What the provider does with an input that is too long: shorten it, or fail."""
    max_tokens: int | None = None
    """The longest output, in tokens."""
    reasoning: Reasoning | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    """Whether the provider keeps the response."""
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    include_usage: bool | None = None
    """Whether a Chat Completions stream ends with its usage."""
    response_include: list[ResponseIncludable | str] | None = None
    """Further data that the response shall hold, as the Responses API names it."""
    top_logprobs: int | None = None
    """How many tokens' probabilities the response shall hold at each place."""
    extra_query: Query | None = None
    extra_body: Body | None = None
    extra_headers: Mapping[str, str | Omit] | None = None
    """Headers to add to the request, or with `openai.Omit()` to leave out."""
    extra_args: dict[str, Any] | None = None
    """Arguments passed to the client's method as they are."""
    retry: ModelRetrySettings | None = None
    context_management: list[ContextManagement] | None = None
    prompt_cache_options: PromptCacheOptions | None = None
    preserve_raw_usage: bool | None = None
    """Whether `ModelResponse.raw_usage` keeps the provider's own usage."""
    timeout: float | None = None
    """Seconds that one attempt may take."""

    def __post_init__(self) -> None:
        # A field that holds a dict is typed as what it becomes.
        reasoning, tool_choice, retry = cast("tuple[Any, Any, Any]", (self.reasoning, self.tool_choice, self.retry))
        if isinstance(reasoning, Mapping):
            from openai.types.shared import Reasoning

            self.reasoning = Reasoning.model_validate(reasoning)
        if isinstance(tool_choice, Mapping):
            self.tool_choice = from_mapping(MCPToolChoice, cast("dict[str, Any]", tool_choice), "tool_choice")
        if isinstance(retry, Mapping):
            self.retry = from_mapping(ModelRetrySettings, cast("dict[str, Any]", retry), "retry")
        if self.timeout is not None:
            if not math.isfinite(self.timeout):
                raise invalid_field(type(self), "timeout", self.timeout, "finite_number")
            if self.timeout <= 0:
                raise invalid_field(type(self), "timeout", self.timeout, "greater_than", gt=0)
            self.timeout = float(self.timeout)

    def resolve(self, override: ModelSettings | dict[str, Any] | None) -> ModelSettings:
        """These settings, with every field that `override` sets in place of ours.

        `extra_args` are merged key by key, `retry` field by field. Raises TypeError for a key that is no setting.
        """
        if override is None:
            return self
        settings = coerce_model_settings(override, type(self), "ModelSettings override")
        changes = {
            entry.name: value for entry in fields(self) if (value := getattr(settings, entry.name, None)) is not None
        }
        if "extra_args" in changes:
            changes["extra_args"] = {**(self.extra_args or {}), **changes["extra_args"]} or None
        if self.retry is not None and settings.retry is not None:
            changes["retry"] = self.retry.merge(settings.retry)
        return replace(self, **changes)

    def to_json_dict(self) -> dict[str, Any]:
        """All fields as JSON values; a retry policy is left out."""
        return {entry.name: _to_json(getattr(self, entry.name)) for entry in fields(self)}

    def to_traceable_dict(self) -> dict[str, Any]:
        """The fields that may be shown in a trace, as JSON values: without the extras, which may hold secrets."""
        return {name: value for name, value in self.to_json_dict().items() if name not in _NOT_TRACED}


def coerce_model_settings(
    value: ModelSettings | dict[str, Any],
    settings_type: type[ModelSettings] = ModelSettings,
    name: str = "model_settings",
) -> ModelSettings:
    """Settings given as an object or as a dict. Raises TypeError for anything else and for unknown keys."""
    if isinstance(value, ModelSettings):
        return value
    given = cast("Any", value)
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} must be a ModelSettings instance or a dict, got {type(given).__name__}")
    return from_mapping(settings_type, cast("Mapping[str, Any]", given))


def _to_json(value: Any) -> Any:
    if isinstance(value, ModelRetrySettings):
        return value.to_json_dict()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    from openai import Omit
    from pydantic_core import to_jsonable_python

    # A header that is left out has no JSON form of its own.
    return to_jsonable_python(value, fallback=lambda other: None if isinstance(other, Omit) else str(other))


# Chat models of the family take no reasoning settings, though their names begin alike.
_GPT_5_CHAT = re.compile(r"gpt-5(\.[123])?-chat-latest")
_GPT_5_EFFORTS = {
    "gpt-5": "low",
    "gpt-5.1": "none",
    "gpt-5.2": "none",
    "gpt-5.2-codex": "low",
    "gpt-5.2-pro": "medium",
    "gpt-5.3-codex": "none",
    "gpt-5.4": "none",
    "gpt-5.4-mini": "none",
    "gpt-5.4-nano": "none",
    "gpt-5.4-pro": "medium",
    "gpt-5.5": "none",
    "gpt-5.6": "none",
    "gpt-5.6-luna": "none",
    "gpt-5.6-sol": "none",
    "gpt-5.6-terra": "none",
}
"""The effort that keeps a model quick, where it is known which ones the model accepts; dated names are cut before.

Source: the defaults of the OpenAI Agents SDK 0.24.
"""
_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")


def get_default_model() -> str:
    """The model of agents that name none: the environment's OPENAI_DEFAULT_MODEL, else that of the SDK."""
    return os.getenv(OPENAI_DEFAULT_MODEL_ENV_VARIABLE_NAME, "gpt-5.6-luna").lower()


def gpt_5_reasoning_settings_required(model_name: str) -> bool:
    """Whether the model is one of the GPT-5 family that reasons."""
    return model_name.startswith("gpt-5") and _GPT_5_CHAT.fullmatch(model_name) is None


def is_gpt_5_default() -> bool:
    """Whether the default model is one of the GPT-5 family that reasons."""
    return gpt_5_reasoning_settings_required(get_default_model())


def get_default_model_settings(model: str | None = None) -> ModelSettings:
    """New settings that suit a model, or the default one: short and quick for the GPT-5 family, else empty."""
    name = get_default_model() if model is None else model
    if not gpt_5_reasoning_settings_required(name):
        return ModelSettings()
    effort = _GPT_5_EFFORTS.get(_DATE.sub("", name))
    return ModelSettings(reasoning=cast("Any", {"effort": effort} if effort else None), verbosity="low")


def implicit_model_settings(model: object) -> ModelSettings:
    """New settings for an agent or a run that names this model (a name, a model, or None) and no settings."""
    return get_default_model_settings(model) if model is None or isinstance(model, str) else ModelSettings()
