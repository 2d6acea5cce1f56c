"""From a request of the official client to the frames of its body.

The request is built, authorised and its errors mapped by the official `openai` client; only the body is ours. One
client per event loop and configuration, over aiohttp, closed when its loop shuts down.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from runstream.errors import ModelStreamBroken, ModelStreamTruncated, UserError
from runstream.wire.sse import SSEDecoder, SSEFrame

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI

__all__ = ["ClientSettings", "StreamBody", "client_for", "open_stream"]

# What the official client reads from the environment; part of a client's identity, so that a changed variable is seen.
_ENVIRONMENT = (
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "OPENAI_ORG_ID",
    "OPENAI_PROJECT_ID",
    "OPENAI_WEBHOOK_SECRET",
    "OPENAI_CUSTOM_HEADERS",
)

# aiohttp's pool: above any number of concurrent runs that one process can serve, below the usual limit of open files.
_MAX_CONNECTIONS = 20_000


class ClientSettings(NamedTuple):
    """What distinguishes one client from another; None leaves it to the environment."""

    api_key: str | None = None
    base_url: str | None = None
    organization: str | None = None
    project: str | None = None


class _LoopClients(dict[tuple[ClientSettings, tuple[str | None, ...]], "AsyncOpenAI"]):
    """The clients of one event loop."""

    keeper: AsyncGenerator[None, None] | None = None


_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopClients] = weakref.WeakKeyDictionary()


def client_for(settings: ClientSettings) -> AsyncOpenAI:
    """The client of the running event loop for these settings, made on first use.

    Raises UserError, before any request, where there is no API key.
    """
    if not (settings.api_key or os.environ.get("OPENAI_API_KEY")):
        raise UserError(
            "no API key: set the environment variable OPENAI_API_KEY, call set_default_openai_key(...), or pass a "
            "client with set_default_openai_client(...). A local server that needs no key still wants one: any text "
            "will do. To try things out without a key: `runstream endpoint`, or runstream.testing.ScriptedModel."
        )
    clients = _clients_of(asyncio.get_running_loop())
    key = (settings, tuple(os.environ.get(name) for name in _ENVIRONMENT))
    client = clients.get(key)
    if client is None:
        import httpx2
        from openai import AsyncOpenAI, DefaultAioHttpClient

        client = clients[key] = AsyncOpenAI(
            api_key=settings.api_key,
            base_url=settings.base_url,
            organization=settings.organization,
            project=settings.project,
            max_retries=0,
            http_client=DefaultAioHttpClient(limits=httpx2.Limits(max_connections=_MAX_CONNECTIONS)),
        )
    return client


def _clients_of(loop: asyncio.AbstractEventLoop) -> _LoopClients:
    clients = _clients.get(loop)
    if clients is None:
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


class StreamBody:
    """The body of a streamed response: iterate to get the frames of each network read."""

    __slots__ = ("_response", "request_id")

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self.request_id: str | None = response.headers.get("x-request-id")

    async def __aiter__(self) -> AsyncGenerator[list[SSEFrame], None]:
        """Raises ModelStreamTruncated where the connection breaks or the body ends inside a frame,
        openai.APITimeoutError where the client's read timeout passes, ModelStreamBroken for a frame without end."""
        import httpx2
        import openai

        response = self._response
        # Without a content encoding the transport's own chunks are the body; the response's iterators would only
        # add a layer to every read.
        encoded = response.headers.get("content-encoding", "identity") != "identity"
        chunks: AsyncIterator[bytes]
        if encoded or not isinstance(response.stream, AsyncIterator | httpx2.AsyncByteStream):
            chunks = response.aiter_bytes()
        else:
            chunks = aiter(response.stream)
        decoder = SSEDecoder()
        feed = decoder.feed
        try:
            async for data in chunks:
                frames = feed(data)
                if frames:
                    yield frames
        except httpx2.TimeoutException as error:
            if isinstance(error, httpx2.ReadTimeout):
                raise openai.APITimeoutError(request=response.request) from error
            raise _truncated(error) from error
        except (httpx2.RequestError, OSError) as error:
            raise _truncated(error) from error
        except ValueError as error:
            raise ModelStreamBroken(str(error)) from error
        rest = decoder.close()
        if rest:
            raise ModelStreamTruncated(f"The model's stream ended in the middle of a frame: {rest[:200]!r}")


def _truncated(error: Exception) -> ModelStreamTruncated:
    return ModelStreamTruncated(
        f"The connection to the model broke before the end of its stream: {error or type(error).__name__}"
    )


@asynccontextmanager
async def open_stream(create: Callable[..., Any], arguments: dict[str, Any]) -> AsyncGenerator[StreamBody, None]:
    """Send a streamed request with `create`, the client's `<resource>.with_streaming_response.create`.

    Leaving the block closes the response, and its connection if the body was not read to its end, so that the
    provider stops. Raises the official client's errors (`openai.APIError` and below) for a request that failed.
    """
    async with create(**arguments) as response:
        yield StreamBody(response.http_response)
