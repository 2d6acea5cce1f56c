"""The model of the benchmarks: a local HTTP server that streams prepared bytes, so that it is not what is measured.

`python -m benchmarks.endpoint` prints its port and serves POST .../responses and POST .../chat/completions until it
is stopped. The name of the model is the script: `text-N` sends N text deltas as fast as the socket takes them,
`text-N-every-MS` one every MS milliseconds. Every answer is made once and kept as bytes, chunked encoding included.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Connection", "deltas_of", "serve"]

_MODEL = re.compile(r"text-(\d+)(?:-every-(\d+))?")
_SENTENCE = "An answer is a row of small pieces, and each of them must reach its reader before the next one is due."
_WORDS = _SENTENCE.split()
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nx-request-id: req_benchmark\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_LAST_CHUNK = b"0\r\n\r\n"
EVENTS_PER_WRITE = 8


def deltas_of(model: str) -> tuple[int, float]:
    """How many text deltas a model of that name sends, and the seconds between two of them (0.0: none).

    Raises ValueError for a name that is no script.
    """
    match = _MODEL.fullmatch(model)
    if match is None:
        raise ValueError(f"no model named {model!r}: ask for text-N or text-N-every-MS")
    return int(match[1]), int(match[2] or 0) / 1000


def _words(count: int) -> list[str]:
    return [f"{_WORDS[i % len(_WORDS)]} " for i in range(count)]


def _frame(data: dict[str, Any], event: str | None = None) -> bytes:
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def _response(model: str, status: str, output: list[Any], usage: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "id": "resp_68a1b2c3d4e5f60718293a4b5c6d7e8f",
        "object": "response",
        "created_at": 1790000000,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": "Answer briefly.",
        "max_output_tokens": None,
        "model": model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
        "user": None,
        "metadata": {},
    }


def _responses_events(model: str, count: int) -> Iterator[bytes]:
    words, text = _words(count), "".join(_words(count))
    item = "msg_68a1b2c3d4e5f60718293a4b5c6d7e90"
    at = {"item_id": item, "output_index": 0, "content_index": 0}
    numbers = iter(range(count + 8))

    def frame(kind: str, **fields: Any) -> bytes:
        return _frame({"type": kind, "sequence_number": next(numbers), **fields}, kind)

    def message(status: str, content: list[Any]) -> dict[str, Any]:
        return {"id": item, "type": "message", "status": status, "content": content, "role": "assistant"}

    def part(text: str) -> dict[str, Any]:
        return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}

    done = message("completed", [part(text)])
    usage = {
        "input_tokens": 24,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": count,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 24 + count,
    }
    yield frame("response.created", response=_response(model, "in_progress", [], None))
    yield frame("response.in_progress", response=_response(model, "in_progress", [], None))
    yield frame("response.output_item.added", output_index=0, item=message("in_progress", []))
    yield frame("response.content_part.added", **at, part=part(""))
    for word in words:
        yield frame("response.output_text.delta", **at, delta=word, logprobs=[], obfuscation="kZ3vQ9xT1m")
    yield frame("response.output_text.done", **at, text=text, logprobs=[])
    yield frame("response.content_part.done", **at, part=part(text))
    yield frame("response.output_item.done", output_index=0, item=done)
    yield frame("response.completed", response=_response(model, "completed", [done], usage))


def _chat_events(model: str, count: int) -> Iterator[bytes]:
    def frame(choices: list[Any], usage: dict[str, Any] | None = None) -> bytes:
        return _frame(
            {
                "id": "chatcmpl-CbQ3fZ8xWn4TtVb1YpLr2HsKd",
                "object": "chat.completion.chunk",
                "created": 1790000000,
                "model": model,
                "service_tier": "default",
                "system_fingerprint": "fp_1a2b3c4d5e",
                "choices": choices,
                "usage": usage,
                "obfuscation": "kZ3vQ9xT1m",
            }
        )

    def choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}

    yield frame([choice({"role": "assistant", "content": "", "refusal": None})])
    for word in _words(count):
        yield frame([choice({"content": word})])
    yield frame([choice({}, "stop")])
    yield frame([], {"prompt_tokens": 24, "completion_tokens": count, "total_tokens": 24 + count})
    yield b"data: [DONE]\n\n"


@functools.cache
def _writes(path: str, model: str) -> tuple[bytes, ...]:
    """The answer's body as the pieces that are written at once: several events, or one where a pace is asked for."""
    count, gap_s = deltas_of(model)
    events = _chat_events if path.endswith("/chat/completions") else _responses_events
    chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in events(model, count)]
    size = 1 if gap_s else EVENTS_PER_WRITE
    return tuple(b"".join(chunks[i : i + size]) for i in range(0, len(chunks), size))


class Connection(asyncio.Protocol):
    """One connection: requests one after the other, each answered by its script; writes stop while the peer is slow."""

    def __init__(self) -> None:
        self._received = b""
        self._rest: Iterator[bytes] | None = None  # the answer that is being written as fast as possible
        self._writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if length is None:
            self._refuse(411, "this endpoint needs a content-length")
        elif len(rest) >= int(length[1]):
            self._received = rest[int(length[1]) :]
            self._answer(head.split(b" ", 2)[1].decode(), rest[: int(length[1])])

    def _answer(self, path: str, body: bytes) -> None:
        try:
            request = json.loads(body)
            model = request["model"]
            _, gap_s = deltas_of(model)
        except (ValueError, KeyError, TypeError) as error:
            self._refuse(400, str(error))
            return
        if not request.get("stream"):
            self._refuse(400, "this endpoint only streams")
            return
        self._transport.write(_HEAD)
        self._rest = iter(_writes(path, model))
        if gap_s:
            self._pace(asyncio.get_running_loop().time(), gap_s)
        else:
            self._pump()

    def _pump(self) -> None:
        while self._writable and self._rest is not None:
            self._write_next(self._rest)

    def _pace(self, due: float, gap_s: float) -> None:
        if self._rest is None or self._transport.is_closing():
            return
        self._write_next(self._rest)
        asyncio.get_running_loop().call_at(due + gap_s, self._pace, due + gap_s, gap_s)

    def _write_next(self, rest: Iterator[bytes]) -> None:
        piece = next(rest, None)
        self._transport.write(_LAST_CHUNK if piece is None else piece)
        if piece is None:
            self._rest = None

    def _refuse(self, status: int, message: str) -> None:
        data = json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode()
        head = f"HTTP/1.1 {status} Refused\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        self._transport.write(head.encode() + data)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest = None


async def serve(port: int = 0) -> asyncio.Server:
    """Listen on 127.0.0.1. With port 0 the system chooses one; it is in `server.sockets[0].getsockname()[1]`."""
    return await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=4096)


async def _main() -> None:
    server = await serve()
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
