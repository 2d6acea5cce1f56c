"""models/responses: what the model says, streamed or at once, is what the official client would have said."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseCompletedEvent, ResponseTextDeltaEvent
from openai.types.shared import Reasoning as ReasoningSettings

from runstream.agent.items import ModelResponse
from runstream.agent.model import ModelRequest, ModelTracing, open_batches
from runstream.agent.settings import ModelSettings
from runstream.agent.tool import function_tool
from runstream.errors import ModelBehaviorError, ModelStreamBroken, ModelStreamFailed, ModelStreamTruncated
from runstream.events import codec
from runstream.models.responses import OpenAIResponsesModel
from runstream.models.transport import ClientSettings, client_for
from runstream.testing import Endpoint, Fault, Item, Message, Reasoning, Refusal, Tokens, ToolCall, Turn, say

RECORDINGS = sorted((Path(__file__).parents[2] / "data" / "sse").glob("*.sse"))

EVERYTHING = Turn(
    [
        Reasoning("First think. Then think again."),
        Reasoning("Raw thoughts.", raw=True),
        "Grüße aus 北京 🙂\nand a second line.",
        ToolCall("get_weather", {"city": "Zürich"}),
        ToolCall("get_time", "{}"),
        Refusal("No more."),
        Item(
            {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}}
        ),
    ],
    usage=Tokens(10, 20, 3, 4),
)


@function_tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return "sunny"


def request(**fields: Any) -> ModelRequest:
    values: dict[str, Any] = {
        "system_instructions": "Be brief.",
        "input": "hi",
        "model_settings": ModelSettings(temperature=0.5),
        "tools": [get_weather],
        "output_schema": None,
        "handoffs": [],
        "tracing": ModelTracing.DISABLED,
        **fields,
    }
    return ModelRequest(**values)


def model_at(url: str) -> OpenAIResponsesModel:
    return OpenAIResponsesModel("gpt-test", ClientSettings("any", url))


async def stream(model: OpenAIResponsesModel, **fields: Any) -> tuple[list[Any], Exception | None]:
    """The events of one streamed call, and the error that ended it."""
    events: list[Any] = []
    try:
        async for event in model.stream_response(**request(**fields).arguments()):
            events.append(event)
    except Exception as error:
        return events, error
    return events, None


class Replay(httpx2.AsyncBaseTransport):
    """Answers each request with the same recorded bytes."""

    def __init__(self, body: bytes, *, piece_bytes: int = 1 << 20) -> None:
        self._pieces = [body[start : start + piece_bytes] for start in range(0, len(body), piece_bytes)]
        self.requests: list[httpx2.Request] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)

        async def body() -> AsyncIterator[bytes]:
            for piece in self._pieces:
                yield piece

        headers = {"content-type": "text/event-stream", "x-request-id": "req_1"}
        return httpx2.Response(200, headers=headers, content=body())


@asynccontextmanager
async def replaying(body: bytes, **options: Any) -> AsyncIterator[AsyncOpenAI]:
    http_client = httpx2.AsyncClient(transport=Replay(body, **options))
    async with AsyncOpenAI(api_key="any", base_url="http://replay.test/v1", http_client=http_client) as client:
        yield client


async def recorded(turn: Turn) -> bytes:
    """The bytes that the testing endpoint sends for a turn."""
    async with Endpoint([turn]) as endpoint:
        client = client_for(ClientSettings("any", endpoint.url))
        reply = await client.responses.with_raw_response.create(model="m", input="hi", stream=True)
        return await reply.http_response.aread()


# Streams.


@pytest.mark.parametrize("name", ["endpoint", *(path.stem for path in RECORDINGS)])
async def test_the_events_are_the_official_clients(name: str) -> None:
    """Event by event, class and fields are what `responses.create(stream=True)` of the official client gives."""
    body = await recorded(EVERYTHING) if name == "endpoint" else (RECORDINGS[0].parent / f"{name}.sse").read_bytes()
    body = body.removeprefix(b"\xef\xbb\xbf")  # the official client does not drop the mark, as the standard says
    if name == "responses_calls_crlf":
        body = re.sub(rb"(?m)^id: .*\r\n", b"", body)  # nor does it ignore comments after an id
    async with replaying(body) as client:
        official = [event async for event in await client.responses.create(model="m", input="hi", stream=True)]
        events, error = await stream(OpenAIResponsesModel("m", client))
    assert error is None
    assert len(events) == len(official) > 5
    for ours, theirs in zip(events, official, strict=True):
        fields: Any = theirs.to_dict(warnings=False)
        fields.pop("obfuscation", None)
        if isinstance(theirs, ResponseTextDeltaEvent):
            fields.setdefault("logprobs", [])
        assert ours.to_dict(warnings=False) == fields
        if theirs.type != "server.progress":  # which the official client takes for the first class of its union
            assert type(ours) is type(theirs)


@pytest.mark.parametrize("piece_bytes", [1, 97, 4096])
async def test_however_the_bytes_come(piece_bytes: int) -> None:
    """The same bytes in other pieces are the same events, in other batches."""
    body = await recorded(EVERYTHING)
    async with replaying(body) as client:
        whole, _ = await stream(OpenAIResponsesModel("m", client))
    async with replaying(body, piece_bytes=piece_bytes) as client:
        model = OpenAIResponsesModel("m", client)
        batches = [batch async for batch in open_batches(model, request())]
    assert [event for batch in batches for event in batch.events] == whole
    assert all(batch.events for batch in batches)


async def test_batches_keep_the_frames() -> None:
    """Beside each event of a batch stand the bytes that it came in."""
    async with replaying(RECORDINGS[-1].read_bytes()) as client:
        batches = [batch async for batch in open_batches(OpenAIResponsesModel("m", client), request())]
    (batch,) = batches
    assert [json.loads(frame or b"")["type"] for frame in batch.frames] == [event.type for event in batch.events]


async def test_what_a_streamed_call_sends() -> None:
    """The request has the arguments of the request, as JSON, also those that are official objects."""
    settings = ModelSettings(temperature=0.5, reasoning=ReasoningSettings(effort="low"), extra_args={"user": "u"})
    async with Endpoint(["one", "two"]) as endpoint:
        await stream(model_at(endpoint.url), model_settings=settings)
        await model_at(endpoint.url).get_response(**request(model_settings=settings).arguments())
    streamed, whole = (record.body for record in endpoint.requests)
    assert streamed == {**whole, "stream": True}
    assert whole == {
        "model": "gpt-test",
        "instructions": "Be brief.",
        "input": [{"role": "user", "content": "hi"}],
        "temperature": 0.5,
        "reasoning": {"effort": "low"},
        "user": "u",
        "tools": [
            {
                "type": "function",
                "name": "get_weather",
                "description": "The weather of a city.",
                "parameters": get_weather.params_json_schema,
                "strict": True,
            }
        ],
    }


# The whole response.


def without_ids(value: Any) -> Any:
    return json.loads(re.sub(r'_\d+_[0-9a-f]{6}(_\d+)?"', '_X"', json.dumps(codec.plain(value))))


TOKENS = Tokens(10, 20)
TURNS = [
    Turn(["Hello there."], usage=TOKENS),
    EVERYTHING,
    Turn([ToolCall("f")], usage=TOKENS),
    Turn([Message("x")], usage="none"),
    Turn([], usage=TOKENS),
]


@pytest.mark.parametrize("turn", TURNS, ids=str)
async def test_at_once_or_streamed_the_response_is_the_same(turn: Turn) -> None:
    """get_response and a drained stream give the same output, usage and ids."""
    async with Endpoint([turn, turn]) as endpoint:
        model = model_at(endpoint.url)
        whole = await model.get_response(**request().arguments())
        events, error = await stream(model)
    assert error is None
    assert isinstance(events[-1], ResponseCompletedEvent)
    streamed = ModelResponse.from_response(events[-1].response)
    assert without_ids(streamed.output) == without_ids(whole.output)
    assert streamed.usage == whole.usage
    assert [type(item) for item in streamed.output] == [type(item) for item in whole.output]
    for response in (whole, streamed):
        assert response.response_id is not None
        assert response.request_id is not None
        assert response.response_id.replace("resp", "req") == response.request_id


async def test_the_usage_of_the_provider() -> None:
    """Tokens and their details are the provider's; its own report is kept where that was asked for."""
    turn = Turn(["x"], usage=Tokens(10, 20, 3, 4))
    async with Endpoint([turn, turn]) as endpoint:
        plain = await model_at(endpoint.url).get_response(**request().arguments())
        settings = ModelSettings(preserve_raw_usage=True)
        raw = await model_at(endpoint.url).get_response(**request(model_settings=settings).arguments())
    usage = plain.usage
    assert (usage.requests, usage.input_tokens, usage.output_tokens, usage.total_tokens) == (1, 10, 20, 30)
    assert usage.input_tokens_details.cached_tokens == 3
    assert usage.output_tokens_details.reasoning_tokens == 4
    assert plain.raw_usage is None
    assert raw.raw_usage is not None
    assert raw.raw_usage["input_tokens"] == 10


async def test_an_incomplete_response_is_an_error() -> None:
    """A response that broke off is never taken for a whole one; the error has the provider's reason."""
    async with Endpoint([Turn(["cut off"], incomplete="max_output_tokens")] * 2) as endpoint:
        with pytest.raises(ModelStreamFailed, match=r"\(max_output_tokens\): raise max_tokens") as caught:
            await model_at(endpoint.url).get_response(**request().arguments())
        events, error = await stream(model_at(endpoint.url))
    assert (caught.value.event_type, caught.value.error_code) == ("response.incomplete", "max_output_tokens")
    assert error is None
    assert events[-1].type == "response.incomplete"  # what it means is the run's to say


async def test_a_failed_response_is_an_error() -> None:
    """A response with the status "failed" raises, with the provider's code and message."""
    fault = Fault("failed", message="The model is ill.", error_code="server_error")
    async with Endpoint([say("one two three", fault=fault)] * 2) as endpoint:
        with pytest.raises(ModelStreamFailed, match="The model is ill") as caught:
            await model_at(endpoint.url).get_response(**request().arguments())
        events, error = await stream(model_at(endpoint.url))
    assert (caught.value.event_type, caught.value.error_code) == ("response.failed", "server_error")
    assert error is None
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.message == "The model is ill."


@pytest.mark.parametrize("status", ["cancelled", "queued", "in_progress"])
async def test_a_response_that_is_not_complete_is_an_error(status: str) -> None:
    """Any status but "completed" (or none, from servers that leave it out) is no answer."""
    response = {"id": "r", "object": "response", "status": status, "output": []}
    async with replaying(json.dumps(response).encode()) as client:
        with pytest.raises(ModelStreamFailed, match=status) as caught:
            await OpenAIResponsesModel("m", client).get_response(**request().arguments())
    assert caught.value.event_type == f"response.{status}"


@pytest.mark.parametrize("text", ['{"object": "chat.completion", "choices": []}', "<html></html>"])
async def test_an_answer_that_is_no_response(text: str) -> None:
    """A server of another kind: the error shows what it said, and names the other API."""
    async with replaying(text.encode()) as client:
        with pytest.raises(ModelBehaviorError, match="is not a response of the Responses API but") as caught:
            await OpenAIResponsesModel("m", client).get_response(**request().arguments())
    assert "set_default_openai_api('chat_completions')" in str(caught.value)


# Faults.


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault("http_error", status=429), openai.RateLimitError),
        (Fault("http_error", status=500), openai.InternalServerError),
        (Fault("http_error", status=401), openai.AuthenticationError),
        (Fault("reset", after="start"), openai.APIConnectionError),
    ],
    ids=str,
)
async def test_a_refused_request(fault: Fault, kind: Any) -> None:
    """A request that fails raises the official client's error, streamed or not, after one attempt."""
    async with Endpoint([fault, fault]) as endpoint:
        with pytest.raises(kind):
            await model_at(endpoint.url).get_response(**request().arguments())
        events, error = await stream(model_at(endpoint.url))
    assert events == []
    assert isinstance(error, kind)
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault("reset", after=2), ModelStreamTruncated),
        (Fault("truncated_body", after=2), ModelStreamTruncated),
        (Fault("broken_frame", after=2), ModelStreamBroken),
    ],
    ids=str,
)
async def test_a_stream_that_breaks(fault: Fault, kind: Any) -> None:
    """What came before is handed on, then the error is raised; a broken stream is never a whole one."""
    async with Endpoint([say("one two three four", fault=fault)]) as endpoint:
        events, error = await stream(model_at(endpoint.url))
    text = "".join(event.delta for event in events if isinstance(event, ResponseTextDeltaEvent))
    assert text == "one two"
    assert isinstance(error, kind)
    assert events[-1].type == "response.output_text.delta"


async def test_what_came_with_a_broken_frame_is_handed_on() -> None:
    """In one read with a broken frame, the events before it come first, and none after it."""
    frames = [b'{"type":"response.created","response":{}}', b'{"type":"keepalive"}', b"{oops", b'{"type":"keepalive"}']
    async with replaying(b"".join(b"data: %s\n\n" % frame for frame in frames)) as client:
        events, error = await stream(OpenAIResponsesModel("m", client))
    assert [event.type for event in events] == ["response.created", "keepalive"]
    assert isinstance(error, ModelStreamBroken)
    assert error.frame == b"{oops"


# Leaving.


@pytest.mark.parametrize("how", ["close", "break", "cancel", "error"])
async def test_leaving_closes_the_servers_connection(how: str) -> None:
    """Whoever leaves a stream in the middle closes the connection, so that the provider stops."""

    async def run(url: str) -> None:
        async with aclosing(model_at(url).stream_response(**request().arguments())) as events:
            async for event in events:
                if event.type != "response.output_text.delta":
                    continue
                if how == "close":
                    await events.aclose()
                elif how == "break":
                    break
                elif how == "error":
                    raise KeyError
                else:
                    task.cancel()

    async with Endpoint([say("word " * 50, every_s=3600.0)]) as endpoint:
        task = asyncio.ensure_future(run(endpoint.url))
        (result,) = await asyncio.gather(task, return_exceptions=True)
        await endpoint.wait_disconnected()
    assert isinstance(result, {"cancel": asyncio.CancelledError, "error": KeyError}.get(how, type(None)))
    assert endpoint.open_connections == 0


async def test_a_stream_that_was_drained_leaves_its_connection_open() -> None:
    """The next call takes the same connection."""
    async with Endpoint(["one", "two"]) as endpoint:
        for _ in range(2):
            _, error = await stream(model_at(endpoint.url))
            assert error is None
        assert endpoint.open_connections == 1


# Clients of other kinds.


class _Double:
    """A double of the client, as tests of programs have them: it only has `responses.create`."""

    def __init__(self, events: list[Any], response: Any) -> None:
        self.responses = self
        self.calls: list[dict[str, Any]] = []
        self._events = events
        self._response = response
        self.closed = False

    async def create(self, **arguments: Any) -> Any:
        self.calls.append(arguments)
        return self if arguments.get("stream") else self._response

    async def __aiter__(self) -> AsyncIterator[Any]:
        for event in self._events:
            yield event

    async def close(self) -> None:
        self.closed = True


async def test_a_double_of_the_client_will_do() -> None:
    """A client that only has `responses.create` is asked through it, and its stream is closed."""
    response = Response.construct(id="r", output=[], usage=None, status="completed")
    done = ResponseCompletedEvent.construct(type="response.completed", response=response)
    double = _Double([done], response)
    model = OpenAIResponsesModel("m", double)  # type: ignore[arg-type]
    assert (await model.get_response(**request().arguments())).response_id == "r"
    assert await stream(model) == ([done], None)
    assert double.closed
    assert [call.get("stream") for call in double.calls] == [None, True]
    double.closed = False
    events = model.stream_response(**request().arguments())
    assert await anext(events) is done
    await events.aclose()
    assert double.closed
