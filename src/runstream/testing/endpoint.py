"""A local HTTP server that speaks OpenAI's API from a script: Responses and Chat Completions, streamed and not.

Owns the server, its routes and its record of requests. What it says is the script's; it computes nothing. It listens on
the loopback interface unless told otherwise.

Invariants: every request is recorded, wrong ones too; `aclose` returns in bounded time and leaves no connection open.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from typing import TYPE_CHECKING, Any, cast

from runstream.clock import Clock, system_clock
from runstream.errors import UserError
from runstream.testing.endpoint_answer import Answer
from runstream.testing.endpoint_request import EndpointRequest, Rejection, check_key, parse_body
from runstream.testing.faults import Raise
from runstream.testing.reply import Reply, digest_of
from runstream.testing.responses_events import request_echo
from runstream.testing.script import Script, Step, StepLike
from runstream.testing.script_errors import InvalidModelStep, ModelScriptError
from runstream.testing.steps import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Self

    from aiohttp import web

__all__ = ["Endpoint"]

_log = logging.getLogger("runstream.testing.endpoint")

# How long `aclose` waits for handlers whose connections it has cut.
_CLOSE_S = 2.0
_ANSWERS = ("/v1/responses", "/v1/chat/completions")
_MODEL = "scripted"


class Endpoint:
    """Serves `script` (a `Script`, or what one can be made of) at `url` while it is open.

        async with Endpoint(["Hello!"]) as endpoint:
            client = AsyncOpenAI(base_url=endpoint.url, api_key="any")

    With `async with` it runs in the loop of the caller; with a plain `with`, in a thread of its own, for programs that
    are not asynchronous (the `wait_...` methods then do not work). `port=0` takes a free port. With an `api_key`,
    requests without it get 401.

    A request that the script has no turn for gets a 400 with the code `script_exhausted`, which clients do not repeat.
    Raises InvalidModelStep for a script that cannot be played, UserError for an address that cannot be used.
    """

    def __init__(
        self,
        script: Script | StepLike | Iterable[StepLike] = (),
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        clock: Clock = system_clock,
    ) -> None:
        self._script = Script.of(script)
        for step in cast("tuple[Step, ...]", self._script.steps):
            if isinstance(step, Turn):
                _refuse_exceptions(step)
        self._playback = self._script.play()
        self._host = host
        self._port = port
        self._api_key = api_key
        self._clock = clock
        self._server: web.Server | None = None
        self._listener: asyncio.Server | None = None
        self._thread: _LoopThread | None = None
        self._is_closing = False
        self._transports: dict[int, asyncio.Transport] = {}
        self._watchers: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self.requests: list[EndpointRequest] = []
        """Every request so far, in the order of arrival."""

    @property
    def url(self) -> str:
        """The base URL for clients, `/v1` included. Raises UserError when the endpoint is not open."""
        if self._listener is None:
            raise UserError("the endpoint is not open: use `async with Endpoint(...) as endpoint`")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/v1"

    @property
    def open_answers(self) -> int:
        """Answers that have not come to their end."""
        return len(self._transports)

    @property
    def open_connections(self) -> int:
        """Connections of clients, idle ones included."""
        return 0 if self._server is None else len(self._server.connections)

    @property
    def disconnects(self) -> int:
        """Answers that the client did not wait for: it closed the connection before their end."""
        return sum(request.outcome == "disconnected" for request in self.requests)

    def assert_complete(self) -> None:
        """Raises UnconsumedModelSteps if turns of the script were not asked for."""
        self._playback.assert_complete()

    async def wait_requests(self, count: int = 1) -> None:
        """Wait until `count` requests have come, in all."""
        await self._wait(lambda: len(self.requests) >= count)

    async def wait_disconnected(self, count: int = 1) -> None:
        """Wait until clients have left `count` answers before their end, in all."""
        await self._wait(lambda: self.disconnects >= count)

    async def wait_idle(self) -> None:
        """Wait until no answer is in progress."""
        await self._wait(lambda: not self._transports)

    async def open(self) -> None:
        """Begin to listen."""
        from aiohttp import web

        if self._listener is not None:
            raise UserError("the endpoint is open already")
        # A client that goes away cancels the handler: that is how an answer knows that nobody wants it any more.
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        try:
            listener = await asyncio.get_running_loop().create_server(server, self._host, self._port)
        except (OSError, OverflowError) as error:
            raise UserError(f"the endpoint cannot listen on {self._host}:{self._port}: {error}") from error
        self._server, self._listener, self._is_closing = server, listener, False
        self._port = listener.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """Stop listening and cut every connection. Answers in progress break off."""
        listener, server = self._listener, self._server
        if listener is None or server is None:
            return
        self._is_closing = True
        self._listener = None
        listener.close()
        transports = [connection.transport for connection in server.connections]
        for transport in list(self._transports.values()):
            transport.abort()
        # First those that wait for their next request, which shutdown() would give time to send one.
        server.pre_shutdown()
        await server.shutdown(_CLOSE_S)
        for transport in transports:
            # A client that does not read must not hold up the closing.
            if transport is not None:
                transport.abort()
        await listener.wait_closed()
        self._server = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        thread = _LoopThread()
        try:
            thread.run(self.open())
        except BaseException:
            thread.stop()
            raise
        self._thread = thread
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        thread = self._thread
        if thread is not None:
            self._thread = None
            try:
                thread.run(self.aclose())
            finally:
                thread.stop()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        from aiohttp import web

        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            # Some clients, curl among them, wait for this before they send a long body.
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        raw_body = await request.content.read()
        record = EndpointRequest(
            number=len(self.requests) + 1,
            method=request.method,
            path=request.path,
            headers={name.lower(): value for name, value in request.headers.items()},
            raw_body=raw_body,
            received_at=self._clock.now(),
        )
        self.requests.append(record)
        if request.transport is not None:
            self._transports[record.number] = request.transport
        self._notice()
        try:
            response = await self._answer(request, record)
            if record.outcome == "open":
                record.outcome = "answered"
            return response
        except Rejection as rejection:
            record.status, record.outcome = rejection.status, "rejected"
            return web.Response(status=rejection.status, text=rejection.body, content_type="application/json")
        except (asyncio.CancelledError, ConnectionError):
            record.outcome = "aborted" if self._is_closing else "disconnected"
            raise
        finally:
            self._transports.pop(record.number, None)
            _log.info("%s", _describe(record, self._clock.now() - record.received_at))
            self._notice()

    async def _answer(self, request: web.BaseRequest, record: EndpointRequest) -> web.StreamResponse:
        check_key(record.headers, self._api_key)
        if record.path in _ANSWERS and record.method == "POST":
            record.body = parse_body(record.raw_body, is_chat=record.is_chat)
            try:
                turn = await self._playback.answer(record)
                _refuse_exceptions(turn)
                return await Answer(request, record, self._reply(turn, record), self._clock).send()
            except ModelScriptError as error:
                # Not a 5xx: clients would send the request again.
                code = "script_invalid" if isinstance(error, InvalidModelStep) else "script_exhausted"
                raise Rejection(400, error.message, code=code) from error
        if record.path in ("/v1/models", f"/v1/models/{_MODEL}") and record.method == "GET":
            return self._models(record)
        known = record.path in _ANSWERS or record.path.startswith("/v1/models")
        if known and record.method not in ("GET", "POST"):
            raise Rejection(405, f"Not allowed to {record.method} on {record.path}.", code="method_not_supported")
        raise Rejection(404, f"Invalid URL ({record.method} {record.path}). Known are POST {' and '.join(_ANSWERS)}.")

    def _reply(self, turn: Turn, record: EndpointRequest) -> Reply:
        return Reply(
            turn,
            record.number,
            digest_of(record.raw_body),
            record.model_name or _MODEL,
            int(self._clock.now()),
            input_tokens=max(len(record.raw_body) // 4, 1),
            echo=request_echo(record.body),
        )

    def _models(self, record: EndpointRequest) -> web.Response:
        from aiohttp import web

        model = {"id": _MODEL, "object": "model", "created": int(self._clock.now()), "owned_by": "runstream"}
        body = model if record.path.endswith(_MODEL) else {"object": "list", "data": [model]}
        record.status = 200
        return web.Response(text=json.dumps(body), content_type="application/json")

    def _notice(self) -> None:
        """Something has changed: wake those who waited for it."""
        waiting, self._watchers = self._watchers, []
        for is_met, future in waiting:
            if future.done():
                continue
            if is_met():
                future.set_result(None)
            else:
                self._watchers.append((is_met, future))

    async def _wait(self, is_met: Callable[[], bool]) -> None:
        if not is_met():
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._watchers.append((is_met, future))
            await future


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="runstream-endpoint", daemon=True)
        self._thread.start()

    def run(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _refuse_exceptions(turn: Turn) -> None:
    if isinstance(turn.fault, Raise):
        raise InvalidModelStep(
            f"an endpoint cannot raise {turn.fault.error!r}: use a Fault, for example Fault('reset')"
        )


def _describe(record: EndpointRequest, took_s: float) -> str:
    status = "no answer" if record.status is None else str(record.status)
    streamed = " stream" if record.is_streamed else ""
    what = f"{status}, {record.deltas_sent} deltas, {took_s:.2f} s, {record.outcome}"
    return f"{record.method} {record.path}{streamed}: {what}"
