"""A model around another one: the base of every operator that can be used as a model of its own.

Whoever wraps a model implements `respond` and `stream_batches` over one request object; the SDK's two calls are made
from them here. What a model is asked about besides (advice on retries, its name, its endpoint) is the inner one's.
"""

from __future__ import annotations

import abc
import json
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, cast

from runstream.agent.items import ModelResponse
from runstream.agent.model import Model, ModelBatches, ModelRequest, ModelTracing, streams_in_batches
from runstream.errors import ModelStreamBroken, UserError

if TYPE_CHECKING:
    from openai.types.responses import ResponseStreamEvent
    from openai.types.responses.response_prompt_param import ResponsePromptParam

    from runstream.agent.handoff import Handoff
    from runstream.agent.items import TResponseInputItem
    from runstream.agent.output import AgentOutputSchemaBase
    from runstream.agent.settings import ModelSettings
    from runstream.agent.tool import Tool

__all__ = ["RequestModel", "WrappedModel", "ask", "model_name"]


async def ask(model: Model, request: ModelRequest) -> ModelResponse:
    """The model's whole response. Raises what the model raises; ModelStreamBroken for an answer that is no JSON, and
    UserError for a model that returns something else."""
    if isinstance(model, RequestModel):
        return await model.respond(request)
    try:
        response = await model.get_response(**request.arguments())
    except json.JSONDecodeError as error:
        # What the official client lets through for a body that is no JSON.
        raise ModelStreamBroken(
            f"The model's answer is not JSON ({error}): it was cut off, or something else answered in its place",
            frame=error.doc.encode(),
        ) from error
    if not isinstance(cast("object", response), ModelResponse):
        raise UserError(f"{type(model).__name__}.get_response must return a ModelResponse, not {response!r:.100}")
    return response


def model_name(model: Model) -> str:
    """What people call the model: its name where it has one, else its class's."""
    name = getattr(model, "model", None)
    return name if isinstance(name, str) and name else type(model).__name__


class RequestModel(Model):
    """A model over one request object."""

    @abc.abstractmethod
    async def respond(self, request: ModelRequest) -> ModelResponse:
        """The whole response at once."""

    @abc.abstractmethod
    def stream_batches(self, request: ModelRequest) -> ModelBatches:
        """The response as events, in batches."""

    async def get_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff[Any, Any]],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None = None,
        conversation_id: str | None = None,
        prompt: ResponsePromptParam | None = None,
    ) -> ModelResponse:
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
    async def stream_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff[Any, Any]],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None = None,
        conversation_id: str | None = None,
        prompt: ResponsePromptParam | None = None,
    ) -> AsyncGenerator[ResponseStreamEvent, None]:
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


class WrappedModel(RequestModel):
    """A model around `inner`, which is what it is asked about as a model."""

    def __init__(self, inner: Model) -> None:
        self.inner = inner

    @property
    def model(self) -> str:
        """The inner model's name."""
        return model_name(self.inner)

    @property
    def retries_itself(self) -> bool:
        """Whether the inner model sends failed requests again by itself."""
        return getattr(self.inner, "retries_itself", False) is True

    @property
    def endpoint(self) -> Any:
        """What a breaker or a rate belongs to: the inner model's endpoint, or that model itself."""
        return getattr(self.inner, "endpoint", self.inner)

    def get_retry_advice(self, request: Any) -> Any:
        return self.inner.get_retry_advice(request)

    async def close(self) -> None:
        await self.inner.close()
