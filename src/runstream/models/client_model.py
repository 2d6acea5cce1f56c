"""What the models behind an official client have in common: the SDK's call signatures, over one request object."""

from __future__ import annotations

import abc
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from runstream.agent.handoff import Handoff
from runstream.agent.items import ModelResponse, TResponseInputItem
from runstream.agent.model import Model, ModelBatch, ModelBatches, ModelRequest, ModelTracing, streams_in_batches
from runstream.agent.model_failure import advice_on
from runstream.agent.output import AgentOutputSchemaBase
from runstream.agent.retry import ModelRetryAdvice, ModelRetryAdviceRequest
from runstream.agent.settings import ModelSettings
from runstream.agent.tool import Tool
from runstream.models.defaults import check_client
from runstream.models.transport import ClientSettings, address_of, client_for, shown_address

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.responses import ResponseStreamEvent
    from openai.types.responses.response_prompt_param import ResponsePromptParam

    from runstream.models.transport import StreamBody

__all__ = ["BodyBatches", "ClientModel"]


class BodyBatches(abc.ABC):
    """The events of one streamed body, one batch for each network read. The request goes out with the first.

    A class and no async generator, because every token passes here and a generator would be one more frame to wake.
    """

    __slots__ = ("_body", "_error", "_open_body")

    def __init__(self, open_body: Callable[[], Awaitable[StreamBody]]) -> None:
        self._open_body: Callable[[], Awaitable[StreamBody]] | None = open_body
        self._body: StreamBody | None = None
        self._error: Exception | None = None
        """To be raised in the place of the next batch."""

    def __aiter__(self) -> BodyBatches:
        return self

    @abc.abstractmethod
    async def __anext__(self) -> ModelBatch:
        """The events of the next read that brings any."""

    @property
    def is_connected(self) -> bool:
        """Whether the response has begun: its headers are there."""
        return self._body is not None

    async def _open(self) -> StreamBody:
        assert self._open_body is not None
        self._body = await self._open_body()
        self._open_body = None  # what the request was made of is not kept for as long as the answer takes
        return self._body

    async def aclose(self) -> None:
        """Close the connection, unless the body was read to its end."""
        if self._body is not None:
            await self._body.aclose()


class ClientModel(Model):
    """A model of that name, asked through that client, or through the running event loop's client of those settings.

    Subclasses implement `respond` and `stream_batches`.
    """

    def __init__(self, model: str, openai_client: AsyncOpenAI | ClientSettings) -> None:
        check_client(openai_client)
        self.model = model
        self._given_client = openai_client

    @property
    def _client(self) -> AsyncOpenAI:
        given = self._given_client
        return client_for(given) if isinstance(given, ClientSettings) else given

    @property
    def endpoint(self) -> str:
        """The server and the model's name: what fails together. Logs and metrics have it: nothing secret is in it."""
        given = self._given_client
        if isinstance(given, ClientSettings):
            address = address_of(given)
        else:
            address = str(getattr(given, "base_url", type(given).__name__))
        return f"{shown_address(address).rstrip('/')} {self.model}"

    @property
    def retries_itself(self) -> bool:
        """Whether the client that the user gave sends failed requests again: the run then does not."""
        given = self._given_client
        return not isinstance(given, ClientSettings) and getattr(given, "max_retries", 0) > 0

    @abc.abstractmethod
    async def respond(self, request: ModelRequest) -> ModelResponse:
        """The whole response at once."""

    @abc.abstractmethod
    def stream_batches(self, request: ModelRequest) -> ModelBatches:
        """The response as events, one batch for each read from the network."""

    def get_retry_advice(self, request: ModelRetryAdviceRequest) -> ModelRetryAdvice | None:
        """What the official client's errors tell about trying again; None where they tell nothing."""
        return advice_on(request)

    # The SDK's models take the last three parameters by position, too.
    async def get_response(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff[Any, Any]],
        tracing: ModelTracing,
        previous_response_id: str | None = None,
        conversation_id: str | None = None,
        prompt: ResponsePromptParam | None = None,
    ) -> ModelResponse:
        """The whole response at once. Raises ModelStreamFailed where it is failed or incomplete, UserError for what
        the API cannot express, and the client's errors for requests that failed."""
        return await self.respond(
            ModelRequest(
                system_instructions,
                input,
                model_settings,
                tools,
                output_schema,
                handoffs,
                tracing,
                previous_response_id,
                conversation_id,
                prompt,
            )
        )

    @streams_in_batches("stream_batches")
    async def stream_response(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff[Any, Any]],
        tracing: ModelTracing,
        previous_response_id: str | None = None,
        conversation_id: str | None = None,
        prompt: ResponsePromptParam | None = None,
    ) -> AsyncGenerator[ResponseStreamEvent, None]:
        """The response as events of the Responses API, one by one."""
        batches = self.stream_batches(
            ModelRequest(
                system_instructions,
                input,
                model_settings,
                tools,
                output_schema,
                handoffs,
                tracing,
                previous_response_id,
                conversation_id,
                prompt,
            )
        )
        try:
            async for batch in batches:
                for event in batch.events:
                    yield event
        finally:
            await batches.aclose()
