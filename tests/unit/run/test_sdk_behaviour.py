"""Behaviour of a run where code for the OpenAI Agents SDK depends on how the SDK does it."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from pydantic import BaseModel

from runstream import (
    Agent,
    AgentHooks,
    HandoffInputData,
    HostedMCPTool,
    MaxTurnsExceeded,
    ModelProvider,
    ModelRetrySettings,
    ModelSettings,
    OpenAIProvider,
    RunConfig,
    RunHooks,
    RunItemStreamEvent,
    Runner,
    UserError,
    function_tool,
    handoff,
    retry_policies,
)
from runstream.agent.items import ItemHelpers, MessageOutputItem
from runstream.testing import Endpoint, HandoffTo, Reasoning, ScriptedModel, ToolCall

BOTH = pytest.mark.parametrize("streamed", [False, True], ids=["run", "streamed"])


class City(BaseModel):
    name: str


@function_tool
def ping() -> str:
    return "pong"


async def play(
    agent: Agent[Any], input: Any = "hi", *, streamed: bool = False, **options: Any
) -> tuple[Any, list[Any]]:
    """The result of a run, and its events if it was streamed."""
    if not streamed:
        return await Runner.run(agent, input, **options), []
    result = Runner.run_streamed(agent, input, **options)
    return result, [event async for event in result.stream_events()]


# Hooks


class Notes(AgentHooks[Any]):
    """Agent hooks that are falsy, like a recorder that is a list."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __bool__(self) -> bool:
        return False

    async def on_start(self, context: Any, agent: Any) -> None:
        self.seen.append(f"start {agent.name}")

    async def on_handoff(self, context: Any, agent: Any, source: Any) -> None:
        self.seen.append(f"{source.name} to {agent.name}")

    async def on_end(self, context: Any, agent: Any, output: Any) -> None:
        self.seen.append(f"end {agent.name}")


@BOTH
async def test_a_handoff_is_told_to_the_hooks_of_the_agent_that_makes_it(streamed: bool) -> None:
    """`AgentHooks.on_handoff` is called on the source's hooks, with the target as `agent`; falsy hooks are hooks."""
    model, of_ann, of_bob = ScriptedModel([HandoffTo("Bob"), "done"]), Notes(), Notes()
    bob = Agent(name="Bob", model=model, hooks=of_bob)
    await play(Agent(name="Ann", model=model, hooks=of_ann, handoffs=[bob]), streamed=streamed)
    assert of_ann.seen == ["start Ann", "Ann to Bob"]
    assert of_bob.seen == ["start Bob", "end Bob"]


@BOTH
async def test_whoever_decides_about_handoffs_sees_the_turn(streamed: bool) -> None:
    """When `is_enabled` is asked, hooks and prompt functions have run and the context has the turn's input."""
    model, seen = ScriptedModel([HandoffTo("Bob"), "done"]), []

    class Prepare(RunHooks[Any]):
        async def on_agent_start(self, context: Any, agent: Any) -> None:
            context.context["hook"] = True

    def instructions(context: Any, agent: Any) -> str:
        context.context["instructions"] = True
        return "x"

    def enabled(context: Any, agent: Any) -> bool:
        seen.append((list(context.turn_input), dict(context.context)))
        return True

    bob = Agent(name="Bob", model=model)
    ann = Agent(name="Ann", model=model, instructions=instructions, handoffs=[handoff(bob, is_enabled=enabled)])
    await play(ann, streamed=streamed, context={}, hooks=Prepare())
    assert seen == [([{"content": "hi", "role": "user"}], {"hook": True, "instructions": True})]


# Settings that nobody chose


@pytest.mark.parametrize(
    ("of_agent", "of_run", "effort"),
    [
        ({}, None, "none"),
        ({}, "gpt-5", "low"),
        ({}, "gpt-4.1", None),
        ({"model": "gpt-4.1"}, None, None),
        ({"model": "gpt-4.1"}, "gpt-5", "low"),
        ({"model": "gpt-5"}, "gpt-4.1", None),
        ({"model_settings": ModelSettings(temperature=0.1)}, "gpt-5", None),
    ],
)
async def test_settings_follow_the_model_of_the_run(of_agent: dict[str, Any], of_run: Any, effort: str | None) -> None:
    """A model is never sent what suits another one only: settings that nobody chose are those of the model asked."""
    model = ScriptedModel(["done"])

    class Provider(ModelProvider):
        def get_model(self, model_name: str | None) -> Any:
            return model

    await play(Agent(name="Ann", **of_agent), run_config=RunConfig(model=of_run, model_provider=Provider()))
    settings = model.calls[0].model_settings
    assert (settings.reasoning.effort if settings.reasoning else None) == effort


# Input and output


@BOTH
async def test_omitted_reasoning_ids_are_omitted_everywhere(streamed: bool) -> None:
    """With the policy "omit" neither the model nor `to_input_list` sees them, wherever the item comes from."""
    model = ScriptedModel([[Reasoning("hm"), ToolCall("ping")], "done"])
    config = RunConfig(reasoning_item_id_policy="omit")
    old: Any = {"type": "reasoning", "id": "rs_0", "summary": []}
    result, _ = await play(
        Agent(name="Ann", model=model, tools=[ping]),
        [{"role": "user", "content": "hi"}, old],
        streamed=streamed,
        run_config=config,
    )
    sent = [item for item in model.calls[1].input if item["type" if "type" in item else "role"] == "reasoning"]
    assert len(sent) == 2
    assert not any("id" in item for item in sent)
    assert not any("id" in item for item in result.to_input_list()[2:] if item.get("type") == "reasoning")


@BOTH
async def test_the_normalized_list_is_what_the_last_agent_saw(streamed: bool) -> None:
    """After a handoff's filter `mode="normalized"` leaves out what it took out; by default everything is kept."""

    def messages_only(data: HandoffInputData) -> HandoffInputData:
        return data.clone(input_items=tuple(item for item in data.new_items if isinstance(item, MessageOutputItem)))

    model = ScriptedModel([["Bob will know", HandoffTo("Bob")], ToolCall("ping"), "done"])
    bob = Agent(name="Bob", model=model, tools=[ping])
    ann = Agent(name="Ann", model=model, handoffs=[handoff(bob, input_filter=messages_only)])
    result, _ = await play(ann, streamed=streamed)

    def kinds(items: list[Any]) -> list[str]:
        return [item.get("type", item.get("role")) for item in items]

    after = ["function_call", "function_call_output", "message"]
    assert kinds(result.to_input_list()) == ["user", "message", "function_call", "function_call_output", *after]
    assert kinds(result.to_input_list(mode="normalized")) == ["user", "message", *after]


async def test_an_input_filter_must_be_callable() -> None:
    """A filter that is none is misuse, told when the handoff is made."""
    model = ScriptedModel([HandoffTo("Bob"), "done"])
    bob: Any = handoff(Agent(name="Bob", model=model))
    bob.input_filter = "no filter"
    with pytest.raises(UserError, match="input_filter must be callable"):
        await play(Agent(name="Ann", model=model, handoffs=[bob]))


async def test_an_empty_list_is_an_input() -> None:
    """With a stored prompt, or a session, there may be nothing to add."""
    model = ScriptedModel(["done"])
    result, _ = await play(Agent(name="Ann", model=model), [])
    assert (result.final_output, model.calls[0].input) == ("done", [])


@BOTH
async def test_custom_data_is_kept_with_the_output(streamed: bool) -> None:
    """A tool's own data is on its output item, and never goes to the model."""
    tool = function_tool(ping.__wrapped__, custom_data_extractor=lambda data: {"shown": data.output})
    model = ScriptedModel([ToolCall("ping"), "done"])
    result, _ = await play(Agent(name="Ann", model=model, tools=[tool]), streamed=streamed)
    assert [item.custom_data for item in result.new_items if item.type == "tool_call_output_item"] == [
        {"shown": "pong"}
    ]
    assert "shown" not in str(model.calls[1].input)


async def test_bad_custom_data_ends_the_run_and_the_call_is_answered() -> None:
    """The error is the extractor's; the tool has run, so its output is kept."""
    tool = function_tool(ping.__wrapped__, custom_data_extractor=lambda data: {"bad": object()})
    model = ScriptedModel([ToolCall("ping")])
    with pytest.raises(UserError, match="custom_data_extractor") as caught:
        await play(Agent(name="Ann", model=model, tools=[tool]))
    items = caught.value.run_data.new_items  # type: ignore[union-attr]
    assert [item.output for item in items if item.type == "tool_call_output_item"] == ["pong"]


# Limits and errors


@BOTH
async def test_no_turns_at_all(streamed: bool) -> None:
    """`max_turns=0` asks no model; the handler's output takes the answer's place."""
    model = ScriptedModel()
    agent = Agent(name="Ann", model=model)
    with pytest.raises(MaxTurnsExceeded):
        await play(agent, streamed=streamed, max_turns=0)
    handlers: Any = {"max_turns": lambda data: "too long"}
    result, _ = await play(agent, streamed=streamed, max_turns=0, error_handlers=handlers)
    assert (result.final_output, model.calls) == ("too long", ())


@pytest.mark.parametrize(
    ("output_type", "output", "text"),
    [(City, City(name="Rome"), '{"name":"Rome"}'), (list[str], ["a", "b"], '{"response":["a","b"]}'), (None, "a", "a")],
)
async def test_a_handlers_output_is_a_message_as_the_model_would_write_it(
    output_type: Any, output: Any, text: str
) -> None:
    """So that the model finds in the history what it could have said itself."""
    agent = Agent(name="Ann", model=ScriptedModel(), output_type=output_type)
    handlers: Any = {"max_turns": lambda data: {"final_output": output}}
    result, events = await play(agent, streamed=True, max_turns=0, error_handlers=handlers)
    assert result.final_output == output
    said = [event.item for event in events if isinstance(event, RunItemStreamEvent)]
    assert [ItemHelpers.text_message_output(item) for item in said] == [text]


@BOTH
async def test_a_handler_spares_an_empty_answer_another_turn(streamed: bool) -> None:
    """A model that says nothing where an output is due is asked again, unless a handler gives the output."""
    agent = Agent(name="Ann", model=ScriptedModel([[], '{"name":"Rome"}']), output_type=City)
    result, _ = await play(agent, streamed=streamed)
    assert (result.final_output, len(result.raw_responses)) == (City(name="Rome"), 2)
    for handler, output in ((lambda data: City(name="Oslo"), "Oslo"), (lambda data: None, "Rome")):
        agent = Agent(name="Ann", model=ScriptedModel([[], '{"name":"Rome"}']), output_type=City)
        handlers: Any = {"invalid_final_output": handler}
        result, _ = await play(agent, streamed=streamed, error_handlers=handlers)
        assert result.final_output.name == output


@BOTH
async def test_a_failed_request_has_its_usage_entry(streamed: bool) -> None:
    """Retries count among the requests, each with an entry, in order."""
    failure = openai.APIConnectionError(message="lost", request=None)  # type: ignore[arg-type]
    at_once: Any = {"initial_delay": 0.0}
    retry = ModelRetrySettings(max_retries=1, policy=retry_policies.network_error(), backoff=at_once)
    settings = ModelSettings(retry=retry)
    model = ScriptedModel([failure, "done"])
    result, _ = await play(Agent(name="Ann", model=model, model_settings=settings), streamed=streamed)
    usage = result.context_wrapper.usage
    assert usage.requests == 2
    assert [entry.total_tokens > 0 for entry in usage.request_usage_entries][:1] == [False]


@BOTH
@pytest.mark.parametrize("use_responses", [False, True], ids=["chat", "responses"])
async def test_the_providers_own_usage_is_kept_on_request(streamed: bool, use_responses: bool) -> None:
    """`preserve_raw_usage` holds for streamed runs as for others, and only where it is asked for."""
    async with Endpoint(["done", "done"]) as endpoint:
        provider = OpenAIProvider(base_url=endpoint.url, api_key="any", use_responses=use_responses)
        for keep in (True, None):
            agent = Agent(
                name="Ann", model=provider.get_model("m"), model_settings=ModelSettings(preserve_raw_usage=keep)
            )
            result, _ = await play(agent, streamed=streamed)
            [response] = result.raw_responses
            assert (response.raw_usage is not None) == bool(keep)
            assert not keep or response.raw_usage["total_tokens"] == response.usage.total_tokens


# The provider's MCP servers


def server(label: str) -> HostedMCPTool:
    return HostedMCPTool({"type": "mcp", "server_label": label, "server_url": "https://x", "require_approval": "never"})


async def test_an_agent_may_have_several_hosted_servers() -> None:
    """They share one name, which nobody looks them up by."""
    model = ScriptedModel(["done"])
    tools: Any = [server("a"), ping, server("b")]
    await play(Agent(name="Ann", model=model, tools=tools))
    assert model.calls[0].tools == tools
