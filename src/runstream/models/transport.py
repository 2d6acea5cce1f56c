"""From a request of the official client to the frames of its body.

The request is built, authorised and its errors mapped by the official `openai` client; only the body is ours. One
client per event loop and configuration, over aiohttp, closed when its loop shuts down.
"""

from __future__ import annotations

import abc
import asyncio
import base64
import contextvars
import json
import os
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, cast

import aiohttp
import httpx2
import openai
from openai import AsyncOpenAI, DefaultAioHttpClient

from runstream.errors import ModelStreamBroken, ModelStreamTruncated, UserError
from runstream.loop_local import LoopLocal
from runstream.models.direct import DirectRoute
from runstream.wire.sse import SSEDecoder, SSEFrame

__all__ = [
    "ClientSettings",
    "MissingAPIKey",
    "StreamBody",
    "address_of",
    "check_settings",
    "clear_errors",
    "client_for",
    "open_stream",
    "shown_address",
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

_OPENAI = "https://api.openai.com/v1"

# Arguments that are no part of the body, and those of the body that a client itself needs to see.
_OPTIONS = frozenset(("extra_headers", "extra_query", "extra_body", "timeout"))
_CLIENT_ARGUMENTS = ("model", "stream")

# aiohttp's pool: above any number of concurrent runs that one process can serve, below the usual limit of open files.
_LIMITS = httpx2.Limits(max_connections=20_000)


class ClientSettings(NamedTuple):
    """What distinguishes one client from another; None leaves it to the environment."""

    api_key: str | None = None
    base_url: str | None = None
    organization: str | None = None
    project: str | None = None


# How long a stream may bring nothing, and a new connection may take: the official client's own limits.
_READ_LIMIT_S = 600.0
# About 60 deltas. With more at once the log would pack the first of them before its readers had a turn.
_READ_BYTES = 16 * 1024
_STREAM_TIMEOUT = httpx2.Timeout(_READ_LIMIT_S, connect=5.0, read=None)
# What the client's resources add to a request.
_USUAL_OPTIONS: dict[str, Any] = {"security": {"bearer_auth": True}, "timeout": _STREAM_TIMEOUT}

_routes: weakref.WeakKeyDictionary[AsyncOpenAI, DirectRoute] = weakref.WeakKeyDictionary()
"""The clients that were made here."""


async def _close(client: AsyncOpenAI) -> None:
    await _routes[client].aclose()
    await client.close()


# By settings and environment.
_clients: LoopLocal[AsyncOpenAI] = LoopLocal(_close)


class MissingAPIKey(UserError, openai.OpenAIError):
    """There is no API key: misuse, and for programs that know the official client the error that it raises."""


def address_of(settings: ClientSettings) -> str:
    """The base URL of the server; a variable of the environment that is empty is none."""
    return settings.base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI


def check_settings(settings: ClientSettings) -> None:
    """Raises, before any request, MissingAPIKey where there is no API key, UserError for an address that is none."""
    if not (settings.api_key or os.environ.get("OPENAI_API_KEY")):
        raise MissingAPIKey(
            "no API key: set the environment variable OPENAI_API_KEY, call set_default_openai_key(...), or pass a "
            "client with set_default_openai_client(...). A local server that needs no key still wants one: any text "
            "will do. To try things out without a key: `runstream endpoint`, or runstream.testing.ScriptedModel."
        )
    address = address_of(settings)
    if not address.lower().startswith(("http://", "https://")):
        source = "base_url" if settings.base_url else "the environment variable OPENAI_BASE_URL"
        raise UserError(f"{source} must begin with http:// or https://, as http://localhost:8000/v1, not {address!r}")


def client_for(settings: ClientSettings) -> AsyncOpenAI:
    """The client of the running event loop for these settings, made on first use; outside a loop a new one, whose
    settings can be read.

    Raises what `check_settings` raises.
    """
    check_settings(settings)
    try:
        clients = _clients.of_running_loop()
    except RuntimeError:
        return _new_client(settings)
    key = (settings, tuple(os.environ.get(name) for name in _ENVIRONMENT))
    client = clients.get(key)
    if client is None:
        client = clients[key] = _new_client(settings)
    return client


def _new_client(settings: ClientSettings) -> AsyncOpenAI:
    ssl_context = httpx2.create_ssl_context()
    address = httpx2.URL(address_of(settings))
    headers: dict[str, str] = {}
    if address.userinfo:
        # aiohttp refuses a request that has such credentials and a header with the key.
        credentials = base64.b64encode(f"{address.username}:{address.password}".encode())
        headers["Authorization"] = f"Basic {credentials.decode()}"
    client = AsyncOpenAI(
        api_key=settings.api_key,
        base_url=address.copy_with(userinfo=b""),
        default_headers=headers,
        organization=settings.organization,
        project=settings.project,
        max_retries=0,
        http_client=DefaultAioHttpClient(limits=_LIMITS, verify=ssl_context),
    )
    _routes[client] = DirectRoute(_LIMITS, _STREAM_TIMEOUT, ssl_context)
    return client


class IdleWatch:
    """Ends a wait for the network that brings nothing for `limit_s` seconds (found within a quarter more).

    The transport's own read time-out sets a new timer for every read, which costs as much as decoding it; this one
    looks four times per limit whether anything came. It acts only while something waits, so that a slow consumer is
    no silence.
    """

    __slots__ = ("_fired", "_handle", "_loop", "_period_s", "_quiet", "_stop")

    def __init__(self, limit_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._period_s = limit_s / 4
        self._quiet = 0
        self._stop: Callable[[], object] | None = None
        self._fired = False
        self._handle = self._wait()

    def begin(self, stop: Callable[[], object]) -> None:
        """A wait begins, which `stop` would end."""
        self._stop = stop
        self._quiet = 0

    def begin_in_task(self) -> None:
        """A wait of the current task begins, which its cancellation would end: `absorb` tells whose that was."""
        task = asyncio.current_task()
        self._stop = None if task is None else task.cancel
        self._quiet = 0

    def end(self) -> None:
        """The wait has brought something."""
        self._stop = None

    def close(self) -> None:
        """Nothing is waited for any more."""
        self._stop = None
        self._handle.cancel()

    def absorb(self) -> bool:
        """Whether the CancelledError at hand is this watch's doing, and nobody else's as well. Says so once."""
        task = asyncio.current_task()
        if not self._fired or task is None:
            return False
        self._fired = False
        return task.uncancel() == 0

    def _look(self) -> None:
        self._quiet += 1
        if self._quiet > 4 and self._stop is not None:
            self._fired = True
            self._stop()
            return
        self._handle = self._wait()

    def _wait(self) -> asyncio.TimerHandle:
        # With a context of its own: a timer that is cancelled stays for its time, and what a context holds with it.
        return self._loop.call_later(self._period_s, self._look, context=contextvars.Context())


class StreamBody(abc.ABC):
    """The body of a streamed response: iterate to get the frames of each network read.

    Whoever opened it closes it, which closes the connection if the body was not read to its end, so that the provider
    stops.
    """

    __slots__ = ("_decoder", "_url", "_watch", "request_id")

    def __init__(self, url: str, request_id: str | None, watch: IdleWatch | None) -> None:
        self._url = url
        self.request_id = request_id
        self._watch = watch
        self._decoder = SSEDecoder()

    @abc.abstractmethod
    def _read(self) -> Awaitable[bytes]:
        """The next bytes, none at the end."""

    @abc.abstractmethod
    async def _close(self) -> None:
        """Give the connection back, or close it where the body was not read to its end."""

    def _stop(self) -> Callable[[], object] | None:
        """What lets a read that waits fail, where there is such a thing; else the task that reads is cancelled."""
        return None

    def __aiter__(self) -> StreamBody:
        return self

    async def __anext__(self) -> list[SSEFrame]:
        """Raises ModelStreamTruncated where the connection breaks or the body ends inside a frame,
        openai.APITimeoutError where the client's read timeout passes, ModelStreamBroken for a frame without end."""
        watch, stop = self._watch, self._stop()
        try:
            while True:
                if watch is None:
                    data = await self._read()
                else:
                    if stop is not None:
                        watch.begin(stop)
                    else:
                        watch.begin_in_task()
                    data = await self._read()
                    watch.end()
                if not data:
                    break
                frames = self._decoder.feed(data)
                if frames:
                    return frames
        except asyncio.CancelledError:
            if watch is not None and stop is None and watch.absorb():
                raise openai.APITimeoutError(request=_request_to(self._url)) from None
            raise
        except (httpx2.ReadTimeout, aiohttp.ServerTimeoutError) as error:
            raise openai.APITimeoutError(request=_request_to(self._url)) from error
        except (httpx2.RequestError, aiohttp.ClientError, OSError) as error:
            raise ModelStreamTruncated(
                f"The connection to the model broke before the end of its stream: {error or type(error).__name__}"
            ) from error
        except ValueError as error:
            raise ModelStreamBroken(str(error)) from error
        rest = self._decoder.close()
        if rest.lstrip()[:1] in (b"{", b"[", b"<"):
            raise ModelStreamBroken(
                f"The model's server was asked for a stream of events and sent something else: {rest[:200]!r}. Is "
                f"{shown_address(self._url)} the right address, and does the server stream?",
                frame=rest,
            )
        if rest and not rest.endswith(b"[DONE]"):  # llama.cpp ends so, without the blank line
            raise ModelStreamTruncated(f"The model's stream ended in the middle of a frame: {rest[:200]!r}")
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Nothing more is read."""
        if self._watch is not None:
            self._watch.close()
        await self._close()


class _DirectBody(StreamBody):
    """Of a response to a request that went past the client."""

    __slots__ = ("_response",)

    def __init__(self, response: aiohttp.ClientResponse, watch: IdleWatch | None) -> None:
        super().__init__(str(response.url), response.headers.get("x-request-id"), watch)
        self._response = response

    def _read(self) -> Awaitable[bytes]:
        return self._response.content.read(_READ_BYTES)

    def _stop(self) -> Callable[[], object]:
        return self._fall_silent

    def _fall_silent(self) -> None:
        self._response.content.set_exception(aiohttp.SocketTimeoutError("the stream fell silent"))

    async def _close(self) -> None:
        self._response.release()
        await self._response.wait_for_close()


class _ClientBody(StreamBody):
    """Of a response that the client gave."""

    __slots__ = ("_chunks", "_response")

    def __init__(self, response: httpx2.Response, watch: IdleWatch | None = None) -> None:
        super().__init__(str(response.request.url), response.headers.get("x-request-id"), watch)
        self._response = response
        # Without a content encoding the transport's own chunks are the body.
        encoded = response.headers.get("content-encoding", "identity") != "identity"
        raw = not encoded and isinstance(response.stream, httpx2.AsyncByteStream)
        self._chunks = aiter(cast("AsyncIterator[bytes]", response.stream) if raw else response.aiter_bytes())

    async def _read(self) -> bytes:
        async for data in self._chunks:
            if data:
                return data
        return b""

    async def _close(self) -> None:
        try:
            await cast("AsyncGenerator[bytes, None]", self._chunks).aclose()
        finally:
            await self._response.aclose()


@contextmanager
def clear_errors() -> Generator[None, None, None]:
    """Around a request: errors that say more than the client's.

    The client's aiohttp transport takes a connection that was refused or closed, or a host that does not exist, for a
    time-out: raises openai.APIConnectionError instead. The client tells of an answer that refuses only the message, if
    there is one: where there is none, the error of the same class tells what there is.
    """
    try:
        yield
    except openai.APITimeoutError as error:
        reason = error.__cause__
        origin = None if reason is None else reason.__cause__
        if isinstance(origin, OSError | aiohttp.ClientError) and not isinstance(origin, TimeoutError):
            raise openai.APIConnectionError(message=f"Connection error: {reason}", request=error.request) from reason
        raise
    except openai.APIStatusError as error:
        if error.message != f"Error code: {error.status_code}":
            raise
        raise type(error)(_refusal(error), response=error.response, body=error.body) from None


def _refusal(error: openai.APIStatusError) -> str:
    url = shown_address(str(error.request.url))
    body = error.body
    told = (body if isinstance(body, str) else json.dumps(body, default=str))[:200] if body else ""
    message = f"{error.message} from {url}" + (f": {told}" if told else "")
    if error.status_code != 404:
        return message
    advice = "Is the base URL right? Most end with /v1."
    if url.endswith("/responses"):
        advice += " For a server without the Responses API call set_default_openai_api('chat_completions')."
    return f"{message}. {advice}"


def shown_address(url: str) -> str:
    """The address without what may be secret in it."""
    return str(httpx2.URL(url).copy_with(userinfo=b"", query=None))


@lru_cache(maxsize=64)
def _request_to(url: str) -> httpx2.Request:
    """What errors name once a request was sent: its own headers and content need not be kept for the whole stream."""
    return httpx2.Request("POST", url)


async def open_stream(
    client: AsyncOpenAI, path: str, create: Callable[..., Any], arguments: dict[str, Any]
) -> StreamBody:
    """Send a streamed request to the client's endpoint `path`, whose `<resource>.with_streaming_response.create` is
    `create`. Raises the official client's errors (`openai.APIError` and below) for a request that failed."""
    # The client walks over every argument by its type annotation, which for a long input costs more than all the rest
    # of the request. Our arguments are plain JSON already, so they go in as the body.
    options = {name: value for name, value in arguments.items() if name in _OPTIONS}
    body = {
        name: value
        for name, value in arguments.items()
        if name not in _OPTIONS and not isinstance(value, openai.NotGiven | openai.Omit)
    }
    body.update(options.pop("extra_body", None) or {})
    del arguments
    with clear_errors():
        route = _routes.get(client)
        if route is not None:
            return await _send(client, route, path, body, options)
        # A client that the user passes may have a `create` of its own, so that is what is called.
        direct = {name: body.pop(name) for name in _CLIENT_ARGUMENTS if name in body}
        if "messages" in body:
            direct["messages"] = []
        opened = await create(**direct, **options, extra_body=body).__aenter__()
        return _ClientBody(opened.http_response)


async def _send(
    client: AsyncOpenAI, route: DirectRoute, path: str, body: dict[str, Any], options: dict[str, Any]
) -> StreamBody:
    """The request of one of our own clients, as its resources make it, without their walk over the arguments."""
    sent = _USUAL_OPTIONS
    if options:
        sent = {**sent, "timeout": options.get("timeout", _STREAM_TIMEOUT)}
        for name, option in (("extra_headers", "headers"), ("extra_query", "params")):
            if options.get(name) is not None:
                sent[option] = options[name]
    watch = None
    if "timeout" not in options:
        # The client's usual limit for a read, kept by a cheaper watch.
        watch = IdleWatch(_READ_LIMIT_S)
        watch.begin_in_task()
    try:
        direct = None if watch is None else await route.send(client, path, body, sent)
        if direct is not None:
            return _DirectBody(direct, watch)
        # With this type the client gives the response itself.
        response = await cast("Any", client).post(path, cast_to=httpx2.Response, body=body, options=sent, stream=True)
    except BaseException as error:
        if watch is not None:
            watch.close()
            if isinstance(error, asyncio.CancelledError) and watch.absorb():
                raise openai.APITimeoutError(request=_request_to(str(client.base_url))) from None
        raise
    return _ClientBody(response, watch)
