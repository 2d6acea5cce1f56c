"""Following many streams over few connections: a store's hub hands each entry, decoded once, to all who listen.

Must not know what a run is: it follows streams by their keys, and is told which key has to exist with each.

Invariants: a listener gets every entry after the topic's cursor at the time when it joined, in order, or is told to
look for itself (`reread`): after a failure of any kind, and when the key that has to exist is gone. A listener that was
told so is no longer followed for. What is silent on the server (a key that is gone, a log that went back in a failover)
thus ends in the listener's own paged read, which has the checks.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

from runstream.clock import Clock
from runstream.errors import StoreError
from runstream.log.redis_link import Lane, Refused, store_error
from runstream.log.redis_server import Server

__all__ = ["Hub", "Listener", "Topic", "entry_order"]

_logger = logging.getLogger("runstream")

_KEYS = 256
"""Streams that one connection follows."""
_BLOCK_S = 1.0
"""So long an XREAD waits, and so late it is noticed that a key is gone."""
_ENTRIES = 200
"""Of each stream at a time."""
_LINGER_S = 2.0
"""A topic that nobody listens to is followed for so long: who reads a page or answers a command comes back."""


def entry_order(entry_id: bytes) -> tuple[int, int]:
    """An entry id as numbers that can be compared."""
    left, _, right = entry_id.partition(b"-")
    return int(left), int(right)


class Listener(Protocol):
    """Who is called when something came, in the event loop; must not wait."""

    def take(self, entries: Sequence[Any]) -> None:
        """Entries as the topic's `decode` made them."""
        ...

    def reread(self, error: StoreError | None = None) -> None:
        """Look for yourself, after this failure if there was one; you are not called any more."""
        ...


class Topic:
    """A stream that is followed."""

    __slots__ = ("cursor", "decode", "group", "idle_since", "key", "listeners", "must_exist")

    def __init__(self, key: str, cursor: bytes, decode: Any, must_exist: str | None) -> None:
        self.key = key
        self.cursor = cursor
        """Id of the last entry that was handed out."""
        self.decode = decode
        self.must_exist = must_exist
        self.listeners: set[Listener] = set()
        self.idle_since: float | None = None
        self.group: _Group | None = None

    def dismiss(self, error: StoreError | None) -> None:
        listeners, self.listeners = self.listeners, set()
        for listener in listeners:
            listener.reread(error)


class Hub:
    """All that a store follows."""

    def __init__(self, server: Server, clock: Clock) -> None:
        self.server = server
        self.clock = clock
        self.topics: dict[str, Topic] = {}
        self._groups: dict[int, list[_Group]] = {}

    def join(self, key: str, cursor: bytes, listener: Listener, *, decode: Any, must_exist: str | None = None) -> Topic:
        """Listen to a stream; the topic's cursor may lie behind or ahead of the one that was asked for."""
        topic = self.topics.get(key)
        if topic is None:
            topic = self.topics[key] = Topic(key, cursor, decode, must_exist)
            slot = self.server.slot(key)
            groups = self._groups.setdefault(slot, [])
            group = next((group for group in groups if len(group.topics) < _KEYS), None)
            if group is None:
                group = _Group(self, slot)
                groups.append(group)
            group.add(topic)
        topic.listeners.add(listener)
        topic.idle_since = None
        return topic

    def leave(self, topic: Topic, listener: Listener) -> None:
        """Listen no more. Idempotent."""
        topic.listeners.discard(listener)
        if not topic.listeners and topic.idle_since is None:
            topic.idle_since = self.clock.now()

    def gone(self, key: str) -> None:
        """A stream was deleted here: no need to wait until that is noticed."""
        topic = self.topics.get(key)
        if topic is not None and topic.group is not None:
            topic.group.drop(topic)

    async def aclose(self) -> None:
        for group in [group for groups in self._groups.values() for group in groups]:
            await group.aclose()

    def forget(self, group: _Group) -> None:
        groups = self._groups[group.slot]
        groups.remove(group)
        if not groups:
            del self._groups[group.slot]


class _Group:
    """One connection and the streams that are followed over it: of a cluster those of one slot."""

    def __init__(self, hub: Hub, slot: int) -> None:
        self.hub = hub
        self.slot = slot
        self.topics: dict[bytes, Topic] = {}
        self._bell = ""  # a stream that is rung to interrupt a blocked XREAD
        self._bell_cursor: bytes = b"0-0"
        self._reading = self._interrupted = False
        self._checked_at = 0.0
        self._lane: Lane | None = None
        self._task: asyncio.Task[None] | None = None

    def add(self, topic: Topic) -> None:
        topic.group = self
        self.topics[topic.key.encode()] = topic
        if self._task is None:
            # The bell has to be in the slot of the streams.
            tag = topic.key.partition("{")[2].partition("}")[0]
            self._bell = f"{self.hub.server.options.prefix}:{{{tag}}}:bell:{uuid.uuid4().hex}"
            self._task = asyncio.create_task(self._follow())
        elif self._reading:
            self._reading = False
            self._ring()

    def drop(self, topic: Topic, error: StoreError | None = None) -> None:
        self.topics.pop(topic.key.encode(), None)
        if self.hub.topics.get(topic.key) is topic:
            del self.hub.topics[topic.key]
        topic.dismiss(error)

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _ring(self) -> None:
        server = self.hub.server
        commands = [("XADD", self._bell, "MAXLEN", 1, "*", "r", 1), ("PEXPIRE", self._bell, 60_000)]
        server.lane(server.address(self._bell), "main").ask(commands).add_done_callback(self._rung)

    def _rung(self, answer: asyncio.Future[list[Any]]) -> None:
        if answer.cancelled():
            return
        failed = answer.exception() is not None or isinstance(answer.result()[0], Refused)
        if failed and self._task is not None and self._lane is not None:
            # A full server takes no entry, but still answers who asks anew.
            self._interrupted = True
            self._lane.interrupt("something else is to be followed")

    async def _follow(self) -> None:
        server = self.hub.server
        lane = self._lane = server.new_lane(server.address(self._bell))
        lane.patience_s = _BLOCK_S + server.options.timeout_s
        failure: StoreError | None = None
        try:
            while self.topics:
                await self._turn(lane)
        except StoreError as error:
            _logger.info("following runs in the store was interrupted: %s", error)
            failure = error
        finally:
            self.hub.forget(self)
            self._task = None
            for topic in [*self.topics.values()]:
                self.drop(topic, failure)
            await lane.aclose()

    async def _turn(self, lane: Lane) -> None:
        command: list[Any] = ["XREAD", "COUNT", _ENTRIES, "BLOCK", int(_BLOCK_S * 1000), "STREAMS"]
        command += [self._bell, *self.topics]
        command += [self._bell_cursor, *(topic.cursor for topic in self.topics.values())]
        self._reading = True
        shown = self.hub.server.options.shown
        try:
            (answer,) = await lane.ask([tuple(command)])
        except StoreError:
            if not self._interrupted:
                raise
            self._interrupted = False
            return
        finally:
            self._reading = False
        if isinstance(answer, Refused):
            raise store_error(answer, shown) from answer
        for key, entries in answer or ():
            topic = self.topics.get(key)
            if topic is not None:
                topic.cursor = entries[-1][0]
                decoded = [topic.decode(entry) for entry in entries]
                for listener in [*topic.listeners]:
                    listener.take(decoded)
            elif key.decode() == self._bell:
                self._bell_cursor = entries[-1][0]
        if self.hub.clock.now() - self._checked_at >= _BLOCK_S:
            await self._check()
            self._checked_at = self.hub.clock.now()

    async def _check(self) -> None:
        """Let go of what nobody listens to, and of what is gone."""
        limit = self.hub.clock.now() - _LINGER_S
        for topic in [*self.topics.values()]:
            if topic.idle_since is not None and topic.idle_since < limit:
                self.drop(topic)
        wanted = [(topic, topic.must_exist) for topic in self.topics.values() if topic.must_exist is not None]
        if not wanted:
            return
        there = await self.hub.server.together([(key, ("EXISTS", key)) for _, key in wanted])
        for (topic, _), exists in zip(wanted, there, strict=True):
            if not exists:
                self.drop(topic)
