"""models/transport: one client a loop, closed with it; the bytes of a body become frames, or a clear error."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import gzip
import socket
import struct
import weakref
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from runstream.errors import ModelStreamBroken, ModelStreamTruncated, UserError
from runstream.models import direct, transport
from runstream.models.transport import (
    ClientSettings,
    MissingAPIKey,
    StreamBody,
    check_settings,
    client_for,
    open_stream,
)
from runstream.testing import Endpoint, Fault, say
from runstream.wire.sse import SSEDecoder, SSEFrame

FRAMES = [SSEFrame(b'{"n":%d}' % number, b"delta") for number in range(5)]
BODY = b"".join(b"event: delta\ndata: %s\n\n" % frame.data for frame in FRAMES)

Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key, and the official client's other variables unset."""
    for name in transport._ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "any")


@pytest.fixture(params=["direct", "through the client"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request goes over the direct route, or through the client, as where there is a proxy."""
    if request.param != "direct":
        monkeypatch.setattr(direct, "getproxies", lambda: {"http": "http://proxy.test"})


class RawServer:
    """Answers each request with bytes of the test's choice."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.requests: list[bytes] = []
        self.handlers: set[asyncio.Task[Any]] = set()
        self.gone = asyncio.Event()
        """Set when a client closed its connection before the reply was over."""
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.handlers.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self.requests.append(head + await reader.readexactly(length))
            reply = asyncio.ensure_future(self._reply(writer))
            closed = asyncio.ensure_future(reader.read(1))
            await asyncio.wait({reply, closed}, return_when=asyncio.FIRST_COMPLETED)
            if not reply.done():
                self.gone.set()
                reply.cancel()
            closed.cancel()
            await asyncio.gather(reply, closed, return_exceptions=True)
        finally:
            writer.close()


@asynccontextmanager
async def serving(reply: Reply) -> AsyncIterator[RawServer]:
    raw = RawServer(reply)
    server = await asyncio.start_server(raw.handle, "127.0.0.1", 0)
    raw.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield raw
    await asyncio.gather(*raw.handlers)


def head(*headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: text/event-stream", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


CHUNKED = head("Transfer-Encoding: chunked", "x-request-id: req_1")
END = b"0\r\n\r\n"


async def write(writer: asyncio.StreamWriter, *pieces: bytes) -> None:
    """Write these pieces, and let the reader have each."""
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        for _ in range(3):
            await asyncio.sleep(0)


def replying(*pieces: bytes) -> Reply:
    return lambda writer: write(writer, *pieces)


@asynccontextmanager
async def opened(url: str, **arguments: Any) -> AsyncIterator[StreamBody]:
    client = client_for(ClientSettings("any", url))
    create = client.responses.with_streaming_response.create
    sent = {"model": "m", "input": "hi", "stream": True, **arguments}
    async with aclosing(await open_stream(client, "/responses", create, sent)) as body:
        yield body


async def read(
    url: str, on_read: Callable[[], object] = lambda: None, **arguments: Any
) -> tuple[list[SSEFrame], Exception | None]:
    """The frames of one answer, and the error that ended it."""
    frames: list[SSEFrame] = []
    try:
        async with opened(url, **arguments) as body:
            async for more in body:
                frames += more
                on_read()
    except Exception as error:
        return frames, error
    return frames, None


# Clients.


def test_no_key_is_an_error_before_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key no client is made, in a loop or outside; both who know us and who know the client can catch it."""
    monkeypatch.delenv("OPENAI_API_KEY")
    for function in (check_settings, client_for):
        with pytest.raises(MissingAPIKey, match="no API key: set the environment variable OPENAI_API_KEY") as caught:
            function(ClientSettings())
        assert isinstance(caught.value, UserError)
        assert isinstance(caught.value, openai.OpenAIError)
    monkeypatch.setenv("OPENAI_API_KEY", "")
    with pytest.raises(MissingAPIKey):
        check_settings(ClientSettings())
    check_settings(ClientSettings(api_key="own"))


async def test_one_client_for_one_loop_and_settings() -> None:
    """The same settings give the same client, others another; it makes no retries of its own."""
    client = client_for(ClientSettings())
    assert client_for(ClientSettings()) is client
    assert client_for(ClientSettings(base_url="http://other.test")) is not client
    assert client_for(ClientSettings(api_key="other")) is not client
    assert client.max_retries == 0


async def test_a_changed_environment_gives_another_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the official client reads from the environment is part of a client's identity."""
    clients = [client_for(ClientSettings())]
    for name in transport._ENVIRONMENT:
        monkeypatch.setenv(name, "http://changed.test" if name == "OPENAI_BASE_URL" else "x-name: changed")
        clients.append(client_for(ClientSettings()))
    assert len({id(client) for client in clients}) == len(transport._ENVIRONMENT) + 1
    assert client_for(ClientSettings()) is clients[-1]


def test_each_loop_has_its_client_and_closes_it() -> None:
    """Repeated asyncio.run gives other clients, each closed, with its connections, when its loop ends."""

    async def main() -> AsyncOpenAI:
        async with serving(replying(CHUNKED, chunk(BODY), END)) as server:
            frames, error = await read(server.url)
            assert (frames, error) == (FRAMES, None)
            return client_for(ClientSettings("any", server.url))

    first, second = asyncio.run(main()), asyncio.run(main())
    assert first is not second
    assert first.is_closed()
    assert second.is_closed()
    gc.collect()  # an unclosed connection would warn now, and warnings are errors


def test_a_loop_that_ended_is_forgotten() -> None:
    """Loops that are closed in order leave nothing behind."""

    async def main() -> None:
        client_for(ClientSettings())

    gc.collect()
    before = len(transport._clients._loops)
    for _ in range(5):
        asyncio.run(main())
    gc.collect()
    assert len(transport._clients._loops) <= before + 1


def test_outside_a_loop_a_client_can_be_looked_at() -> None:
    """Outside a loop each call makes a client whose settings can be read."""
    client = client_for(ClientSettings(base_url="http://own.test/v1"))
    assert str(client.base_url) == "http://own.test/v1/"
    assert client_for(ClientSettings(base_url="http://own.test/v1")) is not client


# Requests.


async def test_what_is_sent() -> None:
    """The official client sends it: its headers and key, our JSON as the body, extra headers and query as asked."""
    async with serving(replying(CHUNKED, END)) as server:
        extra: dict[str, Any] = {"extra_headers": {"x-own": "1"}, "extra_query": {"q": "2"}, "extra_body": {"b": 3}}
        async with opened(server.url, instructions="Grüße", store=openai.omit, **extra) as body:
            assert body.request_id == "req_1"
            async for _ in body:
                pass
    head_sent, _, sent = server.requests[0].partition(b"\r\n\r\n")
    first_line, *headers = head_sent.decode().lower().split("\r\n")
    assert first_line == "post /v1/responses?q=2 http/1.1"
    assert {"authorization: bearer any", "x-own: 1", "content-type: application/json"} <= set(headers)
    assert httpx2.Response(200, content=sent).json() == {
        "model": "m",
        "input": "hi",
        "stream": True,
        "instructions": "Grüße",
        "b": 3,
    }


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("400 Bad Request", openai.BadRequestError),
        ("401 Unauthorized", openai.AuthenticationError),
        ("404 Not Found", openai.NotFoundError),
        ("429 Too Many Requests", openai.RateLimitError),
        ("500 Internal Server Error", openai.InternalServerError),
        ("503 Service Unavailable", openai.InternalServerError),
    ],
)
async def test_a_refused_request_is_the_official_error(status: str, kind: Any) -> None:
    """An HTTP error is the official client's, with the provider's message and code, and it is sent once."""
    text = b'{"error":{"message":"because","code":"some_code"}}'
    reply = replying(head(f"Content-Length: {len(text)}", status=status), text)
    async with serving(reply) as server:
        frames, error = await read(server.url)
    assert frames == []
    assert type(error) is kind
    assert isinstance(error, openai.APIStatusError)
    assert error.code == "some_code"
    assert "because" in str(error)
    assert len(server.requests) == 1


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("text", ["page not found", '{"detail":"Not Found"}', ""])
async def test_a_refusal_without_a_message(text: str) -> None:
    """The official error, which tells who refused, with what, and what is likely wrong; nothing that may be secret."""
    async with serving(replying(head(f"Content-Length: {len(text)}", status="404 Not Found"), text.encode())) as server:
        _, error = await read(server.url, extra_query={"key": "secret"})
    assert type(error) is openai.NotFoundError
    assert f"404 from {server.url}/responses" in str(error)
    assert text.strip("{}").replace(":", ": ") in str(error)
    assert "base URL" in str(error)
    assert "set_default_openai_api" in str(error)
    assert "secret" not in str(error)


def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error before any request, which tells where it comes from; an empty variable is no address."""
    with pytest.raises(UserError, match=r"base_url must begin with http:// or https://.* not 'localhost:11434'"):
        check_settings(ClientSettings("any", "localhost:11434"))
    monkeypatch.setenv("OPENAI_BASE_URL", "example.test/v1")
    with pytest.raises(UserError, match="variable OPENAI_BASE_URL must begin with http"):
        check_settings(ClientSettings("any"))
    check_settings(ClientSettings("any", "HTTPS://example.test/v1"))
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    assert str(client_for(ClientSettings("any")).base_url) == "https://api.openai.com/v1/"


async def test_nobody_listens() -> None:
    """A server that is not there is the official client's connection error, not a time-out, and says which it is."""
    async with serving(replying()) as server:
        url = server.url
    frames, error = await read(url)
    assert frames == []
    assert type(error) is openai.APIConnectionError
    assert "Cannot connect to host" in str(error)


# Bodies.


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("size", [1, 7, 23, 10_000])
async def test_a_body_that_ends_well(size: int) -> None:
    """The frames are those of the bytes, however they come in."""
    pieces = [chunk(BODY[start : start + size]) for start in range(0, len(BODY), size)]
    async with serving(replying(CHUNKED, *pieces, END)) as server:
        assert await read(server.url) == (FRAMES, None)


async def test_a_body_of_known_length() -> None:
    """Without chunks, too."""
    async with serving(replying(head(f"Content-Length: {len(BODY)}"), BODY)) as server:
        assert await read(server.url) == (FRAMES, None)


@pytest.mark.usefixtures("both_ways")
async def test_a_fast_body_comes_in_pieces() -> None:
    """However much has arrived, one read is about 16 kB: what is handed on at once has to fit what readers take."""
    body = BODY * 2000
    sizes: list[int] = []
    async with (
        serving(replying(head(f"Content-Length: {len(body)}"), body)) as server,
        opened(server.url) as opened_body,
    ):
        async for frames in opened_body:
            sizes.append(len(frames))
            await asyncio.sleep(0)
    assert sum(sizes) == 10_000
    assert max(sizes) * len(BODY) / 5 <= 17_000


async def test_an_empty_body() -> None:
    """No bytes are no frames; whether that is a response is for others to say."""
    async with serving(replying(CHUNKED, END)) as server:
        assert await read(server.url) == ([], None)


async def test_comments_at_the_end() -> None:
    """A keep-alive that is cut off is no loss."""
    async with serving(replying(CHUNKED, chunk(BODY + b": ping\n\n: pi"), END)) as server:
        assert await read(server.url) == (FRAMES, None)


@pytest.mark.parametrize("end", [b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]\n\n"])
async def test_done_without_a_blank_line(end: bytes) -> None:
    """Some servers do not finish their last [DONE], which says nothing anyway."""
    async with serving(replying(CHUNKED, chunk(BODY + end), END)) as server:
        frames, error = await read(server.url)
    assert (frames[:5], error) == (FRAMES, None)


@pytest.mark.parametrize("text", [b'{"error": "no"}', b"\n<html></html>"])
async def test_a_body_that_is_no_stream(text: bytes) -> None:
    """A server that does not stream, or a wrong address: the error shows what came and asks for both."""
    async with serving(replying(head(f"Content-Length: {len(text)}"), text)) as server:
        frames, error = await read(server.url)
    assert frames == []
    assert isinstance(error, ModelStreamBroken)
    assert repr(text.strip()) in str(error)
    assert f"{server.url}/responses the right address, and does the server stream" in str(error)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("rest", [b"data: {", b"event: delta\n", b"event: delta\ndata: {}\n"])
async def test_a_body_that_ends_inside_a_frame(rest: bytes) -> None:
    """What was complete is handed on; then the error shows what was not."""
    async with serving(replying(CHUNKED, chunk(BODY + rest), END)) as server:
        frames, error = await read(server.url)
    assert frames == FRAMES
    assert isinstance(error, ModelStreamTruncated)
    assert "in the middle of a frame" in str(error)
    assert repr(rest.strip(b"\n")) in str(error)
    assert error.retryable


async def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("how", ["closed", "reset", "inside a chunk"])
async def test_a_connection_that_breaks(how: str) -> None:
    """A body without its end is truncated, whoever closed the connection and how; what was complete comes first."""
    read_first: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def reply(writer: asyncio.StreamWriter) -> None:
        whole = chunk(BODY)
        await write(writer, CHUNKED, whole, *([whole[: len(whole) // 2]] if how == "inside a chunk" else []))
        await read_first
        if how == "reset":
            await _reset(writer)

    async with serving(reply) as server:
        frames, error = await read(server.url, lambda: read_first.done() or read_first.set_result(None))
    assert frames[:5] == FRAMES
    assert isinstance(error, ModelStreamTruncated)
    assert "connection to the model broke" in str(error)
    assert error.retryable
    assert error.__cause__ is not None


@pytest.mark.usefixtures("both_ways")
async def test_a_body_of_known_length_that_is_too_short() -> None:
    """A connection that closes before the announced length is truncated."""
    async with serving(replying(head(f"Content-Length: {len(BODY) + 5}"), BODY)) as server:
        frames, error = await read(server.url)
    assert frames == FRAMES
    assert isinstance(error, ModelStreamTruncated)


async def test_the_endpoint_breaks_streams_too() -> None:
    """The faults of the testing endpoint are the same errors."""
    for kind in ("reset", "truncated_body"):
        async with Endpoint([say("one two three", fault=Fault(kind, after=2))]) as endpoint:  # type: ignore[arg-type]
            frames, error = await read(endpoint.url)
        assert isinstance(error, ModelStreamTruncated), kind
        assert len(frames) > 2


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_compressed_body(coding: str) -> None:
    """A proxy may compress: the frames are those of what it compressed, as soon as they are there."""
    compressor = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
    pieces: list[bytes] = []
    for frame in FRAMES:
        data = compressor.compress(b"event: delta\ndata: %s\n\n" % frame.data)
        pieces.append(chunk(data + compressor.flush(zlib.Z_SYNC_FLUSH)))
    pieces.append(chunk(compressor.flush()))
    header = head("Transfer-Encoding: chunked", f"Content-Encoding: {coding}")
    async with serving(replying(header, *pieces, END)) as server:
        assert await read(server.url) == (FRAMES, None)


async def test_a_compressed_body_that_is_none() -> None:
    """Bytes that cannot be decompressed are no frames."""
    header = head("Transfer-Encoding: chunked", "Content-Encoding: gzip")
    async with serving(replying(header, chunk(BODY), END)) as server:
        frames, error = await read(server.url)
    assert frames == []
    assert isinstance(error, ModelStreamTruncated)


async def test_a_compressed_body_that_breaks() -> None:
    """A compressed body without its end is truncated as well."""
    header = head("Transfer-Encoding: chunked", "Content-Encoding: gzip")
    async with serving(replying(header, chunk(gzip.compress(BODY)[:-12]))) as server:
        _, error = await read(server.url)
    assert isinstance(error, ModelStreamTruncated)


async def test_a_frame_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never ends its frame is stopped at the limit."""
    monkeypatch.setattr(transport, "SSEDecoder", partial(SSEDecoder, max_frame_bytes=100))
    async with serving(replying(CHUNKED, chunk(BODY), *[chunk(b"data: x\n")] * 20, END)) as server:
        frames, error = await read(server.url)
    assert frames == FRAMES
    assert isinstance(error, ModelStreamBroken)
    assert "exceeds 100 bytes" in str(error)


async def test_a_client_of_the_callers_own() -> None:
    """Any official client will do, also one with another transport."""

    async def body() -> AsyncIterator[bytes]:
        for start in range(0, len(BODY), 10):
            yield BODY[start : start + 10]

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"x-request-id": "req_mock"}, content=body())

    http_client = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    async with AsyncOpenAI(api_key="any", base_url="http://mock.test/v1", http_client=http_client) as client:
        create = client.responses.with_streaming_response.create
        frames: list[SSEFrame] = []
        sent = {"model": "m", "stream": True}
        async with aclosing(await open_stream(client, "/responses", create, sent)) as stream:
            assert stream.request_id == "req_mock"
            async for more in stream:
                frames += more
    assert frames == FRAMES


# Leaving.


async def _forever(writer: asyncio.StreamWriter) -> None:
    await write(writer, CHUNKED, chunk(BODY))
    await asyncio.get_running_loop().create_future()


@pytest.mark.usefixtures("both_ways")
async def test_leaving_closes_the_connection() -> None:
    """Whoever leaves before the end closes the connection, so that the provider stops."""
    async with serving(_forever) as server:
        async with opened(server.url) as body:
            async for _ in body:
                break
        await server.gone.wait()
        assert server.gone.is_set()


async def test_an_exception_closes_the_connection() -> None:
    """Also when it is an error that ends the reading."""

    def fail() -> None:
        raise KeyError

    async with serving(_forever) as server:
        frames, error = await read(server.url, fail)
        assert isinstance(error, KeyError)
        await server.gone.wait()
    assert frames == FRAMES


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("waits_for", ["head", "body"])
async def test_cancelling_closes_the_connection(waits_for: str) -> None:
    """A request that is cancelled while it waits, for the answer or for more of it, closes its connection."""
    here = asyncio.Event()

    async def reply(writer: asyncio.StreamWriter) -> None:
        if waits_for == "body":
            await write(writer, CHUNKED, chunk(BODY))
        else:
            here.set()
        await asyncio.get_running_loop().create_future()

    async with serving(reply) as server:

        async def run() -> None:
            async with opened(server.url) as body:
                async for _ in body:
                    here.set()

        task = asyncio.ensure_future(run())
        await here.wait()
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.gone.wait()


@pytest.mark.usefixtures("both_ways")
async def test_a_body_that_was_read_leaves_its_connection_open() -> None:
    """The next request takes the same connection: connecting again costs time."""
    async with Endpoint(["one", "two", "three"]) as endpoint:
        for _ in range(3):
            _, error = await read(endpoint.url)
            assert error is None
        assert endpoint.open_connections == 1


# Silence. The watch is asked by hand instead of by the time.


def fall_silent(watch: Any) -> None:
    for _ in range(5):
        watch._look()


@pytest.mark.usefixtures("both_ways")
async def test_a_silent_stream_is_a_time_out() -> None:
    """A stream that brings nothing for the client's limit ends with the official client's error, and is closed."""
    reading = asyncio.Event()

    async def run(url: str) -> list[SSEFrame]:
        async with opened(url) as body:
            watches.append(body._watch)
            async for more in body:
                assert more == FRAMES
                reading.set()
        return []

    watches: list[Any] = []
    async with serving(_forever) as server:
        task = asyncio.ensure_future(run(server.url))
        await reading.wait()
        await asyncio.sleep(0)
        fall_silent(watches[0])
        with pytest.raises(openai.APITimeoutError):
            await task
        assert not task.cancelled()
        await server.gone.wait()


@pytest.mark.usefixtures("both_ways")
async def test_a_time_limit_of_the_callers() -> None:
    """A limit that is passed with the request is kept by the transport, to the same error."""
    async with serving(_forever) as server:
        frames, error = await read(server.url, timeout=0.02)
        await server.gone.wait()
    assert frames == FRAMES
    assert type(error) is openai.APITimeoutError


async def test_a_slow_reader_is_no_silence() -> None:
    """While nobody waits for the network, time does not count; the limit begins anew with each wait."""
    loop = asyncio.get_running_loop()
    watch = transport.IdleWatch(600.0)
    never: asyncio.Future[None] = loop.create_future()
    try:
        for _ in range(40):
            watch._look()
        assert not watch.absorb()

        async def wait() -> None:
            watch.begin_in_task()
            try:
                await never
            except asyncio.CancelledError:
                assert watch.absorb()

        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        for _ in range(4):
            watch._look()
            await asyncio.sleep(0)
            assert not task.done()
        watch._look()
        await task
        assert not task.cancelled()
    finally:
        watch.close()


@pytest.mark.usefixtures("both_ways")
async def test_a_cancellation_that_is_not_the_watchs() -> None:
    """A cancellation by somebody else goes through, also when the watch has fired as well."""
    reading = asyncio.Event()
    watches: list[Any] = []

    async def run(url: str) -> None:
        async with opened(url) as body:
            watches.append(body._watch)
            async for _ in body:
                reading.set()

    async with serving(_forever) as server:
        task = asyncio.ensure_future(run(server.url))
        await reading.wait()
        await asyncio.sleep(0)
        fall_silent(watches[0])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()


async def test_a_cancelled_watch_keeps_nothing() -> None:
    """The event loop keeps its timer until its time comes: what the caller's context holds goes before that."""

    class Thing:
        pass

    def watched() -> tuple[transport.IdleWatch, weakref.ref[Thing]]:
        thing = Thing()
        contextvars.ContextVar[Thing]("thing").set(thing)
        return transport.IdleWatch(600.0), weakref.ref(thing)

    watch, thing = contextvars.copy_context().run(watched)
    watch.close()
    assert thing() is None
