"""Models behind the Responses API: OpenAI's, and servers that speak Open Responses."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from runstream.agent.items import ModelResponse
from runstream.agent.model import ModelBatch, ModelBatches, ModelRequest
from runstream.agent.model_failure import incomplete_message
from runstream.errors import ModelBehaviorError, ModelStreamFailed
from runstream.models.client_model import BodyBatches, ClientModel
from runstream.models.decode import decode_frames
from runstream.models.responses_request import create_arguments
from runstream.models.transport import ClientSettings, StreamBody, clear_errors, open_stream

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.responses import Response, ResponseStreamEvent

__all__ = ["OpenAIResponsesModel"]


class OpenAIResponsesModel(ClientModel):
    """A model of that name, asked through that client, or through the running event loop's client of those settings.

    With `model_is_explicit=False` the name is left out of requests that use a stored prompt, which names its own.
    """

    def __init__(
        self, model: str, openai_client: AsyncOpenAI | ClientSettings, *, model_is_explicit: bool = True
    ) -> None:
        super().__init__(model, openai_client)
        self._model_is_explicit = model_is_explicit

    async def respond(self, request: ModelRequest) -> ModelResponse:
        arguments = self._arguments(request, stream=False)
        with clear_errors():
            response = cast("Response", await cast("Any", self._client.responses).create(**arguments))
        if not isinstance(getattr(response, "output", None), list | tuple):
            shown: object = response.model_dump(exclude_unset=True) if hasattr(response, "model_dump") else response
            raise ModelBehaviorError(
                f"The model's answer is not a response of the Responses API but {shown!r:.500}. Is the base URL right, "
                "and does the server speak this API? Else call set_default_openai_api('chat_completions')."
            )
        _check_complete(response)
        answer = ModelResponse.from_response(response)
        if request.model_settings.preserve_raw_usage and response.usage is not None:
            answer.raw_usage = response.usage.model_dump()
        return answer

    def stream_batches(self, request: ModelRequest) -> ModelBatches:
        """The events that the API sends, one batch for each read from the network."""
        client = self._client
        responses: Any = client.responses
        streaming = getattr(responses, "with_streaming_response", None)
        if streaming is None:
            return _read_events(responses, partial(self._arguments, request))

        def open_body() -> Awaitable[StreamBody]:
            return open_stream(client, "/responses", streaming.create, self._arguments(request))

        return _ResponseBatches(open_body)

    def _arguments(self, request: ModelRequest, *, stream: bool = True) -> dict[str, Any]:
        return create_arguments(self.model, request, stream=stream, model_is_explicit=self._model_is_explicit)


class _ResponseBatches(BodyBatches):
    __slots__ = ()

    async def __anext__(self) -> ModelBatch:
        if self._error is not None:
            raise self._error
        body = self._body or await self._open()
        while True:
            events, kept, self._error = decode_frames(await body.__anext__())
            if events:
                last: Any = events[-1]
                if last.type == "response.completed" and body.request_id is not None:
                    last.response._request_id = body.request_id  # where the official client keeps it
                return ModelBatch(events, kept)
            if self._error is not None:
                raise self._error


def _check_complete(response: Response) -> None:
    status = getattr(response, "status", None)  # doubles of the client need not have it
    if status in (None, "completed"):
        return
    if status == "incomplete":
        reason = response.incomplete_details.reason if response.incomplete_details else None
        raise ModelStreamFailed(incomplete_message(reason), event_type="response.incomplete", error_code=reason)
    error = response.error
    raise ModelStreamFailed(
        f"The model's response ended with response.{status}: {error.message if error else 'no error given'}",
        event_type=f"response.{status}",
        error_code=error.code if error else None,
    )


async def _read_events(responses: Any, arguments: Callable[[], dict[str, Any]]) -> AsyncGenerator[ModelBatch, None]:
    """For clients that only have `create`, like doubles and wrappers."""
    events = await responses.create(**arguments())
    try:
        async for event in cast("AsyncIterator[ResponseStreamEvent]", events):
            yield ModelBatch([event], [None])
    finally:
        close = getattr(events, "close", None) or getattr(events, "aclose", None)
        if close is not None:
            await close()
