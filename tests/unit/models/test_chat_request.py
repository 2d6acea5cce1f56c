"""A model request as the arguments of `chat.completions.create`."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.shared import Reasoning

from runstream.agent.agent import Agent
from runstream.agent.handoff import handoff
from runstream.agent.model import ModelRequest
from runstream.agent.output import AgentOutputSchema
from runstream.agent.settings import MCPToolChoice, ModelSettings
from runstream.agent.tool import WebSearchTool, function_tool
from runstream.errors import UserError
from runstream.models.chat_request import create_arguments, response_format_of, tool_choice_of, tool_param_of


@function_tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def request(**fields: Any) -> ModelRequest:
    """A request that asks "hi", with these fields."""
    defaults: dict[str, Any] = {
        "system_instructions": None,
        "input": "hi",
        "model_settings": ModelSettings(),
        "tools": [],
        "output_schema": None,
        "handoffs": [],
    }
    return ModelRequest(**{**defaults, **fields})


def arguments(
    *, stream: bool = False, base_url: str | None = None, strict: bool = False, **fields: Any
) -> dict[str, Any]:
    """The arguments of such a request."""
    return create_arguments("m", request(**fields), stream=stream, base_url=base_url, strict=strict)


def test_least_request() -> None:
    """What is not set is left out."""
    assert arguments() == {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": False}


def test_system_instructions_come_first() -> None:
    """Instructions are the first message."""
    assert arguments(system_instructions="be brief")["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
    ]


def test_settings() -> None:
    """Settings go under the API's names."""
    settings = ModelSettings(
        temperature=0.0,
        top_p=0.5,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        max_tokens=7,
        reasoning=Reasoning(effort="low"),
        verbosity="low",
        metadata={"k": "v"},
        store=False,
        top_logprobs=2,
        prompt_cache_retention="24h",
        prompt_cache_options={"mode": "explicit"},
        extra_headers={"x-h": "1"},
        extra_query={"q": "1"},
        extra_body={"b": 1},
        extra_args={"stop": ["\n"], "seed": 1},
    )
    sent = arguments(model_settings=settings)
    assert sent == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": False,
        "temperature": 0.0,
        "top_p": 0.5,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        "max_tokens": 7,
        "reasoning_effort": "low",
        "verbosity": "low",
        "metadata": {"k": "v"},
        "store": False,
        "logprobs": True,
        "top_logprobs": 2,
        "prompt_cache_retention": "24h",
        "prompt_cache_options": {"mode": "explicit"},
        "extra_headers": {"x-h": "1"},
        "extra_query": {"q": "1"},
        "extra_body": {"b": 1},
        "stop": ["\n"],
        "seed": 1,
    }


def test_usage_is_asked_for() -> None:
    """A stream asks for its usage unless it is told not to; a whole answer has it anyway."""
    assert arguments(stream=True)["stream_options"] == {"include_usage": True}
    assert arguments(stream=True, model_settings=ModelSettings(include_usage=False))["stream_options"] == {
        "include_usage": False
    }
    assert "stream_options" not in arguments()


def test_only_openai_stores_by_default() -> None:
    """OpenAI keeps completions as it keeps responses; other servers do not know the argument."""
    openai = "https://api.openai.com/v1/"
    assert arguments(base_url=openai)["store"] is True
    assert arguments(base_url=openai, model_settings=ModelSettings(store=False))["store"] is False
    assert "store" not in arguments(base_url="http://localhost:8000/v1")


def test_extra_args() -> None:
    """Extra arguments may replace what follows from others, but not what is set."""
    settings = ModelSettings(top_logprobs=1, extra_args={"logprobs": False})
    assert arguments(model_settings=settings)["logprobs"] is False
    with pytest.raises(TypeError, match="multiple values for 'temperature'"):
        arguments(model_settings=ModelSettings(temperature=1.0, extra_args={"temperature": 0}))


def test_tools_and_handoffs() -> None:
    """Function tools and handoffs are functions; what concerns tools is sent only with them."""
    settings = ModelSettings(tool_choice="required", parallel_tool_calls=False)
    sent = arguments(tools=[add], handoffs=[handoff(Agent(name="Billing"))], model_settings=settings)
    first, second = sent["tools"]
    assert first["type"] == "function"
    assert first["function"]["name"] == "add"
    assert first["function"]["description"] == "Add two numbers."
    assert first["function"]["strict"] is True
    assert set(first["function"]["parameters"]["properties"]) == {"a", "b"}
    assert second["function"]["name"] == "transfer_to_billing"
    assert (sent["tool_choice"], sent["parallel_tool_calls"]) == ("required", False)
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & arguments(model_settings=settings).keys()


def test_hosted_tools_are_refused() -> None:
    """Tools that the provider runs need the other API, and the error says so."""
    with pytest.raises(UserError, match=r"Hosted tools are not supported.*WebSearchTool"):
        arguments(tools=[WebSearchTool()])


def test_options_of_the_other_api_are_refused() -> None:
    """A tool that asks for what only the Responses API does is an error that names it."""
    deferred = function_tool(lambda: "x", name_override="late", defer_loading=True)
    with pytest.raises(UserError, match="defer_loading=True is only supported with OpenAI Responses models"):
        tool_param_of(deferred)


def test_tool_choice() -> None:
    """A mode, or a function by its name; hosted tools cannot be chosen."""
    assert tool_choice_of(None) is None
    assert tool_choice_of("auto") == "auto"
    assert tool_choice_of("add") == {"type": "function", "function": {"name": "add"}}
    for choice in (MCPToolChoice(server_label="s", name="n"), "programmatic_tool_calling", 7):
        with pytest.raises(UserError, match="is not supported for Chat Completions models"):
            tool_choice_of(choice)


def test_response_format() -> None:
    """A typed output is asked for by its JSON schema; text needs none."""
    schema = AgentOutputSchema(int)
    assert response_format_of(schema) == {
        "type": "json_schema",
        "json_schema": {"name": "final_output", "strict": True, "schema": schema.json_schema()},
    }
    assert response_format_of(AgentOutputSchema(str)) is None
    assert arguments(output_schema=schema)["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize("field", ["previous_response_id", "conversation_id", "prompt"])
def test_state_of_the_provider_is_refused(field: str) -> None:
    """This API keeps nothing between calls: relying on it would lose the conversation silently."""
    with pytest.raises(UserError, match=f"has no {field}"):
        arguments(**{field: "x"})


def test_reasoning_mode_is_refused_if_strict() -> None:
    """Only the effort of reasoning is known here."""
    settings = ModelSettings(reasoning=Reasoning.model_construct(effort="low", mode="pro"))
    assert arguments(model_settings=settings)["reasoning_effort"] == "low"
    with pytest.raises(UserError, match=r"no reasoning\.mode"):
        arguments(model_settings=settings, strict=True)
