"""How an answer of the OpenAI protocols comes to its client: streamed, or whole once it is over.

And what becomes of the run where its client goes away before.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from runstream.errors import AgentsException, RunNotFound, RunSealed, StoreError
from runstream.log.base import Command
from runstream.server.answers import Refused, refusal_of
from runstream.server.hub import Hub
from runstream.server.protocols.chat_completions import ChatEncoding
from runstream.server.protocols.responses import ResponsesEncoding, encode_json
from runstream.server.reader import Reader
from runstream.server.service import Service
from runstream.server.starting import RUN_ID_HEADER, delete_run
from runstream.server.streaming import EventStream, UntilOver

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from runstream.server.channel import Batch

__all__ = ["ForItsClient", "Whole", "cancel_run", "json_answer", "read_response", "run_headers", "stream"]

_logger = logging.getLogger("runstream.server")

# The official clients send a request again that failed: a run may have had its effects already.
_NOT_AGAIN = {"x-should-retry": "false"}

_Encoding = ResponsesEncoding | ChatEncoding


def json_answer(body: bytes, headers: dict[str, str] | None = None) -> Response:
    """An answer that nobody keeps for the next one who asks."""
    return Response(body, 200, {"Cache-Control": "no-store", **(headers or {})}, "application/json")


def run_headers(run_id: str) -> dict[str, str]:
    """Name the run of an answer."""
    return {RUN_ID_HEADER: run_id}


def stream(service: Service, reader: Reader, encoding: _Encoding) -> EventStream:
    """The answer that tells the run as it goes on."""
    until = UntilOver(encoding, reader, lambda: encoding.ended)
    if isinstance(encoding, ChatEncoding):
        beats = math.ceil(service.limits.unanswered_s / service.heartbeat_s)
        until = _UntilUnanswered(encoding, until, reader, beats)
    return EventStream(service.hub, reader, run_headers(reader.run_id), encoding=until)


class _UntilUnanswered:
    """Ends the stream of a completion that cannot ask for the approvals which its run waits for: nothing but heartbeats
    comes meanwhile, so that they tell how long that takes."""

    def __init__(self, encoding: ChatEncoding, until: UntilOver, reader: Reader, most_beats: int) -> None:
        self._encoding = encoding
        self._until = until
        self._reader = reader
        self._most_beats = most_beats
        self._beats = 0
        self.opening = until.opening
        self.resync = until.resync
        self.failure = until.failure
        self.closing = until.closing

    def encode(self, batch: Batch) -> bytes:
        self._beats = 0
        return self._until.encode(batch)

    @property
    def heartbeat(self) -> bytes:
        """Sent each time that nothing has happened for a while."""
        self._beats += self._encoding.fold.is_stuck
        if self._beats < self._most_beats:
            return self._until.heartbeat
        self._reader.ended = True
        return self._encoding.leave()


async def read_response(hub: Hub, reader: Reader, encoding: _Encoding, *, until_begun: int | None = None) -> None:
    """Take events in until the response has ended, or that part of the run has begun; or the server stops."""
    fold = encoding.fold
    while not encoding.ended and not reader.ended and not hub.closing:
        if until_begun is not None and fold.begun and fold.part >= until_begun:
            return
        for batch in await reader.next():
            encoding.encode(batch)


class Whole:
    """The answer to a request that is not streamed, as an ASGI application: sent once the response has ended."""

    def __init__(self, service: Service, reader: Reader, encoding: _Encoding) -> None:
        self._service = service
        self._reader = reader
        self._encoding = encoding

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reading = asyncio.create_task(read_response(self._service.hub, self._reader, self._encoding))
        watching = asyncio.create_task(_wait_gone(receive))
        try:
            await asyncio.wait((reading, watching), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                self._reader.dropped = True
                return
            reading.result()
        finally:
            reading.cancel()
            watching.cancel()
            await asyncio.gather(reading, watching, return_exceptions=True)
            self._reader.close()
        if isinstance(self._encoding, ChatEncoding) and self._encoding.is_stuck:
            await cancel_run(self._service, self._reader.run_id)
        await json_answer(self._body(), run_headers(self._reader.run_id))(scope, receive, send)

    def _body(self) -> bytes:
        encoding = self._encoding
        if not encoding.ended:
            raise Refused(503, "stopping", "the server is about to stop; the run goes on elsewhere", _NOT_AGAIN)
        if isinstance(encoding, ResponsesEncoding):
            return encode_json(encoding.response())
        failed = encoding.failed
        if failed is not None:
            failed.headers = _NOT_AGAIN
            raise failed
        return encode_json(encoding.completion())


class ForItsClient:
    """An answer to whoever began the run: if they go away, or cannot be answered, it is stopped, for nobody else waits
    for it."""

    def __init__(
        self,
        service: Service,
        reader: Reader,
        encoding: _Encoding,
        answer: EventStream | Whole,
        *,
        is_kept: bool = True,
    ) -> None:
        self._service = service
        self._reader = reader
        self._encoding = encoding
        self._answer = answer
        self._is_kept = is_kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Where the server stops, the run is handed on: that may come as a cancellation, and ends here.
        try:
            await self._answer(scope, receive, send)
        except asyncio.CancelledError:
            if not self._is_kept:
                self._service.unkept.add(self._reader.run_id)
            raise
        except Refused:
            await self._end(is_failed=False)
            raise
        except AgentsException as error:
            await self._end(is_failed=True)
            refused = refusal_of(error)
            if refused is None:
                raise
            if isinstance(error, StoreError):
                self._service.counts.store_failures += 1
                _logger.error("%s cannot be read for its client, and is stopped: %s", self._reader.run_id, error)
            refused.headers.update(_NOT_AGAIN)
            raise refused from error
        # Nobody can ask for a completion once more.
        is_lost = isinstance(self._encoding, ChatEncoding) and not (self._encoding.ended or self._service.hub.closing)
        await self._end(is_failed=is_lost)

    async def _end(self, *, is_failed: bool) -> None:
        try:
            if not self._is_kept:
                await delete_run(self._service, self._reader.run_id)
            elif is_failed or (self._reader.dropped and not self._encoding.ended):  # who has it all may leave at once
                await cancel_run(self._service, self._reader.run_id)
        except AgentsException as error:
            _logger.warning("%s cannot be stopped: %s", self._reader.run_id, error)


async def _wait_gone(receive: Receive) -> None:
    """Return once the client has gone away."""
    while True:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            return


async def cancel_run(service: Service, run_id: str) -> None:
    """Ask for the run's end, unless it has come already. Raises StoreError."""
    carrier = service.carrier
    try:
        await carrier.store.send(run_id, Command("cancel", {"mode": "immediate"}))
    except (RunSealed, RunNotFound):
        return  # it has ended meanwhile
    await carrier.host.bring(run_id)
