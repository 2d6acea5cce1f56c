"""The endpoint answers the official client as OpenAI's API does, over real sockets."""

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from runstream.testing import (
    Endpoint,
    EndpointRequest,
    FakeClock,
    HandoffTo,
    Message,
    Reasoning,
    Refusal,
    Script,
    Tokens,
    ToolCall,
    Turn,
    UnconsumedModelSteps,
    When,
    say,
)

pytestmark = pytest.mark.system

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
QUESTION: Any = [{"role": "user", "content": "How is the weather?"}]
EVERYTHING = Turn(
    [
        Reasoning("First think."),
        "It is sunny.",
        ToolCall("get_weather", {"city": "Zürich"}, call_id="call_w"),
        HandoffTo("Billing Agent"),
        Refusal("No more."),
    ]
)


@pytest.fixture
async def client() -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(api_key="any", base_url="http://unset.invalid", max_retries=0) as client:
        yield client


def at(client: AsyncOpenAI, endpoint: Endpoint) -> AsyncOpenAI:
    return client.with_options(base_url=endpoint.url)


async def test_a_responses_stream_is_what_the_client_expects(client: AsyncOpenAI) -> None:
    """Every event validates against the official types; the deltas add up to the final response."""
    async with Endpoint([EVERYTHING]) as endpoint:
        stream = await at(client, endpoint).responses.create(model="m", input="hi", stream=True)
        events = [event async for event in stream]
    for event in events:
        EVENTS.validate_python(event.to_dict())
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[1].type) == ("response.created", "response.in_progress")
    final = events[-1]
    assert final.type == "response.completed"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == final.response.output_text == "It is sunny."
    assert [item.type for item in final.response.output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
        "message",
    ]
    arguments = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    assert arguments == '{"city":"Zürich"}{}'
    assert final.response.output[3].name == "transfer_to_billing_agent"  # type: ignore[union-attr]


async def test_the_clients_own_accumulator_agrees(client: AsyncOpenAI) -> None:
    """The official client's stream helper builds the same response from the events."""
    async with (
        Endpoint([EVERYTHING]) as endpoint,
        at(client, endpoint).responses.stream(model="m", input="hi") as stream,
    ):
        async for _ in stream:
            pass
        response = await stream.get_final_response()
    assert response.output_text == "It is sunny."
    assert len(response.output) == 5


async def test_streamed_and_whole_responses_agree(client: AsyncOpenAI) -> None:
    """The unstreamed answer is the response that the stream ends with, ids apart."""
    async with Endpoint([EVERYTHING, EVERYTHING]) as endpoint:
        api = at(client, endpoint).responses
        whole = await api.create(model="m", input="hi")
        stream = await api.create(model="m", input="hi", stream=True)
        last: Any = [event async for event in stream][-1]
    assert [item.type for item in whole.output] == [item.type for item in last.response.output]
    assert whole.output_text == last.response.output_text
    assert whole.usage is not None
    assert whole.usage.output_tokens == last.response.usage.output_tokens
    assert whole.id != last.response.id


async def test_a_chat_stream_is_what_the_client_expects(client: AsyncOpenAI) -> None:
    """The chunks add up to the message; usage comes last and only if asked for."""
    async with Endpoint([EVERYTHING, EVERYTHING]) as endpoint:
        api = at(client, endpoint).chat.completions
        stream = await api.create(model="m", messages=QUESTION, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        bare = [chunk async for chunk in await api.create(model="m", messages=QUESTION, stream=True)]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "It is sunny."
    assert "".join(delta.refusal or "" for delta in deltas) == "No more."
    assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas) == "First think."
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    assert next(call.id for call in calls if call.id) == "call_w"
    assert {call.index for call in calls} == {0, 1}
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "tool_calls"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert all(chunk.usage is None for chunk in [*chunks[:-1], *bare])


async def test_the_clients_own_chat_accumulator_agrees(client: AsyncOpenAI) -> None:
    """The official client's stream helper builds the same completion as the unstreamed answer."""
    async with Endpoint([EVERYTHING, EVERYTHING]) as endpoint:
        api = at(client, endpoint).chat.completions
        async with api.stream(model="m", messages=QUESTION) as stream:
            streamed: Any = (await stream.get_final_completion()).choices[0]
        whole: Any = (await api.create(model="m", messages=QUESTION)).choices[0]
    assert streamed.message.content == whole.message.content == "It is sunny."
    assert streamed.finish_reason == whole.finish_reason == "tool_calls"
    assert [call.function.name for call in streamed.message.tool_calls] == ["get_weather", "transfer_to_billing_agent"]
    assert [call.function.arguments for call in whole.message.tool_calls] == ['{"city":"Zürich"}', "{}"]
    assert whole.message.reasoning_content == "First think."


async def test_parallel_calls_may_interleave(client: AsyncOpenAI) -> None:
    """With `interleave`, the pieces of several calls alternate, and each still adds up."""
    turn = Turn([ToolCall("a", {"x": [1, 2, 3]}), ToolCall("b", {"y": [4, 5, 6]})], interleave=True)
    async with Endpoint([turn, turn]) as endpoint:
        stream = await at(client, endpoint).responses.create(model="m", input="hi", stream=True)
        events = [event async for event in stream]
        chunks = await at(client, endpoint).chat.completions.create(model="m", messages=QUESTION, stream=True)
        indices = [chunk.choices[0].delta.tool_calls[0].index async for chunk in chunks if _calls(chunk)]
    order = [event.output_index for event in events if event.type == "response.function_call_arguments.delta"]
    assert order[:6] == [0, 1, 0, 1, 0, 1]
    assert indices[:6] == [0, 1, 0, 1, 0, 1]
    for event in events:
        EVENTS.validate_python(event.to_dict())


def _calls(chunk: Any) -> Any:
    return chunk.choices and chunk.choices[0].delta.tool_calls


async def test_the_response_repeats_the_request(client: AsyncOpenAI) -> None:
    """Lifecycle events echo instructions and tool schemas, as the API's do."""
    tool: Any = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
    async with Endpoint(["ok"]) as endpoint:
        stream = await at(client, endpoint).responses.create(
            model="gpt-x", input="hi", instructions="Be brief.", tools=[tool], temperature=0.5, stream=True
        )
        events: list[Any] = [event async for event in stream]
    for event in (events[0], events[-1]):
        EVENTS.validate_python(event.to_dict())
        assert event.response.instructions == "Be brief."
        assert event.response.tools[0].name == "f"
        assert event.response.temperature == 0.5
        assert event.response.model == "gpt-x"


async def test_an_incomplete_turn_says_why(client: AsyncOpenAI) -> None:
    """A turn that breaks off ends with response.incomplete, and with the finish reason "length"."""
    turn = Turn(["The answer is"], incomplete="max_output_tokens", usage=Tokens(10, 3, cached_tokens=4))
    async with Endpoint([turn, turn]) as endpoint:
        stream = await at(client, endpoint).responses.create(model="m", input="hi", stream=True)
        last: Any = [event async for event in stream][-1]
        completion = await at(client, endpoint).chat.completions.create(model="m", messages=QUESTION)
    EVENTS.validate_python(last.to_dict())
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.output[0].status == "incomplete"
    assert last.response.usage.input_tokens_details.cached_tokens == 4
    assert completion.choices[0].finish_reason == "length"


async def test_turns_answer_by_what_was_asked(client: AsyncOpenAI) -> None:
    """Conditions and functions choose the turn; a tool's output is recognised in both dialects."""

    async def summary(request: EndpointRequest) -> str:
        return f"{request.tool_results[-1].name} said {request.tool_results[-1].output}"

    script = Script(
        [
            Turn([ToolCall("f", call_id="c1")], when=When(after_tool=False, user_contains="TOOL"), times=None),
            Turn("Hello.", when=When(model="small"), times=None),
        ],
        default=summary,
    )
    async with Endpoint(script) as endpoint:
        api = at(client, endpoint)
        first = await api.responses.create(model="m", input="use the tool")
        call: Any = first.output[0].to_dict()
        output: Any = {"type": "function_call_output", "call_id": "c1", "output": "42"}
        second = await api.responses.create(
            model="m", input=[{"role": "user", "content": "use the tool"}, call, output]
        )
        messages: Any = [
            {"role": "user", "content": [{"type": "text", "text": "use the tool"}]},
            {
                "role": "assistant",
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "43"},
        ]
        third = await api.chat.completions.create(model="m", messages=messages)
        fourth = await api.responses.create(model="small", input="hi")
    assert second.output_text == "f said 42"
    assert third.choices[0].message.content == "f said 43"
    assert fourth.output_text == "Hello."


async def test_concurrent_requests_get_a_turn_each(client: AsyncOpenAI) -> None:
    """Twenty requests at once get twenty different turns, and ids that differ."""
    async with Endpoint([say(f"answer {number}", every_s=0.001) for number in range(20)]) as endpoint:
        api = at(client, endpoint).responses
        answers = await asyncio.gather(*(_streamed(api, "hi") for _ in range(20)))
        endpoint.assert_complete()
    assert sorted(text for text, _ in answers) == sorted(f"answer {number}" for number in range(20))
    assert len({response_id for _, response_id in answers}) == 20


async def _streamed(api: Any, text: str) -> tuple[str, str]:
    events = [event async for event in await api.create(model="m", input=text, stream=True)]
    return events[-1].response.output_text, events[-1].response.id


async def test_ids_are_the_same_in_each_run(client: AsyncOpenAI) -> None:
    """The same requests to the same script get the same ids."""
    ids: list[list[str]] = []
    for _ in range(2):
        async with Endpoint(["one", "two"]) as endpoint:
            api = at(client, endpoint).responses
            ids.append([(await api.create(model="m", input="hi")).id for _ in range(2)])
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2


async def test_bytes_may_be_cut_anywhere(client: AsyncOpenAI) -> None:
    """A body that comes byte by byte, in the middle of characters too, is the same stream."""
    async with Endpoint([Turn("Grüße, 世界!", chunks="char", cut_bytes=1)]) as endpoint:
        stream = await at(client, endpoint).responses.create(model="m", input="hi", stream=True)
        text = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
    assert text == "Grüße, 世界!"


async def test_pauses_go_by_the_clock(client: AsyncOpenAI) -> None:
    """Pauses between deltas are waited for by the endpoint's clock."""
    clock = FakeClock(0.0)
    turn = Turn([Message("a b c", chunks=["a", " b", " c"])], first_after_s=10.0, every_s=5.0)
    async with Endpoint([turn, turn], clock=clock) as endpoint:
        stream = await at(client, endpoint).responses.create(model="m", input="hi", stream=True)
        at_first = clock.now()
        async for _ in stream:
            pass
        assert (at_first, clock.now()) == (10.0, 20.0)
        await at(client, endpoint).responses.create(model="m", input="hi")
        assert clock.now() == 40.0


async def test_a_client_that_leaves_is_noticed(client: AsyncOpenAI) -> None:
    """Closing a stream closes its connection, and the endpoint stops the answer."""
    async with Endpoint([say("one two three", every_s=30.0), "next"]) as endpoint:
        api = at(client, endpoint).responses
        stream = await api.create(model="m", input="hi", stream=True)
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
        assert (endpoint.open_answers, endpoint.disconnects) == (1, 0)
        await stream.close()
        async with asyncio.timeout(5):
            await endpoint.wait_disconnected()
        assert endpoint.open_answers == 0
        assert endpoint.requests[0].outcome == "disconnected"
        assert endpoint.requests[0].deltas_sent == 1
        assert (await api.create(model="m", input="hi")).output_text == "next"


async def test_closing_with_open_streams_takes_no_time(client: AsyncOpenAI) -> None:
    """aclose() breaks off what is in progress, whatever it waits for."""
    endpoint = Endpoint([say("one two", every_s=3600.0), say("late", first_after_s=3600.0)])
    await endpoint.open()
    api = at(client, endpoint).responses
    stream = await api.create(model="m", input="hi", stream=True)
    waiting = asyncio.create_task(api.create(model="m", input="hi"))
    await endpoint.wait_requests(2)
    async with asyncio.timeout(2):
        await endpoint.aclose()
    assert [request.outcome for request in endpoint.requests] == ["aborted", "aborted"]
    assert endpoint.open_connections == 0
    with pytest.raises(Exception):  # noqa: B017, PT011 - which error, is the client's affair
        await waiting
    with pytest.raises(Exception):  # noqa: B017, PT011
        async for _ in stream:
            pass
    await endpoint.aclose()


async def test_an_endpoint_can_be_opened_again(client: AsyncOpenAI) -> None:
    """After aclose() the same endpoint opens on the same port and goes on in its script."""
    endpoint = Endpoint(["one", "two"])
    urls: list[str] = []
    for expected in ("one", "two"):
        async with endpoint:
            urls.append(endpoint.url)
            assert (await at(client, endpoint).responses.create(model="m", input="hi")).output_text == expected
    assert urls[0] == urls[1]


async def test_requests_are_recorded(client: AsyncOpenAI) -> None:
    """Path, headers, body and what became of it can be looked at afterwards."""
    async with Endpoint([Turn("a b c")]) as endpoint:
        await at(client, endpoint).responses.create(model="m", input="hi", instructions="Be kind.")
        await endpoint.wait_idle()
    (request,) = endpoint.requests
    assert (request.number, request.method, request.path) == (1, "POST", "/v1/responses")
    assert request.headers["authorization"] == "Bearer any"
    assert request.body == {"model": "m", "input": "hi", "instructions": "Be kind."}
    assert json.loads(request.raw_body) == request.body
    assert (request.status, request.outcome, request.deltas_sent) == (200, "answered", 3)
    assert (request.user_text, request.instructions) == ("hi", "Be kind.")


async def test_turns_that_nobody_asked_for_are_named() -> None:
    """assert_complete() tells which turns are left."""
    async with Endpoint(["one", [ToolCall("lookup")]]) as endpoint:
        with pytest.raises(UnconsumedModelSteps, match=r"2 of 2 .*turn 1 \(message 'one'\), turn 2 \(call of lookup\)"):
            endpoint.assert_complete()


def test_a_plain_with_serves_from_a_thread() -> None:
    """Programs that are not asynchronous use the endpoint too, and no thread is left."""
    import threading

    before = threading.active_count()
    with Endpoint([say("hello there", every_s=0.01)]) as endpoint:
        with (
            OpenAI(api_key="any", base_url=endpoint.url, max_retries=0) as client,
            client.responses.create(model="m", input="hi", stream=True) as stream,
        ):
            text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        with urllib.request.urlopen(endpoint.url + "/models") as response:
            assert json.load(response)["data"][0]["id"] == "scripted"
    assert text == "hello there"
    assert threading.active_count() == before


async def test_a_long_stream_is_not_held_in_memory(client: AsyncOpenAI) -> None:
    """Fifty thousand deltas arrive complete."""
    async with (
        Endpoint([Turn("x " * 50_000)]) as endpoint,
        at(client, endpoint).responses.with_streaming_response.create(model="m", input="hi", stream=True) as response,
    ):
        body = await response.read()
    assert body.count(b"event: response.output_text.delta") == 50_001
