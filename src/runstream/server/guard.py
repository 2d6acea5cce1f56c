"""What every request passes before anything else looks at it, and what becomes of errors. Pure ASGI: streams pass
through it without a copy.

In this order: the host, the origin, CORS preflights, who asks, the content type, the size of the body.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from runstream.errors import AgentsException
from runstream.server.answers import Refused, refusal_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from runstream.server.service import Service

__all__ = ["LATE", "Guard", "later", "not_served"]

_logger = logging.getLogger("runstream.server")

LATE = "runstream.late"
"""Where in a scope handlers leave streams: they begin once the layers that found the handler are left, which would
cost each of many readers memory, and each of their events time."""

_PUBLIC = frozenset(("/healthz", "/readyz"))
_PREFLIGHT = [
    (b"access-control-allow-methods", b"GET, POST, DELETE"),
    (b"access-control-allow-headers", b"authorization, content-type, last-event-id"),
    (b"access-control-max-age", b"600"),
]


class Guard:
    """The middleware of an app."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        cors: list[tuple[bytes, bytes]] = []
        try:
            connection = HTTPConnection(scope)
            cors = self._check_source(connection)
            if scope["type"] == "http" and scope["method"] == "OPTIONS":
                await _answer(send, 204, [*cors, *(_PREFLIGHT if cors else ())], b"")
                return
            path = _path(scope)
            if path != "/healthz":
                await self._service.start()
            if path not in _PUBLIC:
                await self._let_in(connection, scope)
            if scope["type"] == "http" and scope["method"] == "POST":
                self._check_body(connection)
                receive = self._bounded(receive)
            answering = _with_headers(send, cors) if cors else send
            late: list[ASGIApp] = scope.setdefault(LATE, [])
            await self._app(scope, receive, answering)
            while late:
                await late.pop()(scope, receive, answering)
        except Refused as refused:
            await self._refuse(scope, receive, send, refused, cors)
        except AgentsException as error:
            refused = refusal_of(error)
            if refused is None or refused.status >= 500:
                _logger.error("%s %s: %s", scope.get("method", "WS"), scope["path"], error)
            await self._refuse(scope, receive, send, refused or Refused(500, "error", "the server failed"), cors)

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

    async def _let_in(self, connection: HTTPConnection, scope: Scope) -> None:
        gate = self._service.gate
        user = await gate.user_of(connection)
        if user is None:
            message = "a bearer token is needed"
            if gate.is_open:
                message = "this server has no tokens, and therefore answers nobody but its own machine"
            raise Refused(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})
        scope["runstream.user"] = user

    def _check_body(self, connection: HTTPConnection) -> None:
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
        """The body, up to the limit, whatever its headers say."""
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                if size > self._service.limits.body_bytes:
                    raise self._too_large()
            return message

        return bounded

    async def _refuse(
        self, scope: Scope, receive: Receive, send: Send, refused: Refused, cors: list[tuple[bytes, bytes]]
    ) -> None:
        if scope["type"] == "websocket":
            message: Any = await receive()
            if message["type"] == "websocket.connect":
                await send({"type": "websocket.close", "code": 4000 + refused.status})
            return
        headers = [
            (b"content-type", b"application/json"),
            (b"cache-control", b"no-store"),
            *((name.lower().encode(), value.encode()) for name, value in refused.headers.items()),
            *cors,
        ]
        await _answer(send, refused.status, headers, self._service.error_body(_path(scope), refused))


def _path(scope: Scope) -> str:
    """The path within the app, wherever that is mounted."""
    return scope["path"].removeprefix(scope.get("root_path", ""))


async def not_served(request: Request, error: Any) -> Response:
    """The answer where nothing is at an address (404), or not for that method (405)."""
    status: int = error.status_code
    code, message = ("not_found", "nothing is here") if status == 404 else ("not_possible", str(error.detail))
    service: Service = request.app.state.runstream
    body = service.error_body(_path(request.scope), Refused(status, code, message))
    return Response(body, status, {**(error.headers or {}), "Cache-Control": "no-store"}, "application/json")


def later(stream: ASGIApp) -> ASGIApp:
    """An answer that leaves the stream to the guard."""

    async def leave(scope: Scope, receive: Receive, send: Send) -> None:
        scope[LATE].append(stream)

    return leave


def _with_headers(send: Send, headers: list[tuple[bytes, bytes]]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *headers]
        await send(message)

    return sending


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = [] if status == 204 else [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *length]})
    await send({"type": "http.response.body", "body": body})
