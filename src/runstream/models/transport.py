"""From a request of the official client to the frames of its body.

The request is built, authorised and its errors mapped by the official `openai` client; only the body is ours. One
client per event loop and configuration, over aiohttp, closed when its loop shuts down.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, cast

import httpx2
import openai
from openai import AsyncOpenAI, DefaultAioHttpClient

from runstream.errors import ModelStreamBroken, ModelStreamTruncated, UserError
from runstream.wire.sse import SSEDecoder, SSEFrame

__all__ = [
    "ClientSettings",
    "MissingAPIKey",
    "StreamBody",
    "check_key",
    "clear_errors",
    "client_for",
    "open_stream",
]

# What the official client reads from the environment; part of a client's identity, so that a changed variable is seen.
_ENVIRONMENT = (
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "OPENAI_ORG_ID",
    "OPENAI_PROJECT_ID",
    "OPENAI_WEBHOOK_SECRET",
    "OPENAI_CUSTOM_HEADERS",
)

# Arguments that the client itself needs to see; everything else goes in as the body.
_CLIENT_ARGUMENTS = frozenset(("model", "stream", "extra_headers", "extra_query", "timeout"))

# aiohttp's pool: above any number of concurrent runs that one process can serve, below the usual limit of open files.
_MAX_CONNECTIONS = 20_000


class ClientSettings(NamedTuple):
    """What distinguishes one client from another; None leaves it to the environment."""

    api_key: str | None = None
    base_url: str | None = None
    organization: str | None = None
    project: str | None = None


class _LoopClients(dict[tuple[ClientSettings, tuple[str | None, ...]], AsyncOpenAI]):
    """The clients of one event loop."""

    keeper: AsyncGenerator[None, None] | None = None


# How long a stream may bring nothing, and a new connection may take: the official client's own limits.
_READ_LIMIT_S = 600.0
_STREAM_TIMEOUT = httpx2.Timeout(_READ_LIMIT_S, connect=5.0, read=None)

_own_clients: weakref.WeakSet[AsyncOpenAI] = weakref.WeakSet()
_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopClients] = weakref.WeakKeyDictionary()


class MissingAPIKey(UserError, openai.OpenAIError):
    """There is no API key: misuse, and for programs that know the official client the error that it raises."""


def check_key(settings: ClientSettings) -> None:
    """Raises MissingAPIKey, before any request, where there is no API key."""
    if not (settings.api_key or os.environ.get("OPENAI_API_KEY")):
        raise MissingAPIKey(
            "no API key: set the environment variable OPENAI_API_KEY, call set_default_openai_key(...), or pass a "
            "client with set_default_openai_client(...). A local server that needs no key still wants one: any text "
            "will do. To try things out without a key: `runstream endpoint`, or runstream.testing.ScriptedModel."
        )


def client_for(settings: ClientSettings) -> AsyncOpenAI:
    """The client of the running event loop for these settings, made on first use; outside a loop a new one, whose
    settings can be read.

    Raises MissingAPIKey where there is no API key.
    """
    check_key(settings)
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return _new_client(settings)
    clients = _clients_of(loop)
    key = (settings, tuple(os.environ.get(name) for name in _ENVIRONMENT))
    client = clients.get(key)
    if client is None:
        client = clients[key] = _new_client(settings)
    return client


def _new_client(settings: ClientSettings) -> AsyncOpenAI:
    client = AsyncOpenAI(
        api_key=settings.api_key,
        base_url=settings.base_url,
        organization=settings.organization,
        project=settings.project,
        max_retries=0,
        http_client=DefaultAioHttpClient(limits=httpx2.Limits(max_connections=_MAX_CONNECTIONS)),
    )
    _own_clients.add(client)
    return client


def _clients_of(loop: asyncio.AbstractEventLoop) -> _LoopClients:
    clients = _clients.get(loop)
    if clients is None:
        for other in [other for other in _clients if other.is_closed()]:
            # Closed without a shutdown of its asynchronous generators: its clients can only be let go.
            del _clients[other]
        clients = _clients[loop] = _LoopClients()
        clients.keeper = _close_at_shutdown(clients)
        # An event loop closes the asynchronous generators that were begun in it when it shuts down (asyncio.run
        # does so): the one hook that a library has to release its connections in time.
        try:
            clients.keeper.asend(None).send(None)
        except StopIteration:
            pass
    return clients


async def _close_at_shutdown(clients: _LoopClients) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        for client in list(clients.values()):
            await client.close()
        clients.clear()
        clients.keeper = None  # a generator holds on to its loop, and this would keep the loop for ever


class IdleWatch:
    """Ends a wait for the network that brings nothing for `limit_s` seconds (found within a quarter more).

    The transport's own read time-out sets a new timer for every read, which costs as much as decoding it; this one
    looks four times per limit whether anything came. It acts only while something waits, so that a slow consumer is
    no silence.
    """

    __slots__ = ("_handle", "_loop", "_period_s", "_quiet", "_task", "fired")

    def __init__(self, limit_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._period_s = limit_s / 4
        self._quiet = 0
        self._task: asyncio.Task[Any] | None = None
        self.fired = False
        self._handle = self._loop.call_later(self._period_s, self._look)

    def begin(self) -> None:
        """A wait begins."""
        self._task = asyncio.current_task()
        self._quiet = 0

    def end(self) -> None:
        """The wait has brought something."""
        self._task = None

    def close(self) -> None:
        """Nothing is waited for any more."""
        self._task = None
        self._handle.cancel()

    def absorb(self) -> bool:
        """Whether the CancelledError at hand is this watch's doing, and nobody else's as well. Says so once."""
        task = asyncio.current_task()
        if not self.fired or task is None:
            return False
        self.fired = False
        return task.uncancel() == 0

    def _look(self) -> None:
        self._quiet += 1
        if self._quiet > 4 and self._task is not None:
            self.fired = True
            self._task.cancel()
            return
        self._handle = self._loop.call_later(self._period_s, self._look)


class StreamBody:
    """The body of a streamed response: iterate to get the frames of each network read."""

    __slots__ = ("_response", "_watch", "request_id")

    def __init__(self, response: httpx2.Response, watch: IdleWatch | None = None) -> None:
        self._response = response
        self._watch = watch
        self.request_id: str | None = response.headers.get("x-request-id")

    async def __aiter__(self) -> AsyncGenerator[list[SSEFrame], None]:
        """Raises ModelStreamTruncated where the connection breaks or the body ends inside a frame,
        openai.APITimeoutError where the client's read timeout passes, ModelStreamBroken for a frame without end."""
        response, watch = self._response, self._watch
        # Without a content encoding the transport's own chunks are the body; the response's iterators would only
        # add a layer to every read.
        encoded = response.headers.get("content-encoding", "identity") != "identity"
        if encoded or not isinstance(response.stream, httpx2.AsyncByteStream):
            chunks = aiter(response.aiter_bytes())
        else:
            chunks = aiter(response.stream)
        decoder = SSEDecoder()
        feed = decoder.feed
        try:
            while True:
                if watch is not None:
                    watch.begin()
                try:
                    data = await anext(chunks)
                except StopAsyncIteration:
                    break
                if watch is not None:
                    watch.end()
                frames = feed(data)
                if frames:
                    yield frames
        except asyncio.CancelledError:
            if watch is not None and watch.absorb():
                raise openai.APITimeoutError(request=response.request) from None
            raise
        except httpx2.ReadTimeout as error:
            raise openai.APITimeoutError(request=response.request) from error
        except (httpx2.RequestError, OSError) as error:
            raise _truncated(error) from error
        except ValueError as error:
            raise ModelStreamBroken(str(error)) from error
        finally:
            await cast("AsyncGenerator[bytes, None]", chunks).aclose()
        rest = decoder.close()
        if rest and not rest.endswith(b"[DONE]"):  # llama.cpp ends so, without the blank line
            raise ModelStreamTruncated(f"The model's stream ended in the middle of a frame: {rest[:200]!r}")


def _truncated(error: Exception) -> ModelStreamTruncated:
    return ModelStreamTruncated(
        f"The connection to the model broke before the end of its stream: {error or type(error).__name__}"
    )


@contextmanager
def clear_errors() -> Generator[None, None, None]:
    """Around a request: the client's aiohttp transport takes a connection that was refused, or a host that does not
    exist, for a time-out. Raises openai.APIConnectionError, which says so, instead."""
    try:
        yield
    except openai.APITimeoutError as error:
        reason = error.__cause__
        origin = None if reason is None else reason.__cause__
        if isinstance(origin, OSError) and not isinstance(origin, TimeoutError):
            raise openai.APIConnectionError(message=f"Connection error: {reason}", request=error.request) from reason
        raise


@lru_cache(maxsize=64)
def _request_to(url: str) -> httpx2.Request:
    """What errors name once a request was sent: its own headers and content need not be kept for the whole stream."""
    return httpx2.Request("POST", url)


@asynccontextmanager
async def open_stream(
    client: AsyncOpenAI, create: Callable[..., Any], arguments: dict[str, Any]
) -> AsyncGenerator[StreamBody, None]:
    """Send a streamed request with `create`, the client's `<resource>.with_streaming_response.create`.

    Leaving the block closes the response, and its connection if the body was not read to its end, so that the
    provider stops. Raises the official client's errors (`openai.APIError` and below) for a request that failed.
    """
    # The client walks over every argument by its type annotation, which for a long input costs more than all the rest
    # of the request. Our arguments are plain JSON already, so they go in as the body that is added as it is.
    direct = {name: value for name, value in arguments.items() if name in _CLIENT_ARGUMENTS}
    if "messages" in arguments:
        direct["messages"] = []
    body = {
        name: value
        for name, value in arguments.items()
        if name not in _CLIENT_ARGUMENTS
        and name != "extra_body"
        and not isinstance(value, openai.NotGiven | openai.Omit)
    }
    body.update(arguments.get("extra_body") or {})
    watch = None
    if client in _own_clients and "timeout" not in direct:
        # The client's usual limit for a read, kept by a cheaper watch.
        direct["timeout"] = _STREAM_TIMEOUT
        watch = IdleWatch(_READ_LIMIT_S)
        watch.begin()
    response: httpx2.Response | None = None
    try:
        # The client's own response holds on to the whole request; of it only the body is of use from here on.
        with clear_errors():
            opened = await create(**direct, extra_body=body).__aenter__()
        response = streaming = opened.http_response
        streaming.request = _request_to(str(streaming.request.url))
        del opened, body, direct, arguments
        if watch is not None:
            watch.end()
        yield StreamBody(streaming, watch)
    except asyncio.CancelledError:
        if watch is not None and watch.absorb():
            request = httpx2.Request("POST", client.base_url)
            raise openai.APITimeoutError(request=request) from None
        raise
    finally:
        if watch is not None:
            watch.close()
        if response is not None:
            await response.aclose()
