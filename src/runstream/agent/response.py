"""What one model call gave, and the names of the Responses API's types.

Owns `ModelResponse` and the `TResponse...` aliases. Must not know runs or agents. The aliases are the official types
for type checkers and `Any` at run time, so that importing this module does not import openai.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from runstream.agent.raw_item import to_input_item
from runstream.agent.usage import Usage

if TYPE_CHECKING:
    from openai.types.responses import (
        Response,
        ResponseCompletedEvent,
        ResponseInputItemParam,
        ResponseOutputItem,
        ResponseStreamEvent,
    )
else:
    Response = ResponseInputItemParam = ResponseOutputItem = ResponseStreamEvent = Any

__all__ = [
    "ModelResponse",
    "TResponse",
    "TResponseInputItem",
    "TResponseOutputItem",
    "TResponseStreamEvent",
]

TResponse: TypeAlias = Response
"""A response of the Responses API."""
TResponseInputItem: TypeAlias = ResponseInputItemParam
"""An item of a model's input: a dict."""
TResponseOutputItem: TypeAlias = ResponseOutputItem
"""An item of a model's output."""
TResponseStreamEvent: TypeAlias = ResponseStreamEvent
"""An event of a model's stream."""

_ORIGIN = "_runstream_model_response"


@dataclass
class ModelResponse:
    """The complete answer to one model call."""

    output: list[TResponseOutputItem]
    """Messages, tool calls, reasoning, in the model's order."""
    usage: Usage
    response_id: str | None
    """The provider's id, to refer to the response in later calls; None where the provider has none."""
    request_id: str | None = None
    """The transport's id of the request, for questions to the provider."""
    raw_usage: dict[str, Any] | None = None
    """The provider's own usage as it came, if `ModelSettings.preserve_raw_usage` asked for it."""
    answered_by: str | None = field(default=None, kw_only=True, compare=False, repr=False)
    """The model that answered, where it is known."""
    fallback_reason: str | None = field(default=None, kw_only=True, compare=False, repr=False)
    """Why that was not the first choice; None where it was."""

    @classmethod
    def from_response(cls, response: TResponse, *, request_id: str | None = None) -> ModelResponse:
        """The answer that an official `Response` holds. Without usage in it, one request and no tokens are counted."""
        origin = getattr(response, _ORIGIN, None)
        if isinstance(origin, ModelResponse):
            return replace(origin, output=list(response.output), request_id=request_id or origin.request_id)
        return cls(
            output=list(response.output),
            usage=Usage.from_response(response.usage),
            response_id=response.id or None,
            request_id=request_id or getattr(response, "_request_id", None),
        )

    def to_input_items(self) -> list[TResponseInputItem]:
        """The output as items for the next call's input: plain dicts."""
        return [cast("TResponseInputItem", to_input_item(item)) for item in self.output]

    def to_completed_event(self) -> ResponseCompletedEvent:
        """The answer as the terminal event of a stream.

        `from_response` of the event's response gives back this answer's usage and ids in full, also what the official
        type has no field for. The name of the model is empty where it is not known, the time of creation 0.
        """
        from openai.types.responses import Response, ResponseCompletedEvent
        from openai.types.responses.response_usage import ResponseUsage

        response = Response.model_construct(
            id=self.response_id or "",
            created_at=0.0,
            model=self.answered_by or "",
            object="response",
            output=[],
            parallel_tool_calls=False,
            status="completed",
            tool_choice="auto",
            tools=[],
            usage=ResponseUsage(
                input_tokens=self.usage.input_tokens,
                input_tokens_details=self.usage.input_tokens_details,
                output_tokens=self.usage.output_tokens,
                output_tokens_details=self.usage.output_tokens_details,
                total_tokens=self.usage.total_tokens,
            ),
        )
        # Set afterwards: the constructor would force items of types that the client does not know into ones it does.
        response.output = list(self.output)
        object.__setattr__(response, _ORIGIN, self)
        return ResponseCompletedEvent.model_construct(response=response, sequence_number=0, type="response.completed")
