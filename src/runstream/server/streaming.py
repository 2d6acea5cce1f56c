"""A run to one client, as it goes on: server-sent events and WebSocket messages, from the same readers.

Invariant: a client that is slow, or gone, costs its reader alone; nobody waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from runstream.errors import AgentsException, CursorExpired, CursorInvalid, StoreError
from runstream.log.base import RunRecord
from runstream.log.cursor import Cursor, epoch_of, resolve
from runstream.server.answers import refusal_of
from runstream.server.channel import Batch
from runstream.server.hub import Hub
from runstream.server.protocols import native
from runstream.server.reader import Reader

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send
    from starlette.websockets import WebSocket

__all__ = ["Encoding", "EventStream", "Start", "UntilOver", "send_messages", "start_at"]

_HEADERS: list[tuple[bytes, bytes]] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
]


class Start:
    """Where a reader begins; `reason` is why that is not where it asked to."""

    __slots__ = ("after", "given", "reason")

    def __init__(self, after: Cursor, given: str = "", reason: str | None = None) -> None:
        self.after = after
        self.given = given
        self.reason = reason


def start_at(given: str, record: RunRecord) -> Start:
    """The place of a cursor in the run's log, or the one to go on from where it has none."""
    try:
        seq = resolve(given, record.epochs, record.first_seq, record.last_seq)
    except CursorInvalid as error:
        return Start(_cursor(error.resync_after, record), error.cursor, error.reason)
    except CursorExpired as error:
        return Start(_cursor(error.first_seq - 1, record), given[:60], "expired")
    return Start(_cursor(seq, record))


def _cursor(seq: int, record: RunRecord) -> Cursor:
    seq = max(seq, record.first_seq - 1)
    return Cursor(epoch_of(seq, record.epochs), seq)


class Batches(Protocol):
    """What a reader gives, as it does or otherwise paced."""

    async def next(self) -> Sequence[Batch]:
        """As `Reader.next`."""
        ...


class Encoding(Protocol):
    """What becomes of a run's events on their way to one client: a protocol over server-sent events. Pure: knows no
    socket and no clock. It may have state, of that one reader, made of the events it was given from the first on."""

    opening: bytes
    """Sent before there is an event."""

    @property
    def heartbeat(self) -> bytes:
        """Sent when nothing happens for long: clients take no notice of it."""
        ...

    def encode(self, batch: Batch) -> bytes:
        """The next events, which follow those of the batch before. May be empty."""
        ...

    def resync(self, reason: str, given: str, after: Cursor) -> bytes:
        """Says that events are missing, and where the stream goes on."""
        ...

    def failure(self, code: str) -> bytes:
        """Says why the stream ends though its run has not."""
        ...

    def closing(self) -> bytes:
        """Sent after the run's end, as the last of the stream."""
        ...


class _Native:
    """Without state: the frames of a batch are made once for all readers."""

    opening = native.OPENING
    heartbeat = native.HEARTBEAT

    def encode(self, batch: Batch) -> bytes:
        return batch.frames

    def resync(self, reason: str, given: str, after: Cursor) -> bytes:
        return native.resync(reason, given, after)

    def failure(self, code: str) -> bytes:
        return native.failure(code)

    def closing(self) -> bytes:
        return b""


_NATIVE = _Native()


class UntilOver:
    """An encoding whose stream ends where what it tells of the run is over, though the run may go on."""

    def __init__(self, encoding: Encoding, reader: Reader, is_over: Callable[[], bool]) -> None:
        self._encoding = encoding
        self._reader = reader
        self._is_over = is_over
        self.opening = encoding.opening
        self.heartbeat = encoding.heartbeat
        self.resync = encoding.resync
        self.failure = encoding.failure
        self.closing = encoding.closing

    def encode(self, batch: Batch) -> bytes:
        body = self._encoding.encode(batch)
        if self._is_over():
            self._reader.ended = True
        return body


class EventStream:
    """The answer to a request for a run's events, as an ASGI application. It ends after `run.end`."""

    def __init__(
        self,
        hub: Hub,
        reader: Reader,
        headers: dict[str, str],
        start: Start | None = None,
        encoding: Encoding = _NATIVE,
        paced: Batches | None = None,
    ) -> None:
        self._hub = hub
        self._reader = reader
        self._source = paced or reader
        self._headers = headers
        self._start = start
        self._encoding = encoding

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reader = self._reader
        # In a task of its own, since each event wakes it: here it would wake every layer that the request came through.
        sending = reader.task = asyncio.get_running_loop().create_task(self._send(scope, send))
        watching = asyncio.current_task()
        assert watching is not None

        def stop_watching(_: object) -> None:
            watching.cancel()

        sending.add_done_callback(stop_watching)
        try:
            await _watch(receive, reader)
            await asyncio.wait((sending,))
            await asyncio.sleep(0)  # until it is cancelled
        except asyncio.CancelledError:
            # Either there is nothing more to send, or this request is to end.
            if not sending.done() or watching.uncancel() > 0:
                raise
        finally:
            reader.close()
            if not sending.done():
                sending.remove_done_callback(stop_watching)
                sending.cancel()
                await asyncio.wait((sending,))
        if not sending.cancelled():
            sending.result()

    async def _send(self, scope: Scope, send: Send) -> None:
        try:
            await self._open(send)
            if scope["method"] != "HEAD":
                await self._send_events(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except OSError:
            self._reader.dropped = True  # how some servers tell that the client has gone

    async def _open(self, send: Send) -> None:
        own = [(name.lower().encode(), value.encode()) for name, value in self._headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *own]})
        opening = self._encoding.opening
        if self._start is not None and self._start.reason is not None:
            opening += self._encoding.resync(self._start.reason, self._start.given, self._start.after)
        await send({"type": "http.response.body", "body": opening, "more_body": True})

    async def _send_events(self, send: Send) -> None:
        reader, encoding, source = self._reader, self._encoding, self._source
        while not reader.ended:
            # Many readers wait for long: they hold on to nothing meanwhile.
            batches = body = None
            try:
                try:
                    batches = await source.next()
                except CursorExpired as error:
                    body = await self._skip(error)
            except AgentsException as error:
                self._hub.counts.store_failures += isinstance(error, StoreError)
                body = encoding.failure(_failure_code(error))
                await send({"type": "http.response.body", "body": body, "more_body": True})
                return
            if batches:
                if len(batches) == 1:
                    body = encoding.encode(batches[0])
                else:
                    body = b"".join([encoding.encode(batch) for batch in batches])
                if reader.ended:
                    body += encoding.closing()
            elif body is None:
                if reader.ended or self._hub.closing:
                    return
                body = encoding.heartbeat
            if body:
                await send({"type": "http.response.body", "body": body, "more_body": True})

    async def _skip(self, error: CursorExpired) -> bytes:
        record = await self._hub.store.find(self._reader.run_id)
        given = _cursor(self._reader.cursor, record)
        after = _cursor(error.first_seq - 1, record)
        self._reader.cursor = after.seq
        return self._encoding.resync("expired", str(given), after)


def _failure_code(error: AgentsException) -> str:
    """Why a stream cannot go on though the run has not ended: the client may come again."""
    refused = refusal_of(error)
    return "store_error" if refused is None or isinstance(error, StoreError) else refused.code


async def _watch(receive: Receive, reader: Reader) -> None:
    """Wait for the client to go away."""
    while True:
        message: Any = await receive()
        if message["type"] in ("http.disconnect", "websocket.disconnect"):
            reader.drop()
            return


async def send_messages(
    hub: Hub, reader: Reader, websocket: WebSocket, start: Start, paced: Batches | None = None
) -> None:
    """The run's events as WebSocket messages, each as it is committed; then the connection is closed (1000; 1012 where
    the server stops, 1011 where the store fails)."""
    source = paced or reader
    task = reader.task = asyncio.current_task()
    watching = asyncio.get_running_loop().create_task(_watch(websocket.receive, reader))
    code = 1000
    try:
        if start.reason is not None:
            await websocket.send_text(native.resync_message(start.reason, start.given, start.after))
        while not reader.ended:
            batches = None
            batches = await source.next()
            if not batches and (reader.ended or hub.closing):
                break
            for batch in batches:
                for event in batch.events:
                    await websocket.send_text(native.message(event, batch.epoch))
        code = 1000 if reader.ended else 1012
    except asyncio.CancelledError:
        if not reader.dropped or task is None or task.uncancel() > 0:
            raise
        return
    except AgentsException as error:
        hub.counts.store_failures += isinstance(error, StoreError)
        code = 1011
    except (OSError, RuntimeError):
        return  # the client has gone
    finally:
        watching.cancel()
        reader.close()
    await websocket.close(code)
