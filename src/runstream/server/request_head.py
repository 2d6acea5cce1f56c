"""The part of a request before its body, bounded in size and time: uvicorn bounds neither.

Whoever sends it byte by byte, or without end, is cut off before the app has heard of the request.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["HEAD_BYTES", "HEAD_S", "bounded_heads"]

HEAD_BYTES = 65_536
HEAD_S = 30.0


def bounded_heads(max_bytes: int = HEAD_BYTES, max_s: float = HEAD_S) -> type[HttpToolsProtocol]:
    """A protocol for uvicorn (`Config(http=...)`) whose connections are closed where the head of a request, or the
    first byte of one, takes longer than `max_s` seconds or more than some `max_bytes`."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class BoundedHeads(HttpToolsProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self._head_bytes = 0
            self._late: asyncio.TimerHandle | None = None
            super().connection_made(transport)
            self._await_head()

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
                if self._head_bytes > max_bytes:
                    self._refuse(b"431 Request Header Fields Too Large")

        def _await_head(self) -> None:
            if self._late is None:
                self._head_bytes = 0
                self._late = self.loop.call_later(max_s, self._refuse, b"408 Request Timeout")

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

    return BoundedHeads
