"""From the name of a model to the model: OpenAI and compatible servers, and prefixes for other providers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from runstream.agent.model import Model, ModelProvider
from runstream.agent.settings import get_default_model
from runstream.errors import UserError
from runstream.models.defaults import check_client, defaults

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from runstream.models.transport import ClientSettings

__all__ = ["MultiProvider", "MultiProviderMap", "OpenAIProvider"]


class OpenAIProvider(ModelProvider):
    """Models of OpenAI, or of a compatible server at `base_url`.

    Without `openai_client` a client is made for each event loop, from these arguments, the process's defaults and the
    environment variables of the official client. `use_responses` chooses between the Responses and the Chat
    Completions API; None takes the process's default.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        websocket_base_url: str | None = None,
        openai_client: AsyncOpenAI | None = None,
        organization: str | None = None,
        project: str | None = None,
        use_responses: bool | None = None,
        use_responses_websocket: bool | None = None,
        strict_feature_validation: bool = False,
        agent_registration: Any | None = None,
        responses_websocket_options: Any | None = None,
        buffer_streamed_tool_calls: bool = False,
    ) -> None:
        if openai_client is not None and any(
            option is not None for option in (api_key, base_url, websocket_base_url, organization, project)
        ):
            raise UserError(
                "Don't provide api_key, base_url, websocket_base_url, organization, or project together with "
                "openai_client: the client has its own"
            )
        for name, value in (
            ("websocket_base_url", websocket_base_url),
            ("use_responses_websocket", use_responses_websocket),
            ("responses_websocket_options", responses_websocket_options),
            ("agent_registration", agent_registration),
        ):
            if value:
                raise UserError(f"OpenAIProvider({name}=...) is not supported by this version of runstream")
        check_client(openai_client)
        self._client = openai_client
        self._api_key = api_key
        self._base_url = base_url
        self._organization = organization
        self._project = project
        self._use_responses = use_responses
        self._strict_feature_validation = strict_feature_validation
        self._buffer_streamed_tool_calls = buffer_streamed_tool_calls

    def get_model(self, model_name: str | None) -> Model:
        """The model. Raises UserError, before any request, where there is no API key, or the address is none.

        Without a client of the caller's the model takes that of the event loop it is called in, so it can be made
        anywhere and used in several loops, one after the other.
        """
        name = model_name if model_name is not None else get_default_model()
        client = self._get_client()
        use_responses = defaults.use_responses if self._use_responses is None else self._use_responses
        if use_responses:
            from runstream.models.responses import OpenAIResponsesModel

            return OpenAIResponsesModel(name, client, model_is_explicit=model_name is not None)
        from runstream.models.chat_completions import OpenAIChatCompletionsModel

        return OpenAIChatCompletionsModel(
            name,
            client,
            strict_feature_validation=self._strict_feature_validation,
            buffer_streamed_tool_calls=self._buffer_streamed_tool_calls,
        )

    def _get_client(self) -> AsyncOpenAI | ClientSettings:
        if self._client is not None:
            return self._client
        settings = (self._api_key, self._base_url, self._organization, self._project)
        if defaults.client is not None and settings == (None, None, None, None):
            return defaults.client
        from runstream.models.transport import ClientSettings, check_settings

        chosen = ClientSettings(self._api_key or defaults.api_key, self._base_url, self._organization, self._project)
        check_settings(chosen)
        return chosen


class MultiProviderMap:
    """Which provider serves which prefix of model names (`prefix/name`)."""

    def __init__(self) -> None:
        self._providers: dict[str, ModelProvider] = {}

    def has_prefix(self, prefix: str) -> bool:
        """Whether a provider serves it."""
        return prefix in self._providers

    def get_mapping(self) -> dict[str, ModelProvider]:
        """A copy of the whole map."""
        return self._providers.copy()

    def set_mapping(self, mapping: dict[str, ModelProvider]) -> None:
        """Replace the whole map."""
        self._providers = dict(mapping)

    def get_provider(self, prefix: str) -> ModelProvider | None:
        """The provider of a prefix, if any."""
        return self._providers.get(prefix)

    def add_provider(self, prefix: str, provider: ModelProvider) -> None:
        """Let a provider serve a prefix."""
        self._providers[prefix] = provider

    def remove_provider(self, prefix: str) -> None:
        """Take a prefix out. Raises KeyError where it is not there."""
        del self._providers[prefix]


class MultiProvider(ModelProvider):
    """The default provider: `openai/NAME` and `NAME` go to OpenAI, other prefixes to the providers of the map.

    A name with an unknown prefix raises UserError, or goes to OpenAI as it stands with `unknown_prefix_mode="model_id"`
    (for servers whose model names hold slashes). `openai_prefix_mode="model_id"` keeps `openai/` in the name.
    """

    def __init__(
        self,
        *,
        provider_map: MultiProviderMap | None = None,
        openai_api_key: str | None = None,
        openai_base_url: str | None = None,
        openai_client: AsyncOpenAI | None = None,
        openai_organization: str | None = None,
        openai_project: str | None = None,
        openai_use_responses: bool | None = None,
        openai_use_responses_websocket: bool | None = None,
        openai_strict_feature_validation: bool = False,
        openai_websocket_base_url: str | None = None,
        openai_prefix_mode: Literal["alias", "model_id"] = "alias",
        unknown_prefix_mode: Literal["error", "model_id"] = "error",
        openai_agent_registration: Any | None = None,
        openai_responses_websocket_options: Any | None = None,
        openai_buffer_streamed_tool_calls: bool = False,
    ) -> None:
        if openai_prefix_mode not in ("alias", "model_id"):
            raise UserError(f"openai_prefix_mode must be 'alias' or 'model_id', not {openai_prefix_mode!r}")
        if unknown_prefix_mode not in ("error", "model_id"):
            raise UserError(f"unknown_prefix_mode must be 'error' or 'model_id', not {unknown_prefix_mode!r}")
        self.provider_map = provider_map
        self.openai_provider = OpenAIProvider(
            api_key=openai_api_key,
            base_url=openai_base_url,
            websocket_base_url=openai_websocket_base_url,
            openai_client=openai_client,
            organization=openai_organization,
            project=openai_project,
            use_responses=openai_use_responses,
            use_responses_websocket=openai_use_responses_websocket,
            strict_feature_validation=openai_strict_feature_validation,
            agent_registration=openai_agent_registration,
            responses_websocket_options=openai_responses_websocket_options,
            buffer_streamed_tool_calls=openai_buffer_streamed_tool_calls,
        )
        self._openai_prefix_mode = openai_prefix_mode
        self._unknown_prefix_mode = unknown_prefix_mode

    def get_model(self, model_name: str | None) -> Model:
        """The model of that name. Raises UserError for a prefix that nobody serves."""
        if model_name is None or "/" not in model_name:
            return self.openai_provider.get_model(model_name)
        prefix, _, name = model_name.partition("/")
        if self.provider_map is not None:
            provider = self.provider_map.get_provider(prefix)
            if provider is not None:
                return provider.get_model(name)
        if prefix == "openai":
            return self.openai_provider.get_model(name if self._openai_prefix_mode == "alias" else model_name)
        if self._unknown_prefix_mode == "model_id":
            return self.openai_provider.get_model(model_name)
        raise UserError(
            f"no provider serves the prefix {prefix!r} of the model {model_name!r}: register one with "
            "MultiProviderMap.add_provider, or use MultiProvider(unknown_prefix_mode='model_id') for a server whose "
            "model names hold slashes"
        )

    async def aclose(self) -> None:
        """Close the providers of the map."""
        if self.provider_map is not None:
            for provider in self.provider_map.get_mapping().values():
                await provider.aclose()
