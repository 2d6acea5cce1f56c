"""models/defaults: what the process says about keys, clients and APIs where nothing else is said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from runstream.errors import UserError
from runstream.models.chat_completions import OpenAIChatCompletionsModel
from runstream.models.defaults import (
    defaults,
    is_official_openai_base_url,
    is_official_openai_client,
    set_default_openai_api,
    set_default_openai_client,
    set_default_openai_key,
)
from runstream.models.provider import OpenAIProvider
from runstream.models.responses import OpenAIResponsesModel


@pytest.fixture(autouse=True)
def fresh_defaults(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test begins with the defaults of a new process, and no key in the environment."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    before = dict(vars(defaults))
    vars(defaults).clear()
    yield
    vars(defaults).clear()
    vars(defaults).update(before)


async def client_of(provider: OpenAIProvider) -> AsyncOpenAI:
    model: Any = provider.get_model("gpt-test")
    return model._client


async def test_the_key() -> None:
    """A key of the process is used by models without one of their own, until it is taken back."""
    set_default_openai_key("sk-process")
    assert (await client_of(OpenAIProvider())).api_key == "sk-process"
    assert (await client_of(OpenAIProvider(api_key="sk-own"))).api_key == "sk-own"
    set_default_openai_key(None)
    with pytest.raises(UserError, match="no API key"):
        OpenAIProvider().get_model("gpt-test")


async def test_the_key_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program says counts more than OPENAI_API_KEY."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
    assert (await client_of(OpenAIProvider())).api_key == "sk-environment"
    set_default_openai_key("sk-process", use_for_tracing=False)
    assert (await client_of(OpenAIProvider())).api_key == "sk-process"


def test_a_key_is_a_string() -> None:
    """Anything else is a mistake of the program, found where it is made; the key itself is not shown."""
    with pytest.raises(UserError, match="must be a string, not bytes") as caught:
        set_default_openai_key(b"sk-secret")  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


async def test_the_client() -> None:
    """A client of the process is used as it is by models without options of their own, and needs no key here."""
    async with AsyncOpenAI(api_key="sk-client", base_url="http://client.test/v1") as client:
        set_default_openai_client(client)
        assert await client_of(OpenAIProvider()) is client
        other = await client_of(OpenAIProvider(api_key="sk-own"))
        assert other is not client
        assert other.api_key == "sk-own"
        set_default_openai_client(None)
        with pytest.raises(UserError, match="no API key"):
            OpenAIProvider().get_model("gpt-test")


async def test_the_api() -> None:
    """The Responses API unless the process, or the provider, says otherwise."""
    async with AsyncOpenAI(api_key="any") as client:
        provider = OpenAIProvider(openai_client=client)
        assert isinstance(provider.get_model("gpt-test"), OpenAIResponsesModel)
        set_default_openai_api("chat_completions")
        assert isinstance(provider.get_model("gpt-test"), OpenAIChatCompletionsModel)
        own = OpenAIProvider(openai_client=client, use_responses=True)
        assert isinstance(own.get_model("gpt-test"), OpenAIResponsesModel)
        set_default_openai_api("responses")
        assert isinstance(provider.get_model("gpt-test"), OpenAIResponsesModel)
        own = OpenAIProvider(openai_client=client, use_responses=False)
        assert isinstance(own.get_model("gpt-test"), OpenAIChatCompletionsModel)


def test_other_apis_are_refused() -> None:
    """A misspelt name raises UserError and changes nothing."""
    with pytest.raises(UserError, match="not 'chat'"):
        set_default_openai_api("chat")  # type: ignore[arg-type]
    assert defaults.use_responses


@pytest.mark.parametrize(
    ("url", "is_official"),
    [
        ("https://api.openai.com/v1", True),
        ("https://api.openai.com/v1/", True),
        ("https://API.OpenAI.com", True),
        ("http://api.openai.com/v1", False),
        ("https://api.openai.com.example.org/v1", False),
        ("https://example.org/api.openai.com", False),
        ("https://user@example.org#api.openai.com", False),
        ("http://127.0.0.1:8000/v1", False),
        ("wss://api.openai.com/v1", False),
        ("", False),
        (None, False),
    ],
)
def test_which_addresses_are_openais(url: Any, is_official: bool) -> None:
    """Only the API's own host, over TLS."""
    assert is_official_openai_base_url(url) is is_official


def test_websocket_addresses() -> None:
    """For WebSockets the scheme is another."""
    assert is_official_openai_base_url("wss://api.openai.com/v1", websocket=True)
    assert not is_official_openai_base_url("https://api.openai.com/v1", websocket=True)


async def test_which_clients_are_openais() -> None:
    """A client is official if its base URL is; anything without one is not."""
    async with AsyncOpenAI(api_key="any", base_url="http://client.test/v1") as client:
        assert not is_official_openai_client(client)
    async with AsyncOpenAI(api_key="any", base_url="https://api.openai.com/v1") as client:
        assert is_official_openai_client(client)
    assert not is_official_openai_client(object())  # type: ignore[arg-type]
