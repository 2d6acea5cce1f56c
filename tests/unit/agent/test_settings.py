"""Laws of the model settings and the default model."""

import json
from dataclasses import dataclass, fields

import pytest
from openai import Omit
from openai.types.shared import Reasoning
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from runstream.agent.retry import ModelRetryBackoffSettings, ModelRetrySettings, retry_policies
from runstream.agent.settings import (
    MCPToolChoice,
    ModelSettings,
    coerce_model_settings,
    get_default_model,
    get_default_model_settings,
    gpt_5_reasoning_settings_required,
    is_gpt_5_default,
)


def test_the_order_of_the_fields():
    """Settings can be given by position, in the SDK's order; all are unset at first."""
    assert [entry.name for entry in fields(ModelSettings)] == [
        "temperature",
        "top_p",
        "frequency_penalty",
        "presence_penalty",
        "tool_choice",
        "parallel_tool_calls",
        "truncation",
        "max_tokens",
        "reasoning",
        "verbosity",
        "metadata",
        "store",
        "prompt_cache_retention",
        "include_usage",
        "response_include",
        "top_logprobs",
        "extra_query",
        "extra_body",
        "extra_headers",
        "extra_args",
        "retry",
        "context_management",
        "prompt_cache_options",
        "preserve_raw_usage",
        "timeout",
    ]
    assert set(ModelSettings().to_json_dict().values()) == {None}


def test_dicts_become_what_they_describe():
    """Reasoning, a tool choice and retries may be dicts; reasoning keeps options of the future."""
    settings = ModelSettings(
        reasoning={"effort": "low", "future": 1},  # type: ignore[arg-type]
        tool_choice={"server_label": "s", "name": "t"},  # type: ignore[arg-type]
        retry={"max_retries": 2, "backoff": {"jitter": False}},  # type: ignore[arg-type]
    )
    assert isinstance(settings.reasoning, Reasoning)
    assert settings.reasoning.model_extra == {"future": 1}
    assert settings.tool_choice == MCPToolChoice("s", "t")
    assert settings.retry == ModelRetrySettings(max_retries=2, backoff=ModelRetryBackoffSettings(jitter=False))


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_a_timeout_is_a_positive_number(timeout):
    """Anything else would end every call, or none."""
    with pytest.raises(ValidationError, match="timeout"):
        ModelSettings(timeout=timeout)
    assert ModelSettings(timeout=2).timeout == 2.0


def test_resolve_overlays_what_is_set():
    """Set fields win, even falsy ones; unset ones are kept; the operands do not change."""
    base = ModelSettings(temperature=0.5, top_p=0.9, store=True)
    resolved = base.resolve(ModelSettings(temperature=0.0, store=False, max_tokens=5))
    assert resolved == ModelSettings(temperature=0.0, top_p=0.9, store=False, max_tokens=5)
    assert base == ModelSettings(temperature=0.5, top_p=0.9, store=True)
    assert base.resolve(None) is base
    assert base.resolve({"top_p": 0.1}) == ModelSettings(temperature=0.5, top_p=0.1, store=True)


@pytest.mark.parametrize(
    ("base", "override", "merged"),
    [
        ({"a": 1, "b": 1}, {"b": 2, "c": 2}, {"a": 1, "b": 2, "c": 2}),
        ({"a": 1}, None, {"a": 1}),
        (None, {"a": 1}, {"a": 1}),
        ({"a": 1}, {}, {"a": 1}),
        (None, None, None),
        ({}, {}, None),
    ],
)
def test_extra_args_are_merged_key_by_key(base, override, merged):
    """The override's keys win; nothing on both sides stays nothing."""
    assert ModelSettings(extra_args=base).resolve(ModelSettings(extra_args=override)).extra_args == merged


def test_retries_are_merged_field_by_field():
    """Also inside the backoff, and whether the override is an object or a dict."""
    policy = retry_policies.never()
    base = ModelSettings(
        retry=ModelRetrySettings(max_retries=1, backoff=ModelRetryBackoffSettings(initial_delay=0.1, max_delay=1.0))
    )
    override = ModelRetrySettings(backoff=ModelRetryBackoffSettings(multiplier=3.0, jitter=False), policy=policy)
    resolved = base.resolve(ModelSettings(retry=override)).retry
    assert resolved is not None
    assert (resolved.max_retries, resolved.policy) == (1, policy)
    assert resolved.backoff == ModelRetryBackoffSettings(0.1, 1.0, 3.0, False)
    resolved = base.resolve({"retry": {"max_retries": 0}}).retry
    assert resolved == ModelRetrySettings(max_retries=0, backoff=ModelRetryBackoffSettings(0.1, 1.0))
    assert ModelSettings().resolve(base).retry == base.retry


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"temperatur": 0.5}, "Unknown model settings: temperatur"),
        ({"retry": {"tries": 1}}, "Unknown model settings in retry: tries"),
        ({"retry": {"backoff": {"delay": 1}}}, "Unknown model settings in retry.backoff: delay"),
        ({"tool_choice": {"tool": "x"}}, "Unknown model settings in tool_choice: tool"),
        (3, "ModelSettings override must be a ModelSettings instance or a dict, got int"),
    ],
)
def test_misspelt_settings_are_refused(override, message):
    """A key that is no setting would silently do nothing."""
    with pytest.raises(TypeError, match=message):
        ModelSettings().resolve(override)


def test_settings_of_a_users_own_class():
    """A subclass keeps its class and its fields, whatever it is merged with."""

    @dataclass
    class MySettings(ModelSettings):
        mine: int | None = None

    resolved = MySettings(mine=1).resolve({"mine": 2, "top_p": 0.5}).resolve(ModelSettings(temperature=0.1))
    assert resolved == MySettings(mine=2, top_p=0.5, temperature=0.1)
    assert coerce_model_settings(resolved) is resolved
    assert coerce_model_settings({"top_p": 0.5}) == ModelSettings(top_p=0.5)


def test_json_form():
    """Every field has a JSON value: objects unfold, a header to leave out is null, the policy is left out."""
    settings = ModelSettings(
        temperature=0.5,
        tool_choice=MCPToolChoice("s", "t"),
        reasoning=Reasoning(effort="low"),
        extra_headers={"X-Keep": "1", "X-Drop": Omit()},
        extra_args={"pair": (1, 2), "odd": MCPToolChoice},
        retry=ModelRetrySettings(max_retries=1, policy=retry_policies.never()),
        timeout=3,
    )
    plain = settings.to_json_dict()
    assert list(plain) == [entry.name for entry in fields(ModelSettings)]
    assert json.loads(json.dumps(plain)) == plain
    assert plain["tool_choice"] == {"server_label": "s", "name": "t"}
    assert plain["reasoning"]["effort"] == "low"
    assert plain["extra_headers"] == {"X-Keep": "1", "X-Drop": None}
    assert plain["extra_args"]["pair"] == [1, 2]
    assert plain["retry"] == {"max_retries": 1, "backoff": None}
    assert plain["timeout"] == 3.0


def test_traces_do_not_get_the_extras():
    """Whatever may hold a secret stays out; all the rest is shown."""
    settings = ModelSettings(
        temperature=0.5,
        extra_headers={"Authorization": "x"},
        extra_query={"key": "x"},
        extra_body={"key": "x"},
        extra_args={"key": "x"},
        preserve_raw_usage=True,
    )
    left_out = {"extra_headers", "extra_query", "extra_body", "extra_args", "preserve_raw_usage"}
    plain = settings.to_json_dict()
    assert settings.to_traceable_dict() == {name: value for name, value in plain.items() if name not in left_out}


def test_pydantic_round_trip():
    """Settings inside a pydantic model survive JSON and validating, but for the retry policy."""
    backoff = ModelRetryBackoffSettings(jitter=False)
    settings = ModelSettings(
        temperature=0.5,
        reasoning=Reasoning(effort="low"),
        retry=ModelRetrySettings(max_retries=1, backoff=backoff, policy=retry_policies.never()),
    )
    restored = TypeAdapter(ModelSettings).validate_json(to_json(settings))
    assert restored == settings
    assert restored.retry is not None
    assert restored.retry.policy is None


def test_the_default_model(monkeypatch):
    """The environment names it, in any case of letters; else it is the SDK's."""
    monkeypatch.delenv("OPENAI_DEFAULT_MODEL", raising=False)
    assert get_default_model() == "gpt-5.6-luna"
    assert is_gpt_5_default()
    monkeypatch.setenv("OPENAI_DEFAULT_MODEL", "GPT-4.1")
    assert get_default_model() == "gpt-4.1"
    assert not is_gpt_5_default()
    assert get_default_model_settings() == ModelSettings()


@pytest.mark.parametrize(
    ("model", "effort"),
    [
        ("gpt-5", "low"),
        ("gpt-5-2025-08-07", "low"),
        ("gpt-5.1", "none"),
        ("gpt-5.1-2025-11-13", "none"),
        ("gpt-5.2", "none"),
        ("gpt-5.2-codex", "low"),
        ("gpt-5.2-pro-2025-12-11", "medium"),
        ("gpt-5.3-codex", "none"),
        ("gpt-5.4-mini-2026-03-17", "none"),
        ("gpt-5.4-nano", "none"),
        ("gpt-5.4-pro", "medium"),
        ("gpt-5.5-2026-04-23", "none"),
        ("gpt-5.6", "none"),
        ("gpt-5.6-sol", "none"),
        ("gpt-5.6-terra", "none"),
        ("gpt-5.6-luna", "none"),
        ("gpt-5-mini", None),
        ("gpt-5.1-codex", None),
        ("gpt-5.7", None),
    ],
)
def test_models_of_the_gpt_5_family_get_quick_settings(model, effort):
    """Short answers, and the effort where it is known which ones the model accepts."""
    assert gpt_5_reasoning_settings_required(model)
    expected = ModelSettings(reasoning=Reasoning(effort=effort) if effort else None, verbosity="low")
    assert get_default_model_settings(model) == expected
    assert get_default_model_settings(model) is not get_default_model_settings(model)


@pytest.mark.parametrize("model", ["gpt-4.1", "o3", "gpt-5-chat-latest", "gpt-5.1-chat-latest", "gpt-5.3-chat-latest"])
def test_other_models_get_empty_settings(model):
    """Chat models of the family take no reasoning settings either."""
    assert not gpt_5_reasoning_settings_required(model)
    assert get_default_model_settings(model) == ModelSettings()
