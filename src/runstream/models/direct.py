"""Streamed requests of our own clients, without the client's layers on the way.

The official client says how a request to an endpoint looks (its address, its headers with the key), once for each, and
what an answer means that refuses one. For both it is handed a transport that is not the network, so that nothing of it
is written here a second time. In between, requests go over an aiohttp session of our own: building and sending each
through the client costs as much time and memory as the whole rest of a short answer.

Must not know events, nor what a body holds.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast
from urllib.request import getproxies

import aiohttp
import httpx2
import msgspec
import openai
import pydantic
from multidict import CIMultiDict
from yarl import URL

if TYPE_CHECKING:
    import ssl

    from openai import AsyncOpenAI

__all__ = ["DirectRoute"]

_logger = logging.getLogger("runstream")
_client_logger = logging.getLogger("openai")

# So many kinds of requests are remembered. Callers whose headers differ from request to request are served by the
# client itself.
_MAX_KINDS = 64
# What the connection decides, not the client.
_OF_THE_CONNECTION = frozenset(("host", "connection", "content-length", "accept-encoding"))


class _Head(NamedTuple):
    """What all requests of a kind have in common."""

    url: URL
    headers: CIMultiDict[str]
    request: httpx2.Request
    """What errors name."""


class DirectRoute:
    """The way from one client to its server. `send` gives the answer, or None for a request that is the client's own
    to send."""

    __slots__ = ("_heads", "_limits", "_proxied", "_session", "_ssl", "_timeout")

    def __init__(self, limits: httpx2.Limits, timeout: httpx2.Timeout, ssl_context: ssl.SSLContext) -> None:
        self._limits = limits
        self._timeout = aiohttp.ClientTimeout(
            sock_connect=timeout.connect, sock_read=timeout.read, connect=timeout.pool
        )
        self._ssl = ssl_context
        self._heads: dict[tuple[Any, ...], _Head] = {}
        self._session: aiohttp.ClientSession | None = None
        self._proxied = any(name in ("http", "https", "all") for name in getproxies())

    async def send(
        self, client: AsyncOpenAI, path: str, body: dict[str, Any], options: dict[str, Any]
    ) -> aiohttp.ClientResponse | None:
        """`options` are those of the client's `post`; its time limits are the route's.

        Raises what the client would: `openai.APIStatusError` for an answer that is none, `openai.APIConnectionError`
        and `openai.APITimeoutError`.
        """
        if self._proxied or "params" in options or _client_logger.isEnabledFor(logging.DEBUG):
            return None
        extra: dict[str, Any] = options.get("headers", {})
        kind = (path, *extra.items())
        head = self._heads.get(kind)
        if head is None:
            if len(self._heads) >= _MAX_KINDS:
                return None
            head = self._heads[kind] = await self._learn(client, path, options)
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._limits.max_connections or 0,
                keepalive_timeout=self._limits.keepalive_expiry,
                ssl=self._ssl,
            )
            self._session = aiohttp.ClientSession(connector=connector)
        try:
            response = await self._session.post(
                head.url,
                data=msgspec.json.encode(body, enc_hook=_plain),
                headers=head.headers,
                allow_redirects=False,
                timeout=self._timeout,
            )
        except aiohttp.ServerTimeoutError as error:
            raise openai.APITimeoutError(request=head.request) from error
        except (aiohttp.ClientError, OSError) as error:
            raise openai.APIConnectionError(message=f"Connection error: {error}", request=head.request) from error
        _logger.debug("POST %s: %d %s", head.url, response.status, response.headers.get("x-request-id"))
        if response.status < 300:
            return response
        try:
            if response.status < 400:
                return None  # sent elsewhere: the client follows
            await self._refuse(client, response, path, options)
        finally:
            response.close()

    async def aclose(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _learn(self, client: AsyncOpenAI, path: str, options: dict[str, Any]) -> _Head:
        answer = httpx2.Response(200)
        request = await _ask_client(client, answer, path, options)
        headers = CIMultiDict(
            (name, value) for name, value in request.headers.items() if name not in _OF_THE_CONNECTION
        )
        # A password in the address has become a header by now.
        url = URL(str(request.url.copy_with(userinfo=b"")), encoded=True)
        return _Head(url, headers, httpx2.Request("POST", str(url)))

    async def _refuse(
        self, client: AsyncOpenAI, response: aiohttp.ClientResponse, path: str, options: dict[str, Any]
    ) -> NoReturn:
        """Raises the client's error for this answer."""
        try:
            content = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            content = str(error).encode()
        headers = [(name, value) for name, value in response.headers.items() if name.lower() != "content-encoding"]
        await _ask_client(client, httpx2.Response(response.status, headers=headers, content=content), path, options)
        raise openai.OpenAIError(f"The model's server answered with HTTP status {response.status}")


async def _ask_client(
    client: AsyncOpenAI, answer: httpx2.Response, path: str, options: dict[str, Any]
) -> httpx2.Request:
    """Let the client send a request that `answer` answers. Returns what it would have sent; raises what it does."""
    transport = _Given(answer)
    async with httpx2.AsyncClient(transport=transport) as http_client:
        asked: Any = client.with_options(http_client=http_client)
        await asked.post(path, cast_to=httpx2.Response, body={}, options=options, stream=True)
    return cast("httpx2.Request", transport.request)


class _Given(httpx2.AsyncBaseTransport):
    """In the place of the network: one answer that is there already."""

    def __init__(self, answer: httpx2.Response) -> None:
        self._answer = answer
        self.request: httpx2.Request | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.request = request
        return self._answer


def _plain(value: object) -> Any:
    """What the official client sends for objects that are no JSON."""
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(exclude_unset=True, mode="json", by_alias=True)
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON: {value!r:.100}")
