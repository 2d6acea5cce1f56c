"""A Redis server, or a cluster whose nodes are found by the slots of keys: commands go where their keys are.

Knows scripts by their text, but neither runs nor what their keys mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from runstream.clock import Clock
from runstream.errors import StoreError, StoreUnavailable
from runstream.log.redis_link import Command, Lane, Refused, script_command, store_error
from runstream.log.redis_options import Address, RedisOptions
from runstream.log.redis_scripts import ALL, Script

__all__ = ["Server"]

_REDIRECTIONS = 5
_LOADING = [("SCRIPT", "LOAD", script.text) for script in ALL]


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
        failure: StoreError | None = None
        for address in sorted(known, key=str):
            try:
                (slots,) = await self.lane(address, "main").ask([("CLUSTER", "SLOTS")])
            except StoreError as error:
                failure = error
                continue
            if isinstance(slots, Refused):
                raise store_error(slots, self.options.shown) from slots
            default = self.options.connection.get("host", "localhost")
            self._nodes = [(row[0], row[1], (row[2][0].decode() or default, row[2][1])) for row in slots]
            return
        if failure is not None:
            raise failure

    async def ask(self, key: str, *command: Any, purpose: str = "main") -> Any:
        """The answer to one command. Raises StoreUnavailable, StoreError."""
        return (await self.sequence([(key, command)], purpose))[0]

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
        if len(batches) == 1:
            return [await self.at(*batches[0], purpose)]
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
                words = str(error.__cause__).split(" ")
                if words[0] == "ASK":  # the slot is being moved: this once, ask there
                    host, _, port = words[2].rpartition(":")
                    asking = [word for command in commands for word in (("ASKING",), command)]
                    return (await self._checked((host, int(port)), asking, purpose))[1::2]
                if words[0] != "MOVED":
                    await self._look_around()
                    raise
                await self.find_nodes()
        raise StoreUnavailable(f"the cluster at {self.options.shown} sends from node to node: is it being set up?")

    async def _look_around(self) -> None:
        """After a node failed: another may have its slots by the time that the call is repeated."""
        try:
            await self.find_nodes()
        except StoreError:
            pass  # what failed first is what the caller is told

    async def _checked(self, address: Address, commands: Sequence[Command], purpose: str) -> list[Any]:
        if not self.is_open:
            raise StoreError(f"the store {self.options.shown} is not open")
        lane = self.lane(address, purpose)
        answers = await lane.ask(commands)
        for answer in answers:
            if answer.__class__ is Refused:
                if answer.word == "NOSCRIPT":
                    return await self._loaded(lane, commands)
                raise self._refusal(answer, lane) from answer
        return answers

    async def _loaded(self, lane: Lane, commands: Sequence[Command]) -> list[Any]:
        """The server does not know the scripts, or no longer: with them the commands are sent once more."""
        answers = await lane.ask([*_LOADING, *commands])
        for answer in answers:
            if answer.__class__ is Refused:
                raise self._refusal(answer, lane) from answer
        return answers[len(_LOADING) :]

    def _refusal(self, error: Refused, lane: Lane) -> StoreError:
        shown = self.options.shown
        if error.word != "READONLY":
            return store_error(error, shown)
        if self.is_replica:
            return StoreError(f"{shown} is a read-only replica: name its primary in the store's URL")
        # The name may lead to another server by now.
        lane.interrupt("the server has become a replica")
        return StoreUnavailable(f"{shown} has become a replica: a failover is under way")
