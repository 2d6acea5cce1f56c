"""The endpoint refuses wrong requests in the shape of OpenAI's errors."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from runstream.errors import UserError
from runstream.testing import Endpoint, InvalidModelStep, Item, Raise, Script, Turn, When

pytestmark = pytest.mark.system


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def _error(response: aiohttp.ClientResponse) -> dict[str, Any]:
    body = json.loads(await response.read())
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


@pytest.mark.parametrize(
    ("path", "body", "words", "param"),
    [
        ("responses", b"{nope", "could not parse the JSON", None),
        ("responses", b"[1]", "must be a JSON object", None),
        ("responses", b"{}", "'model'", "model"),
        ("responses", b'{"model": 5, "input": "x"}', "'model': expected a string, but got 5", "model"),
        ("responses", b'{"model": "m", "input": {}}', "'input': expected a string or an array", "input"),
        ("responses", b'{"model": "m", "input": "x", "stream": "yes"}', "'stream'", "stream"),
        ("chat/completions", b'{"model": "m"}', "'messages'", "messages"),
        ("chat/completions", b'{"model": "m", "messages": "x"}', "expected an array", "messages"),
        ("chat/completions", b"", "could not parse the JSON", None),
    ],
)
async def test_a_malformed_body_gets_400(
    http: aiohttp.ClientSession, path: str, body: bytes, words: str, param: str | None
) -> None:
    """The message names the parameter; the script's turn is not used up."""
    async with Endpoint(["ok"]) as endpoint:
        async with http.post(f"{endpoint.url}/{path}", data=body) as response:
            assert response.status == 400
            error = await _error(response)
        assert words in error["message"]
        assert error["param"] == param
        assert endpoint.requests[0].outcome == "rejected"
        async with AsyncOpenAI(api_key="any", base_url=endpoint.url, max_retries=0) as client:
            assert (await client.responses.create(model="m", input="hi")).output_text == "ok"


async def test_a_client_that_waits_for_100_continue_is_told_to_go_on() -> None:
    """A long body follows only after the interim answer."""
    async with Endpoint(["ok"]) as endpoint:
        host, _, port = endpoint.url.removeprefix("http://").removesuffix("/v1").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps({"model": "m", "input": "x" * 2000}).encode()
        head = f"POST /v1/responses HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        await writer.wait_closed()


async def test_an_unknown_path_gets_404(http: aiohttp.ClientSession) -> None:
    """The error says what there is, and GET on an answer is not found either."""
    async with Endpoint(["ok"]) as endpoint:
        async with http.post(f"{endpoint.url}/embeddings", json={}) as response:
            assert response.status == 404
            assert "POST /v1/responses" in (await _error(response))["message"]
        async with http.get(f"{endpoint.url}/responses") as response:
            assert response.status == 404
        async with http.delete(f"{endpoint.url}/responses") as response:
            assert response.status == 405
        assert [request.path for request in endpoint.requests] == ["/v1/embeddings", "/v1/responses", "/v1/responses"]


async def test_a_wrong_key_gets_401(http: aiohttp.ClientSession) -> None:
    """Without the key, or with another one, nothing is answered; with it everything."""
    async with Endpoint(["ok"], api_key="secret") as endpoint:
        async with AsyncOpenAI(api_key="wrong", base_url=endpoint.url, max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError, match="Incorrect API key") as caught:
                await client.responses.create(model="m", input="hi")
            assert caught.value.code == "invalid_api_key"
        async with http.get(f"{endpoint.url}/models") as response:
            assert response.status == 401
            assert "didn't provide an API key" in (await _error(response))["message"]
        async with AsyncOpenAI(api_key="secret", base_url=endpoint.url, max_retries=0) as client:
            assert (await client.responses.create(model="m", input="hi")).output_text == "ok"


async def test_models_can_be_listed() -> None:
    """GET /models and /models/{id} answer as the API does."""
    async with Endpoint() as endpoint, AsyncOpenAI(api_key="any", base_url=endpoint.url, max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == ["scripted"]
        assert (await client.models.retrieve("scripted")).owned_by == "runstream"


async def test_a_request_beyond_the_script_is_told_so() -> None:
    """The error has a code of its own, is not one that clients repeat, and names the call and its last input."""
    async with Endpoint(["only one"]) as endpoint:
        async with AsyncOpenAI(api_key="any", base_url=endpoint.url, max_retries=3) as client:
            await client.responses.create(model="m", input="hi")
            with pytest.raises(openai.BadRequestError, match=r"Unexpected model call 2.*user: 'again'") as caught:
                await client.responses.create(model="m", input="again", stream=True)
        assert caught.value.code == "script_exhausted"
        assert len(endpoint.requests) == 2


async def test_a_request_that_no_turn_accepts_is_told_so() -> None:
    """The error lists the turns that are left."""
    async with (
        Endpoint([Turn("x", when=When(user_contains="magic"))]) as endpoint,
        AsyncOpenAI(api_key="any", base_url=endpoint.url, max_retries=0) as client,
    ):
        with pytest.raises(openai.BadRequestError, match=r"none of the turns that are left.*turn 1"):
            await client.responses.create(model="m", input="hi")


async def test_a_turn_that_cannot_be_played_is_told_so() -> None:
    """An item without a form in Chat Completions, and an exception from a function, are the script's fault."""
    search = Item({"type": "web_search_call", "id": "ws_1", "status": "completed"})
    script = Script([[search]], default=lambda request: Raise(KeyError("x")))
    async with Endpoint(script) as endpoint, AsyncOpenAI(api_key="any", base_url=endpoint.url, max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match=r"web_search_call.*no form in Chat") as caught:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        assert caught.value.code == "script_invalid"
        with pytest.raises(openai.BadRequestError, match=r"cannot raise KeyError.*use a Fault"):
            await client.responses.create(model="m", input="hi")


def test_a_script_with_exceptions_is_refused_at_once() -> None:
    """Exceptions belong to ScriptedModel."""
    with pytest.raises(InvalidModelStep, match="use a Fault"):
        Endpoint([Raise(ValueError("x"))])


async def test_an_address_in_use_is_told_so() -> None:
    """The error names the address."""
    async with Endpoint() as endpoint:
        port = int(endpoint.url.split(":")[2].split("/")[0])
        with pytest.raises(UserError, match=rf"cannot listen on 127.0.0.1:{port}"):
            await Endpoint(port=port).open()
        with pytest.raises(UserError, match="cannot listen"), Endpoint(port=port):
            pass
        with pytest.raises(UserError, match="open already"):
            await endpoint.open()


def test_an_endpoint_that_is_not_open_has_no_url() -> None:
    """The error says how to open it."""
    with pytest.raises(UserError, match="async with Endpoint"):
        _ = Endpoint().url


async def test_an_ipv6_address_is_written_with_brackets() -> None:
    """The URL can be used as it is."""
    endpoint = Endpoint(["ok"], host="::1")
    try:
        await endpoint.open()
    except UserError:
        pytest.skip("this machine has no IPv6")
    try:
        assert endpoint.url.startswith("http://[::1]:")
        async with AsyncOpenAI(api_key="any", base_url=endpoint.url, max_retries=0) as client:
            assert (await client.responses.create(model="m", input="hi")).output_text == "ok"
    finally:
        await endpoint.aclose()
