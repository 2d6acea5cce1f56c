"""Conversations with a Redis server or cluster. Knows scripts by their text, but neither runs nor keys.

A lane is one connection that several callers share: what they ask while an answer is under way goes out together next.
A caller that is cancelled leaves; its commands are carried out or not, and its answers are thrown away by the lane, so
that nobody ever gets the answer to another's question.

Invariant: answers come in the order of the commands, or the connection is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from runstream.clock import Clock
from runstream.errors import StoreError, StoreUnavailable
from runstream.log.redis_options import Address, RedisOptions
from runstream.log.redis_scripts import ALL, Script

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

__all__ = ["Command", "Lane", "Server", "script_command", "store_error"]

Command = Sequence[Any]
"""The words of one command: strings, bytes and numbers."""

_REDIRECTIONS = 5


def script_command(script: Script, keys: Sequence[str], arguments: Sequence[Any] = ()) -> list[Any]:
    """The command that runs a script."""
    return ["EVALSHA", script.sha, len(keys), *keys, *arguments]


def store_error(error: BaseException, shown: str) -> StoreError:
    """What a failure of the `redis` package means to whoever uses the store."""
    from redis import exceptions

    text = str(error)
    word = text.split(" ", 1)[0]
    if isinstance(error, exceptions.AuthenticationError | exceptions.AuthenticationWrongNumberOfArgsError):
        return StoreError(f"{shown} refused the login ({text}): check user and password in the store's URL")
    if isinstance(error, exceptions.NoPermissionError):
        return StoreError(f"{shown} does not permit it ({text}): give the user rights on the store's keys")
    if isinstance(error, exceptions.OutOfMemoryError) or "OOM" in text:
        return StoreUnavailable(f"{shown} is full (maxmemory): raise it, keep less with ?ttl_s=, or delete runs")
    if isinstance(error, exceptions.BusyLoadingError):
        return StoreUnavailable(f"{shown} is still loading its data")
    if word == "MISCONF":
        return StoreUnavailable(f"{shown} takes no writes because it cannot save to disk: {text}")
    if isinstance(error, exceptions.ClusterError | exceptions.TryAgainError | exceptions.AskError):
        return StoreUnavailable(f"the cluster at {shown} cannot answer at present: {text}")
    if word in ("NOREPLICAS", "BUSY"):
        return StoreUnavailable(f"{shown} takes no writes at present: {text}")
    if isinstance(error, exceptions.InvalidResponse):
        return StoreError(f"what answers at {shown} does not speak Redis: {text}")
    if isinstance(error, TimeoutError | exceptions.TimeoutError):
        return StoreUnavailable(
            f"{shown} did not answer in time: {text}" if text else f"{shown} did not answer in time"
        )
    if isinstance(error, OSError | exceptions.ConnectionError):
        return StoreUnavailable(f"{shown} cannot be reached: {text}")
    return StoreError(f"{shown}: {text}")


class Lane:
    """One connection and those who use it; it connects when it is first needed, and anew after a failure."""

    def __init__(self, options: RedisOptions, address: Address, clock: Clock) -> None:
        self._options = options
        self._address = address
        self._clock = clock
        self._connection: AbstractConnection | None = None
        self._waiting: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]] = []
        self._task: asyncio.Task[None] | None = None
        self._stale = self._closed = False
        self.interrupted = False
        """`interrupt` was called; whoever calls it resets this."""
        self.patience_s = options.timeout_s
        """The most that a batch of answers may take."""

    def ask(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """The answers to these commands; errors that the server answers with are among them, as objects.

        The future fails with the `redis` package's error, OSError or TimeoutError where there is no answer.
        """
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_exception(ConnectionResetError("the store was closed"))
            return future
        self._waiting.append((commands, future))
        if self._task is None:
            self._task = asyncio.create_task(self._serve())
        return future

    def reconnect(self) -> None:
        """Take a new connection for what is asked next: the name may lead to another server now."""
        self._stale = True

    def interrupt(self) -> None:
        """Break off what is under way: who waits for it gets ConnectionResetError, and `interrupted` is set."""
        self.interrupted = True
        if self._task is not None:
            self._task.cancel()

    async def aclose(self) -> None:
        """Hang up, also in mid-command: who still waits gets ConnectionResetError."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        _fail(self._waiting, ConnectionResetError("the store was closed"))
        await self._hang_up(in_order=True)

    async def _serve(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = [entry for entry in self._waiting if not entry[1].done()], []
                if batch:
                    await self._exchange(batch)
        except asyncio.CancelledError:
            await self._hang_up(in_order=False)
            raise
        finally:
            self._task = None
            if self._waiting and not self._closed:
                self._task = asyncio.create_task(self._serve())

    async def _exchange(self, batch: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]]) -> None:
        from redis.exceptions import RedisError, ResponseError

        try:
            async with self._clock.timeout(self.patience_s):
                connection = await self._connected()
                packed = connection.pack_commands(command for commands, _ in batch for command in commands)
                await connection.send_packed_command(packed, check_health=False)
                for commands, future in batch:
                    answers: list[Any] = []
                    for _ in commands:
                        try:
                            answers.append(await connection.read_response(disable_decoding=True))
                        except ResponseError as error:
                            answers.append(error)
                    if not future.done():
                        future.set_result(answers)
        except (RedisError, OSError, ValueError) as error:  # TimeoutError is an OSError; ValueError: what is no answer
            await self._hang_up(in_order=False)
            _fail(batch, error)
        except BaseException:
            _fail(batch, ConnectionResetError("the store was closed"))
            raise

    async def _connected(self) -> AbstractConnection:
        connection = self._connection
        # A server that restarted has closed it: better to see it now than to lose a command to it.
        if connection is not None and connection.is_connected and not self._stale and not await connection.can_read():
            return connection
        await self._hang_up(in_order=False)
        self._stale = False
        connection = self._connection = self._new_connection()
        await connection.connect()
        return connection

    def _new_connection(self) -> AbstractConnection:
        from redis.asyncio.connection import Connection

        keywords: dict[str, Any] = {"socket_connect_timeout": self._options.timeout_s, **self._options.connection}
        keywords["socket_timeout"] = None  # the lane has a limit for the whole batch
        keywords["protocol"] = 2
        kind = keywords.pop("connection_class", Connection)
        if self._address is not None:
            keywords["host"], keywords["port"] = self._address
        return kind(**keywords)

    async def _hang_up(self, *, in_order: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=not in_order)


def _fail(batch: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)


class Server:
    """A single server, or a cluster whose nodes are found by the slots of keys."""

    def __init__(self, options: RedisOptions, clock: Clock) -> None:
        self.options = options
        self.clock = clock
        self.clustered = False
        self.is_replica = False
        """It was one when the store was opened: that it takes no writes is no passing state."""
        self.is_open = False
        self._lanes: dict[tuple[Address, str], Lane] = {}
        self._nodes: list[tuple[int, int, Address]] = []

    def lane(self, address: Address, purpose: str) -> Lane:
        """The shared lane of that purpose to a node."""
        key = (address, purpose)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = self.new_lane(address)
        return lane

    def new_lane(self, address: Address) -> Lane:
        """A lane of one's own, for commands that block; whoever makes it closes it."""
        return Lane(self.options, address, self.clock)

    def address(self, key: str) -> Address:
        """Where a key lives."""
        slot = self.slot(key)
        return next((address for first, last, address in self._nodes if first <= slot <= last), None)

    def slot(self, key: str) -> int:
        """0 for every key of a single server."""
        if not self.clustered:
            return 0
        from redis.crc import key_slot

        return key_slot(key.encode())

    async def aclose(self) -> None:
        self.is_open = False
        lanes = [*self._lanes.values()]
        self._lanes.clear()
        for lane in lanes:
            await lane.aclose()

    async def find_nodes(self) -> None:
        """Learn which node has which slots, if it is a cluster."""
        if not self.clustered:
            return
        known = {address for _, _, address in self._nodes} | {None}
        failure: BaseException | None = None
        for address in sorted(known, key=str):
            try:
                (slots,) = await self.lane(address, "main").ask([("CLUSTER", "SLOTS")])
            except Exception as error:
                failure = error
                continue
            if isinstance(slots, Exception):
                raise store_error(slots, self.options.shown)
            default = self.options.connection.get("host", "localhost")
            self._nodes = [(row[0], row[1], (row[2][0].decode() or default, row[2][1])) for row in slots]
            return
        if failure is not None:
            raise store_error(failure, self.options.shown) from failure

    async def ask(self, key: str, *command: Any) -> Any:
        """The answer to one command. Raises StoreUnavailable, StoreError."""
        return (await self.sequence([(key, command)]))[0]

    async def script(
        self, script: Script, keys: Sequence[str], arguments: Sequence[Any] = (), *, purpose: str = "main"
    ) -> Any:
        """The answer to one script."""
        return (await self.sequence([(keys[0], script_command(script, keys, arguments))], purpose))[0]

    async def sequence(self, commands: Sequence[tuple[str, Command]], purpose: str = "main") -> list[Any]:
        """The answers to commands that are carried out in this order, each on the node of its key.

        Where an answer is an error, raises StoreUnavailable or StoreError; those after it may have been carried out.
        Where a script is not known to the server, all of them are carried out twice.
        """
        if not self.clustered:
            return await self._checked(None, [command for _, command in commands], purpose)
        return [(await self.at(key, [command], purpose))[0] for key, command in commands]

    async def together(self, commands: Sequence[tuple[str, Command]], purpose: str = "main") -> list[Any]:
        """As `sequence`, in any order."""
        if not self.clustered:
            return await self.sequence(commands, purpose)
        return [answers[0] for answers in await self.gather([(key, [command]) for key, command in commands], purpose)]

    async def gather(self, batches: Sequence[tuple[str, Sequence[Command]]], purpose: str = "main") -> list[list[Any]]:
        """`at` for several keys at once."""
        tasks = [asyncio.ensure_future(self.at(key, commands, purpose)) for key, commands in batches]
        try:
            return [await task for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def at(self, key: str, commands: Sequence[Command], purpose: str = "main") -> list[Any]:
        """The answers to commands that are carried out one after the other on the node of that key."""
        if not self.clustered:
            return await self._checked(None, commands, purpose)
        for _ in range(_REDIRECTIONS):
            try:
                return await self._checked(self.address(key), commands, purpose)
            except StoreUnavailable as error:
                from redis.exceptions import AskError, MovedError

                cause = error.__cause__
                if not isinstance(cause, AskError):
                    await self._look_around()
                    raise
                if not isinstance(cause, MovedError):  # the slot is being moved: this once, ask there
                    node = cast("Any", cause)
                    asking = [word for command in commands for word in (("ASKING",), command)]
                    return (await self._checked((node.host, node.port), asking, purpose))[1::2]
                await self.find_nodes()
        raise StoreUnavailable(f"the cluster at {self.options.shown} sends from node to node: is it being set up?")

    async def _look_around(self) -> None:
        """After a node failed: another may have its slots by the time that the call is repeated."""
        try:
            await self.find_nodes()
        except StoreError:
            pass  # what failed first is what the caller is told

    async def _checked(self, address: Address, commands: Sequence[Command], purpose: str) -> list[Any]:
        from redis.exceptions import NoScriptError, RedisError

        if not self.is_open:
            raise StoreError(f"the store {self.options.shown} is not open")
        lane = self.lane(address, purpose)
        try:
            answers = await lane.ask(commands)
            if any(isinstance(answer, NoScriptError) for answer in answers):
                loading = [("SCRIPT", "LOAD", script.text) for script in ALL]
                answers = (await lane.ask([*loading, *commands]))[len(loading) :]
        except (RedisError, OSError, ValueError) as error:
            raise store_error(error, self.options.shown) from error
        for answer in answers:
            if isinstance(answer, Exception):
                raise self._refused(answer, lane) from answer
        return answers

    def _refused(self, error: Exception, lane: Lane) -> StoreError:
        from redis.exceptions import ReadOnlyError

        if not isinstance(error, ReadOnlyError):
            return store_error(error, self.options.shown)
        if self.is_replica:
            return StoreError(f"{self.options.shown} is a read-only replica: name its primary in the store's URL")
        lane.reconnect()
        return StoreUnavailable(f"{self.options.shown} has become a replica: a failover is under way")
