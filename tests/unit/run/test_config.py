"""run/config: one bag of options, checked where it is made."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from runstream.agent.settings import ModelSettings
from runstream.clock import system_clock
from runstream.errors import UserError
from runstream.models.provider import MultiProvider
from runstream.run.config import DEFAULT_MAX_TURNS, RunConfig, ToolExecutionConfig
from runstream.sessions.base import SessionSettings


def test_the_defaults() -> None:
    """A config that says nothing changes nothing."""
    config = RunConfig()
    assert DEFAULT_MAX_TURNS == 10
    assert isinstance(config.model_provider, MultiProvider)
    assert (config.model, config.model_settings, config.tool_execution) == (None, None, None)
    assert (config.on_abandon, config.cancel_timeout_s, config.kept_events) == ("cancel", 5.0, 1_000_000)
    assert RunConfig(store="memory://").kept_events == 20_000
    assert config.tool_not_found_behavior == "raise_error"
    assert config.clock is system_clock
    config.check_supported()


def test_our_own_options_have_no_position() -> None:
    """Code written for the SDK may pass its options by position: ours are not among them."""
    positional = [option.name for option in dataclasses.fields(RunConfig) if not option.kw_only]
    assert positional[:4] == ["model", "model_provider", "model_settings", "handoff_input_filter"]
    assert not {"on_abandon", "cancel_timeout_s", "max_log_events", "clock", "store", "lease_s", "on_approval"} & set(
        positional
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("on_abandon", "leave"),
        ("tool_not_found_behavior", "ignore"),
        ("tool_name_collision_policy", "first"),
        ("cancel_timeout_s", 0),
        ("cancel_timeout_s", -1.0),
        ("store_timeout_s", 0),
        ("lease_s", 0.0),
        ("time_limit_s", -1),
        ("on_store_failure", "ignore"),
        ("on_approval", "skip"),
    ],
)
def test_values_out_of_range_are_refused(option: str, value: Any) -> None:
    """A value that means nothing is refused where it is written, by the name of its option."""
    with pytest.raises(ValueError, match=option):
        RunConfig(**{option: value})


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_of_no_tools_is_refused(limit: int) -> None:
    """At least one tool must be able to run."""
    with pytest.raises(ValueError, match=f"at least 1, not {limit}"):
        ToolExecutionConfig(max_function_tool_concurrency=limit)
    assert ToolExecutionConfig(max_function_tool_concurrency=1).max_function_tool_concurrency == 1


def test_dicts_become_what_they_describe() -> None:
    """Settings may be given as dicts."""
    config = RunConfig(
        model_settings={"temperature": 0.5},  # type: ignore[arg-type]
        session_settings={"limit": 3},  # type: ignore[arg-type]
        tool_execution={"max_function_tool_concurrency": 2},  # type: ignore[arg-type]
    )
    assert config.model_settings == ModelSettings(temperature=0.5)
    assert config.session_settings == SessionSettings(limit=3)
    assert config.tool_execution == ToolExecutionConfig(2)


def test_a_config_of_what_was_passed() -> None:
    """None is the default config, a dict its options, a config itself."""
    config = RunConfig(workflow_name="x")
    assert RunConfig.of(config) is config
    assert RunConfig.of({"workflow_name": "x", "max_log_events": 5}).max_log_events == 5
    assert RunConfig.of(None).workflow_name == "Agent workflow"


def test_misspelt_options_are_refused() -> None:
    """An option that does not exist is told by its name."""
    with pytest.raises(UserError, match="unknown options: modle, tracign"):
        RunConfig.of({"tracign": 1, "modle": 2})


@pytest.mark.parametrize("value", ["gpt-test", 3, [("model", "x")]])
def test_what_is_no_config_is_refused(value: Any) -> None:
    """Anything else is a mistake of the program."""
    with pytest.raises(UserError, match=f"must be a RunConfig or a dict, not {type(value).__name__}"):
        RunConfig.of(value)


@pytest.mark.parametrize(
    ("value", "expected"), [(None, True), ("true", True), ("1", True), ("false", False), ("0", False), ("off", False)]
)
def test_sensitive_data_in_traces(monkeypatch: pytest.MonkeyPatch, value: str | None, expected: bool) -> None:
    """The SDK's environment variable decides, unless the program does."""
    name = "OPENAI_AGENTS_TRACE_INCLUDE_SENSITIVE_DATA"
    if value is None:
        monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv(name, value)
    assert RunConfig().trace_include_sensitive_data is expected
    assert RunConfig(trace_include_sensitive_data=True).trace_include_sensitive_data is True


@pytest.mark.parametrize("option", ["nest_handoff_history", "sandbox"])
def test_options_that_are_not_carried_out_are_told(option: str) -> None:
    """An option of the SDK that would have no effect is refused before the run, not ignored."""
    config = RunConfig(**{option: [object()]})
    with pytest.raises(UserError, match=rf"RunConfig\.{option} is not supported"):
        config.check_supported()
