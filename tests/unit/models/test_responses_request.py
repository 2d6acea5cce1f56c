"""models/responses_request: a request becomes the official client's arguments, and nothing that was not asked for."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from openai.types.responses import ToolParam
from openai.types.shared import Reasoning
from pydantic import BaseModel, TypeAdapter

from runstream.agent.agent import Agent
from runstream.agent.handoff import handoff
from runstream.agent.hosted_tools import (
    CodeInterpreterTool,
    FileSearchTool,
    HostedMCPTool,
    ImageGenerationTool,
    WebSearchTool,
)
from runstream.agent.model import ModelRequest
from runstream.agent.output import AgentOutputSchema, output_schema_of
from runstream.agent.settings import MCPToolChoice, ModelSettings
from runstream.agent.tool import function_tool
from runstream.errors import UserError
from runstream.models.responses_request import create_arguments, text_format_of, tool_choice_of, tool_params_of

PROMPT: Any = {"id": "pmpt_1", "version": "2", "variables": {"name": "Ada"}}


@function_tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return "sunny"


@function_tool(strict_mode=False, name_override="log")
def write_log(**values: int) -> None:
    """Write values down."""


def request(**fields: Any) -> ModelRequest:
    base = ModelRequest(None, "hi", ModelSettings(), [], None, [])
    return replace(base, **fields)


def arguments(*, stream: bool = False, model_is_explicit: bool = True, **fields: Any) -> dict[str, Any]:
    return create_arguments("gpt-test", request(**fields), stream=stream, model_is_explicit=model_is_explicit)


def with_settings(**fields: Any) -> dict[str, Any]:
    return arguments(model_settings=ModelSettings(**fields))


BASE: dict[str, Any] = {"model": "gpt-test", "input": [{"role": "user", "content": "hi"}], "tools": []}


def test_a_plain_request() -> None:
    """What is not set is not sent: the provider's defaults hold."""
    assert arguments() == BASE
    assert arguments(stream=True) == {**BASE, "stream": True}


def test_input_items_are_sent_as_they_are() -> None:
    """A list of items is sent as it is, and it stays the caller's own."""
    items: Any = [{"role": "user", "content": "hi"}, {"type": "function_call_output", "call_id": "c", "output": "x"}]
    sent = arguments(input=items)["input"]
    assert sent == items
    sent.append("more")
    assert len(items) == 2


def test_the_conversation() -> None:
    """Instructions and the provider's own history have their places."""
    assert arguments(system_instructions="Be brief.", previous_response_id="resp_1") == {
        **BASE,
        "instructions": "Be brief.",
        "previous_response_id": "resp_1",
    }
    assert arguments(conversation_id="conv_1") == {**BASE, "conversation": "conv_1"}
    assert arguments(system_instructions="")["instructions"] == ""


@pytest.mark.parametrize(
    ("name", "value", "sent_as"),
    [
        ("temperature", 0.0, "temperature"),
        ("top_p", 0.5, "top_p"),
        ("truncation", "auto", "truncation"),
        ("max_tokens", 7, "max_output_tokens"),
        ("reasoning", Reasoning(effort="low"), "reasoning"),
        ("metadata", {"a": "b"}, "metadata"),
        ("store", False, "store"),
        ("prompt_cache_retention", "24h", "prompt_cache_retention"),
        ("prompt_cache_options", {"mode": "explicit"}, "prompt_cache_options"),
        ("context_management", [{"type": "compaction"}], "context_management"),
        ("extra_query", {"q": "1"}, "extra_query"),
        ("extra_body", {"b": 1}, "extra_body"),
        ("extra_headers", {"x": "y"}, "extra_headers"),
    ],
)
def test_settings(name: str, value: Any, sent_as: str) -> None:
    """Each setting has its argument; a zero and a false are something that was said."""
    assert with_settings(**{name: value}) == {**BASE, sent_as: value}


@pytest.mark.parametrize("name", ["frequency_penalty", "presence_penalty", "include_usage", "timeout"])
def test_settings_of_other_apis_are_not_sent(name: str) -> None:
    """Settings that this API has no argument for, or that are ours, stay here."""
    assert with_settings(**{name: 1}) == BASE


def test_parallel_tool_calls() -> None:
    """They are only spoken of where there are tools, or a stored prompt that may have some."""
    settings = ModelSettings(parallel_tool_calls=False)
    assert "parallel_tool_calls" not in arguments(model_settings=settings)
    assert arguments(model_settings=settings, tools=[get_weather])["parallel_tool_calls"] is False
    assert arguments(model_settings=settings, prompt=PROMPT)["parallel_tool_calls"] is False
    assert "parallel_tool_calls" not in arguments(tools=[get_weather])


def test_extra_args_are_added() -> None:
    """Arguments that the client has and the settings have not can be passed."""
    assert with_settings(extra_args={"service_tier": "flex", "user": None}) == {
        **BASE,
        "service_tier": "flex",
        "user": None,
    }


@pytest.mark.parametrize("name", ["model", "input", "tools", "temperature"])
def test_extra_args_cannot_replace(name: str) -> None:
    """An argument that is set already is not silently replaced: TypeError names it."""
    with pytest.raises(TypeError, match=f"extra_args repeats '{name}'"):
        with_settings(temperature=0.5, extra_args={name: 1})


# Tools.

FUNCTION_PARAM = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": get_weather.params_json_schema,
    "strict": True,
}
WEB_FILTERS: Any = {"allowed_domains": ["example.org"]}
LOCATION: Any = {"type": "approximate", "city": "Zürich"}
FILE_FILTER: Any = {"type": "eq", "key": "year", "value": 2026}
CODE: Any = {"type": "code_interpreter", "container": {"type": "auto"}}
IMAGE: Any = {"type": "image_generation", "quality": "low"}
MCP: Any = {"type": "mcp", "server_label": "docs", "server_url": "https://mcp.example.org", "require_approval": "never"}

TOOLS: list[tuple[Any, dict[str, Any], list[str]]] = [
    (get_weather, FUNCTION_PARAM, []),
    (
        write_log,
        {
            "type": "function",
            "name": "log",
            "description": "Write values down.",
            "parameters": write_log.params_json_schema,
            "strict": False,
        },
        [],
    ),
    (WebSearchTool(), {"type": "web_search", "search_context_size": "medium"}, []),
    (
        WebSearchTool(LOCATION, WEB_FILTERS, "low", False),
        {
            "type": "web_search",
            "search_context_size": "low",
            "filters": WEB_FILTERS,
            "user_location": LOCATION,
            "external_web_access": False,
        },
        [],
    ),
    (FileSearchTool(["vs_1"]), {"type": "file_search", "vector_store_ids": ["vs_1"]}, []),
    (FileSearchTool(["vs_1"], 0), {"type": "file_search", "vector_store_ids": ["vs_1"]}, []),
    (
        FileSearchTool(["vs_1"], 3, True, {"ranker": "auto"}, FILE_FILTER),
        {
            "type": "file_search",
            "vector_store_ids": ["vs_1"],
            "max_num_results": 3,
            "ranking_options": {"ranker": "auto"},
            "filters": FILE_FILTER,
        },
        ["file_search_call.results"],
    ),
    (CodeInterpreterTool(CODE), CODE, []),
    (ImageGenerationTool(IMAGE), IMAGE, []),
    (HostedMCPTool(MCP), MCP, []),
]
OFFICIAL: TypeAdapter[Any] = TypeAdapter(ToolParam)


@pytest.mark.parametrize("index", range(len(TOOLS)), ids=lambda index: type(TOOLS[index][0]).__name__)
def test_tools_of_each_kind(index: int) -> None:
    """Each kind of tool has the form that the official types describe, and says what the response must include."""
    tool, param, include = TOOLS[index]
    assert tool_params_of([tool], []) == ([param], include)
    OFFICIAL.validate_python(copy.deepcopy(param))


@pytest.mark.parametrize("limit", [-1, 51, "3", 2.0, True])
def test_a_limit_of_results_that_the_api_does_not_take(limit: Any) -> None:
    """A number of results out of range is refused before any request."""
    with pytest.raises(UserError, match="max_num_results must be"):
        tool_params_of([FileSearchTool(["vs_1"], limit)], [])


def test_images_found_on_the_web_are_included() -> None:
    """A search for images asks for its results, which the response does not hold otherwise."""
    tool = WebSearchTool(search_content_types=["text", "image"])
    assert tool_params_of([tool], []) == (
        [{"type": "web_search", "search_context_size": "medium", "search_content_types": ["text", "image"]}],
        ["web_search_call.results"],
    )
    assert tool_params_of([WebSearchTool(search_content_types=["text"])], [])[1] == []


def test_tools_come_in_order_and_handoffs_after_them() -> None:
    """The order is the agent's; a handoff is a function whose arguments are the handoff's input."""
    target = Agent(name="Billing Desk", handoff_description="Money matters.")
    params, include = tool_params_of([tool for tool, _, _ in TOOLS], [handoff(target)])
    assert params[:-1] == [param for _, param, _ in TOOLS]
    assert include == ["file_search_call.results"]
    assert params[-1] == {
        "type": "function",
        "name": "transfer_to_billing_desk",
        "description": "Handoff to the Billing Desk agent to handle the request. Money matters.",
        "parameters": {"additionalProperties": False, "type": "object", "properties": {}, "required": []},
        "strict": True,
    }


def test_a_tool_of_another_kind_is_refused() -> None:
    """What this API has no form for raises UserError before any request."""

    class Odd:
        name = "odd"

    with pytest.raises(UserError, match="no form for a tool of the type Odd"):
        tool_params_of([Odd()], [])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (None, None),
        ("auto", "auto"),
        ("required", "required"),
        ("none", "none"),
        ("get_weather", {"type": "function", "name": "get_weather"}),
        ("file_search", {"type": "file_search"}),
        ("web_search", {"type": "web_search"}),
        ("web_search_preview", {"type": "web_search_preview"}),
        ("image_generation", {"type": "image_generation"}),
        ("code_interpreter", {"type": "code_interpreter"}),
        ("computer_use_preview", {"type": "computer_use_preview"}),
        ("mcp", {"type": "mcp"}),
        (MCPToolChoice("docs", "search"), {"type": "mcp", "server_label": "docs", "name": "search"}),
    ],
)
def test_tool_choices(choice: Any, sent: Any) -> None:
    """A mode, one of the provider's tools, a tool of a hosted MCP server, or one of our functions by its name."""
    assert tool_choice_of(choice) == sent
    settings = ModelSettings(tool_choice=choice)
    assert arguments(model_settings=settings, tools=[get_weather]).get("tool_choice") == sent


def test_a_function_that_is_named_like_a_hosted_tool() -> None:
    """Such a name means our function, unless the provider's tool is there as well."""
    ours = function_tool(lambda: "x", name_override="web_search", description_override="x")
    assert tool_choice_of("web_search", [ours]) == {"type": "function", "name": "web_search"}
    assert tool_choice_of("web_search", [ours, WebSearchTool()]) == {"type": "web_search"}
    assert tool_choice_of("web_search", [WebSearchTool()]) == {"type": "web_search"}


@pytest.mark.parametrize("choice", [3, [], True, object()])
def test_other_tool_choices_are_refused(choice: Any) -> None:
    """A choice that is none raises UserError, which names it."""
    with pytest.raises(UserError, match="tool_choice must be a mode"):
        tool_choice_of(choice)


def test_a_choice_of_a_tool_needs_tools() -> None:
    """Where there is no tool, a mode may still be sent, but no choice of one."""
    assert with_settings(tool_choice="required")["tool_choice"] == "required"
    assert "tool_choice" not in with_settings(tool_choice="get_weather")


# Output.


class _Answer(BaseModel):
    text: str


def test_the_output_schema() -> None:
    """An output type is asked for by its JSON schema, strict or not."""
    schema = AgentOutputSchema(_Answer)
    assert text_format_of(schema, ModelSettings()) == {
        "format": {"type": "json_schema", "name": "final_output", "schema": schema.json_schema(), "strict": True}
    }
    loose: Any = text_format_of(AgentOutputSchema(dict[str, int], strict_json_schema=False), ModelSettings())
    assert loose["format"]["strict"] is False
    assert arguments(output_schema=schema)["text"] == text_format_of(schema, ModelSettings())


def test_text_and_verbosity() -> None:
    """Plain text has no format; the verbosity goes beside it."""
    assert text_format_of(None, ModelSettings()) is None
    assert text_format_of(AgentOutputSchema(str), ModelSettings()) is None
    assert text_format_of(None, ModelSettings(verbosity="low")) == {"verbosity": "low"}
    both: Any = text_format_of(output_schema_of(list[int]), ModelSettings(verbosity="high"))
    assert set(both) == {"format", "verbosity"}


def test_include() -> None:
    """What the tools, the settings and the probabilities need is asked for, each thing once."""
    search = FileSearchTool(["vs_1"], include_search_results=True)
    settings = ModelSettings(
        response_include=["reasoning.encrypted_content", "file_search_call.results"], top_logprobs=3
    )
    sent = arguments(tools=[search], model_settings=settings)
    assert sent["include"] == [
        "file_search_call.results",
        "reasoning.encrypted_content",
        "message.output_text.logprobs",
    ]
    assert sent["top_logprobs"] == 3
    assert settings.response_include == ["reasoning.encrypted_content", "file_search_call.results"]
    assert with_settings(top_logprobs=0)["include"] == ["message.output_text.logprobs"]


# Stored prompts.


def test_a_stored_prompt_names_model_and_tools_itself() -> None:
    """With a stored prompt neither tools nor a model that nobody chose are sent: they would replace the prompt's."""
    sent = arguments(prompt=PROMPT, model_is_explicit=False)
    assert sent == {"input": BASE["input"], "prompt": PROMPT}
    assert arguments(prompt=PROMPT) == {**sent, "model": "gpt-test"}
    assert arguments(model_is_explicit=False) == BASE
    assert arguments(prompt=PROMPT, tools=[get_weather])["tools"] == [FUNCTION_PARAM]
