"""The declaration of an agent: what it checks, and the settings that follow its model."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest

from runstream import Agent, Handoff, ModelSettings, RunContextWrapper, UserError, function_tool, handoff
from runstream.agent.hooks import AgentHooks
from runstream.agent.settings import get_default_model_settings
from runstream.testing import ScriptedModel

CONTEXT: RunContextWrapper[Any] = RunContextWrapper(None)


@function_tool
def ping() -> str:
    return "pong"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", 1, "Agent name must be a string, got int"),
        ("name", None, "Agent name must be a string, got NoneType"),
        ("handoff_description", 1, "Agent handoff_description must be a string or None, got int"),
        ("tools", "no list", "Agent tools must be a list, got str"),
        ("handoffs", (), "Agent handoffs must be a list, got tuple"),
        ("input_guardrails", {}, "Agent input_guardrails must be a list"),
        ("output_guardrails", None, "Agent output_guardrails must be a list"),
        ("mcp_servers", 1, "Agent mcp_servers must be a list"),
        ("instructions", 1, "Agent instructions must be a string, callable, or None, got int"),
        ("model", 1, "Agent model must be a name, a Model, or None, got int"),
        ("model_settings", "hot", "Agent model_settings must be a ModelSettings instance or a dict"),
        ("model_settings", {"temperatur": 1}, "Unknown model settings: temperatur"),
        ("hooks", "no hooks", "Agent hooks must be an AgentHooks instance or None, got str"),
        ("tool_use_behavior", 123, "Agent tool_use_behavior must be"),
    ],
)
def test_a_field_of_the_wrong_type_is_refused(field: str, value: Any, message: str) -> None:
    """Construction fails with the field, what it takes and what it got."""
    with pytest.raises(TypeError, match=message):
        Agent(**{"name": "Ann", field: value})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tools", [Agent(name="Bob")], "has the agent 'Bob' among its tools"),
        ("tools", [len], "the plain function 'len'.*@function_tool"),
        ("handoffs", ["Bob"], "'Bob' among its handoffs"),
    ],
)
def test_tools_and_handoffs_that_are_none_are_refused(field: str, value: Any, message: str) -> None:
    """The message says what to do about them."""
    with pytest.raises(UserError, match=message):
        Agent(**{"name": "Ann", field: value})


def test_what_an_agent_takes() -> None:
    """Settings may be a dict; tools, handoffs, hooks and behaviours of every kind are taken as they are."""
    other: Handoff[Any, Any] = handoff(Agent(name="Bob"))
    hooks: Any = AgentHooks()
    stop: Any = {"stop_at_tool_names": ["ping"]}
    agent = Agent(
        name="Ann",
        tools=[ping],
        handoffs=[Agent(name="Cy"), other],
        hooks=hooks,
        tool_use_behavior=stop,
        model_settings={"temperature": 0.25},  # type: ignore[arg-type]
    )
    assert (agent.hooks, agent.tool_use_behavior, agent.model_settings.temperature) == (hooks, stop, 0.25)


# Settings that nobody chose


@pytest.mark.parametrize("name", ["gpt-5", "gpt-5.4-mini", "gpt-4.1"])
def test_settings_follow_the_name_of_the_model(name: str) -> None:
    """Where no settings are given they are those that suit the model, not those of the default model."""
    assert Agent(name="Ann", model=name).model_settings == get_default_model_settings(name)
    assert Agent(name="Ann").model_settings == get_default_model_settings()


def test_a_model_of_the_programs_own_gets_no_settings() -> None:
    """Nobody knows what suits an object."""
    assert Agent(name="Ann", model=ScriptedModel()).model_settings == ModelSettings()


def test_a_clone_with_another_model_follows_it() -> None:
    """A clone recomputes settings that nobody chose, and keeps those that somebody did."""
    implicit, chosen = Agent(name="Ann", model="gpt-5"), ModelSettings(temperature=0.3)
    assert implicit.clone(model="gpt-4.1").model_settings == ModelSettings()
    assert implicit.clone(name="Bob").model_settings == get_default_model_settings("gpt-5")
    assert implicit.clone(model="gpt-4.1", model_settings=chosen).model_settings == chosen
    explicit = Agent(name="Ann", model="gpt-5", model_settings=chosen)
    assert explicit.clone(model="gpt-4.1").model_settings is chosen


def test_a_clone_shares_what_is_not_given() -> None:
    """Cloning is shallow, as in the SDK."""
    agent = Agent(name="Ann", tools=[ping])
    clone = agent.clone(name="Bob")
    assert (clone.name, clone.tools is agent.tools) == ("Bob", True)
    assert dataclasses.replace(clone, name="Ann") == agent


# Instructions and prompts


async def test_instructions_may_be_text_or_a_function() -> None:
    """Plain and async functions of context and agent make the system prompt."""

    async def make(context: RunContextWrapper[Any], agent: Agent[Any]) -> str:
        return f"I am {agent.name}"

    assert await Agent(name="Ann").get_system_prompt(CONTEXT) is None
    assert await Agent(name="Ann", instructions="hi").get_system_prompt(CONTEXT) == "hi"
    assert await Agent(name="Ann", instructions=lambda c, a: a.name).get_system_prompt(CONTEXT) == "Ann"
    assert await Agent(name="Ann", instructions=make).get_system_prompt(CONTEXT) == "I am Ann"


@pytest.mark.parametrize(
    ("function", "count"), [(lambda: "x", 0), (lambda context: "x", 1), (lambda context, agent, more: "x", 3)]
)
async def test_instructions_take_two_arguments(function: Any, count: int) -> None:
    """Another signature is told with the number of arguments."""
    with pytest.raises(TypeError, match=rf"must accept exactly 2 arguments \(context, agent\), but got {count}"):
        await Agent(name="Ann", instructions=function).get_system_prompt(CONTEXT)


async def test_a_stored_prompt_is_sent_whole() -> None:
    """A dict, or what a function makes of the context, becomes the API's three fields."""
    whole = {"id": "p_1", "version": None, "variables": None}
    assert await Agent(name="Ann").get_prompt(CONTEXT) is None
    assert await Agent(name="Ann", prompt={"id": "p_1"}).get_prompt(CONTEXT) == whole
    named = Agent(name="Ann", prompt=lambda data: {"id": data.agent.name, "version": "2"})
    assert await named.get_prompt(CONTEXT) == {"id": "Ann", "version": "2", "variables": None}
    with pytest.raises(UserError, match="a prompt is a dict with `id`"):
        await Agent(name="Ann", prompt={"version": "2"}).get_prompt(CONTEXT)


async def test_tools_are_asked_whether_they_are_enabled() -> None:
    """Switches that are plain, functions or async functions choose the tools of a run."""

    async def never(context: RunContextWrapper[Any], agent: Any) -> bool:
        return False

    def make(name: str, enabled: Any) -> Any:
        return function_tool(ping.__wrapped__, name_override=name, is_enabled=enabled)

    tools = [make("a", True), make("b", False), make("c", lambda context, agent: agent.name == "Ann"), make("d", never)]
    assert [tool.name for tool in await Agent(name="Ann", tools=tools).get_all_tools(CONTEXT)] == ["a", "c"]


async def test_mcp_servers_are_refused() -> None:
    """They are not there yet, and leaving them out would be a silent difference."""
    with pytest.raises(UserError, match="mcp_servers"):
        await Agent(name="Ann", mcp_servers=[object()]).get_all_tools(CONTEXT)


def test_what_is_not_there_says_so() -> None:
    """Names that an agent does not have fail as usual, and copies work."""
    agent = Agent(name="Ann")
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'$"):
        _ = agent.nothing  # type: ignore[attr-defined]
    assert copy.deepcopy(agent) == agent
