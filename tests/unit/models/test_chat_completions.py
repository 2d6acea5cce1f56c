"""The Chat Completions model, through the official client, against a transport that answers from recordings."""

from __future__ import annotations

import json
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import AsyncOpenAI, RateLimitError
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from runstream.agent.model import ModelBatch, ModelRequest, ModelTracing, open_batches
from runstream.agent.settings import ModelSettings
from runstream.agent.tool import function_tool
from runstream.errors import (
    ModelBehaviorError,
    ModelStreamBroken,
    ModelStreamFailed,
    ModelStreamTruncated,
    UserError,
)
from runstream.models.chat_completions import OpenAIChatCompletionsModel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RECORDINGS = Path(__file__).parents[2] / "data" / "chat"


class Body(httpx2.AsyncByteStream):
    """A streamed body in given pieces; knows how far it was read and whether it was closed."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces
        self.read = 0
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            self.read += 1
            yield piece

    async def aclose(self) -> None:
        self.closed = True


class Server:
    """Answers every request alike and keeps what was asked."""

    def __init__(self, body: Body | dict[str, Any] | str, status: int = 200) -> None:
        self.requests: list[dict[str, Any]] = []
        self._body = body
        self._status = status

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(json.loads(request.content))
        headers = {"x-request-id": "req_1"}
        if isinstance(self._body, Body):
            headers["content-type"] = "text/event-stream"
            return httpx2.Response(self._status, headers=headers, stream=self._body)
        if isinstance(self._body, str):
            return httpx2.Response(self._status, headers=headers, text=self._body)
        return httpx2.Response(self._status, headers=headers, json=self._body)

    def model(self, **options: Any) -> OpenAIChatCompletionsModel:
        """A model that asks this server."""
        client = AsyncOpenAI(
            api_key="k",
            base_url="http://server.test/v1",
            max_retries=0,
            http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(self)),
        )
        return OpenAIChatCompletionsModel("m", client, **options)


def recorded(name: str) -> Body:
    """A recording in one piece."""
    return Body((RECORDINGS / f"{name}.sse").read_bytes())


def request(**fields: Any) -> ModelRequest:
    """A request that asks "hi", with these fields."""
    defaults: dict[str, Any] = {
        "system_instructions": None,
        "input": "hi",
        "model_settings": ModelSettings(),
        "tools": [],
        "output_schema": None,
        "handoffs": [],
        "tracing": ModelTracing.DISABLED,
    }
    return ModelRequest(**{**defaults, **fields})


async def collect(model: OpenAIChatCompletionsModel, events: list[Any], **fields: Any) -> None:
    """Put the events of a streamed call into `events`, which has them also where the call fails."""
    async for event in model.stream_response(**request(**fields).arguments()):
        events.append(event)


async def events_of(model: OpenAIChatCompletionsModel, **fields: Any) -> list[Any]:
    """All events of a streamed call."""
    events: list[Any] = []
    await collect(model, events, **fields)
    return events


def completion(message: dict[str, Any], finish_reason: str = "stop") -> dict[str, Any]:
    """The body of a whole answer."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "queue_time": 0.1},
    }


async def test_get_response() -> None:
    """A whole answer has its items, usage and request id; the provider's own usage if it was asked for."""
    server = Server(completion({"content": "hello"}))
    answer = await server.model().get_response(**request().arguments())
    assert answer.output[0].content[0].text == "hello"
    assert (answer.usage.requests, answer.usage.input_tokens, answer.usage.output_tokens) == (1, 3, 2)
    assert (answer.request_id, answer.response_id, answer.raw_usage) == ("req_1", "chatcmpl-1", None)
    assert server.requests == [{"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": False}]
    settings = ModelSettings(preserve_raw_usage=True)
    answer = await server.model().get_response(**request(model_settings=settings).arguments())
    assert answer.raw_usage is not None
    assert answer.raw_usage["queue_time"] == 0.1


async def test_get_response_takes_the_last_arguments_by_position() -> None:
    """As with the SDK's models."""
    positional = list(request().arguments().values())
    answer = await Server(completion({"content": "x"})).model().get_response(*positional)
    assert answer.output[0].content[0].text == "x"


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        (completion({"content": "Once"}, "length"), ModelStreamFailed, "incomplete .max_output_tokens."),
        (completion({"content": ""}, "content_filter"), ModelStreamFailed, "incomplete .content_filter."),
        ({"error": {"message": "no credits", "code": 402}}, ModelStreamFailed, "no credits"),
        ({"id": "x", "choices": []}, ModelBehaviorError, "no choices"),
        ("<html>", ModelBehaviorError, "not a chat completion but '<html>'"),
    ],
)
async def test_get_response_fails(body: Any, error: type[Exception], words: str) -> None:
    """An answer that was cut off, reports an error, or is none, is an error."""
    with pytest.raises(error, match=words):
        await Server(body).model().get_response(**request().arguments())


async def test_stream() -> None:
    """A streamed answer gives the events of its chunks, and its response knows the request."""
    server = Server(recorded("openai_text"))
    events = await events_of(server.model(), model_settings=ModelSettings(temperature=0.5))
    assert events[0].type == "response.created"
    assert (
        "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello from Köln 🎈"
    )
    response = events[-1].response
    assert (response.status, response.model, response.temperature) == ("completed", "m", 0.5)
    assert response._request_id == "req_1"
    (sent,) = server.requests
    assert (sent["stream"], sent["stream_options"]) == (True, {"include_usage": True})


async def test_streamed_and_whole_answers_are_alike() -> None:
    """Both ways give the same items, but for their ids."""
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    message = {"reasoning_content": "hm", "content": "text", "tool_calls": [call]}
    whole = await Server(completion(message, "tool_calls")).model().get_response(**request().arguments())
    pieces = [
        {"choices": [{"index": 0, "delta": {name: value}, "finish_reason": None}]} for name, value in message.items()
    ]
    frames = b"".join(b"data: " + json.dumps(piece).encode() + b"\n\n" for piece in pieces)
    events = await events_of(Server(Body(frames, b"data: [DONE]\n\n")).model())

    def plain(items: list[Any]) -> list[dict[str, Any]]:
        return [item.model_dump(exclude={"id"}) for item in items]

    assert plain(events[-1].response.output) == plain(whole.output)


async def test_batches() -> None:
    """Each read is one batch, found through the mark on stream_response; there are no frames to keep."""
    head, middle, end = (RECORDINGS / "openai_text.sse").read_bytes().partition(b"data: [DONE]")
    batches = [batch async for batch in open_batches(Server(Body(head, middle + end)).model(), request())]
    assert [batch.events[-1].type for batch in batches] == ["response.output_text.delta", "response.completed"]
    assert all(batch.frames == [None] * len(batch.events) for batch in batches)


async def test_what_follows_done_is_read() -> None:
    """After the end the rest of the body is read, so that the connection can be used again, and means nothing."""
    body = Body(*recorded("openai_text")._pieces, b": ping\n\n", b"data: {broken\n\n", b"data: half a fra")
    events = await events_of(Server(body).model())
    assert events[-1].type == "response.completed"
    assert (body.read, body.closed) == (4, True)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("openrouter_error", ModelStreamFailed),
        ("vllm_error", ModelStreamFailed),
        ("truncated", ModelStreamTruncated),
    ],
)
async def test_stream_fails_after_its_events(name: str, error: type[Exception]) -> None:
    """What came before an error is handed over before it is raised."""
    seen: list[Any] = []
    body = recorded(name)
    with pytest.raises(error):
        await collect(Server(body).model(), seen)
    assert seen[-1].type == "response.output_text.delta"
    assert body.closed


async def test_broken_frame() -> None:
    """A frame that is no JSON ends the stream with the frame in the error."""
    body = Body(b'data: {"choices":[{"delta":{"content":"x"}}]}\n\ndata: {"choi\n\n')
    seen: list[Any] = []
    with pytest.raises(ModelStreamBroken) as caught:
        await collect(Server(body).model(), seen)
    assert caught.value.frame == b'{"choi'
    assert seen[-1].delta == "x"


async def test_end_inside_a_frame() -> None:
    """A body that ends inside a frame is truncated, whatever came before."""
    with pytest.raises(ModelStreamTruncated):
        await events_of(Server(Body(b'data: {"choices":[{"delta":{"content":"x"}}]}\n\ndata: {"cho')).model())


async def test_end_without_done() -> None:
    """A finish reason is an end, and the response still knows its request."""
    events = await events_of(Server(recorded("ik_llamacpp_no_done")).model())
    assert events[-1].response._request_id == "req_1"


async def test_cut_off_stream_ends_incomplete() -> None:
    """At the token limit the terminal event says so."""
    events = await events_of(Server(recorded("openai_length_in_call")).model())
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.incomplete_details.reason == "max_output_tokens"


async def test_closing_closes_the_response() -> None:
    """Whoever leaves in mid-stream closes the response, so that the provider stops."""
    first, second, *_ = (RECORDINGS / "openai_text.sse").read_bytes().split(b"\n\n")
    body = Body(first + b"\n\n", second + b"\n\n", b"data: [DONE]\n\n")
    async with aclosing(Server(body).model().stream_response(**request().arguments())) as stream:
        assert (await anext(stream)).type == "response.created"
        assert not body.closed
    assert body.closed
    assert body.read < 3


async def test_status_errors_are_the_clients_own() -> None:
    """A refused request raises the official client's error, streamed or not."""
    server = Server({"error": {"message": "slow down"}}, status=429)
    with pytest.raises(RateLimitError, match="slow down"):
        await events_of(server.model())
    with pytest.raises(RateLimitError):
        await server.model().get_response(**request().arguments())


@pytest.mark.parametrize("field", ["previous_response_id", "conversation_id", "prompt"])
async def test_state_of_the_provider_is_refused_before_any_request(field: str) -> None:
    """What this API does not have is refused before anything is sent."""
    server = Server(recorded("openai_text"))
    with pytest.raises(UserError, match=field):
        await events_of(server.model(), **{field: "x"})
    with pytest.raises(UserError, match=field):
        await server.model().get_response(**request(**{field: "x"}).arguments())
    assert server.requests == []


async def test_options() -> None:
    """Buffering and strictness reach the decoder, the replay hook reaches the request."""
    events = await events_of(Server(recorded("interleaved_calls")).model(buffer_streamed_tool_calls=True))
    assert sum(event.type.endswith("arguments.delta") for event in events) == 2
    with pytest.raises(UserError):
        await events_of(Server(recorded("several_choices")).model(strict_feature_validation=True))
    server = Server(completion({"content": "x"}))
    item = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]}
    answer = {"role": "assistant", "content": "x"}
    model = server.model(should_replay_reasoning_content=lambda context: True)
    await model.get_response(**request(input=[item, answer]).arguments())
    assert server.requests[0]["messages"][0]["reasoning_content"] == "hm"


@pytest.mark.parametrize(
    ("choice", "echoed"), [("required", "required"), ("look", {"type": "function", "name": "look"})]
)
async def test_response_repeats_the_request(choice: str, echoed: Any) -> None:
    """The response says how the tools were to be used."""
    tool = function_tool(lambda: "x", name_override="look")
    settings = ModelSettings(tool_choice=choice, parallel_tool_calls=True)
    events = await events_of(Server(recorded("openai_text")).model(), tools=[tool], model_settings=settings)
    response = events[-1].response
    assert response.parallel_tool_calls is True
    assert (response.tool_choice if isinstance(echoed, str) else response.tool_choice.model_dump()) == echoed


class Double:
    """A client that has `create` only, as doubles in tests and wrappers do."""

    base_url = "http://double.test"

    def __init__(self, *chunks: dict[str, Any]) -> None:
        self._chunks = chunks
        self.chat = self
        self.completions = self
        self.closed = False

    async def create(self, **arguments: Any) -> Any:
        if not arguments["stream"]:
            return ChatCompletion.construct(**completion({"content": "whole"}))
        return self._stream()

    async def _stream(self) -> AsyncIterator[ChatCompletionChunk]:
        try:
            for chunk in self._chunks:
                yield ChatCompletionChunk.construct(**chunk)
        finally:
            self.closed = True


async def test_client_with_create_only() -> None:
    """Such a client works both ways; its iterator is closed, and its end is the end of the answer."""
    double = Double({"choices": [{"index": 0, "delta": {"content": "a"}}]}, {"choices": []})
    model = OpenAIChatCompletionsModel("m", double)  # type: ignore[arg-type]
    events = await events_of(model)
    assert [event.type for event in events][-1] == "response.completed"
    assert double.closed
    answer = await model.get_response(**request().arguments())
    assert answer.output[0].content[0].text == "whole"


async def test_one_request_a_call() -> None:
    """`stream_batches` sends one request and yields ModelBatch objects only."""
    server = Server(recorded("openai_text"))
    async for batch in server.model().stream_batches(request()):
        assert isinstance(batch, ModelBatch)
    assert len(server.requests) == 1
