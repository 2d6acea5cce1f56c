"""Connections that are held up: what uvicorn does not bound, and an app cannot.

The part of a request before its body has its size and its time: whoever sends it byte by byte, or without end, is cut
off before the app has heard of the request. And who takes nothing of an answer is cut off, too: to close a connection
waits until all is sent, which would be never.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["bounded_connections"]

_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)


def bounded_connections(
    *, head_bytes: int = 65_536, head_s: float = 30.0, stuck_s: float = 60.0
) -> type[HttpToolsProtocol]:
    """A protocol for uvicorn (`Config(http=...)`) whose connections are closed where the head of a request, or the
    first byte of one, takes longer than `head_s` seconds or more than some `head_bytes`; and, where the system can do
    that (Linux), where the client takes nothing of what was sent for `stuck_s` seconds."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class BoundedConnection(HttpToolsProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self._head_bytes = 0
            self._late: asyncio.TimerHandle | None = None
            super().connection_made(transport)
            self._await_head()
            raw: socket.socket | None = transport.get_extra_info("socket")
            if raw is not None and _USER_TIMEOUT is not None and raw.family != socket.AF_UNIX:
                raw.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, int(stuck_s * 1000))

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_came()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._await_head()

        def on_headers_complete(self) -> None:
            self._head_came()
            super().on_headers_complete()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._late is not None:
                self._head_bytes += len(data)
                if self._head_bytes > head_bytes:
                    self._refuse(b"431 Request Header Fields Too Large")

        def _await_head(self) -> None:
            if self._late is None:
                self._head_bytes = 0
                self._late = self.loop.call_later(head_s, self._refuse, b"408 Request Timeout")

        def _head_came(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _refuse(self, status: bytes) -> None:
            self._head_came()
            cycle = cast("Any", self.cycle)  # None before the first request
            is_answering = cycle is not None and not cycle.response_complete
            if not (is_answering or self.transport.is_closing()):
                self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()

    return BoundedConnection
