"""Models behind the Chat Completions API: OpenAI's, and the many servers that speak it (vLLM, Ollama, llama.cpp, ...).

Whatever the server, the rest of the package sees the events and items of the Responses API. Must not know dialects:
those are in `chat_quirks` and the decoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from runstream.agent.items import ModelResponse
from runstream.agent.model import ModelBatch, ModelBatches, ModelRequest
from runstream.agent.model_failure import incomplete_message
from runstream.errors import AgentsException, ModelBehaviorError, ModelStreamFailed, ModelStreamTruncated
from runstream.models.chat_decode import ChatDecoder, completion_to_response
from runstream.models.chat_request import create_arguments
from runstream.models.client_model import BodyBatches, ClientModel
from runstream.models.transport import ClientSettings, StreamBody, clear_errors, open_stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from openai import AsyncOpenAI
    from openai.types.responses import ResponseStreamEvent

    from runstream.models.chat_messages import ShouldReplayReasoningContent

__all__ = ["OpenAIChatCompletionsModel"]


class OpenAIChatCompletionsModel(ClientModel):
    """A model of that name, asked through that client, or through the running event loop's client of those settings.

    `should_replay_reasoning_content` decides for each reasoning item whether it goes back to the model (by default to
    DeepSeek only). `strict_feature_validation` raises UserError where otherwise something that this API cannot express
    would be ignored or replaced. `buffer_streamed_tool_calls` holds streamed tool calls back until they are complete.
    """

    def __init__(
        self,
        model: str,
        openai_client: AsyncOpenAI | ClientSettings,
        should_replay_reasoning_content: ShouldReplayReasoningContent | None = None,
        strict_feature_validation: bool = False,
        buffer_streamed_tool_calls: bool = False,
    ) -> None:
        super().__init__(model, openai_client)
        self.should_replay_reasoning_content = should_replay_reasoning_content
        self._strict_feature_validation = strict_feature_validation
        self._buffer_streamed_tool_calls = buffer_streamed_tool_calls

    async def respond(self, request: ModelRequest) -> ModelResponse:
        arguments = self._arguments(request, stream=False)
        create = cast("Any", self._client.chat.completions.create)
        with clear_errors():
            completion = await create(**arguments)
        if not hasattr(completion, "model_dump"):
            raise ModelBehaviorError(f"The model's answer is not a chat completion but {completion!r:.500}")
        decoder = self._decoder(arguments)
        response = completion_to_response(completion.model_dump(exclude_unset=True), decoder)
        if response.status == "incomplete":
            reason = response.incomplete_details.reason if response.incomplete_details else None
            raise ModelStreamFailed(incomplete_message(reason), event_type="response.incomplete", error_code=reason)
        answer = ModelResponse.from_response(response, request_id=getattr(completion, "_request_id", None))
        if request.model_settings.preserve_raw_usage and decoder.raw_usage is not None:
            answer.raw_usage = dict(decoder.raw_usage)
        return answer

    def stream_batches(self, request: ModelRequest) -> ModelBatches:
        """The answer as events, one batch for each read from the network.

        What follows the terminal event is read and dropped, so that the connection can serve another request.

        Raises the errors of `ChatDecoder` and of the transport; the events before an error are handed over first.
        """
        arguments = self._arguments(request, stream=True)
        decoder = self._decoder(arguments)
        client = self._client
        completions: Any = client.chat.completions
        streaming = getattr(completions, "with_streaming_response", None)
        if streaming is None:
            return _read_chunks(completions, arguments, decoder)

        def open_body() -> Awaitable[StreamBody]:
            return open_stream(client, "/chat/completions", streaming.create, arguments)

        return _ChatBatches(open_body, decoder)

    def _arguments(self, request: ModelRequest, *, stream: bool) -> dict[str, Any]:
        return create_arguments(
            self.model,
            request,
            stream=stream,
            base_url=str(self._client.base_url),
            should_replay_reasoning_content=self.should_replay_reasoning_content,
            strict=self._strict_feature_validation,
        )

    def _decoder(self, arguments: dict[str, Any]) -> ChatDecoder:
        echo = {name: arguments[name] for name in ("temperature", "top_p") if name in arguments}
        echo["parallel_tool_calls"] = arguments.get("parallel_tool_calls", False)
        choice = arguments.get("tool_choice", "auto")
        echo["tool_choice"] = choice if isinstance(choice, str) else {"type": "function", **choice["function"]}
        return ChatDecoder(
            model=self.model,
            echo=echo,
            buffer_tool_calls=self._buffer_streamed_tool_calls,
            strict=self._strict_feature_validation,
        )


class _ChatBatches(BodyBatches):
    __slots__ = ("_decoder",)

    def __init__(self, open_body: Callable[[], Awaitable[StreamBody]], decoder: ChatDecoder) -> None:
        super().__init__(open_body)
        self._decoder = decoder

    async def __anext__(self) -> ModelBatch:
        if self._error is not None:
            raise self._error
        body = self._body or await self._open()
        decoder = self._decoder
        events: list[ResponseStreamEvent] = []
        while True:
            try:
                frames = await body.__anext__()
            except StopAsyncIteration:
                if decoder.closed:
                    raise
                return _batch(decoder.close(), body.request_id)
            except ModelStreamTruncated as error:
                if not decoder.closed:
                    raise
                raise StopAsyncIteration from error
            try:
                decoder.feed_frames(frames, events)
            except AgentsException as error:
                if not events:
                    raise
                self._error = error
            if events:
                return _batch(events, body.request_id if decoder.closed else None)


def _batch(events: list[ResponseStreamEvent], request_id: str | None = None) -> ModelBatch:
    if request_id is not None:
        cast("Any", events[-1]).response._request_id = request_id  # where the official client keeps it
    return ModelBatch(events, [None] * len(events))


async def _read_chunks(
    completions: Any, arguments: dict[str, Any], decoder: ChatDecoder
) -> AsyncGenerator[ModelBatch, None]:
    """For clients that only have `create`, like doubles and wrappers: their iterator ends where `[DONE]` was."""
    chunks = await completions.create(**arguments)
    try:
        async for chunk in cast("AsyncIterator[Any]", chunks):
            events = decoder.feed(chunk.model_dump(exclude_unset=True))
            if events:
                yield _batch(events)
        yield _batch(decoder.close(done=True))
    finally:
        close = getattr(chunks, "close", None) or getattr(chunks, "aclose", None)
        if close is not None:
            await close()
