"""Server-sent events as a pure object: bytes in, frames out. Knows no HTTP, no JSON and no events of a run.

Rules from the HTML standard, "Server-sent events", sections 9.2.5 and 9.2.6: lines end in LF, CR LF or CR; a leading
byte-order mark is dropped; a line that begins with a colon is a comment; several `data` lines join with LF; an event
is dispatched at a blank line and only if data was received (so a comment ping after an `id` yields nothing); an
unfinished event at the end of the stream is dropped. `close()` reports that last case, because for a model's stream it
means that something was lost.

Invariant: cutting the input anywhere gives the same frames.
"""

from __future__ import annotations

import msgspec

__all__ = ["SSEDecoder", "SSEFrame", "encode"]

_BOM = b"\xef\xbb\xbf"
# No delay has more; Python refuses to read numbers of some thousand digits.
_RETRY_DIGITS = 15


class SSEFrame(msgspec.Struct, frozen=True, gc=False):
    """The fields of one dispatched event. A struct, because one is made for every token."""

    data: bytes
    event: bytes = b""
    id: bytes | None = None
    retry_ms: int | None = None


class SSEDecoder:
    """`feed(bytes)` returns the frames that became complete; `close()` the bytes of an unfinished one.

    Raises ValueError when one frame exceeds `max_frame_bytes`: a server that never sends a blank line must not fill
    the memory.
    """

    __slots__ = ("_buffer", "_event", "_max", "_pending_cr", "_prefix", "_started")

    def __init__(self, max_frame_bytes: int = 64 * 1024 * 1024) -> None:
        # The unfinished frame, without a blank line in it. A bytearray, since it grows without being copied.
        self._buffer = bytearray()
        self._max = max_frame_bytes
        self._pending_cr = False
        self._started = False
        self._event = b""
        self._prefix = b""

    def feed(self, data: bytes) -> list[SSEFrame]:
        """Take the next bytes, cut anywhere; return the frames completed by them, in order."""
        if not data:
            return []
        if not self._started:
            data = bytes(self._buffer) + data
            self._buffer.clear()
            if len(data) < 3 and _BOM.startswith(data):
                self._buffer += data
                return []
            self._started = True
            data = data.removeprefix(_BOM)
        if b"\r" in data or self._pending_cr:
            data = self._normalise(data)
        buffer = self._buffer
        if buffer:
            # Look for the blank line only in what is new (and one byte before it): a long frame that comes in many
            # small pieces must be neither searched nor copied from its start each time.
            searched = len(buffer) - 1
            buffer += data
            if buffer.find(b"\n\n", searched) < 0:
                self._check_size(len(buffer) - buffer.endswith(b"\n"))
                return []
            data = bytes(buffer)
            buffer.clear()
        elif b"\n\n" not in data:
            buffer += data
            self._check_size(len(buffer) - buffer.endswith(b"\n"))
            return []
        *blocks, rest = data.split(b"\n\n")
        buffer += rest
        if len(data) > self._max:
            self._check_size(max(len(block) for block in blocks))
        frames: list[SSEFrame] = []
        append = frames.append
        event, prefix = self._event, self._prefix
        start = len(prefix)
        for block in blocks:
            # Most frames of a model's stream begin like the one before them.
            if start and block.startswith(prefix) and block.find(b"\n", start) < 0:
                append(SSEFrame(block[start:], event))
                continue
            # The shapes that model providers send: one `data` line, with or without one `event` line before it.
            if block.startswith(b"data: ") and b"\n" not in block:
                append(SSEFrame(block[6:]))
                continue
            if block.startswith(b"event: "):
                end = block.find(b"\n")
                if block.startswith(b"\ndata: ", end) and block.find(b"\n", end + 1) < 0:
                    event = self._event = block[7:end]
                    prefix = self._prefix = block[: end + 7]
                    start = end + 7
                    append(SSEFrame(block[start:], event))
                    continue
            frame = _parse(block)
            if frame is not None:
                append(frame)
        return frames

    def close(self) -> bytes:
        """The stream has ended: return what was received of a frame that never got its blank line (b"" if none).

        Comments are no part of a frame.
        """
        rest = bytes(self._buffer).strip(b"\n")
        self._buffer.clear()
        return b"" if all(line.startswith(b":") for line in rest.split(b"\n")) else rest

    def _check_size(self, frame_bytes: int) -> None:
        if frame_bytes > self._max:
            self._buffer.clear()
            raise ValueError(f"a frame of the event stream exceeds {self._max} bytes")

    def _normalise(self, data: bytes) -> bytes:
        # A CR at the end of a piece may be half of a CR LF: it ends the line now, and a LF that follows is skipped.
        if self._pending_cr and data.startswith(b"\n"):
            data = data[1:]
            self._pending_cr = False
            if not data:
                return data
        self._pending_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _parse(block: bytes) -> SSEFrame | None:
    data: list[bytes] = []
    event = b""
    last_id: bytes | None = None
    retry_ms: int | None = None
    for line in block.split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon and not name:
            continue
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            event = value
        elif name == b"id" and b"\0" not in value:
            last_id = value
        elif name == b"retry" and value.isdigit() and len(value) <= _RETRY_DIGITS:
            retry_ms = int(value)
    if not data:
        return None
    return SSEFrame(b"\n".join(data), event, last_id, retry_ms)


def encode(data: bytes, *, event: str | None = None, id: str | None = None) -> bytes:
    """One event as bytes. `data` may hold several lines; `event` and `id` must not.

    Raises ValueError where a field holds a line end, which would let its text forge other fields.
    """
    head = b""
    for name, value in (("id", id), ("event", event)):
        if value is not None:
            if "\n" in value or "\r" in value or "\0" in value:
                raise ValueError(f"the SSE field {name!r} must be one line, not {value!r}")
            head += f"{name}: {value}\n".encode()
    if b"\n" not in data and b"\r" not in data:
        return head + b"data: " + data + b"\n\n"
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return head + b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"
