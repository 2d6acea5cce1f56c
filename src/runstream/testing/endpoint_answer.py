"""One answer of the endpoint, down to the bytes and the connection.

Owns how a reply and its fault become HTTP: headers, frames, resets. Must not know scripts or other requests. The body
is chunked and written by aiohttp, save where a fault wants the connection itself.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any, cast

import msgspec

from runstream.testing.chat_chunks import completion_chunks, completion_object, error_chunk
from runstream.testing.fault_replies import error_headers, error_text
from runstream.testing.responses_events import (
    error_event,
    failed_event,
    failed_response,
    response_events,
    response_object,
)
from runstream.testing.timeline import Strike, Wait, timeline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from runstream.clock import Clock
    from runstream.testing.endpoint_request import EndpointRequest
    from runstream.testing.faults import Fault
    from runstream.testing.reply import Reply, StreamEvent

__all__ = ["Answer"]

# Frames that follow each other without a pause go out together, up to this size.
_WRITE_BYTES = 16 * 1024

_encode = msgspec.json.encode


class Answer:
    """Answers one HTTP request with one reply. `send` returns when the answer is over, however it ended."""

    def __init__(self, request: web.BaseRequest, record: EndpointRequest, reply: Reply, clock: Clock) -> None:
        self._request = request
        self._record = record
        self._reply = reply
        self._clock = clock
        self._buffer = bytearray()
        self._stream: web.StreamResponse | None = None
        self._sequence_number = 0

    async def send(self) -> web.StreamResponse:
        if self._record.is_streamed:
            return await self._send_stream()
        return await self._send_whole()

    async def _send_stream(self) -> web.StreamResponse:
        is_chat = self._record.is_chat
        if is_chat:
            options = cast("dict[str, Any]", self._record.body.get("stream_options") or {})
            events = completion_chunks(self._reply, include_usage=options.get("include_usage") is True)
        else:
            events = response_events(self._reply)
        for moment in timeline(self._reply.turn, events):
            if isinstance(moment, Wait):
                await self._pause(moment.delay_s)
            elif isinstance(moment, Strike):
                over = await self._strike(moment)
                if over is not None:
                    return over
            else:
                self._buffer += self._frame(moment.data)
                self._record.deltas_sent += moment.is_delta
                self._sequence_number += 1
                if len(self._buffer) >= _WRITE_BYTES:
                    await self._flush()
        if is_chat:
            self._buffer += b"data: [DONE]\n\n"
        return await self._end()

    async def _strike(self, strike: Strike) -> web.StreamResponse | None:
        """Do what the fault does; return the response if nothing can follow."""
        fault = cast("Fault", strike.fault)
        self._record.outcome = "fault"
        match fault.kind:
            case "http_error":
                self._record.status = fault.status
                return _response(fault.status, error_text(fault).encode(), {**self._headers, **error_headers(fault)})
            case "slow_first_byte":
                await self._clock.sleep(30.0 if fault.for_s is None else fault.for_s)
                return None
            case "silence":
                await self._stay_silent(fault)
                return None
            case "broken_frame":
                self._buffer += self._broken_frame(strike.event)
                return None
            case "no_end":
                return await self._end()
            case "reset":
                return await self._reset(has_begun=fault.place != "start" and self._record.is_streamed)
            case "truncated_body":
                if fault.place != "start":
                    # Half a frame, and then no chunk that would end the body.
                    frame = self._frame(strike.event.data)
                    self._buffer += frame[: len(frame) // 2]
                    await self._flush()
                return self._close()
            case "error_event":
                self._buffer += self._frame(self._error(fault))
                return await self._end()
            case "failed":
                is_chat = self._record.is_chat
                event = self._error(fault) if is_chat else failed_event(self._reply, fault, self._sequence_number)
                self._buffer += self._frame(event)
                return await self._end()

    async def _send_whole(self) -> web.StreamResponse:
        """An unstreamed answer: it takes as long as the stream would, and the fault strikes at its end."""
        turn = self._reply.turn
        is_chat = self._record.is_chat
        events = list(completion_chunks(self._reply, include_usage=False) if is_chat else response_events(self._reply))
        deltas = sum(event.is_delta for event in events)
        await self._clock.sleep(turn.first_after_s + turn.every_s * max(deltas - 1, 0))
        body = completion_object(self._reply) if is_chat else response_object(self._reply)
        status = 200
        fault = cast("Fault | None", turn.fault)
        kind = None if fault is None else fault.kind
        if fault is not None:
            self._record.outcome = "fault"
            if kind in ("http_error", "slow_first_byte", "silence", "reset"):
                over = await self._strike(Strike(fault, events[0]))
                if over is not None:
                    return over
            elif kind in ("failed", "error_event"):
                status, body = (500, error_chunk(fault)) if is_chat else (200, failed_response(self._reply, fault))
        data = _encode(body)
        length = len(data)
        if kind in ("broken_frame", "no_end", "truncated_body"):
            data = data[: length // 2]
        headers = {"Content-Type": "application/json", **self._headers}
        self._record.status, self._record.deltas_sent = status, deltas
        if kind == "truncated_body":
            response = _stream_response({**headers, "Content-Length": str(length)})
            await response.prepare(self._request)
            await response.write(data)
            return self._close()
        return _response(status, data, headers)

    def _frame(self, data: Mapping[str, Any]) -> bytes:
        kind = b"" if self._record.is_chat else b"event: %s\n" % data["type"].encode()
        return b"%sdata: %s\n\n" % (kind, _encode(data))

    def _broken_frame(self, event: StreamEvent) -> bytes:
        frame = self._frame(event.data)[:-2]
        start = frame.index(b"data: ") + len(b"data: ")
        return frame[: start + (len(frame) - start) // 2] + b"\n\n"

    def _error(self, fault: Fault) -> dict[str, Any]:
        return error_chunk(fault) if self._record.is_chat else error_event(fault, self._sequence_number)

    @property
    def _headers(self) -> dict[str, str]:
        return {"x-request-id": f"req_{self._reply.tag}"}

    async def _pause(self, delay_s: float) -> None:
        # Before the first frame there is nothing to send, not even the head: the pause delays the first byte.
        if self._buffer:
            await self._flush()
        await self._clock.sleep(delay_s)

    async def _flush(self) -> None:
        """Send what has been collected, and the head before it."""
        if self._stream is None:
            headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", **self._headers}
            self._stream = _stream_response(headers)
            self._stream.enable_chunked_encoding()
            self._record.status = 200
            await self._stream.prepare(self._request)
        data = bytes(self._buffer)
        self._buffer.clear()
        size = self._reply.turn.cut_bytes or len(data)
        for start in range(0, len(data), max(size, 1)):
            await self._stream.write(data[start : start + size])
            # Let a client in the same loop read, so that pieces do not join in its socket.
            await self._clock.sleep(0)

    async def _end(self) -> web.StreamResponse:
        await self._flush()
        stream = cast("web.StreamResponse", self._stream)
        await stream.write_eof()
        return stream

    async def _stay_silent(self, fault: Fault) -> None:
        if fault.place != "start" and self._record.is_streamed:
            await self._flush()
        if fault.pings_every_s is None or not self._record.is_streamed:
            if fault.for_s is None:
                await asyncio.get_running_loop().create_future()
            else:
                await self._clock.sleep(fault.for_s)
            return
        end = None if fault.for_s is None else self._clock.now() + fault.for_s
        while end is None or self._clock.now() + fault.pings_every_s <= end:
            await self._clock.sleep(fault.pings_every_s)
            self._buffer += b": ping\n\n"
            await self._flush()
        await self._clock.sleep(max(end - self._clock.now(), 0.0))

    async def _reset(self, *, has_begun: bool) -> web.StreamResponse:
        if has_begun:
            await self._flush()
        transport = self._request.transport
        if transport is not None:
            connection = transport.get_extra_info("socket")
            if connection is not None:
                # Lingering for no time makes the closing a reset instead of an orderly end.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        return self._stream or _response(500, b"", {})

    def _close(self) -> web.StreamResponse:
        transport = self._request.transport
        if transport is not None:
            transport.close()
        return self._stream or _response(500, b"", {})


def _response(status: int, body: bytes, headers: Mapping[str, str]) -> web.Response:
    from aiohttp import web

    return web.Response(status=status, body=body, headers=headers)


def _stream_response(headers: Mapping[str, str]) -> web.StreamResponse:
    from aiohttp import web

    return web.StreamResponse(headers=headers)
