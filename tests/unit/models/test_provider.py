"""models/provider: from the name of a model to the model, and a clear word where nobody serves the name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from runstream.agent.model import Model, ModelProvider
from runstream.agent.settings import get_default_model
from runstream.errors import UserError
from runstream.models.defaults import defaults
from runstream.models.provider import MultiProvider, MultiProviderMap, OpenAIProvider
from runstream.models.responses import OpenAIResponsesModel
from runstream.testing import ScriptedModel


class _Provider(ModelProvider):
    """Gives one model and records what it was asked for."""

    def __init__(self) -> None:
        self.model = ScriptedModel([])
        self.asked: list[str | None] = []
        self.closed = 0

    def get_model(self, model_name: str | None) -> Model:
        self.asked.append(model_name)
        return self.model

    async def aclose(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def fresh_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A key, and nothing else that would change what the names mean."""
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    for name in ("OPENAI_DEFAULT_MODEL", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
    before = dict(vars(defaults))
    vars(defaults).clear()
    yield
    vars(defaults).clear()
    vars(defaults).update(before)


def name_of(provider: ModelProvider, model_name: str | None) -> str:
    model: Any = provider.get_model(model_name)
    assert isinstance(model, OpenAIResponsesModel)
    return model.model


def test_names_are_passed_on() -> None:
    """A name is the provider's own; None is the default model."""
    assert name_of(OpenAIProvider(), "gpt-test") == "gpt-test"
    assert name_of(OpenAIProvider(), "org/gpt-test") == "org/gpt-test"
    assert name_of(OpenAIProvider(), None) == get_default_model()


def test_the_default_model_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    """OPENAI_DEFAULT_MODEL names the model of agents that name none, also when it changes."""
    for name in ("gpt-one", "gpt-two"):
        monkeypatch.setenv("OPENAI_DEFAULT_MODEL", name)
        assert name_of(OpenAIProvider(), None) == name
        assert name_of(MultiProvider(), None) == name


def test_a_model_that_nobody_chose_is_marked() -> None:
    """So that a stored prompt can name its own."""
    chosen: Any = OpenAIProvider().get_model("gpt-test")
    fallback: Any = OpenAIProvider().get_model(None)
    assert (chosen._model_is_explicit, fallback._model_is_explicit) == (True, False)


async def test_options_reach_the_client() -> None:
    """Key, address, organisation and project are the client's."""
    provider = OpenAIProvider(
        api_key="sk-own", base_url="http://own.test/v1", organization="org_1", project="proj_1", use_responses=True
    )
    model: Any = provider.get_model("gpt-test")
    client = model._client
    assert (client.api_key, str(client.base_url)) == ("sk-own", "http://own.test/v1/")
    assert (client.organization, client.project, client.max_retries) == ("org_1", "proj_1", 0)


async def test_the_environment_of_the_official_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its variables are read when a model is used, not before."""
    model: Any = OpenAIProvider().get_model("gpt-test")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://environment.test/v1")
    monkeypatch.setenv("OPENAI_ORG_ID", "org_env")
    assert (str(model._client.base_url), model._client.organization) == ("http://environment.test/v1/", "org_env")


@pytest.mark.parametrize("option", ["api_key", "base_url", "organization", "project"])
async def test_a_client_has_its_own_options(option: str) -> None:
    """A client and options beside it contradict each other."""
    async with AsyncOpenAI(api_key="any") as client:
        with pytest.raises(UserError, match="openai_client"):
            OpenAIProvider(openai_client=client, **{option: "x"})
        model: Any = OpenAIProvider(openai_client=client).get_model("gpt-test")
        assert model._client is client


@pytest.mark.parametrize("option", ["use_responses_websocket", "responses_websocket_options", "agent_registration"])
def test_what_is_not_supported_is_refused(option: str) -> None:
    """An option of the SDK that would have no effect is not silently ignored."""
    with pytest.raises(UserError, match=rf"{option}=\.\.\.\) is not supported"):
        OpenAIProvider(**{option: True})


@pytest.mark.parametrize("provider", [OpenAIProvider, MultiProvider])
def test_no_key_is_told_before_any_request(provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key there is no model, and the message says what to do."""
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="set the environment variable OPENAI_API_KEY"):
        provider().get_model("gpt-test")


# Prefixes.


def test_openai_is_a_prefix() -> None:
    """`openai/NAME` and `NAME` are the same model."""
    assert name_of(MultiProvider(), "gpt-test") == "gpt-test"
    assert name_of(MultiProvider(), "openai/gpt-test") == "gpt-test"
    assert name_of(MultiProvider(), "openai/org/gpt-test") == "org/gpt-test"


def test_openai_may_be_part_of_the_name() -> None:
    """With openai_prefix_mode="model_id" the name is passed whole, for servers that call their models so."""
    assert name_of(MultiProvider(openai_prefix_mode="model_id"), "openai/gpt-test") == "openai/gpt-test"


def test_other_prefixes_go_to_the_map() -> None:
    """A provider of the map gets what comes after its prefix."""
    mine = _Provider()
    providers = MultiProviderMap()
    providers.add_provider("mine", mine)
    provider = MultiProvider(provider_map=providers)
    assert provider.get_model("mine/big") is mine.model
    assert provider.get_model("mine/org/big") is mine.model
    assert mine.asked == ["big", "org/big"]
    assert name_of(provider, "gpt-test") == "gpt-test"


def test_the_map_goes_before_openai() -> None:
    """A provider may be registered for the prefix `openai`, too."""
    mine = _Provider()
    providers = MultiProviderMap()
    providers.add_provider("openai", mine)
    assert MultiProvider(provider_map=providers).get_model("openai/x") is mine.model


def test_unknown_prefixes() -> None:
    """They are an error that names the prefix, or part of the name where that was asked for."""
    with pytest.raises(UserError, match="no provider serves the prefix 'meta' of the model 'meta/llama'"):
        MultiProvider().get_model("meta/llama")
    assert name_of(MultiProvider(unknown_prefix_mode="model_id"), "meta/llama") == "meta/llama"


@pytest.mark.parametrize("option", ["openai_prefix_mode", "unknown_prefix_mode"])
def test_modes_are_checked(option: str) -> None:
    """A mode that does not exist raises UserError with its name."""
    with pytest.raises(UserError, match=f"{option} must be"):
        MultiProvider(**{option: "both"})


async def test_options_reach_openai() -> None:
    """The options of the whole are those of its OpenAI provider."""
    provider = MultiProvider(openai_api_key="sk-own", openai_base_url="http://own.test/v1", openai_use_responses=True)
    model: Any = provider.get_model("gpt-test")
    assert (model._client.api_key, str(model._client.base_url)) == ("sk-own", "http://own.test/v1/")


async def test_closing_closes_the_map() -> None:
    """The providers of the map are closed with the whole; without a map there is nothing to close."""
    mine = _Provider()
    providers = MultiProviderMap()
    providers.add_provider("mine", mine)
    await MultiProvider(provider_map=providers).aclose()
    assert mine.closed == 1
    await MultiProvider().aclose()


def test_the_map() -> None:
    """Prefixes can be looked up, added, replaced and taken out; what is given away is a copy."""
    first, second = _Provider(), _Provider()
    providers = MultiProviderMap()
    assert not providers.has_prefix("a")
    assert providers.get_provider("a") is None
    providers.add_provider("a", first)
    assert providers.get_provider("a") is first
    mapping = providers.get_mapping()
    mapping["b"] = second
    assert not providers.has_prefix("b")
    providers.set_mapping(mapping)
    mapping.clear()
    assert providers.has_prefix("a")
    assert providers.get_provider("b") is second
    providers.remove_provider("a")
    assert not providers.has_prefix("a")
    with pytest.raises(KeyError):
        providers.remove_provider("a")


async def test_a_models_endpoint_tells_no_secrets() -> None:
    """It stands in logs, metrics and errors: the server's address goes without credentials and query."""
    address = "http://me:secret@example.test/v1?key=secret"
    async with AsyncOpenAI(api_key="secret", base_url=address) as client:
        for provider in (OpenAIProvider(api_key="secret", base_url=address), OpenAIProvider(openai_client=client)):
            model: Any = provider.get_model("m")
            assert model.endpoint == "http://example.test/v1 m"
