"""Every fault of the endpoint looks to a client like the real thing."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from runstream.testing import Endpoint, FakeClock, Fault, Script, Turn, say

pytestmark = pytest.mark.system

TEXT = "one two three four five"
DELTAS = ["one", " two", " three", " four", " five"]
DIALECTS = ["responses", "chat/completions"]
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def _body(dialect: str, *, stream: bool = True) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hi"}]
    return {"model": "m", "stream": stream, **({"input": "hi"} if dialect == "responses" else {"messages": messages})}


async def _read(response: aiohttp.ClientResponse) -> tuple[bytes, BaseException | None]:
    """The body as far as it comes, and what ended it if not its end."""
    body = b""
    try:
        async for data in response.content.iter_any():
            body += data
    except aiohttp.ClientError as error:
        return body, error
    return body, None


async def _collect(response: aiohttp.ClientResponse, body: bytearray) -> None:
    async for data in response.content.iter_any():
        body += data


def _frames(body: bytes) -> list[Any]:
    frames: list[Any] = []
    for block in body.split(b"\n\n"):
        data = block.partition(b"data: ")[2]
        if data and data != b"[DONE]":
            frames.append(json.loads(data))
    return frames


def _deltas(frames: list[Any]) -> list[str]:
    responses = [frame["delta"] for frame in frames if frame.get("type") == "response.output_text.delta"]
    chunks = [choice["delta"].get("content") for frame in frames for choice in frame.get("choices", ())]
    return responses or [chunk for chunk in chunks if chunk]


async def _stream(http: aiohttp.ClientSession, dialect: str, fault: Fault) -> tuple[int, bytes, BaseException | None]:
    async with (
        Endpoint([say(TEXT, fault=fault)]) as endpoint,
        http.post(f"{endpoint.url}/{dialect}", json=_body(dialect)) as response,
    ):
        return response.status, *await _read(response)


@pytest.mark.parametrize("stream", [True, False])
async def test_429_carries_retry_after(dialect: str, stream: bool) -> None:
    """The official client raises RateLimitError with the header and the code."""
    fault = Fault("http_error", status=429, retry_after_s=1.5)
    async with (
        Endpoint([fault, "ok"]) as endpoint,
        AsyncOpenAI(api_key="any", base_url=endpoint.url, max_retries=0) as client,
    ):
        with pytest.raises(openai.RateLimitError) as caught:
            await client.post(f"/{dialect}", cast_to=object, body=_body(dialect, stream=stream))
    assert caught.value.response.headers["retry-after"] == "1.5"
    assert caught.value.code == "rate_limit_exceeded"


async def test_a_client_that_retries_gets_the_next_turn() -> None:
    """With Retry-After: 0 the official client asks again at once, and is answered."""
    async with (
        Endpoint([Fault("http_error", status=429, retry_after_s=0), "ok"]) as endpoint,
        AsyncOpenAI(api_key="any", base_url=endpoint.url, max_retries=1) as client,
    ):
        assert (await client.responses.create(model="m", input="hi")).output_text == "ok"
        endpoint.assert_complete()


async def test_500_and_other_bodies(http: aiohttp.ClientSession, dialect: str) -> None:
    """500 has OpenAI's error body; a proxy's page can be sent as it is, with headers."""
    page = Fault("http_error", status=502, body="<h1>Bad gateway</h1>", headers={"X-Proxy": "p"})
    async with Endpoint([Fault("http_error"), page]) as endpoint:
        async with http.post(f"{endpoint.url}/{dialect}", json=_body(dialect)) as response:
            assert response.status == 500
            assert (await response.json())["error"]["type"] == "server_error"
        async with http.post(f"{endpoint.url}/{dialect}", json=_body(dialect)) as response:
            assert (response.status, response.content_type) == (502, "text/html")
            assert response.headers["X-Proxy"] == "p"
            assert await response.text() == "<h1>Bad gateway</h1>"
        assert [request.outcome for request in endpoint.requests] == ["fault", "fault"]


async def test_a_reset_in_mid_stream(http: aiohttp.ClientSession, dialect: str) -> None:
    """The deltas before it arrive, then the connection is reset, not closed."""
    status, body, error = await _stream(http, dialect, Fault("reset", after=2))
    assert status == 200
    assert _deltas(_frames(body)) == DELTAS[:2]
    assert isinstance(error, aiohttp.ClientPayloadError | aiohttp.ClientConnectionError)
    assert "reset" in repr(error.__cause__ or error).lower() + repr(error).lower()


@pytest.mark.parametrize("kind", ["reset", "truncated_body"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_connection_that_ends_before_the_answer(dialect: str, kind: Any, stream: bool) -> None:
    """With after="start" not even the status arrives: a connection error for the official client."""
    async with (
        Endpoint([Turn(TEXT, fault=Fault(kind, after="start"))]) as endpoint,
        AsyncOpenAI(api_key="any", base_url=endpoint.url, max_retries=0) as client,
    ):
        with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
            await client.post(f"/{dialect}", cast_to=object, body=_body(dialect, stream=stream))


async def test_a_truncated_body(http: aiohttp.ClientSession, dialect: str) -> None:
    """The connection closes in the middle of a frame: HTTP itself says that something is missing."""
    status, body, error = await _stream(http, dialect, Fault("truncated_body", after=2))
    assert status == 200
    assert not body.endswith(b"\n\n")
    whole, _, rest = body.rpartition(b"\n\n")
    assert _deltas(_frames(whole)) == DELTAS[:2]
    assert rest
    assert isinstance(error, aiohttp.ClientPayloadError)


async def test_a_stream_without_its_end(http: aiohttp.ClientSession, dialect: str) -> None:
    """HTTP ends properly, all deltas are there, but neither the terminal event nor [DONE]."""
    status, body, error = await _stream(http, dialect, Fault("no_end"))
    assert (status, error) == (200, None)
    assert _deltas(_frames(body)) == DELTAS
    assert b"response.completed" not in body
    assert b"[DONE]" not in body
    assert all(choice["finish_reason"] is None for frame in _frames(body) for choice in frame.get("choices", ()))


async def test_a_stream_that_ends_after_some_deltas(http: aiohttp.ClientSession, dialect: str) -> None:
    """The same after two deltas."""
    _, body, error = await _stream(http, dialect, Fault("no_end", after=2))
    assert error is None
    assert _deltas(_frames(body)) == DELTAS[:2]


async def test_a_broken_frame(http: aiohttp.ClientSession, dialect: str) -> None:
    """One frame is no JSON, and the stream goes on to its end without that delta."""
    _, body, error = await _stream(http, dialect, Fault("broken_frame", after=2))
    assert error is None
    broken = [block for block in body.split(b"\n\n") if block and not _is_json(block)]
    assert len(broken) == 1
    rest = body.replace(broken[0] + b"\n\n", b"")
    assert _deltas(_frames(rest)) == [*DELTAS[:2], *DELTAS[3:]]
    assert body.count(b"response.completed" if dialect == "responses" else b"[DONE]")


def _is_json(block: bytes) -> bool:
    data = block.partition(b"data: ")[2]
    try:
        return data == b"[DONE]" or bool(json.loads(data))
    except ValueError:
        return False


async def test_an_error_event_after_200(dialect: str) -> None:
    """The official client raises APIError with the code and the message; the deltas before it arrive."""
    fault = Fault("error_event", after=2, message="Overloaded", error_code="overloaded")
    async with (
        Endpoint([say(TEXT, fault=fault)]) as endpoint,
        AsyncOpenAI(api_key="any", base_url=endpoint.url, max_retries=0) as client,
    ):
        seen: list[Any] = []
        if dialect == "responses":
            stream: Any = await client.responses.create(model="m", input="hi", stream=True)
        else:
            stream = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hi"}], stream=True
            )
        try:
            async for event in stream:
                seen.append(event.to_dict())
        except openai.APIError as error:
            seen.append({"type": "error", "message": error.message, "code": error.code})
    assert _deltas(seen) == DELTAS[:2]
    assert (seen[-1]["message"], seen[-1]["code"]) == ("Overloaded", "overloaded")


async def test_a_failed_response(http: aiohttp.ClientSession) -> None:
    """response.failed is a valid event that holds the error, and it is the last."""
    _, body, error = await _stream(http, "responses", Fault("failed", after=2))
    frames = _frames(body)
    assert error is None
    for frame in frames:
        EVENTS.validate_python(frame)
    assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))
    assert frames[-1]["type"] == "response.failed"
    assert frames[-1]["response"]["status"] == "failed"
    assert frames[-1]["response"]["error"]["code"] == "server_error"


async def test_the_error_event_is_valid(http: aiohttp.ClientSession) -> None:
    """It has the official type's fields and the next sequence number."""
    _, body, _ = await _stream(http, "responses", Fault("error_event", after=1))
    frames = _frames(body)
    EVENTS.validate_python(frames[-1])
    assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))


async def test_silence_lasts_until_the_client_goes(http: aiohttp.ClientSession, dialect: str) -> None:
    """After its deltas nothing comes, not even the end; the client's leaving is noticed."""
    async with Endpoint([say(TEXT, fault=Fault("silence", after=2))]) as endpoint:
        async with http.post(f"{endpoint.url}/{dialect}", json=_body(dialect)) as response:
            body = bytearray()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(_collect(response, body), 0.1)
            assert _deltas(_frames(bytes(body))) == DELTAS[:2]
            response.close()
        async with asyncio.timeout(5):
            await endpoint.wait_disconnected()
            await endpoint.wait_idle()


async def test_silence_may_end(http: aiohttp.ClientSession, dialect: str) -> None:
    """With `for_s`, the rest follows after so long."""
    clock = FakeClock(0.0)
    async with (
        Endpoint([say(TEXT, fault=Fault("silence", after=2, for_s=60.0))], clock=clock) as endpoint,
        http.post(f"{endpoint.url}/{dialect}", json=_body(dialect)) as response,
    ):
        body, error = await _read(response)
    assert error is None
    assert _deltas(_frames(body)) == DELTAS
    assert clock.now() == 60.0


async def test_pings_are_no_signs_of_life(http: aiohttp.ClientSession, dialect: str) -> None:
    """With `pings_every_s`, comments come during the silence, and nothing else."""
    clock = FakeClock(0.0)
    fault = Fault("silence", after=2, for_s=60.0, pings_every_s=25.0)
    async with (
        Endpoint([say(TEXT, fault=fault)], clock=clock) as endpoint,
        http.post(f"{endpoint.url}/{dialect}", json=_body(dialect)) as response,
    ):
        body, _ = await _read(response)
    assert body.count(b": ping\n\n") == 2
    assert _deltas(_frames(body)) == DELTAS
    assert clock.now() == 60.0


@pytest.mark.parametrize("stream", [True, False])
async def test_a_slow_first_byte(http: aiohttp.ClientSession, dialect: str, stream: bool) -> None:
    """Nothing comes, not even the status, until `for_s` has passed; then everything does."""
    clock = FakeClock(0.0, autojump=False)
    turn = Turn([TEXT], fault=Fault("slow_first_byte", for_s=20.0))
    async with Endpoint([turn], clock=clock) as endpoint:
        asking = asyncio.create_task(http.post(f"{endpoint.url}/{dialect}", json=_body(dialect, stream=stream)))
        await endpoint.wait_requests()
        await clock.advance(19.0)
        assert endpoint.requests[0].status is None
        assert not asking.done()
        await clock.advance(1.0)
        async with await asking as response:
            assert response.status == 200
            assert b"five" in await response.read()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("broken_frame", "not JSON"), ("no_end", "not JSON"), ("truncated_body", "incomplete"), ("reset", "connection")],
)
async def test_faults_of_whole_answers(http: aiohttp.ClientSession, dialect: str, kind: Any, expected: str) -> None:
    """Unstreamed answers have the same faults: half a JSON text, a body too short, a reset."""
    async with Endpoint([say(TEXT, fault=Fault(kind))]) as endpoint:
        try:
            async with http.post(f"{endpoint.url}/{dialect}", json=_body(dialect, stream=False)) as response:
                json.loads(await response.read())
            seen = "answered"
        except ValueError:
            seen = "not JSON"
        except aiohttp.ClientPayloadError:
            seen = "incomplete"
        except aiohttp.ClientConnectionError:
            seen = "connection"
    assert seen == expected


@pytest.mark.parametrize("kind", ["failed", "error_event"])
async def test_a_whole_answer_that_failed(http: aiohttp.ClientSession, dialect: str, kind: Any) -> None:
    """Responses says so in the response, Chat Completions with a 500."""
    async with (
        Endpoint([say(TEXT, fault=Fault(kind, message="Broke"))]) as endpoint,
        http.post(f"{endpoint.url}/{dialect}", json=_body(dialect, stream=False)) as response,
    ):
        body = await response.json()
    assert (response.status, body.get("status")) == ((200, "failed") if dialect == "responses" else (500, None))
    assert body["error"]["message"] == "Broke"


async def test_a_whole_answer_that_never_comes(http: aiohttp.ClientSession, dialect: str) -> None:
    """Silence of an unstreamed answer sends no byte."""
    async with Endpoint([say(TEXT, fault=Fault("silence"))]) as endpoint:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await http.post(f"{endpoint.url}/{dialect}", json=_body(dialect, stream=False))
        async with asyncio.timeout(5):
            await endpoint.wait_disconnected()


async def test_a_fault_of_the_script_uses_up_no_turn(http: aiohttp.ClientSession, dialect: str) -> None:
    """A client that asks again after the script's fault gets the turn that it missed, whole."""
    script = Script(["one two", "three"], fault=Fault("no_end", after=1), fault_times=2)
    bodies: list[list[str]] = []
    async with Endpoint(script) as endpoint:
        for _ in range(4):
            async with http.post(f"{endpoint.url}/{dialect}", json=_body(dialect)) as response:
                bodies.append(_deltas(_frames((await _read(response))[0])))
        endpoint.assert_complete()
    assert bodies == [["one"], ["one"], ["one", " two"], ["three"]]


async def test_a_fault_alone_has_something_to_break_off(http: aiohttp.ClientSession, dialect: str) -> None:
    """A bare fault in mid-stream brings a text of its own."""
    async with (
        Endpoint([Fault("no_end", after=1)]) as endpoint,
        http.post(f"{endpoint.url}/{dialect}", json=_body(dialect)) as response,
    ):
        body, _ = await _read(response)
    assert _deltas(_frames(body)) == ["This"]


async def test_a_fault_after_more_deltas_than_there_are(http: aiohttp.ClientSession, dialect: str) -> None:
    """It strikes before the end, so that it is never left out."""
    _, body, error = await _stream(http, dialect, Fault("no_end", after=99))
    assert error is None
    assert _deltas(_frames(body)) == DELTAS
    assert b"[DONE]" not in body
    assert b"response.completed" not in body
