"""A client of the server's own protocol, for programs in Python and for the command line.

Owns addresses, errors, and how a run is followed across lost connections. Must not know how runs are shown, nor
starlette: it is of use where no server is installed.

Invariants: a follower gives each event once, in order, whatever happens to connections and servers in between; what it
was told about its cursor it passes on; it only gives up where the server says no, or was not to be reached for long.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast
from urllib.parse import quote, urlsplit

import msgspec

from runstream.clock import Clock, system_clock
from runstream.errors import AgentsException, UserError
from runstream.events.codec import decode
from runstream.events.event import RUN_END, Event
from runstream.log.cursor import Cursor
from runstream.wire.sse import SSEDecoder

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    import aiohttp

    from runstream.run.active import CancelMode

__all__ = ["Followed", "Follower", "Lost", "RequestRefused", "Resumed", "Resync", "ServerClient", "ServerUnreachable"]

_SILENT_S: Final = 40.0
"""The server says something every 15 s: a stream that is silent for longer is dead."""
_ANSWER_S: Final = 20.0
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 5.0


class RequestRefused(AgentsException):
    """The server does not do what it was asked to. `status` is that of HTTP, `reason` a constant for programs."""

    code = "request_refused"

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status = status
        self.reason = reason
        self.retryable = status in (429, 502, 503, 504)
        super().__init__(f"the server refuses: {message} ({status} {reason})")


class ServerUnreachable(AgentsException):
    """There is no answer from the server."""

    code = "server_unreachable"
    retryable = True

    def __init__(self, url: str, detail: str) -> None:
        self.url = url
        super().__init__(f"the server {url} cannot be reached: {detail}")


@dataclass(frozen=True, slots=True)
class Lost:
    """The stream broke off before the run's end; it is tried again."""

    reason: str
    after: str
    """The cursor of the last event that came."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The stream goes on where it was lost."""

    after: str


@dataclass(frozen=True, slots=True)
class Resync:
    """The cursor is no place in the run's log: the stream goes on after another one."""

    reason: Literal["malformed", "ahead", "other_history", "expired"]
    given: str
    after: str


Followed: TypeAlias = Event | Lost | Resumed | Resync


class ServerClient:
    """Asks the server at `url`. Open it with `async with`; it belongs to the event loop of that.

    All methods raise RequestRefused for what the server refuses, ServerUnreachable where it does not answer.
    """

    def __init__(self, url: str, *, token: str | None = None, clock: Clock = system_clock) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UserError(f"{url!r} is no URL of a server, as http://127.0.0.1:8000")
        self.url = url.rstrip("/")
        self._token = token
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        import aiohttp

        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_ANSWER_S, sock_read=_ANSWER_S)
        self._session = aiohttp.ClientSession(headers=headers, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # Runs.

    async def agents(self) -> list[str]:
        """Names of the agents that are served."""
        described = await self._ask("GET", "/openapi.json")
        try:
            names = described["components"]["schemas"]["NewRun"]["properties"]["agent"]["enum"]
        except (KeyError, TypeError) as error:
            raise ServerUnreachable(self.url, "what answers there is no runstream server") from error
        return [name for name in names if name is not None]

    async def begin(self, input: str | list[Any], *, agent: str | None = None, session: str | None = None) -> str:
        """Begin a run; returns its id. `agent` is needed where there are several."""
        body = {"input": input, "agent": agent, "session": session}
        begun = await self._ask("POST", "/runs", {name: value for name, value in body.items() if value is not None})
        return cast("str", begun["run_id"])

    async def run(self, run_id: str) -> dict[str, Any]:
        """The run as it is now: `status`, `agent`, `cursor`, `view`, …"""
        return await self._ask("GET", f"/runs/{quote(run_id, safe='')}")

    async def runs(self, limit: int = 20) -> list[dict[str, Any]]:
        """The newest runs."""
        return cast("list[dict[str, Any]]", (await self._ask("GET", f"/runs?limit={limit}"))["runs"])

    async def cancel(self, run_id: str, mode: CancelMode = "immediate") -> bool:
        """Ask for the run's end; whether it went on until now."""
        answer = await self._ask("POST", f"/runs/{quote(run_id, safe='')}/cancel", {"mode": mode})
        return bool(answer["accepted"])

    async def answer(
        self, run_id: str, call_id: str, *, approve: bool, always: bool = False, message: str | None = None
    ) -> None:
        """Say whether a call that waits may be made."""
        body = {"call_id": call_id, "approve": approve, "always": always, "message": message}
        await self._ask("POST", f"/runs/{quote(run_id, safe='')}/approvals", body)

    async def send(self, run_id: str, input: str | list[Any]) -> None:
        """Say something more while the run goes on."""
        await self._ask("POST", f"/runs/{quote(run_id, safe='')}/input", {"input": input})

    def follow(self, run_id: str, after: str = "", *, patience_s: float | None = None) -> Follower:
        """The run's events after that cursor. Where the connection is lost, the server is tried again for
        `patience_s` seconds; None is for ever."""
        return Follower(self, run_id, after, self._clock, patience_s)

    async def open_events(self, run_id: str, after: str) -> aiohttp.ClientResponse:
        """The response that streams the events, once its head is there. What is no stream is raised."""
        import aiohttp

        path = f"/runs/{quote(run_id, safe='')}/events"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_ANSWER_S, sock_read=_SILENT_S)
        try:
            response = await self._opened().get(
                self.url + path, params={"after": after}, headers={"Accept": "text/event-stream"}, timeout=timeout
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServerUnreachable(self.url, _told(error)) from error
        if response.status in (200, 204):
            return response
        raise await self._refused(response)

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        import aiohttp

        data = None if body is None else msgspec.json.encode(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            async with self._opened().request(method, self.url + path, data=data, headers=headers) as response:
                if response.status >= 400:
                    raise await self._refused(response)
                return msgspec.json.decode(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServerUnreachable(self.url, _told(error)) from error
        except msgspec.DecodeError as error:
            raise ServerUnreachable(self.url, "what answers there is no runstream server") from error

    async def _refused(self, response: aiohttp.ClientResponse) -> RequestRefused:
        try:
            error = msgspec.json.decode(await response.read())["error"]
            return RequestRefused(response.status, str(error["code"]), str(error["message"]))
        except (msgspec.DecodeError, KeyError, TypeError):
            return RequestRefused(response.status, "error", response.reason or "it does not say why")
        finally:
            response.release()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise UserError("the client is not open: use `async with ServerClient(url) as client`")
        return self._session


class Follower:
    """The events of a run on a server, and what happens on the way. Iterate over it once; close it when you leave
    early. Raises RequestRefused, or ServerUnreachable if the server was never reached, or not for `patience_s`."""

    def __init__(self, client: ServerClient, run_id: str, after: str, clock: Clock, patience_s: float | None) -> None:
        self._client = client
        self._run_id = run_id
        self._clock = clock
        self._patience_s = patience_s
        self.cursor = after
        """The place to go on from."""
        self._seq: int | None = None
        """Of the newest event."""
        self._response: aiohttp.ClientResponse | None = None
        self._decoder = SSEDecoder()
        self._frames: list[Any] = []
        self._is_over = False
        self._lost_at: float | None = None
        self._pause_s = _FIRST_PAUSE_S

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> Followed:
        while not self._is_over:
            while self._frames:
                found = self._take(self._frames.pop(0))
                if found is not None:
                    return found
            if self._response is None:
                resumed = await self._connect()
                if resumed is not None:
                    return resumed
                continue
            reason = await self._receive()
            if reason is not None:
                return self._lose(reason)
        self.close()
        raise StopAsyncIteration

    def close(self) -> None:
        """Let go of the connection. The run goes on."""
        if self._response is not None:
            self._response.close()
            self._response = None

    async def aclose(self) -> None:
        """The same, as other readers of runs have it."""
        self.close()

    async def _connect(self) -> Resumed | None:
        """Open the stream. Where it was lost, wait a little and try until it is there."""
        while True:
            if self._lost_at is not None:
                await self._clock.sleep(self._pause_s)
                self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
            try:
                response = await self._client.open_events(self._run_id, self.cursor)
            except (ServerUnreachable, RequestRefused) as error:
                if self._lost_at is None or not error.retryable:
                    raise
                if self._patience_s is not None and self._clock.now() - self._lost_at > self._patience_s:
                    raise
                continue
            if response.status == 204:
                response.release()
                self._is_over = True
                return None
            self._response, self._decoder = response, SSEDecoder()
            if self._lost_at is None:
                return None
            return Resumed(self.cursor)

    async def _receive(self) -> str | None:
        """Read on; returns why that is not possible."""
        import aiohttp

        assert self._response is not None
        try:
            data = await self._response.content.readany()
        except TimeoutError:
            return f"nothing came for {_SILENT_S:.0f} s"
        except (aiohttp.ClientError, OSError) as error:
            return _told(error)
        if not data:
            return "the server ended the stream"
        self._lost_at = None
        self._frames += self._decoder.feed(data)
        return None

    def _take(self, frame: Any) -> Followed | None:
        if frame.event == b"failure":
            return self._lose(f"the server cannot go on: {msgspec.json.decode(frame.data)['code']}")
        self._pause_s = _FIRST_PAUSE_S
        if frame.event == b"resync":
            told = msgspec.json.decode(frame.data)
            self.cursor = told["after"]
            self._seq = Cursor.parse(self.cursor).seq
            return Resync(told["reason"], told["cursor"], told["after"])
        if frame.event:
            return None  # of a later version
        try:
            event = decode(frame.data)
        except ValueError as error:
            self.close()
            raise AgentsException(f"the server sends what this version of runstream cannot read: {error}") from error
        if self._seq is not None and event.seq <= self._seq:
            return None
        self._seq = event.seq
        if frame.id is not None:
            self.cursor = frame.id.decode()
        self._is_over = event.kind == RUN_END
        return event

    def _lose(self, reason: str) -> Lost:
        self.close()
        self._frames.clear()
        if self._lost_at is None:
            self._lost_at = self._clock.now()
        return Lost(reason, self.cursor)


def _told(error: BaseException) -> str:
    """What went wrong with a connection, in a few words."""
    import aiohttp

    if isinstance(error, aiohttp.ClientPayloadError):
        return "it broke off"
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno == errno.ECONNREFUSED:
        return "nothing listens there"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection"
    return str(error) or type(error).__name__
