"""Requests that no client of good will sends, over raw sockets: each is answered or cut off, and the server goes on."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from runstream import Agent
from runstream.server import Limits, create_app
from runstream.server.app import service_of
from runstream.server.connections import bounded_connections
from runstream.testing import FakeClock, ScriptedModel, Turn
from runstream.wire.sse import SSEDecoder
from serving import Client, serving

HEAD = b"POST /runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def desk(*answers: str) -> Agent[Any]:
    return Agent(name="Desk", model=ScriptedModel([*answers] or ["Hello."], repeat=True))


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db"


class Raw:
    """A connection on which anything can be sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        return int(head.split()[1]), await self._reader.readexactly(length)

    async def until_closed(self) -> bytes:
        return await self._reader.read()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Raw]:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


async def asked(url: str, request: bytes) -> tuple[int, Any]:
    async with connected(url) as raw:
        await raw.send(request)
        status, body = await raw.answer()
        return status, body


HOSTS = {
    b"localhost": 200,
    b"LOCALHOST:99": 200,
    b"[::1]": 200,
    b"[::1]:8000": 200,
    b"localhost.": 403,
    b"localhost:port": 403,
    b"localhost:123456": 403,
    b"user@localhost": 403,
    b"localhost/": 403,
    b"localhost,evil.com": 403,
    b"evil.com#localhost": 403,
    b"[::ffff:127.0.0.1]": 403,
    b"0.0.0.0": 403,
    b"127.1": 403,
    b"loc\xe4lhost": 403,
    b"": 403,
}


async def test_names_that_look_like_ours(store: str) -> None:
    """A Host is one of the list to the letter, with any port; two of them, or none, are none of ours."""
    async with serving(create_app(desk(), store=store)) as url:
        for host, expected in HOSTS.items():
            status, _ = await asked(url, b"GET /runs HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
            assert status == expected, host
        two = b"GET /runs HTTP/1.1\r\nHost: localhost\r\nHost: evil.com\r\n\r\n"
        assert (await asked(url, two))[0] in (400, 403)
        assert (await asked(url, b"GET /runs HTTP/1.0\r\n\r\n"))[0] == 403


ORIGINS = {
    "http://localhost:8000": 200,
    "HTTP://LOCALHOST:8000": 200,
    "https://localhost:8000": 200,
    "http://localhost": 403,
    "http://localhost:8001": 403,
    "http://localhost:8000.evil.com": 403,
    "http://user@localhost:8000": 403,
    "http://localhost.:8000": 403,
    "ftp://localhost:8000": 403,
    "http://[::1]:8000": 403,
    "http://127.0.0.1:8000": 403,
    "http://localhost:8000/": 403,
    "null": 403,
    "": 403,
}


async def test_origins_that_look_like_ours(store: str) -> None:
    """An Origin is that of the very name and port that was asked for, or of the list; also for WebSockets."""
    async with serving(create_app(desk(), store=store)) as url, Client(url) as client:
        for origin, expected in ORIGINS.items():
            named = {"Host": "localhost:8000", "Origin": origin}
            assert (await client.json("GET", "/runs", **named))[0] == expected, origin
            if expected == 403:
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await client.ws_connect("/runs/r/ws", headers=named)
                assert refused.value.status == 403


async def test_a_proxy_is_not_this_machine(store: str) -> None:
    """Without tokens nobody is answered who asks for somebody elsewhere, though the connection is from here."""
    async with serving(create_app(desk(), store=store), proxy_headers=False) as url, Client(url) as client:
        for name, value, expected in (
            ("X-Forwarded-For", "203.0.113.7", 401),
            ("X-Forwarded-For", "127.0.0.1, 203.0.113.7", 401),
            ("X-Forwarded-For", "203.0.113.7, 127.0.0.1", 401),
            ("X-Real-IP", "203.0.113.7", 401),
            ("Forwarded", "for=203.0.113.7", 401),
            ("X-Forwarded-For", "127.0.0.1", 200),
            ("X-Real-IP", "::1", 200),
        ):
            assert (await client.json("GET", "/runs", **{name: value}))[0] == expected, (name, value)


PATHS = {
    b"/runs/../metrics": 404,
    b"/runs/..%2fmetrics": 404,
    b"/healthz/../runs": 404,
    b"/healthz%2f..%2fruns": 404,
    b"//runs": 404,
    b"/runs/%00": 404,
    b"/runs/a%00b/events": 404,
    b"/runs/%ff%fe": 404,
    b"/runs/%2e%2e": 404,
    b"/runs/" + b"x" * 20_000: 404,
    b"/runs/'%20OR%201=1--": 404,
    b"/runs/a/events?after=" + b"9" * 5000: 404,
    b"/runs?limit=%ff&status=%00": 422,
    b"/runs?before=": 422,
    b"/runs?before=nan~run": 422,
    b"/page/runs?before=1763669813.5": 422,
    b"/page/runs?before=1e308~%ff%00": 200,
    b"/RUNS": 404,
    b"/assets/..%2f..%2fapp.py": 404,
    b"/assets/../server/app.py": 404,
}


async def test_paths_that_lead_elsewhere(store: str) -> None:
    """What is no address is none, however it is written; nothing is told without a token."""
    token = "t" * 20
    app = create_app(desk(), store=store, tokens=[token])
    async with serving(app) as url:
        for path, expected in PATHS.items():
            request = b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n"
            status, body = await asked(url, request + b"Authorization: Bearer " + token.encode() + b"\r\n\r\n")
            assert status == expected, (path, body)
            if not path.startswith(b"/assets/"):
                assert (await asked(url, request + b"\r\n"))[0] == 401, path
        for target in (b"*", b"http://evil.com/runs", b"/r\xc3\xbcns", b"/runs\x01"):
            async with connected(url) as raw:
                await raw.send(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
                status, _ = await raw.answer()
                assert status in (400, 401, 404), target


async def test_methods_that_are_not_for_it(store: str) -> None:
    """HEAD tells the head of a stream and does not wait for its end; OPTIONS changes nothing; others are refused."""
    async with serving(create_app(desk(), store=store)) as url, Client(url) as client:
        run_id = (await client.stream({"input": "hi"}))[0].data["run"]
        async with client.ask("HEAD", f"/runs/{run_id}/events") as response:
            assert response.content_type == "text/event-stream"
        for method, path in (("PUT", "/runs"), ("PATCH", f"/runs/{run_id}"), ("DELETE", "/runs"), ("TRACE", "/runs")):
            status, answer = await client.json(method, path)
            assert (status, answer["error"]["code"]) == (405, "not_possible")
        for path, allowed in (("/runs", "GET, HEAD, POST"), (f"/runs/{run_id}", "DELETE, GET, HEAD")):
            async with client.ask("PUT", path) as response:
                assert response.headers["Allow"] == allowed
        async with client.ask("OPTIONS", f"/runs/{run_id}") as response:
            assert response.status == 204
        assert (await client.json("GET", f"/runs/{run_id}"))[0] == 200


async def test_bodies_that_do_not_come(store: str) -> None:
    """Slowly, not at all, or without end: the body has its time and its size, and then the connection is closed."""
    clock = FakeClock(autojump=False)
    app = create_app(desk(), store=store, limits=Limits(body_bytes=2000), run_config={"clock": clock})
    async with serving(app) as url:
        async with connected(url) as slow, connected(url) as silent:
            await slow.send(HEAD + b'Content-Length: 20\r\n\r\n{"inp')
            await silent.send(HEAD + b"Content-Length: 20\r\n\r\n")
            for _ in range(2):
                await clock.advance(16.0)
                await slow.send(b"u")
            for raw in (slow, silent):
                status, body = await raw.answer()
                assert (status, json.loads(body)["error"]["code"]) == (408, "body_too_slow")
                assert await raw.until_closed() == b""
        async with connected(url) as endless:
            await endless.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            try:
                for _ in range(1000):
                    await endless.send(b"64\r\n" + b"x" * 100 + b"\r\n")
            except ConnectionError:
                pass  # it was cut off
            status, body = await endless.answer()
            assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")
        for wrong in (b"Content-Length: -1", b"Content-Length: 1e3", b"Content-Length: 5\r\nContent-Length: 6"):
            status, _ = await asked(url, HEAD + wrong + b"\r\n\r\n{}")
            assert status == 400, wrong
        status, _ = await asked(url, HEAD + b"Content-Length: 99999999999999\r\n\r\n{}")
        assert status == 413


async def test_bodies_that_are_nested_without_end(store: str, caplog: pytest.LogCaptureFixture) -> None:
    """They are refused, by every protocol, before code that calls itself for each level is at its end."""
    app = create_app(desk(), store=store, trusts_input=True)
    asked = {
        "/runs": '{"input": [{"role": "user", "content": @}]}',
        "/v1/responses": '{"model": "Desk", "input": [{"type": "function_call_output", "call_id": "c", "output": @}]}',
        "/v1/chat/completions": '{"model": "Desk", "messages": [{"role": "user", "content": @}]}',
        "/ag-ui": '{"threadId": "t", "runId": "r", "messages": [{"id": "m", "role": "user", "content": @}]}',
        "/api/chat": '{"id": "c", "messages": [{"id": "m", "role": "user", "parts": @}]}',
    }
    metadata = '{"model": "Desk", "input": "hi", "metadata": {"a": @}}'
    async with serving(app) as url, Client(url) as client:
        for path, body in (*asked.items(), ("/v1/responses", metadata)):
            for levels in (60, 900, 100_000):
                nested = "[" * levels + "]" * levels
                status, _ = await client.json("POST", path, body.replace("@", nested).encode())
                assert status in (400, 422), (path, levels)
    assert not caplog.records


async def test_a_client_that_leaves_in_mid_body(store: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is begun, and nobody is told of an error."""
    caplog.set_level(logging.WARNING)
    app = create_app(desk(), store=store)
    async with serving(app) as url, Client(url) as client:
        async with connected(url) as raw:
            await raw.send(HEAD + b'Content-Length: 20\r\n\r\n{"input": "a')
        assert (await client.json("GET", "/runs"))[1] == {"runs": [], "next": None}
    assert not caplog.records


async def test_heads_without_end(store: str) -> None:
    """A head that does not come, or does not stop, is cut off; requests that wait in line are answered in theirs."""
    app = create_app(desk(), store=store)
    async with serving(app, http=bounded_connections(head_bytes=4000, head_s=0.3)) as url, Client(url) as client:
        async with connected(url) as silent, connected(url) as slow, connected(url) as huge:
            await slow.send(b"GET /runs HTTP/1.1\r\nHost: localh")
            await huge.send(b"GET /runs HTTP/1.1\r\nHost: localhost\r\n")
            try:
                for number in range(200):
                    await huge.send(b"X-%d: %s\r\n" % (number, b"x" * 100))
            except ConnectionError:
                pass  # it was cut off
            assert (await huge.answer())[0] == 431
            assert (await slow.answer())[0] == 408
            assert (await silent.answer())[0] == 408
        async with connected(url) as pipelined:
            one = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
            await pipelined.send(one + HEAD + b"Content-Length: 15\r\n\r\n" + b'{"input": "hi"}' + one)
            assert [(await pipelined.answer())[0] for _ in range(3)] == [200, 201, 200]
        async with client.ask("POST", "/runs", {"input": "x" * 100_000}) as response:
            assert response.status == 201
        frames = await client.stream({"input": "hi"})
        assert frames[-1].data["kind"] == "run.end"


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system does not limit this")
async def test_a_connection_that_takes_nothing_is_closed(store: str) -> None:
    """Not only is its reader dropped: what waits to be sent to it is given up."""
    agent = Agent(name="Desk", model=ScriptedModel([Turn(("word " * 400_000,), chunks=100_000)]))
    app = create_app(agent, store=store, limits=Limits(stuck_after_s=0.2))
    lost = asyncio.Event()

    class Watched(bounded_connections(stuck_s=0.3)):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            lost.set()

    async with serving(app, http=Watched) as url:
        with socket.socket() as stuck:
            host, _, port = url.removeprefix("http://").partition(":")
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.connect((host, int(port)))
            body = b'{"input": "hi"}'
            stuck.sendall(HEAD + b"Accept: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await asyncio.wait_for(lost.wait(), 20)
        assert service_of(app).counts.readers_dropped <= 1
        assert service_of(app).hub.reader_count == 0


async def test_a_websocket_that_takes_nothing_is_dropped(store: str) -> None:
    """As a stream is: the run ends, and another reader has all of it."""
    agent = Agent(name="Desk", model=ScriptedModel([Turn(("word " * 400_000,), chunks=2_000)]))
    app = create_app(agent, store=store, limits=Limits(stuck_after_s=0.2))
    async with serving(app) as url, Client(url) as client:
        _, begun = await client.json("POST", "/runs", {"input": "hi"})
        async with connected(url) as stuck:
            upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            path = f"GET /runs/{begun['run_id']}/ws HTTP/1.1\r\nHost: localhost\r\n".encode()
            await stuck.send(path + upgrade + key)
            frames = await client.events(begun["run_id"])
            assert frames[-1].data["data"]["status"] == "completed"
            while service_of(app).hub.reader_count:  # noqa: ASYNC110 (the server has no event for it)
                await asyncio.sleep(0.02)
            assert service_of(app).counts.readers_dropped == 1


async def test_what_breaks_is_told_without_its_insides(
    store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of the server's own is a 500 in the form of every error; what it was is in the log alone."""
    app = create_app(desk(), store=store)
    async with serving(app) as url, Client(url) as client:

        async def breaks(*_: Any, **__: Any) -> Any:
            raise ZeroDivisionError("insides")

        monkeypatch.setattr(service_of(app).carrier.store, "list_runs", breaks)
        status, answer = await client.json("GET", "/runs")
        assert (status, answer) == (500, {"error": {"code": "error", "message": "the server failed"}})
    assert "insides" in caplog.text


HOSTILE = "a\n\ndata: {}\n\nevent: run.end\r\rid: 9-9\n\n\u2028\u2029\x85\x0b\x0c\x1e\x00</script>\ufeff: ping\n"


async def test_answers_cannot_write_frames(store: str) -> None:
    """Whatever a model says, and whatever a client asks with: each frame is one event, and its text is unchanged."""
    async with serving(create_app(desk(HOSTILE), store=store)) as url, Client(url) as client:
        async with client.ask("POST", "/runs", {"input": HOSTILE}, Accept="text/event-stream") as response:
            body = await response.read()
        decoder = SSEDecoder()
        frames = decoder.feed(body)
        assert decoder.close() == b""
        events = [json.loads(frame.data) for frame in frames]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert [event["kind"] for event in events].count("run.end") == 1
        assert events[-1]["data"]["final_output"] == HOSTILE
        assert events[0]["data"]["input"] == HOSTILE
        text = "".join(
            event["data"]["delta"]
            for event in events
            if event["kind"] == "model" and event["data"]["type"] == "response.output_text.delta"
        )
        assert text == HOSTILE
        assert len([line for line in body.splitlines() if line.startswith(b"data:")]) == len(events)
        for cursor in ("1-1\n\ndata: x", "\r\n\r\n", "\u2028"):
            async with client.get(f"/runs/{events[0]['run']}/events", params={"after": cursor}) as response:
                frames = SSEDecoder().feed(await response.read())
            assert frames[0].event == b"resync"
            assert len(frames) == 1 + len(events)
