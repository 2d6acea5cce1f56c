"""One connection to a Redis server, shared by many: what a store asks, and which answer is whose.

The `redis` package connects (login, TLS, database); then the lane reads and writes the transport itself, because a
flush every 15 ms pays for each task, lock and timeout on its way. Nothing waits for what others have asked: commands go
out at once, and answers are matched by their order. A caller that is cancelled leaves a place whose answer is thrown
away, so that nobody ever gets the answer to another's question.

Invariant: answers come in the order of the commands, or the connection is dropped and all who wait are told.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from runstream.clock import Clock
from runstream.errors import StoreError, StoreUnavailable
from runstream.log.redis_options import Address, RedisOptions
from runstream.log.redis_scripts import Script

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

__all__ = ["Command", "Lane", "Refused", "script_command", "store_error"]

Command = tuple[Any, ...]
"""The words of one command: strings, bytes and numbers."""

_WITHOUT_WRITES = {
    "OOM": "is full (maxmemory): raise it, keep less with ?ttl_s=, or delete runs",
    "LOADING": "is still loading its data",
    "MISCONF": "takes no writes because it cannot save to disk",
    "NOREPLICAS": "takes no writes while it has too few replicas",
    "BUSY": "is busy with somebody's script",
    "MASTERDOWN": "is a replica that has lost its primary",
    "CLUSTERDOWN": "is a cluster that is down: some slots have no node",
    "TRYAGAIN": "is moving the keys between nodes",
    "MOVED": "sends from node to node",
    "ASK": "is moving the keys between nodes",
}
"""What passes by itself, or once somebody has done something about it."""
_LOGIN = ("NOAUTH", "WRONGPASS")


class Refused(Exception):
    """A command that the server answered with an error."""

    @property
    def word(self) -> str:
        """The kind of error: NOSCRIPT, OOM, READONLY, ..."""
        return str(self).partition(" ")[0]


def script_command(script: Script, keys: Sequence[str], arguments: Sequence[Any] = ()) -> Command:
    """The command that runs a script."""
    return ("EVALSHA", script.sha, len(keys), *keys, *arguments)


def store_error(error: BaseException, shown: str) -> StoreError:
    """What a failure of a lane, or of the `redis` package, means to whoever uses the store."""
    from redis import exceptions

    text = str(error)
    word = text.partition(" ")[0]
    if word in _WITHOUT_WRITES:
        return StoreUnavailable(f"{shown} {_WITHOUT_WRITES[word]} ({text})")
    if word in _LOGIN or isinstance(error, exceptions.AuthenticationError):
        return StoreError(f"{shown} refused the login ({text}): check user and password in the store's URL")
    if word == "NOPERM" or isinstance(error, exceptions.NoPermissionError):
        return StoreError(f"{shown} does not permit it ({text}): give the user rights on the store's keys")
    if isinstance(error, exceptions.BusyLoadingError):
        return StoreUnavailable(f"{shown} {_WITHOUT_WRITES['LOADING']}")
    if isinstance(error, exceptions.InvalidResponse):
        return StoreError(f"what answers at {shown} does not speak Redis: {text}")
    if "CERTIFICATE" in text:
        return StoreError(f"{shown} is not trusted ({text}): name its authority with ?ssl_ca_certs=")
    if isinstance(error, TimeoutError | exceptions.TimeoutError):
        return StoreUnavailable(f"{shown} did not answer in time{': ' if text else ''}{text}")
    if isinstance(error, OSError | exceptions.ConnectionError):
        return StoreUnavailable(f"{shown} cannot be reached: {text}")
    return StoreError(f"{shown}: {text}")


def _packed(commands: Sequence[Command]) -> bytes:
    # Its stub knows no tuples of more than one word.
    from hiredis import pack_command  # pyright: ignore[reportUnknownVariableType]

    pack = cast("Callable[[Command], bytes]", pack_command)
    return pack(commands[0]) if len(commands) == 1 else b"".join([pack(command) for command in commands])


class _Wire(asyncio.Protocol):
    """One connection: answers to those who wait for them, in order."""

    def __init__(self, shown: str) -> None:
        from hiredis import Reader

        self._shown = shown
        self._reader = Reader(replyError=Refused, notEnoughData=self)
        self._waiting: deque[tuple[asyncio.Future[list[Any]], int]] = deque()
        self._answers: list[Any] = []
        self.answered = 0
        """Counts who got their answers."""
        self.transport: asyncio.Transport | None = None
        self.lost = asyncio.get_running_loop().create_future()

    @property
    def waits(self) -> bool:
        return bool(self._waiting)

    def take_over(self, connection: AbstractConnection) -> None:
        """From now on the connection is only this object's."""
        # Streams of asyncio complain where their transport is open and they are not: they are kept until it is closed.
        self._streams = connection._reader, connection._writer
        connection._reader = connection._writer = None
        writer = self._streams[1]
        assert writer is not None
        self.transport = cast("asyncio.Transport", writer.transport)
        self.transport.set_protocol(self)

    def ask(self, data: bytes, future: asyncio.Future[list[Any]], count: int) -> None:
        assert self.transport is not None
        self._waiting.append((future, count))
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        from hiredis import HiredisError

        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not self:
                self._answers.append(answer)
                future, count = self._waiting[0]
                if len(self._answers) == count:
                    self._waiting.popleft()
                    self.answered += 1
                    answers, self._answers = self._answers, []
                    if not future.done():
                        future.set_result(answers)
        except (HiredisError, IndexError) as error:
            from redis.exceptions import InvalidResponse

            self.hang_up(InvalidResponse(str(error)))

    def connection_lost(self, exc: Exception | None) -> None:
        self.hang_up(exc or ConnectionResetError("the server closed the connection"))
        if not self.lost.done():
            self.lost.set_result(None)

    def hang_up(self, error: BaseException) -> None:
        """Drop the connection; who waits is told. Idempotent."""
        if self.transport is not None:
            self.transport.abort()
            self.transport = None
        while self._waiting:
            future, _ = self._waiting.popleft()
            _fail(future, error, self._shown)


def _fail(future: asyncio.Future[list[Any]], error: BaseException, shown: str) -> None:
    if not future.done():
        failure = store_error(error, shown)
        failure.__cause__ = error
        future.set_exception(failure)


class Lane:
    """A connection that is made when it is first needed, and anew after it was lost."""

    def __init__(self, options: RedisOptions, address: Address, clock: Clock) -> None:
        self._options = options
        self._address = address
        self._clock = clock
        self._wire: _Wire | None = None
        self._unsent: list[tuple[bytes, asyncio.Future[list[Any]], int]] = []
        self._connecting: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._closed = False
        self.patience_s = options.timeout_s
        """An answer that takes longer, up to twice as long, is taken to be lost."""

    def ask(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """The answers to these commands; errors that the server answers with are among them, as Refused objects.

        The future fails with StoreUnavailable or StoreError where there is no answer.
        """
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        data = _packed(commands)
        wire = self._wire
        if wire is not None and wire.transport is not None and not wire.transport.is_closing():
            wire.ask(data, future, len(commands))
        elif self._closed:
            _fail(future, ConnectionResetError("the store was closed"), self._options.shown)
        else:
            self._unsent.append((data, future, len(commands)))
            if self._connecting is None:
                self._begin_connecting()
        if self._watching is None and not self._closed:
            self._watching = asyncio.create_task(self._watch())
            self._watching.add_done_callback(self._watched)
        return future

    def interrupt(self, reason: str) -> None:
        """Drop the connection: who waits gets StoreUnavailable, who asks next a new one."""
        if self._wire is not None:
            self._wire.hang_up(ConnectionResetError(reason))

    async def aclose(self) -> None:
        """Hang up, also in mid-command."""
        self._closed = True
        self.interrupt("the store was closed")
        tasks = [task for task in (self._connecting, self._watching) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._wire is not None:
            # Connecting may have come to its end before it heard that it was cancelled.
            self.interrupt("the store was closed")
            await self._wire.lost

    def _begin_connecting(self) -> None:
        self._connecting = asyncio.create_task(self._connect())
        # A callback, since a task that is cancelled before its first step comes to no `finally`.
        self._connecting.add_done_callback(self._connected)

    async def _connect(self) -> None:
        from redis.exceptions import RedisError

        try:
            wire = _Wire(self._options.shown)
            connection = self._new_connection()
            try:
                await connection.connect()
                wire.take_over(connection)
            finally:
                await connection.disconnect(nowait=True)
            self._wire = wire
            for data, future, count in self._unsent:
                if not future.done():
                    wire.ask(data, future, count)
            self._unsent.clear()
        except (RedisError, OSError) as error:
            self._fail_unsent(error)

    def _connected(self, connecting: asyncio.Task[None]) -> None:
        self._connecting = None
        if self._closed:
            self._fail_unsent(ConnectionResetError("the store was closed"))
        elif connecting.cancelled():
            self._fail_unsent(ConnectionResetError("connecting was given up"))
        elif (unexpected := connecting.exception()) is not None:
            self._fail_unsent(unexpected)
        elif self._unsent:
            self._begin_connecting()  # it was lost at once, and asked for again

    def _fail_unsent(self, error: BaseException) -> None:
        unsent, self._unsent = self._unsent, []
        for _, future, _ in unsent:
            _fail(future, error, self._options.shown)

    async def _watch(self) -> None:
        """Takes the connection for lost when an answer is too late."""
        while self._connecting is not None or (self._wire is not None and self._wire.waits):
            wire = self._wire
            answered = 0 if wire is None else wire.answered
            await self._clock.sleep(self.patience_s)
            if wire is not None and wire.waits and wire.answered == answered:
                wire.hang_up(TimeoutError(f"no answer within {self.patience_s:g} s"))

    def _watched(self, watching: asyncio.Task[None]) -> None:
        self._watching = None

    def _new_connection(self) -> AbstractConnection:
        from redis.asyncio.connection import Connection

        timeout_s = self._options.timeout_s
        keywords: dict[str, Any] = {"socket_connect_timeout": timeout_s, **self._options.connection}
        keywords |= {"socket_timeout": timeout_s, "protocol": 2}
        kind = keywords.pop("connection_class", Connection)
        if self._address is not None:
            keywords["host"], keywords["port"] = self._address
        return kind(**keywords)
