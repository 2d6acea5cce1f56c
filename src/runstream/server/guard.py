"""What every request passes before anything else looks at it, and what becomes of errors. Pure ASGI: streams pass
through it without a copy.

In this order: the host, the origin, CORS preflights, who asks, the content type, the size of the body and the time
that it takes.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Match

from runstream.errors import AgentsException, StoreError
from runstream.server.answers import Refused, refusal_of
from runstream.server.counts import Counts

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from runstream.server.service import Service

__all__ = ["LATE", "METRICS_PATH", "Guard", "later", "not_served"]

_logger = logging.getLogger("runstream.server")

LATE = "runstream.late"
"""Where in a scope handlers leave streams: they begin once the layers that found the handler are left, which would
cost each of many readers memory, and each of their events time."""

METRICS_PATH = "/metrics"
_PUBLIC = frozenset(("/healthz", "/readyz", "/"))
_PUBLIC_FOLDER = "/assets/"
"""The page itself is anybody's: what it shows is not."""
_HEADER_NAMES = re.compile(r"[\w.!#$%&'*+^`|~-]{1,100}(?:\s*,\s*[\w.!#$%&'*+^`|~-]{1,100}){0,99}", re.ASCII)


class Guard:
    """The middleware of an app."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, self._service.counts)
        try:
            await self._serve(scope, receive, answer)
        except Exception as error:
            if answer.is_lost:
                return  # whatever has come of that
            refused = self._refusal(error, scope)
            if refused is not None and not answer.begun:
                await self._refuse(scope, receive, answer, refused)
            elif not isinstance(error, Refused | ClientDisconnect):
                raise  # in mid-answer: the server closes the connection, so that nobody takes it for whole

    async def _serve(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        connection = HTTPConnection(scope)
        answer.headers += self._check_source(connection)
        if scope["type"] == "http" and scope["method"] == "OPTIONS":
            await _whole(answer, 204, _preflight(connection) if len(answer.headers) > 1 else [], b"")
            return
        path = _path(scope)
        if path != "/healthz":
            await self._service.wait_started()
        if path not in _PUBLIC and not path.startswith(_PUBLIC_FOLDER):
            await self._let_in(connection, scope, path)
        if scope["type"] == "http" and scope["method"] == "POST":
            self._check_body(connection)
            receive = self._bounded(receive)
        late: list[ASGIApp] = scope.setdefault(LATE, [])
        await self._app(scope, receive, answer)
        while late:
            await late.pop()(scope, receive, answer)

    def _refusal(self, error: Exception, scope: Scope) -> Refused | None:
        """The answer to an error; None where nobody waits for one."""
        if isinstance(error, Refused):
            return error
        if isinstance(error, ClientDisconnect):
            return None
        self._service.counts.store_failures += isinstance(error, StoreError)
        refused = refusal_of(error) if isinstance(error, AgentsException) else None
        if refused is None or refused.status >= 500:
            expected = isinstance(error, AgentsException)
            path = quote(scope["path"])  # it may hold line ends
            _logger.error("%s %s: %s", scope.get("method", "WS"), path, error, exc_info=not expected)
        return refused or Refused(500, "error", "the server failed")

    def _check_source(self, connection: HTTPConnection) -> list[tuple[bytes, bytes]]:
        """The headers that let a page of another origin read the answer, where that is on the list."""
        allow, headers = self._service.allow, connection.headers
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not allow.lets_host(host):
            raise Refused(403, "host_not_allowed", "this server does not go by that name (allowed_hosts)")
        origin = headers.get("origin")
        if origin is None:
            return []
        if not allow.lets_origin(origin, host):
            raise Refused(403, "origin_not_allowed", "pages of that origin may not use this server (allowed_origins)")
        if origin.lower() not in allow.origins:
            return []
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", b"Runstream-Run-Id, Location, Retry-After"),
            (b"vary", b"Origin"),
        ]

    async def _let_in(self, connection: HTTPConnection, scope: Scope, path: str) -> None:
        gate = self._service.gate
        user = gate.scraper(connection) if path == METRICS_PATH else None
        user = user or await gate.user_of(connection)
        if user is None:
            message = "a bearer token is needed"
            if gate.is_open:
                message = "this server has no tokens, and therefore answers nobody but its own machine"
            raise Refused(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})
        scope["runstream.user"] = user

    def _check_body(self, connection: HTTPConnection) -> None:
        if _path(connection.scope).startswith("/v1/") and _has_no_body(connection):
            return  # as the clients of that protocol cancel; a page of another site would have told its origin
        content_type = connection.headers.get("content-type", "")
        if content_type.partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "json_needed", "send JSON, with Content-Type: application/json")
        length = connection.headers.get("content-length", "0")
        if length.isdecimal() and (len(length) > 12 or int(length) > self._service.limits.body_bytes):
            raise self._too_large()

    def _too_large(self) -> Refused:
        most = self._service.limits.body_bytes
        return Refused(413, "body_too_large", f"a body has at most {most} bytes here", {"Connection": "close"})

    def _bounded(self, receive: Receive) -> Receive:
        """The body, up to the limits of size and time, whatever its headers say."""
        limits, clock = self._service.limits, self._service.carrier.clock
        size = 0
        until = clock.now() + limits.body_s
        is_whole = False

        async def bounded() -> Message:
            nonlocal size, is_whole
            if is_whole:
                return await receive()  # waits for the client to go away
            try:
                async with clock.timeout(until - clock.now()):
                    message = await receive()
            except TimeoutError:
                text = f"a body may take {limits.body_s:g} s here"
                raise Refused(408, "body_too_slow", text, {"Connection": "close"}) from None
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                is_whole = not message.get("more_body", False)
                if size > limits.body_bytes:
                    raise self._too_large()
            return message

        return bounded

    async def _refuse(self, scope: Scope, receive: Receive, answer: _Answer, refused: Refused) -> None:
        self._service.counts.refused[refused.code] += 1
        if scope["type"] == "websocket":
            message: Any = await receive()
            if message["type"] == "websocket.connect":
                await answer({"type": "websocket.close", "code": 4000 + refused.status})
            return
        headers = [
            (b"content-type", b"application/json"),
            (b"cache-control", b"no-store"),
            *((name.lower().encode(), value.encode()) for name, value in refused.headers.items()),
        ]
        await _whole(answer, refused.status, headers, self._service.error_body(_path(scope), refused))


class _Answer:
    """The way of an answer to its client: adds headers, counts bytes."""

    __slots__ = ("_counts", "_send", "begun", "headers", "is_lost")

    def __init__(self, send: Send, counts: Counts) -> None:
        self._send = send
        self._counts = counts
        self.headers: list[tuple[bytes, bytes]] = [(b"x-content-type-options", b"nosniff")]
        self.begun = False
        self.is_lost = False
        """Whether the server has told by an error that the client has gone away."""

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.body":
            self._counts.bytes_sent += len(message.get("body", b""))
        elif kind == "websocket.send":
            self._counts.bytes_sent += len(message.get("text") or message.get("bytes") or b"")
        elif kind == "http.response.start":
            own = list(message.get("headers", ()))
            names = {name.lower() for name, _ in own}
            message["headers"] = own + [header for header in self.headers if header[0] not in names]
            self.begun = True
        else:
            self.begun = True
        try:
            await self._send(message)
        except OSError:
            self.is_lost = True
            raise


def _has_no_body(connection: HTTPConnection) -> bool:
    headers = connection.headers
    return headers.get("content-length", "0") == "0" and not {"transfer-encoding", "content-type"} & set(headers.keys())


def _preflight(connection: HTTPConnection) -> list[tuple[bytes, bytes]]:
    """What a page of an origin on the list may send: any header that it asks for, since clients of the protocols have
    some of their own (OpenAI's: a dozen)."""
    asked = connection.headers.get("access-control-request-headers", "")
    names = asked if _HEADER_NAMES.fullmatch(asked) else "authorization, content-type, last-event-id"
    return [
        (b"access-control-allow-methods", b"GET, POST, DELETE"),
        (b"access-control-allow-headers", names.encode("latin-1")),
        (b"access-control-max-age", b"600"),
        (b"vary", b"Access-Control-Request-Headers"),
    ]


def _path(scope: Scope) -> str:
    """The path within the app, wherever that is mounted."""
    return scope["path"].removeprefix(scope.get("root_path", ""))


async def not_served(request: Request, error: Any) -> Response:
    """The answer where nothing is at an address (404), or not for that method (405)."""
    status: int = error.status_code
    code, message = ("not_found", "nothing is here") if status == 404 else ("not_possible", str(error.detail))
    service: Service = request.app.state.runstream
    service.counts.refused[code] += 1
    body = service.error_body(_path(request.scope), Refused(status, code, message))
    headers: dict[str, str] = {**(error.headers or {}), "Cache-Control": "no-store"}
    if status == 405:
        # An address has a route for each method, and the first of them has refused: it names its own method alone.
        here = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
        headers["Allow"] = ", ".join(
            sorted({method for route in here for method in getattr(route, "methods", None) or ()})
        )
    return Response(body, status, headers, "application/json")


def later(stream: ASGIApp) -> ASGIApp:
    """An answer that leaves the stream to the guard."""

    async def leave(scope: Scope, receive: Receive, send: Send) -> None:
        scope[LATE].append(stream)

    return leave


async def _whole(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = [] if status == 204 else [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *length]})
    await send({"type": "http.response.body", "body": body})
