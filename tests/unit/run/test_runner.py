"""Starting a run: arguments, what they mean for the model's input, and what comes back."""

import inspect
from typing import Any

import pytest

from runstream import Agent, ModelSettings, RunConfig, RunContextWrapper, RunHooks, Runner, UserError
from runstream.agent.agent import AgentBase
from runstream.agent.context import AgentHookContext
from runstream.run.result import RunResult, RunResultStreaming
from runstream.sessions.memory import InMemorySession
from runstream.testing import FakeClock, HandoffTo, ScriptedModel, Tokens, ToolCall, Turn


def _agent(model: ScriptedModel, **fields: Any) -> Agent[Any]:
    return Agent(name="Ann", model=model, **fields)


async def test_a_string_becomes_one_user_message() -> None:
    """The model is sent the user's message, the instructions and the settings of the agent under the run's."""
    model = ScriptedModel(["Hello!"])
    agent = _agent(model, instructions="Be kind.", model_settings=ModelSettings(temperature=0.5, top_p=0.1))
    config = RunConfig(model_settings=ModelSettings(temperature=0.9))
    result = await Runner.run(agent, "hi", run_config=config)
    call = model.calls[0]
    assert call.input == [{"role": "user", "content": "hi"}]
    assert call.system_instructions == "Be kind."
    assert (call.model_settings.temperature, call.model_settings.top_p) == (0.9, 0.1)
    assert (result.final_output, result.input, result.last_agent) == ("Hello!", "hi", agent)


async def test_a_list_is_sent_as_it_is_and_not_changed() -> None:
    """Input items go to the model unchanged, and the caller's list stays what it was."""
    items: list[Any] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user"}]
    copy = [dict(item) for item in items]
    model = ScriptedModel(["ok"])
    await Runner.run(_agent(model), items)
    assert model.calls[0].input == copy
    assert items == copy


async def test_the_result_goes_on_into_the_next_run() -> None:
    """`to_input_list()` is the whole conversation, ready for one more user message."""
    model = ScriptedModel(["one", "two"])
    first = await Runner.run(_agent(model), "hi")
    assert first.last_response_id == first.raw_responses[-1].response_id
    again = await Runner.run(_agent(model), [*first.to_input_list(), {"role": "user", "content": "more"}])
    sent = model.calls[1].input
    assert [item["role"] for item in sent] == ["user", "assistant", "user"]
    assert sent[1]["content"][0]["text"] == "one"
    assert again.final_output == "two"
    with pytest.raises(UserError, match="mode must be"):
        first.to_input_list(mode="odd")  # type: ignore[arg-type]


async def test_final_output_as_checks_when_asked() -> None:
    """`final_output_as` narrows the type, and raises only if it is told to."""
    result = await Runner.run(_agent(ScriptedModel(["x"])), "hi")
    assert result.final_output_as(str, raise_if_incorrect_type=True) == "x"
    assert result.final_output_as(int) == "x"
    with pytest.raises(TypeError, match="not of type int: it is str"):
        result.final_output_as(int, raise_if_incorrect_type=True)


async def test_usage_is_added_up_over_the_turns() -> None:
    """The context's usage is the sum of all model calls."""
    model = ScriptedModel(
        [
            Turn((ToolCall("nothing"),), usage=Tokens(10, 1)),
            Turn(("done",), usage=Tokens(20, 2)),
        ]
    )
    config = RunConfig(tool_not_found_behavior="return_error_to_model")
    result = await Runner.run(_agent(model), "hi", run_config=config)
    usage = result.context_wrapper.usage
    assert (usage.requests, usage.input_tokens, usage.output_tokens, usage.total_tokens) == (2, 30, 3, 33)
    assert [entry.input_tokens for entry in usage.request_usage_entries] == [10, 20]


async def test_the_context_object_reaches_users_code_and_never_the_model() -> None:
    """Instructions get the very object that was passed; a wrapper is taken as it is."""
    seen: list[Any] = []

    def instructions(context: RunContextWrapper[Any], agent: AgentBase[Any]) -> str:
        seen.append((context.context, agent.name))
        return "made"

    model = ScriptedModel(["ok", "ok"])
    mine = object()
    await Runner.run(_agent(model, instructions=instructions), "hi", context=mine)
    assert seen == [(mine, "Ann")]
    assert model.calls[0].system_instructions == "made"
    wrapper = RunContextWrapper(mine)
    result = await Runner.run(_agent(model), "hi", context=wrapper)
    assert result.context_wrapper is wrapper
    assert wrapper.usage.requests == 1


async def test_the_runs_model_replaces_every_agents_model() -> None:
    """`RunConfig.model` wins over the agents' own, also after a handoff."""
    forbidden = ScriptedModel()
    chosen = ScriptedModel([HandoffTo("Bob"), "from Bob"])
    bob = Agent(name="Bob", model=forbidden)
    result = await Runner.run(_agent(forbidden, handoffs=[bob]), "hi", run_config=RunConfig(model=chosen))
    assert result.final_output == "from Bob"
    assert result.last_agent is bob
    assert not forbidden.calls


async def test_a_dict_is_a_run_config() -> None:
    """Options may be given as a dict; a misspelt one is refused."""
    clock = FakeClock()
    result = await Runner.run(_agent(ScriptedModel(["ok"])), "hi", run_config={"clock": clock, "workflow_name": "w"})
    assert result.final_output == "ok"
    with pytest.raises(UserError, match="unknown options: workflow"):
        await Runner.run(_agent(ScriptedModel()), "hi", run_config={"workflow": "w"})


async def test_run_stream_is_run_streamed() -> None:
    """The second name gives the same, which can be iterated at once."""
    texts = [
        event.data.delta
        async for event in Runner.run_stream(_agent(ScriptedModel(["a b"])), "hi")
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert "".join(texts) == "a b"


async def test_results_name_their_run() -> None:
    """What a stored run is found by later is known from either kind of result."""
    agent = Agent(name="Ann", model=ScriptedModel(["hi", "hi"]))
    assert (await Runner.run(agent, "x", run_config=RunConfig(run_id="mine"))).run_id == "mine"
    made_up = await Runner.run(agent, "x")
    assert made_up.run_id is not None
    assert made_up.run_id.startswith("run_")


def test_signatures_are_the_sdks() -> None:
    """run, run_sync and run_streamed take the SDK's parameters; run_streamed takes most of them by position."""
    names = [
        "starting_agent",
        "input",
        "context",
        "max_turns",
        "hooks",
        "run_config",
        "error_handlers",
        "previous_response_id",
        "auto_previous_response_id",
        "conversation_id",
        "session",
    ]
    for method in (Runner.run, Runner.run_sync, Runner.run_streamed):
        assert sorted(inspect.signature(method).parameters) == sorted(names)
    kinds = inspect.signature(Runner.run_streamed).parameters
    assert kinds["context"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert kinds["error_handlers"].kind is inspect.Parameter.KEYWORD_ONLY
    assert inspect.signature(Runner.run).parameters["context"].kind is inspect.Parameter.KEYWORD_ONLY


BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "agent": ({"starting_agent": "Ann"}, "must be an Agent, not str"),
    "input": ({"input": 5}, "must be a string or a list of input items, not int"),
    "max_turns": ({"max_turns": -1}, "or None for no limit"),
    "session": ({"session": object()}, "get_items and add_items"),
    "hooks": ({"hooks": object()}, "instances of RunHooks"),
    "run_config": ({"run_config": 5}, "must be a RunConfig or a dict"),
    "guardrails": ({"run_config": RunConfig(sandbox=object())}, "not supported by this version"),
    "session and conversation": ({"session": InMemorySession("s"), "conversation_id": "c"}, "cannot be combined"),
    "session and previous": ({"session": InMemorySession("s"), "previous_response_id": "r"}, "cannot be combined"),
    "session and auto": ({"session": InMemorySession("s"), "auto_previous_response_id": True}, "cannot be combined"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
@pytest.mark.parametrize("way", ["run", "run_sync", "run_streamed"])
async def test_wrong_arguments_are_refused_before_any_request(way: str, name: str) -> None:
    """Each way to run raises at once, with what is wrong, and asks no model."""
    model = ScriptedModel()
    changes, message = BAD_ARGUMENTS[name]
    arguments: dict[str, Any] = {"starting_agent": _agent(model), "input": "hi", **changes}
    with pytest.raises(TypeError if name == "hooks" else UserError, match=message):  # noqa: PT012
        started = getattr(Runner, way)(**arguments)
        if way == "run":
            await started
    assert not model.calls


async def test_max_turns_none_is_no_limit() -> None:
    """Without a limit a run may take any number of turns."""
    model = ScriptedModel([*[ToolCall("f")] * 30, "done"])
    config = RunConfig(tool_not_found_behavior="return_error_to_model")
    result = await Runner.run(_agent(model), "hi", max_turns=None, run_config=config)
    assert (result.final_output, result.max_turns, len(model.calls)) == ("done", None, 31)


async def test_results_describe_themselves() -> None:
    """`str(result)` names the last agent and shows the output, long ones cut."""
    result = await Runner.run(_agent(ScriptedModel(["x" * 500])), "hi")
    assert isinstance(result, RunResult)
    assert "last_agent='Ann', 1 items, 1 responses" in str(result)
    assert len(str(result)) < 400
    streamed = Runner.run_streamed(_agent(ScriptedModel(["short"])), "hi")
    assert isinstance(streamed, RunResultStreaming)
    await streamed.wait()
    assert "final_output='short'" in str(streamed)


async def test_release_agents_lets_agents_go() -> None:
    """A kept result holds its agents weakly once it was told to; the items stay."""
    result = await Runner.run(_agent(ScriptedModel(["x"])), "hi")
    agent = result.last_agent
    result.release_agents()
    assert result.new_items[0].agent is agent
    assert "agent" not in vars(result.new_items[0])


async def test_hooks_objects_may_share_a_run_with_agent_hooks() -> None:
    """A run's hooks see the agent that starts, with the input of its first turn."""
    seen: list[Any] = []

    class Hooks(RunHooks):
        async def on_agent_start(self, context: AgentHookContext[Any], agent: Any) -> None:
            seen.append((agent.name, list(context.turn_input)))

    await Runner.run(_agent(ScriptedModel(["x"])), "hi", hooks=Hooks())
    assert seen == [("Ann", [{"role": "user", "content": "hi"}])]
