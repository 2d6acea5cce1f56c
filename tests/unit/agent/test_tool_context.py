"""The context of one tool call."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from openai.types.responses import ResponseFunctionToolCall

from runstream.agent.context import RunContextWrapper
from runstream.agent.tool_context import ToolContext
from runstream.agent.usage import Usage
from runstream.errors import UserError


def a_call(name: str = "weather", namespace: str | None = None) -> ResponseFunctionToolCall:
    return ResponseFunctionToolCall(
        type="function_call", name=name, call_id="call-1", arguments='{"city": "Oslo"}', namespace=namespace
    )


def a_context(**changes: Any) -> ToolContext[Any]:
    return ToolContext(None, **{"tool_name": "weather", "tool_call_id": "call-1", "tool_arguments": "{}", **changes})


@pytest.mark.parametrize("missing", ["tool_name", "tool_call_id", "tool_arguments"])
def test_a_call_has_a_name_an_id_and_arguments(missing: str) -> None:
    """Without one of them there is no context: a UserError, and a ValueError as in the SDK."""
    with pytest.raises(ValueError, match=f"{missing} must be passed to ToolContext") as caught:
        a_context(**{missing: None})
    assert isinstance(caught.value, UserError)


def test_positional_arguments_are_the_sdks() -> None:
    """The order is context, usage, name, id, arguments, call."""
    usage, call = Usage(requests=2), a_call()
    context = ToolContext("mine", usage, "weather", "call-1", "{}", call)
    assert (context.context, context.usage, context.tool_name) == ("mine", usage, "weather")
    assert (context.tool_call_id, context.tool_arguments, context.tool_call) == ("call-1", "{}", call)
    assert (context.agent, context.run_config, context.tool_input, context.turn_input) == (None, None, None, [])


def test_it_is_derived_from_the_runs_context() -> None:
    """Name and arguments come from the call; usage and approvals are the run's."""
    run = RunContextWrapper({"user": 1}, turn_input=[{"role": "user"}], tool_input="input")
    agent, config = object(), object()
    context = ToolContext.from_agent_context(run, "call-1", a_call(), agent, run_config=config)
    assert (context.tool_name, context.tool_arguments) == ("weather", '{"city": "Oslo"}')
    assert context.context is run.context
    assert context.usage is run.usage
    assert context.approvals is run.approvals
    assert (context.turn_input, context.tool_input) == (run.turn_input, "input")
    assert (context.agent, context.run_config) == (agent, config)


def test_given_values_win_over_the_call() -> None:
    """A name and arguments that are given replace those of the call; without either there is an error."""
    run = RunContextWrapper(None)
    context = ToolContext.from_agent_context(run, "1", a_call(), tool_name="other", tool_arguments="")
    assert (context.tool_name, context.tool_arguments) == ("other", "")
    with pytest.raises(UserError, match="tool_name must be passed"):
        ToolContext.from_agent_context(run, "1")


def test_a_call_within_a_call_inherits() -> None:
    """Agent and configuration go on to contexts derived from a call's, unless they are given anew."""
    outer = a_context(agent="agent", run_config="config")
    inner = ToolContext.from_agent_context(outer, "2", a_call())
    assert (inner.agent, inner.run_config) == ("agent", "config")
    assert ToolContext.from_agent_context(outer, "2", a_call(), "other").agent == "other"


def test_a_configuration_may_be_a_dict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever defines the configuration's class says how a dict becomes one; until then it stays a dict."""
    monkeypatch.setattr(ToolContext, "read_run_config", None)
    assert a_context(run_config={"a": 1}).run_config == {"a": 1}
    monkeypatch.setattr(ToolContext, "read_run_config", lambda values: ("made of", values))
    assert a_context(run_config={"a": 1}).run_config == ("made of", {"a": 1})
    assert a_context(run_config="ready").run_config == "ready"


def test_the_qualified_name_has_the_namespace() -> None:
    """The namespace is given, or the call's; one that is the name itself does not count."""
    assert a_context().qualified_tool_name == "weather"
    assert a_context(tool_namespace="met").qualified_tool_name == "met.weather"
    assert a_context(tool_call=a_call(namespace="met")).qualified_tool_name == "met.weather"
    assert a_context(tool_call=a_call(namespace="weather")).qualified_tool_name == "weather"


def test_cancellation_is_seen_from_any_thread() -> None:
    """Not cancelled until marked, then for ever; a thread may wait for it instead of sleeping."""
    context, seen = a_context(), list[bool]()
    assert not context.cancelled
    assert context.wait_cancelled(0) is False
    thread = threading.Thread(target=lambda: seen.append(context.wait_cancelled(10)))
    thread.start()
    context.mark_cancelled()
    thread.join()
    assert seen == [True]
    assert context.cancelled


def test_other_calls_are_not_cancelled_with_it() -> None:
    """The mark belongs to one call."""
    context = a_context()
    other = ToolContext.from_agent_context(context, "2", a_call())
    context.mark_cancelled()
    assert not other.cancelled


def test_it_can_be_reduced_to_the_runs_context() -> None:
    """The plain context shares what the run shares, and knows nothing of the call."""
    context = a_context(tool_input="input", turn_input=[{"role": "user"}])
    plain = context.to_run_context()
    assert type(plain) is RunContextWrapper
    assert plain.usage is context.usage
    assert plain.approvals is context.approvals
    assert (plain.tool_input, plain.turn_input) == ("input", [{"role": "user"}])
