"""models/direct: requests of our own clients are sent as the client itself would send them, and fail as its own do."""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import openai
import pytest
from openai.types.shared import Reasoning

from runstream.models import direct, transport
from runstream.models.direct import DirectRoute
from runstream.models.transport import ClientSettings, client_for, open_stream

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nx-request-id: req_1\r\n\r\ndata: {}\n\n"
BODY = {"model": "m", "input": "hi", "stream": True}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key, and the official client's other variables unset."""
    for name in transport._ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "any")


class Server:
    """Gives one answer after the other, and keeps what was asked."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.address = ""
        self.handlers: list[asyncio.Task[Any]] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.handlers.append(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
                headers = {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in head[1:]}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append((head[0], headers, body))
                writer.write(self._answers.pop(0))
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(*answers: bytes) -> AsyncIterator[Server]:
    played = Server(*answers)
    server = await asyncio.start_server(played.handle, "127.0.0.1", 0)
    played.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield played
        for clients in transport._clients._loops.values():
            for client in clients.values():
                await transport._routes[client].aclose()
                await client.close()
            clients.clear()
    await asyncio.gather(*played.handlers)


async def ask(base_url: str, path: str = "/responses", **arguments: Any) -> str | None:
    """Send one request; the answer's request id."""
    client = client_for(ClientSettings("any", base_url))
    async with aclosing(await open_stream(client, path, lambda: None, {**BODY, **arguments})) as body:
        async for _ in body:
            pass
        return body.request_id


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths whose requests were learned from the client."""
    learn, paths = DirectRoute._learn, []

    async def noted(self: Any, client: Any, path: str, options: Any) -> Any:
        paths.append(path)
        return await learn(self, client, path, options)

    monkeypatch.setattr(DirectRoute, "_learn", noted)
    return paths


@pytest.mark.parametrize("path", ["/responses", "/chat/completions"])
async def test_the_same_request_as_the_clients(monkeypatch: pytest.MonkeyPatch, path: str, learned: list[str]) -> None:
    """The server sees what the official client sends: address, headers and body; asking for the form costs once."""
    monkeypatch.setenv("OPENAI_ORG_ID", "org")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-custom: 1")
    monkeypatch.setattr(direct, "getproxies", dict)
    async with serving(*[ANSWER] * 3) as server:
        for _ in range(2):
            assert await ask(f"http://{server.address}/v1", path, extra_headers={"User-Agent": "own"}) == "req_1"
        assert learned == [path]
        client = client_for(ClientSettings("any", f"http://{server.address}/v1"))
        monkeypatch.setattr(transport._routes[client], "_proxied", True)
        await ask(f"http://{server.address}/v1", path, extra_headers={"User-Agent": "own"})
        first, second, official = server.requests
    assert first == second
    assert (first[0], first[2]) == (official[0], official[2])
    of_the_connection = {"accept-encoding", "connection"}
    assert {k: v for k, v in first[1].items() if k not in of_the_connection} == {
        k: v for k, v in official[1].items() if k not in of_the_connection
    }
    assert first[1]["authorization"] == "Bearer any"
    assert first[1]["user-agent"] == "own"


async def test_objects_in_the_body() -> None:
    """Official objects and dates are sent as the official client sends them; what is no JSON is refused."""
    async with serving(ANSWER) as server:
        moment = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
        url = f"http://{server.address}/v1"
        await ask(url, reasoning=Reasoning(effort="low"), metadata={"at": moment})
        with pytest.raises(TypeError, match="object cannot be sent as JSON"):
            await ask(url, metadata={"x": object()})
        sent = json.loads(server.requests[0][2])
    assert sent["reasoning"] == {"effort": "low"}
    assert datetime.datetime.fromisoformat(sent["metadata"]["at"]) == moment


async def test_a_redirect_is_the_clients_to_follow() -> None:
    """An answer that sends elsewhere is followed, with the body."""
    async with serving(
        b"HTTP/1.1 307 Moved\r\nLocation: /v2/responses\r\nContent-Length: 0\r\n\r\n" * 1, ANSWER
    ) as server:
        server._answers.insert(0, server._answers[0])  # the client asks the first address again
        assert await ask(f"http://{server.address}/v1") == "req_1"
        lines = [line for line, _, _ in server.requests]
        bodies = [json.loads(body) for _, _, body in server.requests]
    assert lines == [f"POST /{version}/responses HTTP/1.1" for version in ("v1", "v1", "v2")]
    assert bodies[0] == bodies[2] == BODY


async def test_a_password_in_the_address() -> None:
    """Credentials of the base URL are sent as a header, in the key's place, streamed or not."""
    whole = ANSWER.replace(b"Content-Length", b"Content-Type: application/json\r\nContent-Length")
    whole = whole.replace(b"data: {}\n\n", b'{"id":"q"}')
    async with serving(ANSWER, whole) as server:
        address = f"http://me:secret@{server.address}/v1"
        assert await ask(address) == "req_1"
        assert (await client_for(ClientSettings("any", address)).responses.create(model="m", input="hi")).id == "q"
        assert [headers["authorization"] for _, headers, _ in server.requests] == ["Basic bWU6c2VjcmV0"] * 2


async def test_an_answer_that_refuses() -> None:
    """The error is the client's, with the server's message, headers and status; the body may be anything."""
    answer = b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nx-request-id: req_9\r\nContent-Length: 4\r\n\r\nnope"
    async with serving(answer) as server:
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(f"http://{server.address}/v1")
    error = caught.value
    assert (error.status_code, error.request_id, error.body) == (429, "req_9", "nope")
    assert error.response.headers["retry-after"] == "7"


async def test_a_server_that_hangs_up() -> None:
    """A connection that is closed before an answer is a connection error, which may be tried again."""

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(openai.APIConnectionError, match="Connection error: Server disconnected"):
            await ask(f"http://127.0.0.1:{port}/v1")


async def test_headers_that_always_differ(monkeypatch: pytest.MonkeyPatch, learned: list[str]) -> None:
    """Only so many kinds of requests are remembered; further ones are sent by the client itself."""
    monkeypatch.setattr(direct, "_MAX_KINDS", 2)
    async with serving(*[ANSWER] * 4) as server:
        for number in range(4):
            await ask(f"http://{server.address}/v1", extra_headers={"x-number": str(number)})
        assert [headers["x-number"] for _, headers, _ in server.requests] == ["0", "1", "2", "3"]
    assert len(learned) == 2


@pytest.mark.parametrize("reason", ["proxy", "query", "log"])
async def test_what_is_left_to_the_client(
    monkeypatch: pytest.MonkeyPatch, learned: list[str], caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    """Proxies, extra queries and the client's own debug log are the client's matter."""
    arguments: dict[str, Any] = {}
    monkeypatch.setattr(direct, "getproxies", lambda: {"all": "http://x"} if reason == "proxy" else {})
    if reason == "query":
        arguments["extra_query"] = {"q": "1"}
    if reason == "log":
        caplog.set_level(logging.DEBUG, "openai")
    async with serving(ANSWER) as server:
        assert await ask(f"http://{server.address}/v1", **arguments) == "req_1"
    assert learned == []
