"""What a model is to the run: one call that gives a response, or one that streams it.

The signatures are the OpenAI Agents SDK's. A model may implement only one of the two calls: the other is made from it.

A third, inner call is ours. Providers deliver many deltas in one network read, and an `await` for each of them would
cost more than decoding it. A model that can hand over whole reads marks its `stream_response` with
`@streams_in_batches("name_of_the_batch_method")`; `open_batches` finds the mark. Whoever overrides or replaces
`stream_response` thereby removes the mark, so an override is never bypassed.
"""

from __future__ import annotations

import abc
import enum
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from runstream.errors import ModelStreamTruncated, UserError

if TYPE_CHECKING:
    from openai.types.responses import ResponseStreamEvent
    from openai.types.responses.response_prompt_param import ResponsePromptParam

    from runstream.agent.handoff import Handoff
    from runstream.agent.items import ModelResponse, TResponseInputItem
    from runstream.agent.output import AgentOutputSchemaBase
    from runstream.agent.settings import ModelSettings
    from runstream.agent.tool import Tool

__all__ = [
    "Model",
    "ModelBatch",
    "ModelBatches",
    "ModelProvider",
    "ModelRequest",
    "ModelTracing",
    "open_batches",
    "streams_in_batches",
]

_F = TypeVar("_F", bound=Callable[..., Any])
_MARK = "__runstream_batches__"


class ModelTracing(enum.Enum):
    """Whether a model call may be traced, and with its content or without."""

    DISABLED = 0
    ENABLED = 1
    ENABLED_WITHOUT_DATA = 2

    def is_disabled(self) -> bool:
        return self is ModelTracing.DISABLED

    def include_data(self) -> bool:
        return self is ModelTracing.ENABLED


class ModelBatch:
    """The events that one read brought, in order; `frames[i]` is the JSON bytes of `events[i]`, or None.

    A frame is there only where it came from the model in the Responses format and holds no more than its event.
    """

    __slots__ = ("events", "frames")

    def __init__(self, events: list[ResponseStreamEvent], frames: list[bytes | None]) -> None:
        self.events = events
        self.frames = frames


class ModelBatches(Protocol):
    """The batches of one model call, as an asynchronous generator gives them. Whoever iterates also closes."""

    def __aiter__(self) -> AsyncIterator[ModelBatch]: ...

    def __anext__(self) -> Awaitable[ModelBatch]: ...

    def aclose(self) -> Awaitable[object]:
        """Nothing more is read: what the call holds (a connection) is released."""
        ...


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """The arguments of one model call, as one object."""

    system_instructions: str | None
    input: str | list[TResponseInputItem]
    model_settings: ModelSettings
    tools: list[Tool]
    output_schema: AgentOutputSchemaBase | None
    handoffs: list[Handoff[Any, Any]]
    tracing: ModelTracing = ModelTracing.DISABLED
    previous_response_id: str | None = None
    conversation_id: str | None = None
    prompt: ResponsePromptParam | None = None

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `Model.get_response` and `Model.stream_response`."""
        return {name: getattr(self, name) for name in self.__slots__}


class Model(abc.ABC):
    """Base of models. Implement `stream_response`, `get_response`, or both."""

    async def close(self) -> None:
        """Release what the model holds (connections). Called by its owner, never by a run."""

    def get_retry_advice(self, request: Any) -> Any:
        """Advise whether a failed request may be sent again; None leaves it to the default policy."""
        return None

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
        """The whole response at once. This default drains `stream_response`."""
        if type(self).stream_response is Model.stream_response:
            raise UserError(f"{type(self).__name__} implements neither get_response nor stream_response")
        from runstream.agent.items import ModelResponse

        stream = self.stream_response(
            system_instructions,
            input,
            model_settings,
            tools,
            output_schema,
            handoffs,
            tracing,
            previous_response_id=previous_response_id,
            conversation_id=conversation_id,
            prompt=prompt,
        )
        response: Any = None
        async for event in stream:
            if event.type == "response.completed":
                response = event.response
        if response is None:
            raise ModelStreamTruncated("The model's stream ended without a completed response.")
        return ModelResponse.from_response(response)

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
        """The response as events of the Responses API. This default makes one event of `get_response`."""
        if type(self).get_response is Model.get_response:
            raise UserError(f"{type(self).__name__} implements neither get_response nor stream_response")
        response = await self.get_response(
            system_instructions,
            input,
            model_settings,
            tools,
            output_schema,
            handoffs,
            tracing,
            previous_response_id=previous_response_id,
            conversation_id=conversation_id,
            prompt=prompt,
        )
        yield response.to_completed_event()


class ModelProvider(abc.ABC):
    """Finds a model by its name."""

    @abc.abstractmethod
    def get_model(self, model_name: str | None) -> Model:
        """The model of that name; None asks for the default one. Raises UserError for a name it cannot serve."""

    async def aclose(self) -> None:
        """Release the models that this provider made."""


def streams_in_batches(method: str) -> Callable[[_F], _F]:
    """Mark `stream_response` as the flattened form of the method `method`, which gives `ModelBatches`."""

    def mark(function: _F) -> _F:
        setattr(function, _MARK, method)
        return function

    return mark


def open_batches(model: Model, request: ModelRequest) -> ModelBatches:
    """The model's events in batches: the model's own if it has them, else one event each."""
    method = getattr(model.stream_response, _MARK, None)
    if isinstance(method, str):
        return cast("ModelBatches", getattr(model, method)(request))
    return _one_by_one(model, request)


async def _one_by_one(model: Model, request: ModelRequest) -> AsyncGenerator[ModelBatch, None]:
    stream = model.stream_response(**request.arguments())
    if not hasattr(stream, "__aiter__"):
        if inspect.iscoroutine(stream):
            stream.close()
        raise UserError(
            f"{type(model).__name__}.stream_response must return an async iterator of events, as an async generator "
            f"does, not {type(stream).__name__}"
        )
    try:
        async for event in stream:
            if not hasattr(event, "type"):
                raise UserError(
                    f"{type(model).__name__}.stream_response must give events of openai.types.responses, "
                    f"not {type(event).__name__}: {event!r:.100}"
                )
            yield ModelBatch([event], [None])
    finally:
        # Users' models may be plain async iterators, which have no aclose.
        aclose = getattr(stream, "aclose", None)
        if aclose is not None:
            await aclose()
